"""Weak and strong keys by gpg, checked by us and by Debian 13's verifier."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from buildkit_riscv64.core.errors import UsageError
from buildkit_riscv64.packages import signing
from buildkit_riscv64.testing.pytest_plugin import needs

from . import debianroot
from .debianroot import Root, debian_root
from .keys import Keyring

pytestmark = pytest.mark.integration

USER = "Signer <signer@example.org>"


@pytest.fixture
@needs("gpg")
def keyring(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keyring]:
    with Keyring(tmp_path_factory.mktemp("k")) as ring:
        yield ring


def make(keyring: Keyring, *words: str, before: tuple[str, ...] = ()) -> str:
    """Create a key; return its fingerprint."""
    keyring.gpg(*before, "--passphrase", "", "--quick-gen-key", USER, *words)
    listed = keyring.gpg("--with-colons", "--list-keys")
    return next(line.split(":")[9] for line in listed.splitlines() if line.startswith("fpr"))


def revoked(keyring: Keyring) -> str:
    fingerprint = make(keyring, "rsa3072", "sign", "3y")
    disabled = keyring.home / "openpgp-revocs.d" / f"{fingerprint}.rev"
    ready = keyring.home / "revocation"
    ready.write_text(disabled.read_text().replace(":-----BEGIN", "-----BEGIN"))
    keyring.gpg("--import", ready)
    return fingerprint


def with_subkey(*words: str) -> Callable[[Keyring], str]:
    def of(keyring: Keyring) -> str:
        fingerprint = make(keyring, "ed25519", "cert", "3y")
        keyring.gpg("--passphrase", "", "--quick-add-key", fingerprint, *words)
        return fingerprint

    return of


BAD: dict[str, tuple[Callable[[Keyring], str], str, str]] = {
    "rsa1024": (lambda k: make(k, "rsa1024", "sign", "3y"), "1024 bits", "rsa4096"),
    "dsa1024": (lambda k: make(k, "dsa1024", "sign", "3y"), "DSA", "rsa4096"),
    "dsa2048": (lambda k: make(k, "dsa2048", "sign", "3y"), "DSA", "rsa4096"),
    "sha1": (
        lambda k: make(k, "rsa3072", "sign", "3y", before=("--cert-digest-algo", "SHA1")), "SHA-1", "rsa4096",
    ),
    "expired": (
        lambda k: make(k, "rsa3072", "sign", "1y", before=("--faked-system-time", "20190101T000000")),
        "has expired", "--quick-set-expire",
    ),
    "expiring": (lambda k: make(k, "rsa3072", "sign", "20d"), "expires in", "--quick-set-expire"),
    "revoked": (revoked, "revoked", "rsa4096"),
    "certifies only": (lambda k: make(k, "rsa3072", "cert", "3y"), "cannot sign", "rsa4096"),
    "rsa1024 as a subkey": (with_subkey("rsa1024", "sign", "3y"), "1024 bits", "rsa4096"),
    "expiring subkey": (with_subkey("rsa3072", "sign", "20d"), "expires in", "--quick-set-expire"),
    "subkey for encryption": (with_subkey("cv25519", "encr", "3y"), "cannot sign", "rsa4096"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_weak_key_is_refused(keyring: Keyring, name: str) -> None:
    make_it, reason, fix = BAD[name]
    private = keyring.private(make_it(keyring))
    with pytest.raises(UsageError) as caught, signing.opened(private, {}):
        pytest.fail("opened")
    assert reason in caught.value.brief
    assert fix in caught.value.hint


def expired_subkey_beside_a_good_one(keyring: Keyring) -> str:
    old = ("--faked-system-time", "20190101T000000")
    fingerprint = make(keyring, "ed25519", "cert", "never", before=old)
    keyring.gpg(*old, "--passphrase", "", "--quick-add-key", fingerprint, "rsa1024", "sign", "1y")
    keyring.gpg("--passphrase", "", "--quick-add-key", fingerprint, "rsa3072", "sign", "3y")
    return fingerprint


GOOD: dict[str, Callable[[Keyring], str]] = {
    "rsa2048": lambda k: make(k, "rsa2048", "sign", "3y"),
    "rsa4096": lambda k: make(k, "rsa4096", "sign", "never"),
    "ed25519": lambda k: make(k, "ed25519", "sign", "3y"),
    "nistp256": lambda k: make(k, "nistp256", "sign", "3y"),
    "subkey": with_subkey("ed25519", "sign", "3y"),
    "old subkey": expired_subkey_beside_a_good_one,
}


@pytest.mark.parametrize("name", GOOD)
def test_strong_key_signs(keyring: Keyring, tmp_path: Path, name: str) -> None:
    private = keyring.private(GOOD[name](keyring))
    (tmp_path / "file").write_text("content")
    with signing.opened(private, {}) as signer:
        signature = signer.sign_detached(tmp_path / "file")
    assert keyring.verifies(signature, tmp_path / "file")


@pytest.fixture(scope="module")
@needs(*debianroot.NEEDS)
def debian() -> Iterator[Root]:
    with debian_root() as root:
        yield root


def trusted(debian: Root, keyring: Keyring, directory: Path, fingerprint: str) -> bool:
    """True when Debian 13's apt trusts a signature of the key."""
    (directory / "file").write_text("content")
    keyring.gpg(
        "--yes", "--passphrase", "", "--digest-algo", "SHA512", "--local-user", fingerprint,
        "--output", directory / "file.asc", "--armor", "--detach-sign", directory / "file",
    )  # fmt: skip
    debian.write("/root/key.asc", keyring.public(fingerprint))
    for name in ("file", "file.asc"):
        shutil.copy(directory / name, debian.path / "root" / name)
    verified = debian.attempt(
        "env", "SEQUOIA_CRYPTO_POLICY=/usr/share/apt/default-sequoia.config",
        "sqv", "--keyring=/root/key.asc", "/root/file.asc", "/root/file",
    )  # fmt: skip
    return verified.code == 0


@pytest.mark.parametrize("name", GOOD)
def test_debian_trusts_accepted_keys(
    debian: Root, keyring: Keyring, tmp_path: Path, name: str
) -> None:
    assert trusted(debian, keyring, tmp_path, GOOD[name](keyring))


#: Weak keys with which gpg signs.
WEAK = ["rsa1024", "dsa1024", "dsa2048", "sha1", "rsa1024 as a subkey"]


@pytest.mark.parametrize("name", WEAK)
def test_debian_refuses_weak_keys(
    debian: Root, keyring: Keyring, tmp_path: Path, name: str
) -> None:
    assert not trusted(debian, keyring, tmp_path, BAD[name][0](keyring))
