"""Certificates for mutual TLS with a daemon on TCP.

    certs/ca.pem, ca-key.pem                  the CA and its key, which signs the others
    certs/server/ca.pem, cert.pem, key.pem    for the daemon
    certs/client/ca.pem, cert.pem, key.pem    for clients that may build

The openssl command creates them, because no Python library for this has a wheel for riscv64.
The directory is completed and checked under another name, and then moved into place.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import platform
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from ..core import dry_run, locks, process, project, timestamps, values
from ..core.console import count, emit_json, log
from ..core.errors import CheckError, MissingRequirementError, StorageError, UsageError
from ..core.filesystem import display_path

#: The CA/Browser Forum's limit (ballot 193), which some clients apply to every CA
#: (https://support.apple.com/HT210176).
MOST_DAYS = 825
#: The CA must outlast many renewals: when it expires, everyone needs new files.
CA_DAYS = 3650

_SIDE = ("ca.pem", "cert.pem", "key.pem")
_LAYOUT = {"": ("ca.pem", "ca-key.pem", "server", "client"), "server": _SIDE, "client": _SIDE}

# RFC 5280, 4.2.1: the only permitted uses. No intermediate CAs.
_CA = (
    "basicConstraints=critical,CA:TRUE,pathlen:0",
    "keyUsage=critical,keyCertSign,cRLSign",
    "subjectKeyIdentifier=hash",
)
_LEAF = (
    "basicConstraints=critical,CA:FALSE",
    "keyUsage=critical,digitalSignature",
    "subjectKeyIdentifier=hash",
    "authorityKeyIdentifier=keyid:always",
)

_LABEL = "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
# RFC 1123, 2.1: the last label is never a number, so a mistyped address is not a name.
# RFC 6125, 6.4.3: a wildcard must be the whole first label.
_DNS_NAME = re.compile(rf"(\*\.)?({_LABEL}\.)*(?![0-9]+$){_LABEL}", flags=re.ASCII | re.IGNORECASE)


def parse_name(name: str) -> str:
    """Normalize a DNS name or an IP address.

    Rejects everything that OpenSSL could interpret as more than a name.

    Raises:
        UsageError: neither a DNS name nor an IP address.
    """
    with contextlib.suppress(ValueError):
        address = ipaddress.ip_address(name)
        # Certificates cannot contain an interface, as in fe80::1%eth0.
        if not getattr(address, "scope_id", None):
            return str(address)
    if len(name) > 253 or not _DNS_NAME.fullmatch(name):
        raise UsageError(
            f"--names: {name!r} is neither a DNS name nor an IP address",
            "commas between names, but no spaces and no ports: --names board.lan,192.168.1.185",
        )
    return name.lower()


def default_names() -> tuple[str, ...]:
    """Names of this machine."""
    names = ["localhost", "127.0.0.1", "::1"]
    with contextlib.suppress(UsageError):
        names.append(parse_name(platform.node()))
    return tuple(dict.fromkeys(names))


@dataclass(frozen=True, kw_only=True)
class CertificateOptions:
    """Options of `invoke create-certs`.

    Args:
        names: of the daemon; empty for the previous ones.
        days: validity of the certificates.
        directory: the directory to write.
        new_ca: create a new CA.
    """

    names: tuple[str, ...]
    days: int
    directory: Path
    new_ca: bool

    @classmethod
    def parse(cls, *, names: str, days: int, output: str, new_ca: bool) -> CertificateOptions:
        """Options from the command line; empty values mean the default.

        Raises:
            UsageError: invalid name or number of days.
        """
        return cls(
            names=tuple(dict.fromkeys(map(parse_name, names.split(",")))) if names else (),
            days=values.number("--days", days, 1, MOST_DAYS, "leave it out for 30"),
            directory=values.directory("--output", output or str(project.ROOT / "certs")),
            new_ca=new_ca,
        )


@dataclass(frozen=True)
class Certificate:
    """The relevant fields of a certificate.

    Args:
        until: expiry.
        sha256: fingerprint.
        names: alternative names of a server's certificate, as OpenSSL writes them.
        public_key: in PEM.
    """

    until: datetime
    sha256: str
    names: tuple[str, ...]
    public_key: str


@dataclass(frozen=True)
class CertificateSet:
    """The created certificates.

    Args:
        directory: their directory.
        names: of the daemon.
        ca: the CA.
        new_ca: the CA is new.
        server: the daemon's certificate.
        client: the clients' certificate.
    """

    directory: Path
    names: tuple[str, ...]
    ca: Certificate
    new_ca: bool
    server: Certificate
    client: Certificate


def _load(certificate: Path) -> Certificate:
    """Read a certificate.

    Raises:
        CheckError: invalid certificate.
    """
    answer = process.probe(
        ["openssl", "x509", "-in", certificate, "-noout", "-enddate", "-dateopt", "iso_8601",
         "-fingerprint", "-sha256", "-ext", "subjectAltName", "-pubkey"]
    )  # fmt: skip
    if not answer.ok:
        raise CheckError(
            f"{display_path(certificate)} is not a certificate: {answer.last_line}",
            "create a new CA with --new-ca and --names",
        )

    def field(pattern: str) -> str:
        match = re.search(pattern, answer.stdout)
        return match[1] if match else ""

    return Certificate(
        until=datetime.fromisoformat(field(r"notAfter=(.+)")),
        sha256=field(r"Fingerprint=(\S+)"),
        names=tuple(re.findall(r"(?:DNS|IP Address):([^,\s]+)", answer.stdout)),
        public_key=field(r"(?s)(-----BEGIN PUBLIC KEY.+)"),
    )


def _load_pair(certificate: Path, key: Path) -> Certificate:
    """Read a certificate, and check its key.

    Raises:
        CheckError: a file cannot be read, or the key is another certificate's.
    """
    loaded = _load(certificate)
    # With an empty passphrase, OpenSSL does not ask for one on the terminal.
    answer = process.probe(["openssl", "pkey", "-in", key, "-passin", "pass:", "-pubout"])
    if not answer.ok or answer.stdout != loaded.public_key:
        raise CheckError(
            f"{display_path(key)} is not the key of {display_path(certificate)}, or cannot be read",
            "restore the right one, without a passphrase, or create a new CA with --new-ca",
        )
    return loaded


def _refuse_foreign_files(directory: Path) -> None:
    """Refuse a directory with other files than ours: it will be replaced.

    Raises:
        UsageError: the directory contains other files.
        StorageError: a file belongs to another user.
    """
    if not directory.exists():
        return
    fix = "name another directory with --output"
    if not directory.is_dir():
        raise UsageError(f"{display_path(directory)} is not a directory", fix)
    for part, known in _LAYOUT.items():
        place = directory / part
        if not place.is_dir():
            continue
        # For instance, a rootless daemon may own the server's directory.
        if not os.access(place, os.R_OK | os.W_OK | os.X_OK):
            raise StorageError(
                f"{display_path(place)} is not yours, and cannot be replaced",
                f'sudo chown -R "$USER" {display_path(directory)}',
            )
        for path in place.iterdir():
            if path.name not in known:
                raise UsageError(f"{display_path(path)} is foreign, and would be removed", fix)
    if any(directory.iterdir()) and not (directory / "ca.pem").is_file():
        raise UsageError(f"{display_path(directory)} is not empty, and has no ca.pem", fix)


def _usable_ca(directory: Path, days: int) -> Certificate:
    """The existing CA.

    Raises:
        CheckError: the CA is unusable, or expires too early.
    """
    if not (directory / "ca-key.pem").exists():
        raise CheckError(
            f"{display_path(directory / 'ca-key.pem')} is missing, and renewing needs it",
            "restore it, or create a new CA with --new-ca",
        )
    ca = _load_pair(directory / "ca.pem", directory / "ca-key.pem")
    left = ca.until - datetime.now(UTC)
    if left < timedelta(days=days):
        shorter = f"--days {left.days} is possible, or " if left.days > 0 else ""
        raise CheckError(
            f"the CA in {display_path(directory)} expires on {ca.until:%F}: too early for --days {days}",
            f"{shorter}create a new CA with --new-ca: the daemon and every client then need new files",
        )
    return ca


def _plan(options: CertificateOptions) -> tuple[Certificate | None, tuple[str, ...]]:
    """The existing CA, if it is to be used, and the names.

    Raises:
        UsageError: the directory contains other files.
        CheckError: the existing CA cannot be used.
    """
    _refuse_foreign_files(options.directory)
    ca, names = None, options.names
    if (options.directory / "ca.pem").exists() and not options.new_ca:
        ca = _usable_ca(options.directory, options.days)
    # A renewal keeps the names.
    if not names and (server := options.directory / "server" / "cert.pem").exists():
        names = tuple(map(parse_name, _load(server).names))
    return ca, names or default_names()


def _settle(directory: Path, new: Path, old: Path) -> None:
    """Restore the old directory after a failure or a killed run, and remove leftovers."""
    if old.exists() and not directory.exists():
        old.rename(directory)
    for path in (new, old):
        if path.exists():
            shutil.rmtree(path)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def _replacing(directory: Path) -> Iterator[Path]:
    """A new directory that replaces `directory` if the block succeeds.

    Its files are readable by this user only. Concurrent runs wait.
    """
    new, old = (directory.with_name(f".{directory.name}.{word}") for word in ("new", "old"))
    directory.parent.mkdir(parents=True, exist_ok=True)
    with locks.held(project.cache() / "certs.lock"), contextlib.ExitStack() as cleanup:
        cleanup.callback(os.umask, os.umask(0o077))
        _settle(directory, new, old)
        cleanup.callback(_settle, directory, new, old)
        new.mkdir()
        yield new
        # A lost CA cannot be recovered: sync it to disk before removing the old directory.
        for path in (*new.rglob("*"), new):
            _sync(path)
        if directory.exists():
            directory.rename(old)
        new.rename(directory)


def _issue(
    directory: Path, name: str, key: str, subject: str, days: int, *extensions: str, ca: Path | None
) -> None:
    """Create a key and a certificate.

    Every TLS implementation supports P-256. OpenSSL uses serial numbers of 159 random bits,
    the maximum in RFC 5280, 4.1.2.2, and creates keys with mode 600.

    Args:
        directory: for both files.
        name: file name of the certificate.
        key: file name of the key.
        subject: common name.
        days: validity.
        extensions: permitted uses.
        ca: the directory of the CA; None for a self-signed certificate.

    Raises:
        MissingRequirementError: OpenSSL is missing or too old.
        StorageError: no space left.
    """
    signer: process.Arguments = []
    if ca:
        signer = ["-CA", ca / "ca.pem", "-CAkey", ca / "ca-key.pem", "-passin", "pass:"]
    process.read(
        ["openssl", "req", "-x509", "-config", os.devnull, *signer,
         "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc",
         "-keyout", directory / key, "-out", directory / name,
         "-subj", f"/CN={subject}", "-days", str(days),
         *(word for extension in extensions for word in ("-addext", extension))],
        changes=True, error=MissingRequirementError, hint="install OpenSSL 3.0 or newer; see `openssl version`",
    )  # fmt: skip
    # OpenSSL ignores a full disk.
    if not all((directory / file).stat().st_size for file in (name, key)):
        raise StorageError(f"no space left in {display_path(directory)}", "see df -h .")


def _issue_side(new: Path, side: str, days: int, *extensions: str) -> Certificate:
    """Create one side's directory, and check that the other side will accept it.

    Raises:
        CheckError: the CA may not sign this certificate.
    """
    place = new / side
    place.mkdir()
    shutil.copyfile(new / "ca.pem", place / "ca.pem")
    _issue(place, "cert.pem", "key.pem", f"BuildKit {side}", days, *_LEAF, *extensions, ca=new)
    answer = process.probe(
        ["openssl", "verify", "-x509_strict", "-purpose", f"ssl{side}",
         "-CAfile", place / "ca.pem", place / "cert.pem"]
    )  # fmt: skip
    if not answer.ok:
        reason = re.search(r"lookup: *(.+)", answer.stdout + answer.stderr)
        raise CheckError(
            f"no peer would accept certificates of this CA: {reason[1] if reason else answer.last_line}",
            "replace the CA, or create a new one with --new-ca",
        )
    return _load_pair(place / "cert.pem", place / "key.pem")


def make(options: CertificateOptions) -> CertificateSet | None:
    """Create certificates for the daemon and its clients, with the existing CA if any.

    Each certificate names its side (RFC 5280, 4.2.1.12), so that a client's cannot serve as the
    daemon's, nor the daemon's as a client's. Names are alternative names, because Go ignores
    the common name (https://go.dev/doc/go1.15#commonname).

    Returns:
        The certificates; None under `--dry`.

    Raises:
        UsageError: the directory contains other files.
        CheckError: the existing CA cannot be used.
        MissingRequirementError: OpenSSL is missing or too old.
        StorageError: no space left.
    """
    if dry_run.active():
        ca, names = _plan(options)
        log(
            f"would create certificates in {display_path(options.directory)}/ for {', '.join(names)},"
            f" valid for {count(options.days, 'day')}, with {'the same' if ca else 'a new'} CA"
        )
        return None
    with _replacing(options.directory) as new:
        ca, names = _plan(options)
        if ca:
            for name in ("ca.pem", "ca-key.pem"):
                shutil.copyfile(options.directory / name, new / name)
        else:
            _issue(new, "ca.pem", "ca-key.pem", f"{project.MAKER} CA", CA_DAYS, *_CA, ca=None)
        alternatives = ",".join(f"{_kind(name)}:{name}" for name in names)
        return CertificateSet(
            directory=options.directory,
            names=names,
            ca=_load_pair(new / "ca.pem", new / "ca-key.pem"),
            new_ca=ca is None,
            server=_issue_side(
                new, "server", options.days,
                "extendedKeyUsage=serverAuth", f"subjectAltName={alternatives}",
            ),
            client=_issue_side(new, "client", options.days, "extendedKeyUsage=clientAuth"),
        )  # fmt: skip


def _kind(name: str) -> str:
    """OpenSSL's type of a name."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return "DNS"
    return "IP"


def _as_json(one: Certificate) -> dict[str, Any]:
    return {"until": timestamps.utc(one.until), "sha256": one.sha256}


def report(certs: CertificateSet | None, *, json: bool) -> None:
    """Print the directory, names, expiry, and the commands that use the certificates."""
    if certs is None:
        return
    if json:
        emit_json(
            {
                "folder": str(certs.directory),
                "names": certs.names,
                "ca": {**_as_json(certs.ca), "new": certs.new_ca},
                "server": _as_json(certs.server),
                "client": _as_json(certs.client),
            }
        )
    directory = display_path(certs.directory)
    host = next((name for name in certs.names if "*" not in name), "HOST")
    address = f"tcp://{f'[{host}]' if ':' in host else host}:1234"
    tls = [
        word
        for flag, name in zip(("--tlscacert", "--tlscert", "--tlskey"), _SIDE, strict=True)
        for word in (flag, str(directory / "server" / name))
    ]
    daemon = ["buildkitd", "--addr", "tcp://0.0.0.0:1234", *tls]
    tlsdir = str(directory / "client")
    client = ["buildctl", "--addr", address, "--tlsdir", tlsdir, "debug", "workers"]
    log(f"certificates in {directory}/ for {', '.join(certs.names)}, until {certs.server.until:%F}")
    log(f"CA: {'new' if certs.new_ca else 'the same'}, until {certs.ca.until:%F}, sha256")
    log(f"  {certs.ca.sha256}")
    log(f"daemon: {process.show(daemon)}")
    log(f"client: {process.show(client)}")
    if not certs.new_ca:
        log("restart the daemon: it reads its certificates only at the start")
    log(f"keep {directory / 'ca-key.pem'} secret: with it, anyone can create client certificates")
