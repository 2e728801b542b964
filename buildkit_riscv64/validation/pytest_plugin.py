"""A pytest plugin that records the result of each scenario immediately.

`pytest -p buildkit_riscv64.validation.pytest_plugin --record FILE` appends lines of JSON:
first the collected scenarios, then each result. An interrupted run keeps every result
until then.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from ..core import schemas
from ..core.errors import TERMINAL_CONTROLS
from .suites import MAY_BE_NOT_PROVEN, ScenarioOutcome, group_of

#: Lines of a daemon's log that a failure shows.
LOG_LINES = 100
#: Characters of one text; pytest's own log has the full text.
TEXT_LIMIT = 20_000

# The output file while the plugin is active.
_file: Path | None = None


def used(**versions: str) -> None:
    """Record the versions of other programs that the scenarios use."""
    _append({"used": versions})


def _append(value: Mapping[str, Any]) -> None:
    if _file is not None:
        with _file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(value) + "\n")


def _text(text: str) -> str:
    """A text without colours, shortened in the middle."""
    # JSON and XML documents may not hold control characters.
    text = TERMINAL_CONTROLS.sub("", text).strip("\n")
    if len(text) <= TEXT_LIMIT:
        return text
    start, end = text[: TEXT_LIMIT // 4], text[-TEXT_LIMIT * 3 // 4 :]
    return f"{start}\n[… {len(text) - TEXT_LIMIT} characters …]\n{end}"


def _excerpt(name: str, text: str) -> dict[str, str]:
    return {"name": name, "text": _text(text)}


def describe(item: pytest.Item) -> dict[str, str]:
    """Suite, group, name and title of a scenario; the title is the docstring's first line."""
    name = item.nodeid.partition("::")[2]
    text = (getattr(getattr(item, "obj", None), "__doc__", None) or "").strip().partition("\n")[0]
    title = text or getattr(item, "originalname", name).removeprefix("test_").replace("_", " ")
    call = getattr(item, "callspec", None)
    return {
        **_suite_and_group(item.path),
        "name": schemas.line(_text(name)),
        "title": schemas.line(_text(f"{title} [{call.id}]" if call else title)),
    }


def _suite_and_group(path: Path) -> dict[str, str]:
    return {"suite": path.parent.name, "group": group_of(path)}


@dataclass
class _ScenarioResult:
    """The result of a scenario while it runs."""

    outcome: ScenarioOutcome = ScenarioOutcome.PASSED
    seconds: float = 0.0
    reason: str = ""
    failures: list[str] = field(default_factory=list)
    logs: list[dict[str, str]] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        return {
            "outcome": self.outcome, "seconds": round(self.seconds, 3),
            "reason": schemas.line(_text(self.reason)), "failure": _text("\n\n".join(self.failures)),
            "logs": self.logs,
        }  # fmt: skip


class Recorder:
    """Pytest hooks that record results."""

    def __init__(self) -> None:
        self._results: dict[str, _ScenarioResult] = {}

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Record a module that cannot be imported as failed."""
        if report.failed:
            result = _ScenarioResult(ScenarioOutcome.FAILED, failures=[str(report.longrepr)])
            suite = _suite_and_group(Path(report.nodeid.partition("::")[0]))
            _append(
                {"result": {**suite, "name": "(collecting)", "title": "Its scenarios can be read",
                            **result.as_json()}}
            )  # fmt: skip

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Record the collected scenarios."""
        _append({"collected": [describe(item) for item in session.items]})

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Record the result of setup, call and teardown."""
        report = yield
        if report.skipped and item.get_closest_marker(MAY_BE_NOT_PROVEN) is None:
            report.outcome = "failed"
            report.longrepr = (
                f"skipped: {_reason(report)}\n"
                f"Only a scenario with the marker {MAY_BE_NOT_PROVEN} may end as not proven."
            )
        result = self._results.setdefault(item.nodeid, _ScenarioResult())
        result.seconds += report.duration
        if report.failed:
            result.outcome = ScenarioOutcome.FAILED
            result.failures.append(report.longreprtext)
            result.logs += [_excerpt(name, text) for name, text in report.sections if text.strip()]
            # Teardown removes the logs.
            result.logs += _fixture_logs(item)
        elif report.skipped and result.outcome is ScenarioOutcome.PASSED:
            result.outcome = ScenarioOutcome.NOT_PROVEN
            result.reason = _reason(report)
        if report.when == "teardown":
            del self._results[item.nodeid]
            _append({"result": {**describe(item), **result.as_json()}})
        return report


def _reason(report: pytest.TestReport) -> str:
    text = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longreprtext
    return text.removeprefix("Skipped: ")


def _fixture_logs(item: pytest.Item) -> list[dict[str, str]]:
    """The last log lines of each fixture that has a `log`."""
    found = []
    for name, value in getattr(item, "funcargs", {}).items():
        try:
            log = getattr(value, "log", None)
        except Exception as error:  # noqa: BLE001 - a fixture may be in any state
            log = f"cannot be read: {error}"
        if isinstance(log, str) and log.strip():
            found.append(_excerpt(name, "\n".join(log.splitlines()[-LOG_LINES:])))
    return found


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--record`."""
    parser.addoption("--record", type=Path, help="Append each scenario's result to this file.")


def pytest_configure(config: pytest.Config) -> None:
    """Start recording."""
    global _file  # noqa: PLW0603 - fixtures call used() without a reference to pytest
    _file = config.getoption("--record")
    if _file is not None:
        config.pluginmanager.register(Recorder())
        # Like Ctrl-C: fixtures clean up.
        signal.signal(signal.SIGTERM, _interrupt)
