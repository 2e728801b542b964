"""OpenPGP signatures of releases and of package repositories.

The key comes from the environment or a file and is never stored. GnuPG gets a
temporary home, in memory if possible, which is removed even when the process is killed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..core import process, values
from ..core.console import warn
from ..core.errors import CheckError, Failure, UsageError

#: The variable with the private key: a file name, or the armored key.
KEY = "BUILDKIT_SIGNING_KEY"
#: The variable with the key's passphrase.
PASSPHRASE = "BUILDKIT_SIGNING_PASSPHRASE"  # noqa: S105 - a name

_ARMOR = "-----BEGIN PGP PRIVATE KEY BLOCK-----"
_MOST_BYTES = 1 << 20
_MEMORY = Path("/dev/shm")  # noqa: S108 - holds a private directory
# The gpg that rpmsign starts reads this, too. apt and dnf refuse SHA-1.
_SETTINGS = """batch
no-tty
quiet
trust-model always
pinentry-mode loopback
passphrase-file {passphrase}
digest-algo SHA512
"""


# Algorithm numbers in gpg's listing: RFC 4880, 9.1 and 9.4, and RFC 9580.
_RSA, _DSA, _CURVES = {1, 3}, 17, {19, 22, 27}
_STRONG = {"8", "9", "10", "11"}
# The shortest RSA key that Debian's apt trusts.
_LEAST_BITS = 2048
_KNOWN_CURVES = {"ed25519", "nistp256", "nistp384", "nistp521"}
_GOOD_KEY = (
    'make a new one: gpg --quick-gen-key "NAME <ADDRESS>" rsa4096 sign 3y;'
    " then gpg --armor --export-secret-keys ADDRESS"
)
#: Days until the key may expire: clients verify its signatures until the next release.
LEAST_DAYS = 30


@dataclass(frozen=True)
class Signer:
    """A signing key, usable inside :func:`opened`.

    Args:
        home: GnuPG's home directory.
        fingerprint: the primary key's fingerprint, in hexadecimal.
        user: the key's user id.
    """

    home: Path
    fingerprint: str
    user: str

    @property
    def env(self) -> dict[str, str]:
        """The environment for gpg and rpmsign."""
        return process.environment({"GNUPGHOME": str(self.home)})

    def _gpg(self, *args: str | Path) -> str:
        return process.read(
            ["gpg", *args], env=self.env, changes=True, error=CheckError,
            hint=f"check that the key in {KEY} has not expired and that {PASSPHRASE} is its passphrase",
        )  # fmt: skip

    def sign_detached(self, path: Path, signature: Path | None = None) -> Path:
        """Write an armored signature of a file, and return the signature's path.

        Args:
            path: the file.
            signature: the signature's path; by default FILE.asc.

        Raises:
            CheckError: the key cannot sign.
        """
        signature = signature or path.with_name(f"{path.name}.asc")
        self._gpg("--yes", "--armor", "--detach-sign", "--output", signature, path)
        return signature

    def clearsign(self, path: Path, signed: Path) -> Path:
        """Write a clear-signed copy of a text file, and return its path.

        Args:
            path: the text file.
            signed: the copy's path.

        Raises:
            CheckError: the key cannot sign.
        """
        self._gpg("--yes", "--clearsign", "--output", signed, path)
        return signed

    def public_key(self) -> str:
        """The armored public key."""
        return self._gpg("--armor", "--export-options", "export-minimal", "--export", self.fingerprint)  # fmt: skip


def check_given(key: str, environ: Mapping[str, str] = os.environ) -> None:
    """Check the private key without importing it; only warn when it is missing.

    Args:
        key: a file name, or the armored key; by default the key in the environment.
        environ: the environment.

    Raises:
        UsageError: the key is not a private key.
    """
    if key or environ.get(KEY):
        _given(key, environ)
    else:
        warn(f"no signing key in {KEY}: the command fails without --dry")


def _given(key: str, environ: Mapping[str, str]) -> str:
    """Return the armored private key."""
    value = key or environ.get(KEY, "")
    name = "--key" if key else KEY
    if not value.strip():
        raise UsageError("no signing key", f"set {KEY} to an armored private key, or to its file")
    if value.lstrip().startswith(_ARMOR):
        return value
    hint = "give the file of an armored private key: gpg --armor --export-secret-keys NAME"
    try:
        # secret: the value may be a key and must not be logged.
        text = values.content(name, value, _MOST_BYTES, secret=True, hint=hint).decode()
    except UnicodeDecodeError:
        raise UsageError(f"the file in {name} is not text", hint) from None
    if not text.lstrip().startswith(_ARMOR):
        raise UsageError(
            f"the file in {name} is not an armored private key",
            "make one with: gpg --armor --export-secret-keys NAME",
        )
    return text


def _read(listing: str) -> tuple[str, str]:
    """Parse fingerprint and user id of the only key in gpg's listing (doc/DETAILS of GnuPG)."""
    keys = []
    for line in listing.splitlines():
        fields = line.split(":")
        match fields[0]:
            case "sec":
                keys.append({"fpr": "", "uid": ""})
            case "fpr" | "uid" as kind if keys and not keys[-1][kind]:
                keys[-1][kind] = fields[9]
    if len(keys) != 1:
        raise UsageError(
            f"expected one private key, found {len(keys)}",
            "export a single key: gpg --armor --export-secret-keys FINGERPRINT",
        )
    return keys[0]["fpr"], keys[0]["uid"]


