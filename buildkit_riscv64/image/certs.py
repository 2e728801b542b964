"""Certificates for a daemon that is reached over TCP, where each side proves who it is.

    certs/ca.pem, ca-key.pem                  the authority; its key makes more of them
    certs/server/ca.pem, cert.pem, key.pem    for the daemon
    certs/client/ca.pem, cert.pem, key.pem    for whoever may build there

OpenSSL's command makes them: no Python library that does has a wheel for riscv64.
The folder is made whole beside its place, checked, and only then put there.
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

from .. import locks, process, project, timestamps
from ..console import count, emit_json, say
from ..errors import CheckError, MissingRequirementError, StorageError, UsageError
from ..storage import shown

#: The CA/Browser Forum's limit (ballot 193) that some clients hold every authority to
#: (https://support.apple.com/HT210176).
MOST_DAYS = 825
#: The authority has to outlast many renewals: when it ends, everybody needs new files.
CA_DAYS = 3650

_SIDE = ("ca.pem", "cert.pem", "key.pem")
_LAYOUT = {"": ("ca.pem", "ca-key.pem", "server", "client"), "server": _SIDE, "client": _SIDE}

# RFC 5280, 4.2.1: what each is for, and nothing else. No authority is below this one.
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
# RFC 1123, 2.1: the last label is never a number, so a mistyped address is no name.
# RFC 6125, 6.4.3: a wildcard is the whole of the first label.
_DNS_NAME = re.compile(rf"(\*\.)?({_LABEL}\.)*(?![0-9]+$){_LABEL}", flags=re.ASCII | re.IGNORECASE)


def parse_name(name: str) -> str:
    """A DNS name or an IP address, each in the one way to write it.

    Whatever could mean more to OpenSSL than a name is neither.

    Raises:
        UsageError: it is neither.
    """
    with contextlib.suppress(ValueError):
        address = ipaddress.ip_address(name)
        # A certificate has no place for an interface, as in fe80::1%eth0.
        if not getattr(address, "scope_id", None):
            return str(address)
    if len(name) > 253 or not _DNS_NAME.fullmatch(name):
        raise UsageError(
            f"--names: {name!r} is neither a DNS name nor an IP address",
            "commas between names, but no spaces and no ports: --names board.lan,192.168.1.185",
        )
    return name.lower()


def default_names() -> tuple[str, ...]:
    """What this machine is to itself, and what it is called."""
    names = ["localhost", "127.0.0.1", "::1"]
    with contextlib.suppress(UsageError):
        names.append(parse_name(platform.node()))
    return tuple(dict.fromkeys(names))


@dataclass(frozen=True, kw_only=True)
class Options:
    """What certificates to make.

    Args:
        names: what clients call the daemon; none for those of before.
        days: how long the certificates last.
        folder: where they go.
        new_ca: begin anew, with another authority.
        dry: only say what would be done.
    """

    names: tuple[str, ...]
    days: int
    folder: Path
    new_ca: bool
    dry: bool

    @classmethod
    def parse(cls, *, names: str, days: int, output: str, new_ca: bool, dry: bool) -> Options:
        """Options as the command line has them; what is empty means its default.

        Raises:
            UsageError: a name or the number of days is wrong.
        """
        if not 1 <= days <= MOST_DAYS:
            raise UsageError(f"--days {days}: not between 1 and {MOST_DAYS}", "leave it out for 30")
        return cls(
            names=tuple(dict.fromkeys(map(parse_name, names.split(",")))) if names else (),
            days=days,
            # What is renamed has to be the folder itself, and not a link to it.
            folder=(Path(output) if output else project.ROOT / "certs").resolve(),
            new_ca=new_ca,
            dry=dry,
        )


@dataclass(frozen=True)
class Certificate:
    """What is in a certificate.

    Args:
        until: when it ends.
        sha256: its fingerprint.
        names: whom it is for, where it is a server's, as OpenSSL writes them.
        public_key: in PEM.
    """

    until: datetime
    sha256: str
    names: tuple[str, ...]
    public_key: str


@dataclass(frozen=True)
class Made:
    """What has been made.

    Args:
        folder: where it is.
        names: what clients may call the daemon.
        ca: the authority.
        new_ca: nobody knows this authority yet.
        server: the daemon's.
        client: of whoever builds there.
    """

    folder: Path
    names: tuple[str, ...]
    ca: Certificate
    new_ca: bool
    server: Certificate
    client: Certificate


def _load(certificate: Path) -> Certificate:
    """What is in a certificate.

    Raises:
        CheckError: it is none.
    """
    answer = process.probe(
        ["openssl", "x509", "-in", certificate, "-noout", "-enddate", "-dateopt", "iso_8601",
         "-fingerprint", "-sha256", "-ext", "subjectAltName", "-pubkey"]
    )  # fmt: skip
    if not answer.ok:
        raise CheckError(
            f"{shown(certificate)} is no certificate: {answer.last_line}",
            "begin anew, with --new-ca and --names",
        )

    def found(pattern: str) -> str:
        match = re.search(pattern, answer.stdout)
        return match[1] if match else ""

    return Certificate(
        until=datetime.fromisoformat(found(r"notAfter=(.+)")),
        sha256=found(r"Fingerprint=(\S+)"),
        names=tuple(re.findall(r"(?:DNS|IP Address):([^,\s]+)", answer.stdout)),
        public_key=found(r"(?s)(-----BEGIN PUBLIC KEY.+)"),
    )


def _load_pair(certificate: Path, key: Path) -> Certificate:
    """A certificate that has its key beside it.

    Raises:
        CheckError: one of them cannot be read, or they do not belong together.
    """
    loaded = _load(certificate)
    # Told an empty passphrase, OpenSSL does not ask for one on the terminal.
    answer = process.probe(["openssl", "pkey", "-in", key, "-passin", "pass:", "-pubout"])
    if not answer.ok or answer.stdout != loaded.public_key:
        raise CheckError(
            f"{shown(key)} is not the key of {shown(certificate)}, or cannot be read",
            "put the right one there, without a passphrase, or begin anew with --new-ca",
        )
    return loaded


def _refuse_what_is_not_ours(folder: Path) -> None:
    """See that nothing is there but what we have made, and may remove: it will be replaced.

    Raises:
        UsageError: there is something else.
        StorageError: some of it belongs to somebody else.
    """
    if not folder.exists():
        return
    fix = "name another folder with --output"
    if not folder.is_dir():
        raise UsageError(f"{shown(folder)} is not a folder", fix)
    for part, known in _LAYOUT.items():
        place = folder / part
        if not place.is_dir():
            continue
        # As when the daemon runs rootless, and has got the server's folder itself.
        if not os.access(place, os.R_OK | os.W_OK | os.X_OK):
            raise StorageError(
                f"{shown(place)} is not yours, and cannot be replaced",
                f'sudo chown -R "$USER" {shown(folder)}',
            )
        for path in place.iterdir():
            if path.name not in known:
                raise UsageError(f"{shown(path)} is not ours, and would be removed", fix)
    if any(folder.iterdir()) and not (folder / "ca.pem").is_file():
        raise UsageError(f"{shown(folder)} is not empty, and there is no ca.pem in it", fix)


def _usable_ca(folder: Path, days: int) -> Certificate:
    """The authority that there is.

    Raises:
        CheckError: it cannot make certificates that last so many days.
    """
    if not (folder / "ca-key.pem").exists():
        raise CheckError(
            f"{shown(folder / 'ca-key.pem')} is not there, and nothing can be renewed without it",
            "put it back, or begin anew with --new-ca",
        )
    ca = _load_pair(folder / "ca.pem", folder / "ca-key.pem")
    left = ca.until - datetime.now(UTC)
    if left < timedelta(days=days):
        shorter = f"--days {left.days} is possible, or " if left.days > 0 else ""
        raise CheckError(
            f"the CA in {shown(folder)} ends on {ca.until:%F}: too early for --days {days}",
            f"{shorter}begin anew with --new-ca: the daemon and all clients need new files then",
        )
    return ca


def _plan(options: Options) -> tuple[Certificate | None, tuple[str, ...]]:
    """The authority to go on with, if there is one, and the names.

    Raises:
        UsageError: something in the folder is not ours.
        CheckError: there is an authority, and it cannot be used.
    """
    _refuse_what_is_not_ours(options.folder)
    ca, names = None, options.names
    if (options.folder / "ca.pem").exists() and not options.new_ca:
        ca = _usable_ca(options.folder, options.days)
    # Who renews wants the same again.
    if not names and (server := options.folder / "server" / "cert.pem").exists():
        names = tuple(map(parse_name, _load(server).names))
    return ca, names or default_names()


def _settle(folder: Path, new: Path, old: Path) -> None:
    """Put back what was moved aside for nothing, now or by a run that was killed; tidy up."""
    if old.exists() and not folder.exists():
        old.rename(folder)
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
def _replacing(folder: Path) -> Iterator[Path]:
    """A new folder, that takes the place of `folder` when the block ends well.

    What is made in it is nobody else's to read, from the first moment. Another run
    is waited for.
    """
    places = folder, *(folder.with_name(f".{folder.name}.{word}") for word in ("new", "old"))
    _, new, old = places
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locks.held(project.cache() / "certs.lock"), contextlib.ExitStack() as afterwards:
        afterwards.callback(os.umask, os.umask(0o077))
        _settle(*places)
        afterwards.callback(_settle, *places)
        new.mkdir()
        yield new
        # A CA cannot be made again: it is on the disk before the old folder goes.
        for path in (*new.rglob("*"), new):
            _sync(path)
        if folder.exists():
            folder.rename(old)
        new.rename(folder)


def _issue(
    folder: Path, name: str, key: str, subject: str, days: int, *extensions: str, ca: Path | None
) -> None:
    """Make a key and a certificate.

    P-256 is what everything that speaks TLS knows. OpenSSL takes serial numbers of
    159 random bits (RFC 5280, 4.1.2.2, has room for no more), and creates keys with
    mode 600.

    Args:
        folder: where they go.
        name: of the certificate.
        key: its key's name.
        subject: whose it is, for people to read.
        days: how long it lasts.
        extensions: what it may be used for.
        ca: the folder of the authority; without one it signs itself.

    Raises:
        MissingRequirementError: there is no OpenSSL, or it is too old.
        StorageError: there is no space left.
    """
    signer: process.Arguments = []
    if ca:
        signer = ["-CA", ca / "ca.pem", "-CAkey", ca / "ca-key.pem", "-passin", "pass:"]
    process.read(
        ["openssl", "req", "-x509", "-config", os.devnull, *signer,
         "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc",
         "-keyout", folder / key, "-out", folder / name,
         "-subj", f"/CN={subject}", "-days", str(days),
         *(word for extension in extensions for word in ("-addext", extension))],
        error=MissingRequirementError, hint="OpenSSL 3.0 or newer is needed; see `openssl version`",
    )  # fmt: skip
    # OpenSSL does not notice that the disk is full.
    if not all((folder / file).stat().st_size for file in (name, key)):
        raise StorageError(f"no space left in {shown(folder)}", "free some space; df -h .")


def _issue_side(new: Path, side: str, days: int, *extensions: str) -> Certificate:
    """Make the folder of one side, and see that the other side will accept it.

    Raises:
        CheckError: the authority is not one that may sign this.
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
            f"nobody would accept what this CA signs: {reason[1] if reason else answer.last_line}",
            "put one there that may, or begin anew with --new-ca",
        )
    return _load_pair(place / "cert.pem", place / "key.pem")


