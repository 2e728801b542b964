"""The hooks of tests/conftest.py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from buildkit_riscv64.core import project

from .. import conftest

#: Tests with a limit of less than an hour that is computed at collection.
COLLECTED = """
import time
from datetime import UTC, datetime, timedelta

import pytest

@pytest.mark.parametrize("limit", [time.time() + 3000])
def test_time(limit):
    assert time.time() < limit

@pytest.mark.parametrize("limit", [datetime.now(UTC) + timedelta(minutes=50)])
def test_datetime(limit):
    assert datetime.now(UTC) < limit
"""


def run(directory: Path, *options: str) -> str:
    """Run the tests in a directory with the hooks, and return the output."""
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "no:cacheprovider", "-v",
         f"--rootdir={directory}", *options, directory],
        cwd=project.ROOT, capture_output=True, text=True, check=False,
    ).stdout  # fmt: skip


@pytest.mark.parametrize(("hours", "result"), [("5", "2 failed"), ("0", "2 passed")])
def test_a_limit_computed_at_collection_fails(tmp_path: Path, hours: str, result: str) -> None:
    (tmp_path / "test_limit.py").write_text(COLLECTED)
    output = run(tmp_path, f"--collected-hours-ago={hours}", "--order-seed=7")
    assert f"{result} in " in output
    # The option that repeats the run appears twice after a failure.
    assert output.count("--order-seed 7") == (2 if "failed" in result else 1)


FILES = ["integration/test_a.py", "unit/test_b.py", "integration/test_machine.py", "unit/test_c.py"]


def ordered(seed: int) -> list[str]:
    config = SimpleNamespace(getoption=lambda _name: seed)
    items = [
        SimpleNamespace(path=Path(f"tests/{name}"), nodeid=f"{name}::{number}")
        for name in FILES for number in range(10)
    ]  # fmt: skip
    conftest.pytest_collection_modifyitems(config, items)  # type: ignore[arg-type]
    return [item.nodeid for item in items]


def test_a_seed_repeats_the_order() -> None:
    assert ordered(1) == ordered(1) != ordered(2)
    assert ordered(0) == [f"{name}::{number}" for name in FILES for number in range(10)]
    assert sorted(ordered(1)) == sorted(ordered(0))


def test_unit_tests_come_first_then_the_slowest_files() -> None:
    # Integration tests share builds, so they keep their order within a file.
    assert ordered(1)[20:] == [
        f"integration/{name}::{number}"
        for name in ("test_machine.py", "test_a.py") for number in range(10)
    ]  # fmt: skip
    assert all(
        (Path(__file__).parents[1] / "integration" / name).exists() for name in conftest.SLOWEST
    )


def test_workers_use_the_same_order(tmp_path: Path) -> None:
    (tmp_path / "unit").mkdir()
    (tmp_path / "unit/test_set.py").write_text(
        "import pytest\n@pytest.mark.parametrize('name', {str(n) for n in range(40)})\n"
        "def test_it(name):\n    pass\n"
    )
    assert "40 passed in " in run(tmp_path, "--numprocesses=2")