@dataclass
class _Part:
    """A primary key, user id or subkey with its signatures, from gpg's listing.

    Args:
        kind: `pub`, `uid` or `sub`.
        fields: the fields of gpg's line (doc/DETAILS of GnuPG).
        signatures: the fields of each signature.
        fingerprint: a key's fingerprint.
    """

    kind: str
    fields: list[str]
    signatures: list[list[str]] = field(default_factory=list)
    fingerprint: str = ""

    @property
    def name(self) -> str:
        """The key's name in messages."""
        return f"{'subkey' if self.kind == 'sub' else 'key'} {self.fields[4]}"

    @property
    def signs(self) -> bool:
        """True when the key may sign data."""
        return "s" in self.fields[11]

    @property
    def expires(self) -> float:
        """Expiry in seconds since 1970; infinity for a key that does not expire."""
        return float(self.fields[6] or "inf")

    @property
    def usable(self) -> bool:
        """True unless gpg lists the key as revoked, expired, disabled or invalid."""
        return not set(self.fields[1]) & set("redi")

    def bound_by(self, primary: str) -> str:
        """Digest algorithm of the primary key's newest signature on this part; empty without one."""
        own = [one for one in self.signatures if one[0] == "sig" and one[4] == primary]
        return max(own, key=lambda one: int(one[5] or 0))[15] if own else ""


def _parts(listing: str) -> list[_Part]:
    found: list[_Part] = []
    for line in listing.splitlines():
        # Newer versions of gpg may add fields.
        fields = [*line.split(":"), *[""] * 20]
        if fields[0] in {"pub", "uid", "sub"}:
            found.append(_Part(fields[0], fields))
        elif fields[0] == "fpr" and found and not found[-1].fingerprint:
            found[-1].fingerprint = fields[9]
        elif fields[0] in {"sig", "rev"} and found:
            found[-1].signatures.append(fields)
    return found


def _weakness(part: _Part) -> str:
    """The reason why apt does not trust a key's algorithm; empty for a strong key."""
    algorithm, bits, curve = int(part.fields[3] or 0), int(part.fields[2] or 0), part.fields[16]
    if algorithm in _RSA:
        return "" if bits >= _LEAST_BITS else f"it is RSA with {bits} bits"
    if algorithm in _CURVES:
        return "" if curve in _KNOWN_CURVES else f"its curve is {curve or 'unknown'}"
    return f"it is {'DSA' if algorithm == _DSA else f'of algorithm {algorithm}'} with {bits} bits"


