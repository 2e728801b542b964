"""A pytest plugin that tells what became of each scenario as soon as it is known.

`pytest -p buildkit_riscv64.validation.recorder --record FILE` appends lines of JSON:
first the scenarios that there are, then each as it finishes. Whatever ends the run,
what was found until then is in the file.
"""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from .suites import Outcome

#: Lines of a daemon's log that a failure shows.
LOG_LINES = 100
#: Characters of one text; pytest's own log has all of it.
TEXT_LIMIT = 20_000

# Colours, and what no document may hold.
_NOISE = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")

# The file, while the plugin is active.
_file: Path | None = None


def used(**versions: str) -> None:
    """Tell which versions of other programs the scenarios used; for fixtures, anywhere."""
    _append({"used": versions})


def _append(value: Mapping[str, Any]) -> None:
    if _file is not None:
        with _file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(value) + "\n")


def _text(text: str) -> str:
    """A text as the evidence has it: without colours, its beginning and its end."""
    text = _NOISE.sub("", text).strip("\n")
    if len(text) <= TEXT_LIMIT:
        return text
    start, end = text[: TEXT_LIMIT // 4], text[-TEXT_LIMIT * 3 // 4 :]
    return f"{start}\n[… {len(text) - TEXT_LIMIT} characters …]\n{end}"


def _excerpt(name: str, text: str) -> dict[str, str]:
    return {"name": name, "text": _text(text)}


def describe(item: pytest.Item) -> dict[str, str]:
    """Which scenario a test is: its suite, group and name, and what it says of itself."""
    name = item.nodeid.partition("::")[2]
    said = (getattr(getattr(item, "obj", None), "__doc__", None) or "").strip().partition("\n")[0]
    title = said or getattr(item, "originalname", name).removeprefix("test_").replace("_", " ")
    call = getattr(item, "callspec", None)
    return {
        **_place(item.path),
        "name": _text(name),
        "title": _text(f"{title} [{call.id}]" if call else title),
    }


def _place(path: Path) -> dict[str, str]:
    return {"suite": path.parent.name, "group": path.stem.removeprefix("test_")}


@dataclass
class _Finding:
    """What is known of a scenario while it runs."""

    outcome: Outcome = Outcome.PASSED
    seconds: float = 0.0
    reason: str = ""
    failures: list[str] = field(default_factory=list)
    logs: list[dict[str, str]] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        return {
            "outcome": self.outcome, "seconds": round(self.seconds, 3),
            "reason": _text(self.reason), "failure": _text("\n\n".join(self.failures)),
            "logs": self.logs,
        }  # fmt: skip


class Recorder:
    """The hooks."""

    def __init__(self) -> None:
        self._findings: dict[str, _Finding] = {}

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A module that cannot even be read has failed."""
        if report.failed:
            finding = _Finding(Outcome.FAILED, failures=[str(report.longrepr)])
            place = _place(Path(report.nodeid.partition("::")[0]))
            _append(
                {"result": {**place, "name": "(collecting)", "title": "Its scenarios can be read",
                            **finding.as_json()}}
            )  # fmt: skip

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """What will run."""
        _append({"collected": [describe(item) for item in session.items]})

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """A scenario has been set up, has run, or has been cleaned up after."""
        report = yield
        finding = self._findings.setdefault(item.nodeid, _Finding())
        finding.seconds += report.duration
        if report.failed:
            finding.outcome = Outcome.FAILED
            finding.failures.append(report.longreprtext)
            finding.logs += [_excerpt(name, text) for name, text in report.sections if text.strip()]
            # Now: afterwards it is gone.
            finding.logs += _daemons(item)
        elif report.skipped and finding.outcome is Outcome.PASSED:
            finding.outcome = Outcome.NOT_PROVEN
            finding.reason = _reason(report)
        if report.when == "teardown":
            del self._findings[item.nodeid]
            _append({"result": {**describe(item), **finding.as_json()}})
        return report


def _reason(report: pytest.TestReport) -> str:
    said = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longreprtext
    return said.removeprefix("Skipped: ")


def _daemons(item: pytest.Item) -> list[dict[str, str]]:
    """The ends of the logs of what a scenario uses: of each fixture with one, its `log`."""
    found = []
    for name, value in getattr(item, "funcargs", {}).items():
        try:
            log = getattr(value, "log", None)
        except Exception as error:  # noqa: BLE001 - a fixture may be in any state
            log = f"cannot be read: {error}"
        if isinstance(log, str) and log.strip():
            found.append(_excerpt(name, "\n".join(log.splitlines()[-LOG_LINES:])))
    return found


def _end(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--record`."""
    parser.addoption("--record", type=Path, help="Append each scenario's result to this file.")


def pytest_configure(config: pytest.Config) -> None:
    """Start recording."""
    global _file  # noqa: PLW0603 - fixtures find it without knowing of pytest
    _file = config.getoption("--record")
    if _file is not None:
        config.pluginmanager.register(Recorder())
        # As Ctrl-C: fixtures clean up.
        signal.signal(signal.SIGTERM, _end)
