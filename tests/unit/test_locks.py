from __future__ import annotations

import fcntl
import threading
from pathlib import Path

import pytest

from buildkit_riscv64 import locks

from ..processes import eventually


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "not there yet" / "lock"


def test_it_is_held_as_long_as_the_block_lasts(path: Path) -> None:
    def is_free() -> bool:
        with path.open("w") as other:
            try:
                fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
        return True

    with locks.held(path):
        assert not is_free()
    assert is_free()


@pytest.mark.parametrize("waiting", ["", "another run is at it"])
def test_another_run_is_waited_for(path: Path, capfd: pytest.CaptureFixture[str], waiting: str) -> None:  # fmt: skip
    got = threading.Event()

    def second() -> None:
        with locks.held(path, waiting):
            got.set()

    thread = threading.Thread(target=second)
    with locks.held(path, "nobody is waited for"):
        thread.start()
        assert not got.wait(0.2)
    assert eventually(got.is_set)
    thread.join()
    assert capfd.readouterr().err == (f"{waiting}\n" if waiting else "")
