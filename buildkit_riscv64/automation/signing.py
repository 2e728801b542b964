"""Signatures by OpenPGP: of releases, and of the repositories that apt and dnf read.

The key comes from the environment or a file, and is never stored: GnuPG gets a home
of its own, in memory where that is possible, which is gone however we end.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from .. import process
from ..errors import CheckError, Failure, UsageError

#: The variable with the private key: a file's name, or the armored key itself.
KEY = "BUILDKIT_SIGNING_KEY"
#: The variable with its passphrase, if it has one.
PASSPHRASE = "BUILDKIT_SIGNING_PASSPHRASE"  # noqa: S105 - a name

_ARMOR = "-----BEGIN PGP PRIVATE KEY BLOCK-----"
_MEMORY = Path("/dev/shm")  # noqa: S108 - a folder of our own in it, for us alone
# What rpmsign starts reads this too. SHA-1 is refused by apt and dnf.
_SETTINGS = """batch
no-tty
quiet
trust-model always
pinentry-mode loopback
passphrase-file {passphrase}
digest-algo SHA512
"""


@dataclass(frozen=True)
class Signer:
    """A key that signs, as long as :func:`opened` lasts.

    Args:
        home: GnuPG's home with it.
        fingerprint: of the primary key, in hexadecimal.
        user: whose it is, as the key says.
    """

    home: Path
    fingerprint: str
    user: str

    @property
    def env(self) -> dict[str, str]:
        """The environment in which gpg, and what starts it, has the key."""
        return process.environment({"GNUPGHOME": str(self.home)})

    def _gpg(self, *args: str | Path) -> str:
        return process.read(
            ["gpg", *args], env=self.env, error=CheckError,
            hint=f"check the key in {KEY}: has it expired, is {PASSPHRASE} its passphrase?",
        )  # fmt: skip

    def sign_detached(self, path: Path, signature: Path | None = None) -> Path:
        """Write an armored signature beside a file, and return where: FILE.asc.

        Args:
            path: the file.
            signature: where else to write it.

        Raises:
            CheckError: the key cannot sign.
        """
        signature = signature or path.with_name(f"{path.name}.asc")
        self._gpg("--yes", "--armor", "--detach-sign", "--output", signature, path)
        return signature

    def clearsign(self, path: Path, signed: Path) -> Path:
        """Write a text with its signature around it, and return where.

        Args:
            path: the text.
            signed: what to write.

        Raises:
            CheckError: the key cannot sign.
        """
        self._gpg("--yes", "--clearsign", "--output", signed, path)
        return signed

    def public_key(self) -> str:
        """The public key, armored: what others verify with."""
        return self._gpg("--armor", "--export-options", "export-minimal", "--export", self.fingerprint)  # fmt: skip


def _given(key: str, environ: Mapping[str, str]) -> str:
    """The armored private key.

    Raises:
        UsageError: there is none.
    """
    value = key or environ.get(KEY, "")
    name = "--key" if key else KEY
    if not value.strip():
        raise UsageError(
            "there is no key to sign with", f"set {KEY} to an armored private key, or to its file"
        )
    if value.lstrip().startswith(_ARMOR):
        return value
    try:
        text = Path(value).expanduser().read_text()
    except (OSError, ValueError) as error:
        # What was meant as a key must not get into a log.
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise UsageError(
            f"cannot read the key that {name} names: {reason}",
            "give the file of an armored private key: gpg --armor --export-secret-keys NAME",
        ) from None
    if not text.lstrip().startswith(_ARMOR):
        raise UsageError(
            f"what {name} names is no armored private key",
            "make one with: gpg --armor --export-secret-keys NAME",
        )
    return text


def _read(listing: str) -> tuple[str, str]:
    """Fingerprint and user of the one key in gpg's listing (doc/DETAILS of GnuPG).

    Raises:
        UsageError: there is none, or there are several.
    """
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
            f"{len(keys) or 'no'} private keys where one is to sign",
            "export the one: gpg --armor --export-secret-keys FINGERPRINT",
        )
    return keys[0]["fpr"], keys[0]["uid"]


@contextlib.contextmanager
def opened(key: str = "", environ: Mapping[str, str] = os.environ) -> Iterator[Signer]:
    """A key ready to sign. Needs gpg; nothing of the key is left when the block ends.

    Args:
        key: a file's name, or the armored key; by default what the environment has.
        environ: the environment.

    Raises:
        UsageError: there is no key, or it is none that can sign.
        MissingRequirementError: there is no gpg.
    """
    text = _given(key, environ)
    home = Path(
        tempfile.mkdtemp(
            prefix="buildkit-signing-", dir=_MEMORY if os.access(_MEMORY, os.W_OK) else None
        )
    )
    env = process.environment({"GNUPGHOME": str(home)})
    with process.afterwards([["rm", "-rf", home]]):
        try:
            passphrase = home / "passphrase"
            passphrase.touch(mode=0o600)
            passphrase.write_text(environ.get(PASSPHRASE, ""))
            (home / "gpg.conf").write_text(_SETTINGS.format(passphrase=passphrase))
            yield _imported(home, text, env)
        finally:
            # The agent ends by itself when its home is gone, but takes its time.
            with contextlib.suppress(Failure):
                process.probe(["gpgconf", "--kill", "all"], env=env)
                process.probe(["gpgconf", "--remove-socketdir"], env=env)
            shutil.rmtree(home, ignore_errors=True)


def _imported(home: Path, text: str, env: Mapping[str, str]) -> Signer:
    file = home / "key"
    file.touch(mode=0o600)
    file.write_text(text)
    hint = "make one with: gpg --armor --export-secret-keys NAME"
    try:
        process.read(["gpg", "--import", file], env=env, error=UsageError, hint=hint)
    finally:
        file.unlink()
    listing = process.read(["gpg", "--with-colons", "--list-secret-keys"], env=env)
    signer = Signer(home, *_read(listing))
    # One that has expired, or has another passphrase, is known now and not after an hour.
    probe = home / "probe"
    probe.touch()
    try:
        signer.sign_detached(probe)
    except CheckError as error:
        reason = error.brief.rpartition(": ")[2]
        raise UsageError(f"the key {signer.fingerprint} cannot sign: {reason}", error.hint) from error  # fmt: skip
    return signer
