"""The plugin's hooks, in separate runs of pytest."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from buildkit_riscv64.core import project
from buildkit_riscv64.testing import capabilities, pytest_plugin
from buildkit_riscv64.testing.capabilities import Limits

pytest_plugins = ["pytester"]

REASON = "root lacks CAP_SYS_ADMIN"
CONFTEST = f"""
import sys
# A pytest-xdist worker is a separate process.
sys.path.insert(0, {str(project.ROOT)!r})
import pytest
from buildkit_riscv64.testing.pytest_plugin import needs, register, require

def pytest_configure(config):
    register(config)
    for mark in ("needs(*names)", "machine"):
        config.addinivalue_line("markers", mark)

@pytest.fixture(scope="session")
@needs("daemons")
def daemon():
    require("daemons")

@pytest.fixture
def project(daemon):
    pass
"""


@dataclass(frozen=True)
class Done:
    code: int
    output: str
    tally: Any


Run = Callable[..., Done]


@pytest.fixture
def run(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Run]:
    """Run pytest on a module, on a host with limits."""

    def go(tests: str, *args: str, limits: Mapping[str, str] | None = None, **more: str) -> Done:
        pytester.makeconftest(CONFTEST)
        pytester.makepyfile(f"import os, pytest\n{tests}")
        Limits(limits or {}, {}).write(tmp_path / "limits")
        tally = tmp_path / "tally"
        tally.unlink(missing_ok=True)
        # Hypothesis is imported again for each run, which takes seconds.
        monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
        variables = {capabilities.LIMITS: str(tmp_path / "limits"), capabilities.TALLY: str(tally)}
        for name, value in (variables | more).items():
            monkeypatch.setenv(name, value)
        capabilities.load.cache_clear()
        done = pytester.runpytest_inprocess("-p", "no:cacheprovider", *args)
        counts = json.loads(tally.read_text()) if tally.exists() else {}
        return Done(int(done.ret), f"{done.stdout}{done.stderr}", counts)

    yield go
    capabilities.load.cache_clear()


THREE = """
from buildkit_riscv64.testing.pytest_plugin import require

def test_plain():
    pass

@pytest.mark.needs("daemons")
def test_declared():
    require("daemons")

def test_by_a_fixture_of_a_fixture(project):
    require("daemons")
"""


def test_a_host_without_limits_runs_every_test(run: Run) -> None:
    done = run(THREE)
    assert done.code == 0, done.output
    assert done.tally["outcomes"] == {"passed": 3}
    assert done.tally["left_out"] == {}


def test_tests_with_missing_needs_are_left_out(run: Run) -> None:
    done = run(THREE, limits={"daemons": REASON, "systemd": "another"})
    assert done.code == 0, done.output
    assert done.tally["outcomes"] == {"passed": 1}
    assert done.tally["left_out"] == {REASON: 2}
    assert REASON in done.output


def test_deselected_tests_are_not_counted(run: Run) -> None:
    done = run(THREE, "-k", "plain or fixture", limits={"daemons": REASON})
    assert done.tally["left_out"] == {REASON: 1}


WORKERS = ("-p", "xdist", "--numprocesses=2")


def test_tests_that_workers_leave_out_are_counted_once(run: Run) -> None:
    done = run(THREE, *WORKERS, limits={"daemons": REASON})
    assert done.code == 0
    assert done.tally["outcomes"] == {"passed": 1}
    assert done.tally["left_out"] == {REASON: 2}


def test_success_when_workers_leave_every_test_out(run: Run) -> None:
    words = (*WORKERS, "-k", "not plain")
    done = run(THREE, *words, limits={"daemons": REASON})
    assert done.code == 0
    assert done.tally["left_out"] == {REASON: 2}


def test_failures(run: Run) -> None:
    done = run("def test_it():\n    assert False\n", limits={"daemons": REASON})
    assert done.code == 1
    assert done.tally["outcomes"] == {"failed": 1}
    assert [name.rpartition("::")[2] for name in done.tally["failed"]] == ["test_it"]


def test_success_when_every_test_is_left_out(run: Run) -> None:
    done = run(THREE, "-k", "declared", limits={"daemons": REASON})
    assert done.code == 0, done.output
    assert done.tally["outcomes"] == {}
    assert run("", limits={"daemons": REASON}).code == pytest.ExitCode.NO_TESTS_COLLECTED


def test_tests_of_a_session_that_is_left_out_are_counted(run: Run) -> None:
    done = run(THREE, "--collect-only", **{capabilities.LEFT_OUT: REASON})
    assert (done.code, done.tally["left_out"]) == (0, {REASON: 3})


def test_skipped_tests_are_left_out(run: Run) -> None:
    done = run('def test_it():\n    pytest.skip("not today")\n')
    assert done.tally["outcomes"] == {}
    assert done.tally["left_out"] == {"not today": 1}


def test_marks_of_the_table_are_needs(run: Run) -> None:
    done = run(
        "@pytest.mark.machine\ndef test_it():\n    pass\n", limits={"machine": "this is riscv64"}
    )
    assert done.tally["left_out"] == {"this is riscv64": 1}


def test_an_unknown_need(run: Run) -> None:
    done = run('@pytest.mark.needs("demons")\ndef test_it():\n    pass\n')
    assert done.code == pytest.ExitCode.INTERRUPTED or done.code == pytest.ExitCode.USAGE_ERROR
    assert "demons" in done.output


def test_an_undeclared_need_fails_on_every_host(run: Run) -> None:
    done = run(
        "from buildkit_riscv64.testing.pytest_plugin import require\ndef test_it():\n    require('mounts')\n"
    )
    assert done.tally["outcomes"] == {"failed": 1}
    assert "needs('mounts')" in done.output


def test_the_plugin_ignores_runs_that_a_test_starts(run: Run) -> None:
    names = (capabilities.TALLY, capabilities.LIMITS, capabilities.LEFT_OUT, capabilities.ANNOUNCED)
    done = run(f"def test_it():\n    assert not {set(names)!r} & os.environ.keys()\n")
    assert done.code == 0, done.output


def test_require_outside_of_a_test(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pytest_plugin, "_declared", None)
    pytest_plugin.require("daemons")
