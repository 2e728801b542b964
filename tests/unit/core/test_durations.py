from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest

from buildkit_riscv64.core import durations, project
from buildkit_riscv64.core.durations import Estimate, announced, estimate, left, remember


@pytest.fixture(autouse=True)
def _twice_as_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(durations, "slowness", lambda: 2.0)
    monkeypatch.setattr(durations, "RECORDED", {"a": 50, "b": 100})


@pytest.fixture
def file() -> Path:
    path = project.cache() / "durations.json"
    path.parent.mkdir(parents=True)
    return path


def test_recorded_durations_are_scaled() -> None:
    assert estimate("a") == Estimate(100, measured_here=False)
    assert estimate("a", "b") == Estimate(300, measured_here=False)


def test_measured_durations_are_not_scaled() -> None:
    for seconds in (7000, 10, 30, 20):
        remember("a", seconds)
    assert estimate("a") == Estimate(25, measured_here=True)
    assert estimate("a", "b") == Estimate(225, measured_here=False)


def test_an_unknown_step_has_no_estimate() -> None:
    assert estimate("c") is None
    assert estimate("a", "c") is None
    remember("c", 5)
    assert estimate("c") == Estimate(5, measured_here=True)


def test_only_the_last_runs_count(file: Path) -> None:
    for seconds in (1000, 1000, 1000, 4, 4, 4, 4, 4):
        remember("a", seconds)
    assert estimate("a") == Estimate(4, measured_here=True)
    assert json.loads(file.read_text()) == {"a": [4, 4, 4, 4, 4]}


HOSTILE = [
    "", "{", "[]", "null", '"a"', "3", '{"a": 3}', '{"a": {}}', '{"a": []}', '{"a": ["3"]}', '{"a": [true]}',
    '{"a": [NaN, Infinity, -1, 0, 1e300, null, [3]]}', '{"a": [' + "9" * 400 + "]}", "[" * 60_000,
    '{"a": [3]' + " " * (1 << 17) + "}",
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_invalid_records_are_ignored_and_replaced(file: Path, text: str) -> None:
    file.write_text(text)
    assert estimate("a") == Estimate(100, measured_here=False)
    remember("a", 3)
    assert estimate("a") == Estimate(3, measured_here=True)


def test_valid_entries_are_kept(file: Path) -> None:
    file.write_text('{"a": [3, "x"], "b": null}')
    assert estimate("a") == Estimate(3, measured_here=True)
    assert estimate("b") == Estimate(200, measured_here=False)


def test_a_pipe_or_directory_instead_of_the_file(file: Path) -> None:
    os.mkfifo(file)
    assert estimate("a") == Estimate(100, measured_here=False)
    file.unlink()
    file.mkdir()
    remember("a", 3)
    assert estimate("a") == Estimate(100, measured_here=False)


def test_without_a_writable_cache(file: Path) -> None:
    file.parent.rmdir()
    file.parent.write_text("in the way")
    with announced("it", "a"):
        pass
    assert estimate("a") == Estimate(100, measured_here=False)


def test_failures_are_not_remembered(file: Path) -> None:
    with pytest.raises(ZeroDivisionError), announced("it", "a"):
        raise ZeroDivisionError
    assert not file.exists()
    assert left() == ""
    with announced("it", "a", "b"):
        pass
    with announced("it", "a", keep=False):
        pass
    assert not file.exists()
    with announced("it", "a"):
        pass
    assert file.exists()


def test_a_long_step_is_announced(capsys: pytest.CaptureFixture[str]) -> None:
    with announced("it", "a"):
        assert left() == "about 2 min left"
    assert "about 2 min here" in capsys.readouterr().err
    for _ in range(5):
        remember("b", 4000)
    with announced("it", "b"):
        assert left() == "about 67 min left"
    assert "usually takes 67 min here" in capsys.readouterr().err


def test_short_and_unknown_steps_are_not_announced(capsys: pytest.CaptureFixture[str]) -> None:
    remember("a", 5)
    with announced("it", "a"):
        pass
    with announced("it", "unknown"):
        assert left() == ""
    assert capsys.readouterr().err == ""


def wait_for(capsys: pytest.CaptureFixture[str], words: str) -> str:
    output = ""
    pause = threading.Event()
    for _ in range(500):
        output += capsys.readouterr().err
        if words in output:
            return output
        pause.wait(0.01)
    return pytest.fail(f"{words!r} is not in {output!r}")


def test_the_remaining_time_is_logged_at_intervals(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(durations, "INTERVAL", 0.01)
    before = threading.active_count()
    with announced("it", "b"):
        wait_for(capsys, "s so far, about 3 min left\n")
    remember("c", 0.1)
    with announced("it", "c"):
        wait_for(capsys, "s so far, longer than usual\n")
    with announced("it", "unknown"):
        wait_for(capsys, "s so far\n")
    assert threading.active_count() == before


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(1, "10 s"), (44, "40 s"), (89, "90 s"), (91, "2 min"), (1234, "21 min"), (5460, "1 h 30 min"), (7300, "2 h 00 min")],
)  # fmt: skip
def test_roughly(seconds: float, text: str) -> None:
    assert durations._roughly(seconds) == text
