"""Signatures by GnuPG with temporary keys."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from buildkit_riscv64.core import process
from buildkit_riscv64.core.errors import UsageError
from buildkit_riscv64.packages import signing
from buildkit_riscv64.validation.environment.waiting import eventually

from .keys import Keyring

pytestmark = pytest.mark.integration


@pytest.fixture(autouse=True)
def _nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Keep GnuPG homes in a private directory; check that none is left."""
    memory = signing._MEMORY if os.access(signing._MEMORY, os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory) as own:
        monkeypatch.setattr(signing, "_MEMORY", own)
        yield
        assert not list(Path(own).iterdir())


def test_detached_signature(ring: Keyring, key: str, tmp_path: Path) -> None:
    file = tmp_path / "SHA256SUMS"
    file.write_text("checksums\n")
    with signing.opened(environ={signing.KEY: key}) as signer:
        assert signer.user == "Signer <signer@example.org>"
        signature = signer.sign_detached(file)
        assert signature == tmp_path / "SHA256SUMS.asc"
        assert "BEGIN PGP PUBLIC KEY BLOCK" in signer.public_key()
    assert ring.verifies(signature, file)
    file.write_text("other checksums\n")
    assert not ring.verifies(signature, file)


def test_clear_signature(ring: Keyring, key: str, tmp_path: Path) -> None:
    file = tmp_path / "Release"
    file.write_text("Suite: stable\n")
    path = tmp_path / "key.asc"
    path.write_text(key)
    with signing.opened(str(path), {}) as signer:
        signed = signer.clearsign(file, tmp_path / "InRelease")
    assert "Suite: stable" in signed.read_text()
    assert ring.verifies(signed)


def test_key_with_a_passphrase(ring: Keyring, tmp_path: Path) -> None:
    key = ring.private(ring.make("Careful <careful@example.org>", passphrase="correct horse"))
    file = tmp_path / "file"
    file.touch()
    with signing.opened(environ={signing.KEY: key, signing.PASSPHRASE: "correct horse"}) as signer:
        assert ring.verifies(signer.sign_detached(file), file)
    for wrong in ({}, {signing.PASSPHRASE: "battery staple"}):
        with (
            pytest.raises(UsageError, match=r"[0-9A-F]{40} cannot sign"),
            signing.opened(environ={signing.KEY: key, **wrong}),
        ):
            pass


def test_keys_that_cannot_sign(ring: Keyring, key: str, tmp_path: Path) -> None:
    expired = ring.private(ring.make("Old <old@example.org>", expires="2020-01-01"))
    damaged = key[: len(key) // 2] + "\n" + key[key.index("-----END") :]
    for bad, reason in [
        (expired, "has expired"),
        (damaged, "gpg"),
        (key + ring.private(ring.make("Second <second@example.org>")), "found 2"),
    ]:
        with pytest.raises(UsageError, match=reason), signing.opened(environ={signing.KEY: bad}):
            pass


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_killed_run_removes_the_key(key: str, tmp_path: Path, number: signal.Signals) -> None:
    file = tmp_path / "key.asc"
    file.write_text(key)
    program = (
        "import sys, time\nfrom buildkit_riscv64.packages import signing\n"
        f"with signing.opened({str(file)!r}) as signer:\n"
        "    print(signer.home, flush=True)\n    time.sleep(10000)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=os.environ
    ) as child:
        assert child.stdout is not None
        home = Path(child.stdout.readline().strip())
        assert home.is_dir()
        assert home.stat().st_mode & 0o777 == 0o700
        child.send_signal(number)
    assert eventually(lambda: not home.exists())
    assert eventually(lambda: not process.probe(["pgrep", "-f", str(home)]).ok)
