"""Signatures by a real GnuPG, with keys that are made for the moment."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from buildkit_riscv64 import process
from buildkit_riscv64.automation import signing
from buildkit_riscv64.errors import UsageError

from ..processes import eventually
from .keys import Keyring

pytestmark = pytest.mark.integration


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    before = homes()
    yield
    assert homes() == before


def homes() -> set[Path]:
    return set(Path("/dev/shm").glob("buildkit-signing-*"))


def test_a_detached_signature_and_what_it_does_not_sign(
    ring: Keyring, key: str, tmp_path: Path
) -> None:
    file = tmp_path / "SHA256SUMS"
    file.write_text("sums\n")
    with signing.opened(environ={signing.KEY: key}) as signer:
        assert signer.user == "Signer <signer@example.org>"
        signature = signer.sign_detached(file)
        assert signature == tmp_path / "SHA256SUMS.asc"
        assert "BEGIN PGP PUBLIC KEY BLOCK" in signer.public_key()
    assert ring.verifies(signature, file)
    file.write_text("other sums\n")
    assert not ring.verifies(signature, file)


def test_a_signed_text(ring: Keyring, key: str, tmp_path: Path) -> None:
    file = tmp_path / "Release"
    file.write_text("Suite: stable\n")
    path = tmp_path / "key.asc"
    path.write_text(key)
    with signing.opened(str(path), {}) as signer:
        signed = signer.clearsign(file, tmp_path / "InRelease")
    assert "Suite: stable" in signed.read_text()
    assert ring.verifies(signed)


def test_a_key_with_a_passphrase(ring: Keyring, tmp_path: Path) -> None:
    key = ring.private(ring.make("Careful <careful@example.org>", passphrase="correct horse"))
    file = tmp_path / "file"
    file.touch()
    with signing.opened(environ={signing.KEY: key, signing.PASSPHRASE: "correct horse"}) as signer:
        assert ring.verifies(signer.sign_detached(file), file)
    for wrong in ({}, {signing.PASSPHRASE: "battery staple"}):
        with (
            pytest.raises(UsageError, match=r"the key [0-9A-F]{40} cannot sign"),
            signing.opened(environ={signing.KEY: key, **wrong}),
        ):
            pass


def test_keys_that_cannot_sign(ring: Keyring, key: str, tmp_path: Path) -> None:
    expired = ring.private(ring.make("Old <old@example.org>", expires="2020-01-01"))
    damaged = key[: len(key) // 2] + "\n" + key[key.index("-----END") :]
    for bad, reason in [
        (expired, "cannot sign"),
        (damaged, "failed"),
        (key + ring.private(ring.make("Second <second@example.org>")), "2 private keys"),
    ]:
        with pytest.raises(UsageError, match=reason), signing.opened(environ={signing.KEY: bad}):
            pass


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_of_a_killed_run(key: str, tmp_path: Path, number: signal.Signals) -> None:
    file = tmp_path / "key.asc"
    file.write_text(key)
    program = (
        "import sys, time\nfrom buildkit_riscv64.automation import signing\n"
        f"with signing.opened({str(file)!r}) as signer:\n"
        "    print(signer.home, flush=True)\n    time.sleep(60)\n"
    )
    before = homes()
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=os.environ
    ) as child:
        assert child.stdout is not None
        home = Path(child.stdout.readline().strip())
        assert home.is_dir()
        assert home.stat().st_mode & 0o777 == 0o700
        child.send_signal(number)
    assert eventually(lambda: homes() == before)
    assert eventually(lambda: not process.probe(["pgrep", "-f", str(home)]).ok)