def make(options: Options) -> Made | None:
    """Make certificates for the daemon and its clients, with the authority that is there.

    Each says for which side it is (RFC 5280, 4.2.1.12), so that no client can pass for
    the daemon, and the daemon's own opens no other daemon. The names are alternative
    names: Go looks nowhere else (https://go.dev/doc/go1.15#commonname).

    Returns:
        What has been made; nothing when dry.

    Raises:
        UsageError: something in the folder is not ours.
        CheckError: the authority cannot be used.
        MissingRequirementError: there is no OpenSSL, or it is too old.
        StorageError: there is no space left.
    """
    if options.dry:
        ca, names = _plan(options)
        say(
            f"would make certificates in {shown(options.folder)}/ for {', '.join(names)},"
            f" good for {count(options.days, 'day')}, with {'the same' if ca else 'a new'} CA"
        )
        return None
    with _replacing(options.folder) as new:
        ca, names = _plan(options)
        if ca:
            for name in ("ca.pem", "ca-key.pem"):
                shutil.copyfile(options.folder / name, new / name)
        else:
            _issue(new, "ca.pem", "ca-key.pem", f"{project.MAKER} CA", CA_DAYS, *_CA, ca=None)
        alternatives = ",".join(f"{_kind(name)}:{name}" for name in names)
        return Made(
            folder=options.folder,
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
    """What OpenSSL calls it."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return "DNS"
    return "IP"


def _as_json(one: Certificate) -> dict[str, Any]:
    return {"until": timestamps.utc(one.until), "sha256": one.sha256}


def report(made: Made | None, *, json: bool) -> None:
    """Where the certificates are, for whom and how long, and how to use them."""
    if made is None:
        return
    if json:
        emit_json(
            {
                "folder": str(made.folder),
                "names": made.names,
                "ca": {**_as_json(made.ca), "new": made.new_ca},
                "server": _as_json(made.server),
                "client": _as_json(made.client),
            }
        )
    folder = shown(made.folder)
    host = next((name for name in made.names if "*" not in name), "HOST")
    address = f"tcp://{f'[{host}]' if ':' in host else host}:1234"
    tls = [
        word
        for flag, name in zip(("--tlscacert", "--tlscert", "--tlskey"), _SIDE, strict=True)
        for word in (flag, str(folder / "server" / name))
    ]
    daemon = ["buildkitd", "--addr", "tcp://0.0.0.0:1234", *tls]
    client = ["buildctl", "--addr", address, "--tlsdir", str(folder / "client"), "debug", "workers"]
    say(f"certificates in {folder}/ for {', '.join(made.names)}, until {made.server.until:%F}")
    say(f"CA: {'new' if made.new_ca else 'the same'}, until {made.ca.until:%F}, sha256 fingerprint")
    say(f"  {made.ca.sha256}")
    say(f"daemon: {process.show(daemon)}")
    say(f"client: {process.show(client)}")
    if not made.new_ca:
        say("restart the daemon: it reads its files only when it starts")
    say(f"keep {folder / 'ca-key.pem'} to yourself: who has it can let anybody in")