def refuse_weak(listing: str) -> None:
    """Check that apt and dnf trust a key's signatures, and that the key does not expire soon.

    Debian 13's verifier (Sequoia, with /usr/share/apt/default-sequoia.config) refuses short
    keys, DSA, and keys certified with SHA-1. gpg signs with all of these.

    Args:
        listing: the output of `gpg --with-colons --list-sigs` for the key.

    Raises:
        UsageError: the key is revoked, expires, cannot sign, or is weak.
    """
    parts = _parts(listing)
    (primary,) = (part for part in parts if part.kind == "pub")
    number = primary.fields[4]
    if "r" in primary.fields[1]:
        raise UsageError(f"the {primary.name} is revoked", _GOOD_KEY)
    subkeys = [part for part in parts if part.kind == "sub" and part.signs and part.usable]
    # gpg signs with the newest subkey.
    newest = max(subkeys, key=lambda part: int(part.fields[5] or 0), default=primary)
    for one in (primary, newest):
        left = (one.expires - time.time()) / 86400
        if left < LEAST_DAYS:
            when = "has expired" if left < 0 else f"expires in {left:.0f} days"
            arguments = dict.fromkeys((primary.fingerprint, "3y", *([one.fingerprint] if one is newest else [])))  # fmt: skip
            command = f"gpg --quick-set-expire {' '.join(arguments)}"
            raise UsageError(f"the {one.name} {when}", f"{command}; then export it again")
    if newest is primary and not primary.signs:
        raise UsageError(f"the {primary.name} cannot sign data", _GOOD_KEY)
    for one in (primary, newest):
        if weakness := _weakness(one):
            raise UsageError(f"apt does not trust the {one.name}: {weakness}", _GOOD_KEY)
    names = [part for part in parts if part.kind == "uid" and part.usable]
    if not any(one.bound_by(number) in _STRONG for one in (primary, *names)):
        raise UsageError(f"apt does not trust the {primary.name}: it certifies itself with SHA-1 or another old digest", _GOOD_KEY)  # fmt: skip
    if newest is not primary and newest.bound_by(number) not in _STRONG:
        raise UsageError(f"apt does not trust the {newest.name}: it is certified with SHA-1 or another old digest", _GOOD_KEY)  # fmt: skip


@contextlib.contextmanager
def opened(key: str = "", environ: Mapping[str, str] = os.environ) -> Iterator[Signer]:
    """Import a key for signing; delete it when the block ends.

    Args:
        key: a file name, or the armored key; by default the key in the environment.
        environ: the environment.

    Raises:
        UsageError: the key is missing or cannot sign.
        MissingRequirementError: gpg is missing.
    """
    text = _given(key, environ)
    home = Path(
        tempfile.mkdtemp(
            prefix="buildkit-signing-", dir=_MEMORY if os.access(_MEMORY, os.W_OK) else None
        )
    )
    env = process.environment({"GNUPGHOME": str(home)})
    # The agent ends when its directory disappears, but one outlived it by five minutes (load 8).
    end_agent = ["env", f"GNUPGHOME={home}", "gpgconf", "--kill", "all"]
    with process.run_if_killed([end_agent, ["rm", "-rf", home]]):
        try:
            passphrase = home / "passphrase"
            passphrase.touch(mode=0o600)
            passphrase.write_text(environ.get(PASSPHRASE, ""))
            (home / "gpg.conf").write_text(_SETTINGS.format(passphrase=passphrase))
            yield _imported(home, text, env)
        finally:
            # The agent would end by itself, but later.
            with contextlib.suppress(Failure):
                process.probe(["gpgconf", "--kill", "all"], env=env, changes=True)
                process.probe(["gpgconf", "--remove-socketdir"], env=env, changes=True)
            shutil.rmtree(home, ignore_errors=True)


def _imported(home: Path, text: str, env: Mapping[str, str]) -> Signer:
    file = home / "key"
    file.touch(mode=0o600)
    file.write_text(text)
    hint = "make one with: gpg --armor --export-secret-keys NAME"
    try:
        process.read(["gpg", "--import", file], env=env, changes=True, error=UsageError, hint=hint)
    finally:
        file.unlink()
    listing = process.read(["gpg", "--with-colons", "--list-secret-keys"], env=env)
    signer = Signer(home, *_read(listing))
    refuse_weak(process.read(["gpg", "--with-colons", "--list-sigs", signer.fingerprint], env=env))
    # Test the passphrase now, not after an hour's build.
    probe = home / "probe"
    probe.touch()
    try:
        signer.sign_detached(probe)
    except CheckError as error:
        reason = error.brief.rpartition(": ")[2]
        raise UsageError(f"the key {signer.fingerprint} cannot sign: {reason}", error.hint) from error  # fmt: skip
    return signer
