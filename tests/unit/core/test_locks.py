from __future__ import annotations

import fcntl
import threading
from pathlib import Path

import pytest

from buildkit_riscv64.core import locks
from buildkit_riscv64.validation.environment.waiting import BOUND


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "missing" / "lock"


def test_the_lock_is_released_after_the_block(path: Path) -> None:
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
def test_a_second_run_waits(path: Path, capfd: pytest.CaptureFixture[str], waiting: str) -> None:
    got = threading.Event()

    def second() -> None:
        with locks.held(path, waiting):
            got.set()

    thread = threading.Thread(target=second)
    with locks.held(path, "unused"):
        thread.start()
        output = ""
        while waiting and not output:
            output = capfd.readouterr().err
        assert not got.wait(0.2)
    assert got.wait(BOUND)
    thread.join()
    assert output + capfd.readouterr().err == (f"{waiting}\n" if waiting else "")
