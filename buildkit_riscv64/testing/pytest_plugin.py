"""pytest plugin: leave out tests that this host cannot run, and count.

Tests and fixtures declare their needs: tests by the marks of :data:`.capabilities.MARKS` and by
`@pytest.mark.needs(NAME, …)`, fixtures by :func:`needs`. `tests/conftest.py` and the scenarios'
conftest.py register :class:`Tally`.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import pytest

from . import capabilities

_Function = TypeVar("_Function", bound=Callable[..., Any])

# The declared needs of the running test.
_declared: frozenset[str] | None = None


def needs(*names: str) -> Callable[[_Function], _Function]:
    """Declare, below `@pytest.fixture`, the needs of a fixture and of every test that uses it.

    Args:
        names: capabilities and tools.
    """

    def declare(function: _Function) -> _Function:
        function.__dict__["needs"] = names
        return function

    return declare


def needs_of(item: pytest.Item) -> list[str]:
    """The needs of a test, its marks and its fixtures.

    Raises:
        pytest.UsageError: a need is neither a capability nor a known tool.
    """
    found = [name for mark in item.iter_markers("needs") for name in mark.args]
    found += [name for mark, names in capabilities.MARKS.items() if item.get_closest_marker(mark) for name in names]  # fmt: skip
    fixtures = getattr(item, "_fixtureinfo", None)
    for definitions in fixtures.name2fixturedefs.values() if fixtures else ():
        found += getattr(definitions[-1].func, "needs", ())
    if unknown := [name for name in found if not capabilities.is_known(name)]:
        raise pytest.UsageError(f"{item.nodeid}: unknown capability or tool {unknown[0]!r}")
    return list(dict.fromkeys(found))


def require(name: str) -> None:
    """Fail if the running test has not declared a need.

    Helpers call it, so that a missing declaration fails on every host.
    """
    assert _declared is None or name in _declared, f"this test must declare: needs({name!r})"


def _reason(report: pytest.TestReport) -> str:
    text = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longreprtext
    return text.removeprefix("Skipped: ")


class Tally:
    """The plugin of one run: counts tests, and leaves out tests that this host cannot run."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self._path = environment[capabilities.TALLY]
        self._all = environment[capabilities.LEFT_OUT]
        self._reasons: Counter[str] = Counter()
        self._counted = False
        self._started = time.monotonic()

    def pytest_report_header(self) -> str:
        """The capabilities that this host lacks."""
        lacking = capabilities.load().capabilities
        return f"this host lacks: {', '.join(lacking) or 'nothing'}"

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        """Leave out tests that this host cannot run, after `-k` and `-m`."""
        lacking = capabilities.load().capabilities
        selected: list[pytest.Item] = []
        left_out: list[pytest.Item] = []
        for item in items:
            reason = self._all or next((lacking[name] for name in needs_of(item) if name in lacking), "")  # fmt: skip
            (left_out if reason else selected).append(item)
            if reason:
                self._reasons[reason] += 1
        if left_out:
            config.hook.pytest_deselected(items=left_out)
            items[:] = selected

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        """Set the declared needs of the running test."""
        global _declared  # noqa: PLW0603 - helpers do not know the running test
        _declared = frozenset(one for name in needs_of(item) for one in capabilities.all_needs(name))  # fmt: skip
        try:
            return (yield)
        finally:
            _declared = None

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: Any, config: pytest.Config) -> None:
        """Print the tests that were left out, and write the counts."""
        stats = terminalreporter.stats
        skipped = stats.get("skipped", [])
        # The evidence records why a scenario was skipped.
        scenarios = bool(config.getoption("record", None))
        if not scenarios:
            self._reasons.update(_reason(report) for report in skipped)
        for reason, number in self._reasons.most_common():
            terminalreporter.write_line(f"not run here: {number}: {reason}")
        if self._path:
            run = {
                "outcomes": {name: len(stats[name]) for name in capabilities.RAN if name in stats},
                "failed": [
                    one.nodeid for name in ("failed", "error") for one in stats.get(name, [])
                ],
                "left_out": self._reasons,
                "not_proven": len(skipped) if scenarios else 0,
                "seconds": time.monotonic() - self._started,
            }
            with Path(self._path).open("a", encoding="utf-8") as file:
                file.write(json.dumps(run) + "\n")

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Pass this environment to a pytest-xdist worker; only this process writes the counts."""
        node.workerinput["environment"] = {**self._environment, capabilities.TALLY: ""}

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Count the tests that the first worker left out; every worker collects every test."""
        if not self._counted and "left_out" in getattr(node, "workeroutput", {}):
            self._counted = True
            self._reasons.update(node.workeroutput["left_out"])

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Succeed where every test was left out."""
        if hasattr(session.config, "workeroutput"):
            session.config.workeroutput["left_out"] = dict(self._reasons)
        if exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED and self._reasons:
            session.exitstatus = pytest.ExitCode.OK


def register(config: pytest.Config) -> None:
    """Register the plugin for this run only, not for runs that tests start.

    For `pytest_configure` of a conftest.py.
    """
    if config.pluginmanager.has_plugin("tally"):
        return
    os.environ.update(getattr(config, "workerinput", {}).get("environment", {}))
    capabilities.load()
    environment = {
        name: os.environ.pop(name, "")
        for name in (capabilities.TALLY, capabilities.LEFT_OUT, capabilities.LIMITS, capabilities.ANNOUNCED)
    }  # fmt: skip
    config.pluginmanager.register(Tally(environment), "tally")
