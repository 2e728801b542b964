from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from buildkit_riscv64.core import project
from buildkit_riscv64.validation import pytest_plugin
from buildkit_riscv64.validation.environment.waiting import eventually

REAL = project.ROOT

SCENARIOS = '''
import pytest
from buildkit_riscv64.validation import pytest_plugin

class Daemon:
    log = "".join(f"line {n}\\n" for n in range(1000))

class Broken:
    @property
    def log(self):
        raise RuntimeError("gone")

@pytest.fixture
def daemon():
    return Daemon()

@pytest.fixture
def broken():
    return Broken()

@pytest.fixture
def no_setup():
    raise OSError("cannot be set up")

@pytest.fixture
def no_teardown():
    yield
    raise OSError("cannot be cleaned up")

def test_passes():
    """It works

    And more is said here."""
    pytest_plugin.used(docker="26.1.5")

def test_without_words():
    pass

@pytest.mark.parametrize("kind", ["gzip", "a<b>"])
def test_kinds(kind):
    """Each kind"""

def test_fails(daemon, broken):
    """It does not"""
    print("said \\x1b[31mred\\x1b[0m \\x00")
    assert 1 == 2, "x" * 100_000

@pytest.mark.may_be_not_proven
def test_is_not_proven():
    """Elsewhere it would"""
    raise pytest.skip.Exception("another kernel would")

def test_must_run():
    """Every machine can run it"""
    raise pytest.skip.Exception("no mood")

def test_setup(no_setup):
    """Never begins"""

def test_teardown(no_teardown):
    """Does not end well"""
'''


def pytest_in(directory: Path, *words: str) -> list[str]:
    return [
        sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:hypothesispytest", "-p", pytest_plugin.__name__, "-q",
        f"--rootdir={directory}", f"--record={directory / 'record'}", *words, str(directory),
    ]  # fmt: skip


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(REAL), "PYTHONDONTWRITEBYTECODE": "1"}


def recorded(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "record").read_text().splitlines()]


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The records of a run with every outcome."""
    directory = tmp_path_factory.mktemp("recorded")
    (directory / "standalone").mkdir()
    (directory / "standalone" / "test_lifecycle.py").write_text(SCENARIOS)
    (directory / "standalone" / "test_torn.py").write_text("def test(:\n")
    done = subprocess.run(
        pytest_in(directory, "--continue-on-collection-errors"), env=environment(), check=False,
        capture_output=True,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout
    return recorded(directory)


@pytest.fixture(scope="module")
def results(reported: list[dict[str, Any]]) -> dict[str, Any]:
    return {one["result"]["name"]: one["result"] for one in reported if "result" in one}


def test_collected_scenarios_come_first(reported: list[dict[str, Any]]) -> None:
    (planned,) = [one["collected"] for one in reported if "collected" in one]
    assert planned[0] == {
        "suite": "standalone", "group": "lifecycle", "name": "test_passes", "title": "It works",
    }  # fmt: skip
    assert [one["title"] for one in planned] == [
        "It works", "without words", "Each kind [gzip]", "Each kind [a<b>]", "It does not",
        "Elsewhere it would", "Every machine can run it", "Never begins", "Does not end well",
    ]  # fmt: skip


def test_outcomes(results: dict[str, Any]) -> None:
    assert {name: one["outcome"] for name, one in results.items()} == {
        "(collecting)": "failed", "test_passes": "passed", "test_without_words": "passed",
        "test_kinds[gzip]": "passed", "test_kinds[a<b>]": "passed", "test_fails": "failed",
        "test_is_not_proven": "not proven", "test_must_run": "failed", "test_setup": "failed", "test_teardown": "failed",
    }  # fmt: skip
    assert results["test_is_not_proven"]["reason"] == "another kernel would"
    assert "no mood" in results["test_must_run"]["failure"]
    assert "cannot be set up" in results["test_setup"]["failure"]
    assert "cannot be cleaned up" in results["test_teardown"]["failure"]
    assert results["test_passes"]["failure"] == results["test_passes"]["reason"] == ""


def test_invalid_module(results: dict[str, Any]) -> None:
    torn = results["(collecting)"]
    assert (torn["suite"], torn["group"]) == ("standalone", "torn")
    assert "def test(:" in torn["failure"]


def test_failure_includes_the_daemons_log(results: dict[str, Any]) -> None:
    logs = {log["name"]: log["text"] for log in results["test_fails"]["logs"]}
    assert logs["daemon"].splitlines() == [f"line {number}" for number in range(900, 1000)]
    assert logs["broken"] == "cannot be read: gone"
    assert logs["Captured stdout call"].strip() == "said red"
    assert len(results["test_fails"]["failure"]) < pytest_plugin.TEXT_LIMIT + 100
    assert "characters …]" in results["test_fails"]["failure"]


def test_versions(reported: list[dict[str, Any]]) -> None:
    assert {"used": {"docker": "26.1.5"}} in reported


def test_used_without_the_plugin() -> None:
    pytest_plugin.used(docker="26.1.5")


WAITING = """
import time, pathlib, pytest

@pytest.fixture
def daemon():
    yield
    pathlib.Path(__file__).with_name("ended").touch()

def test_first():
    pass

def test_waits(daemon):
    pathlib.Path(__file__).with_name("waits").touch()
    time.sleep(100)

def test_last():
    pass
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_interrupted_run_keeps_results(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "standalone").mkdir()
    (tmp_path / "standalone" / "test_x.py").write_text(WAITING)
    with subprocess.Popen(pytest_in(tmp_path), env=environment(), stdout=subprocess.DEVNULL) as run:
        assert eventually((tmp_path / "standalone" / "waits").exists)
        run.send_signal(number)
        assert run.wait() == (-number if number is signal.SIGKILL else 2)
    planned, first = recorded(tmp_path)
    assert len(planned["collected"]) == 3
    assert (first["result"]["name"], first["result"]["outcome"]) == ("test_first", "passed")
    # After SIGTERM and SIGINT, fixtures clean up.
    assert (tmp_path / "standalone" / "ended").exists() is (number is not signal.SIGKILL)


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("a\x1b[1;31mb\x1b[0mc", "abc"), ("\x00\x07a\tb\nc\r", "a\tb\nc"), ("\n\na\n\n", "a"),
        ("é\ud800", "é"), ("", ""),
    ],
)  # fmt: skip
def test_texts(text: str, clean: str) -> None:
    assert pytest_plugin._text(text) == clean
