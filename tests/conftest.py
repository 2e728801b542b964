"""Settings of every test run.

Tests are collected with the clock set back, unit tests run in random order, the slowest files
start first, and tests that the host cannot run are deselected.
"""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest

from buildkit_riscv64.core import host
from buildkit_riscv64.testing import pytest_plugin

# Tests write gigabytes, and /tmp may be in memory, as on Debian 13: file-hierarchy(7).
# Debian 13 also mounts /tmp nosuid: file capabilities of programs there have no effect.
os.environ.setdefault("TMPDIR", "/var/tmp")
tempfile.tempdir = None
#: The slowest files start first; otherwise one process would wait for the last file.
SLOWEST = ("test_machine.py", "test_packages.py", "test_image.py", "test_upstream.py")
#: Hours between collection and run, as on a slow machine with a long suite.
HOURS = 5.0


_execution = host.execution


@pytest.fixture(autouse=True)
def _forget_execution() -> Iterator[None]:
    """Forget how this machine executes: a test may have claimed another architecture."""
    yield
    _execution.cache_clear()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--collected-hours-ago` and `--order-seed`."""
    group = parser.getgroup("steadiness")
    group.addoption(
        "--collected-hours-ago", type=float, default=HOURS, metavar="HOURS",
        help="Set the clock back by HOURS during collection only, so that a test fails if it uses"
        " a time computed at collection. 0 switches this off. Default: 5.",
    )  # fmt: skip
    group.addoption(
        "--order-seed",
        type=int,
        default=None,
        metavar="SEED",
        help="Run the unit tests in the order of this seed; 0 keeps the order of the files."
        " Default: a random seed, which the header reports.",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Choose the seed, and register the counts."""
    pytest_plugin.register(config)
    if config.getoption("--order-seed") is None:
        chosen = random.SystemRandom().randrange(1, 10_000)
        config.option.order_seed = getattr(config, "workerinput", {}).get("order_seed", chosen)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Give each worker of pytest-xdist the same order."""
    node.workerinput["order_seed"] = node.config.getoption("--order-seed")


def pytest_report_header(config: pytest.Config) -> str:
    """The options that repeat this run."""
    hours, seed = config.getoption("--collected-hours-ago"), config.getoption("--order-seed")
    return f"steadiness: --collected-hours-ago {hours:g} --order-seed {seed}"


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, exitstatus: int, config: pytest.Config
) -> None:
    """Report the options after a failure: quiet output has no header."""
    if exitstatus == pytest.ExitCode.TESTS_FAILED:
        terminalreporter.write_line(pytest_report_header(config))


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Iterator[None]:
    """Collect with the clock set back; tests and child processes run with the real clock."""
    hours = session.config.getoption("--collected-hours-ago")
    if not hours:
        return (yield)
    from datetime import timedelta

    import freezegun

    with freezegun.freeze_time(-timedelta(hours=hours), tick=True):
        return (yield)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Order the tests: unit tests first, shuffled; then the slowest files; then the others."""
    seed = config.getoption("--order-seed")
    if not seed:
        return
    chance = random.Random(seed)
    unit = [item for item in items if "unit" in item.path.parts]
    others = [item for item in items if "unit" not in item.path.parts]
    files: dict[str, list[pytest.Item]] = {}
    # By name first: a set of parameters has another order in each process.
    for item in sorted(unit, key=lambda item: item.nodeid):
        files.setdefault(str(item.path), []).append(item)
    shuffled = list(files.values())
    chance.shuffle(shuffled)
    for tests in shuffled:
        chance.shuffle(tests)
    rank = {name: place for place, name in enumerate(SLOWEST)}
    others.sort(key=lambda item: rank.get(item.path.name, len(rank)))
    items[:] = [*(item for tests in shuffled for item in tests), *others]
