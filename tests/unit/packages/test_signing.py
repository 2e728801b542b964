from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from buildkit_riscv64.core import process
from buildkit_riscv64.core.errors import CheckError, Failure, UsageError
from buildkit_riscv64.packages import signing

ARMORED = "-----BEGIN PGP PRIVATE KEY BLOCK-----\n\nsecret\n-----END PGP PRIVATE KEY BLOCK-----\n"
FINGERPRINT = "F" * 40
SIGNATURES = f"""pub:u:3072:1:0123456789ABCDEF:1:::u:::scESC:::::23::0:
fpr:::::::::{FINGERPRINT}:
uid:u::::1::{"B" * 40}::Signer <signer@example.org>::::::::::0:
sig:::1:0123456789ABCDEF:1::::Signer <signer@example.org>:13x::{FINGERPRINT}:::10:
"""
LISTING = f"""sec:u:3072:1:0123456789ABCDEF:1:::u:::scESC:::+:::23::0:
fpr:::::::::{FINGERPRINT}:
grp:::::::::{"A" * 40}:
uid:u::::1::{"B" * 40}::Signer <signer@example.org>::::::::::0:
ssb:u:3072:1:89ABCDEF01234567:1::::::s:::+:::23:
fpr:::::::::{"C" * 40}:
"""


@pytest.fixture
def gpg(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: Callable[[str, str], Path]
) -> Callable[[str], Path]:
    """Install a fake gpg; it logs its arguments in the file `asked`."""
    monkeypatch.setattr(signing, "_MEMORY", tmp_path / "missing")
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    (tmp_path / "listing").write_text(LISTING)
    (tmp_path / "signatures").write_text(SIGNATURES)
    script("bin/gpgconf", "exit 0")
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")

    def play(body: str = "") -> Path:
        listing = f'case "$*" in *list-secret-keys*) cat {tmp_path}/listing;; *list-sigs*) cat {tmp_path}/signatures;; esac'
        script("bin/gpg", f'echo "$@" >>{tmp_path}/asked\n{listing}\n{body}')
        return tmp_path / "asked"

    return play


@pytest.mark.parametrize("value", ["", " \n"])
def test_no_key(value: str) -> None:
    with (
        pytest.raises(UsageError, match="no signing key") as caught,
        signing.opened(environ={signing.KEY: value}),
    ):
        pass
    assert signing.KEY in caught.value.hint


@pytest.mark.parametrize("content", ["-----BEGIN PGP PUBLIC KEY BLOCK-----\n", "", "\x99\x01"])
def test_file_that_is_not_a_private_key(tmp_path: Path, content: str) -> None:
    path = tmp_path / "key"
    path.write_text(content)
    with (
        pytest.raises(UsageError, match=r"--key .*armored"),
        signing.opened(str(path), {}),
    ):
        pass


def test_binary_file(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(b"\x99\xff\xfe")
    with pytest.raises(UsageError, match="not text"), signing.opened(str(tmp_path / "key"), {}):  # fmt: skip
        pass


@pytest.mark.parametrize("secret", ["s3cr3t" * 3, "a\0b", "x" * 5000])
def test_invalid_key_is_not_logged(secret: str) -> None:
    with (
        pytest.raises(UsageError, match=signing.KEY) as caught,
        signing.opened(environ={signing.KEY: secret}),
    ):
        pass
    assert secret not in str(caught.value)


def test_key_is_removed(gpg: Callable[[str], Path], tmp_path: Path) -> None:
    asked = gpg("")
    with signing.opened(environ={signing.KEY: ARMORED, signing.PASSPHRASE: "word"}) as signer:
        assert (signer.fingerprint, signer.user) == (FINGERPRINT, "Signer <signer@example.org>")
        assert signer.home.stat().st_mode & 0o777 == 0o700
        assert (signer.home / "passphrase").read_text() == "word"
        assert not (signer.home / "key").exists()
        assert signer.env["GNUPGHOME"] == str(signer.home)
        file = tmp_path / "Release"
        assert signer.sign_detached(file) == tmp_path / "Release.asc"
        assert signer.sign_detached(file, tmp_path / "Release.gpg") == tmp_path / "Release.gpg"
        assert signer.clearsign(file, tmp_path / "InRelease") == tmp_path / "InRelease"
    assert not list((tmp_path / "tmp").iterdir())
    assert asked.read_text().splitlines()[-3:] == [
        f"--yes --armor --detach-sign --output {file}.asc {file}",
        f"--yes --armor --detach-sign --output {file}.gpg {file}",
        f"--yes --clearsign --output {tmp_path}/InRelease {file}",
    ]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ('case "$*" in *import*) echo "gpg: no valid OpenPGP data" >&2; exit 2;; esac', "no valid"),
        ('case "$*" in *detach*) echo "gpg: Bad passphrase" >&2; exit 2;; esac', "Bad passphrase"),
    ],
)
def test_key_that_cannot_sign(
    gpg: Callable[[str], Path], tmp_path: Path, body: str, reason: str
) -> None:
    gpg(body)
    with pytest.raises(UsageError, match=reason), signing.opened(environ={signing.KEY: ARMORED}):
        pass
    assert not list((tmp_path / "tmp").iterdir())


@pytest.mark.parametrize("listing", ["", LISTING * 2])
def test_exactly_one_key_is_required(
    gpg: Callable[[str], Path], tmp_path: Path, listing: str
) -> None:
    gpg("")
    (tmp_path / "listing").write_text(listing)
    with (
        pytest.raises(UsageError, match=r"found [02]"),
        signing.opened(environ={signing.KEY: ARMORED}),
    ):
        pass


def test_errors_inside_the_block_pass_through(gpg: Callable[[str], Path], tmp_path: Path) -> None:
    gpg("")
    with pytest.raises(Failure, match="mine"), signing.opened(environ={signing.KEY: ARMORED}):
        raise CheckError("mine")
    assert not list((tmp_path / "tmp").iterdir())


def test_gpg_does_not_see_the_key_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(signing.KEY, ARMORED)
    assert signing.KEY not in signing.Signer(tmp_path, FINGERPRINT, "").env
    assert signing.KEY not in process.environment()
