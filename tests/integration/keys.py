"""Keys for tests, in a temporary GnuPG home."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Self

from buildkit_riscv64.core import process


class Keyring:
    """A GnuPG home with test keys.

    Args:
        home: its directory; the path must be short, because sockets are in it.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        home.chmod(0o700)
        self._env = {**process.environment(), "GNUPGHOME": str(home)}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        subprocess.run(["gpgconf", "--kill", "all"], env=self._env, check=True)

    def gpg(self, *args: str | Path) -> str:
        done = subprocess.run(
            ["gpg", "--batch", "--quiet", "--pinentry-mode", "loopback", "--trust-model", "always", *args],
            env=self._env, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"gpg {args}: {done.stderr}"
        return done.stdout

    def make(self, user: str, *, passphrase: str = "", expires: str = "never") -> str:
        """Create a key, and return its fingerprint; an expiring key is created in the past."""
        past = [] if expires == "never" else ["--faked-system-time", "20190101T000000"]
        # The OpenPGP of rpm 4.18 supports RSA best.
        self.gpg("--passphrase", passphrase, *past, "--quick-gen-key", user, "rsa3072", "sign", expires)  # fmt: skip
        listed = self.gpg("--with-colons", "--list-keys", user)
        return next(line.split(":")[9] for line in listed.splitlines() if line.startswith("fpr"))

    def private(self, fingerprint: str) -> str:
        """The armored private key, with its passphrase."""
        with_passphrase = ["--passphrase", "correct horse"]
        return self.gpg(*with_passphrase, "--armor", "--export-secret-keys", fingerprint)

    def public(self, fingerprint: str) -> str:
        """The armored public key."""
        return self.gpg("--armor", "--export", fingerprint)

    def verifies(self, signature: Path, file: Path | None = None) -> bool:
        """True for a good signature by a key of this keyring."""
        done = subprocess.run(
            ["gpg", "--batch", "--verify", signature, *([file] if file else [])],
            env=self._env, capture_output=True, check=False, cwd=os.sep,
        )  # fmt: skip
        return done.returncode == 0
