"""`invoke validate`: run the scenarios against the artifacts in `dist/` and publish the results."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..core import dist, dry_run, durations, filesystem, process, project, timestamps
from ..core.arch import Target
from ..core.console import log
from ..core.errors import CheckError, MissingRequirementError, UsageError
from ..system import apt, checks, host_checks
from . import evidence, suites, versions
from .artifacts import Subject, find
from .suites import ScenarioOutcome, Suite

#: Seconds that daemons get to end after an interruption.
GRACE_SECONDS = 60.0
#: Exit codes of pytest (https://docs.pytest.org/en/stable/reference/exit-codes.html).
_ALL_PASSED, _SOME_FAILED, _MISUSED, _NONE_SELECTED = 0, 1, 4, 5
# Removes a directory in which processes may still be ending.
_REMOVE = 'for _ in $(seq 300); do rm -rf --one-file-system "$1" && exit; sleep 0.1; done'


@dataclass(frozen=True, kw_only=True)
class ValidationOptions:
    """Options of `invoke validate`.

    Args:
        suites: the suites to run.
        target: the target of the artifacts; this machine must be able to run them.
        select: pytest's expression for a subset of the scenarios; empty for all.
        online: use official images too.
        yes: install missing tools without asking.
    """

    suites: Sequence[Suite]
    target: Target
    select: str = ""
    online: bool = False
    yes: bool = False

    @classmethod
    def parse(cls, *, only: str, target: str, select: str, **others: bool) -> ValidationOptions:
        """Parse the options of the command line.

        Raises:
            UsageError: unknown suite or target.
        """
        wanted = Target.parse(target) if target else Target.here()
        return cls(suites=suites.parse(only), target=wanted, select=select, **others)


@dataclass
class Record:
    """The results that the recorder has written until now.

    Args:
        path: the recorder's file.
    """

    path: Path
    scenarios: list[dict[str, Any]] = field(default_factory=list)
    results: list[dict[str, Any]] = field(default_factory=list)
    used: dict[str, str] = field(default_factory=dict)
    _read: int = 0

    def follow(self) -> list[dict[str, Any]]:
        """Read new results; an incomplete line waits for its end."""
        if not self.path.exists():
            return []
        with self.path.open("rb") as file:
            file.seek(self._read)
            *lines, rest = file.read().split(b"\n")
            self._read = file.tell() - len(rest)
        new = []
        for line in lines:
            with contextlib.suppress(ValueError):
                entry = json.loads(line)
                self.scenarios += entry.get("collected", [])
                self.used |= entry.get("used", {})
                if "result" in entry:
                    new.append(entry["result"])
        self.results += new
        return new

    def all(self, aborted: str) -> list[dict[str, Any]]:
        """Every scenario; those that never ran are not proven, with the reason."""
        self.follow()
        known = {(one["group"], one["name"]): one for one in self.results}
        missing = [
            {
                **one, "outcome": str(ScenarioOutcome.NOT_PROVEN), "seconds": 0.0, "failure": "", "logs": [],
                "reason": f"never ran: {aborted or 'no result recorded'}",
            }
            for one in self.scenarios
            if (one["group"], one["name"]) not in known
        ]  # fmt: skip
        return [
            {key: value for key, value in one.items() if key != "suite"}
            for one in [*known.values(), *missing]
        ]


#: Callback for each finished scenario: suite, number, total, result.
Progress = Callable[[Suite, int, int, Mapping[str, Any]], None]


@dataclass(frozen=True)
class Outcomes:
    """The result of a run.

    Args:
        artifacts: the evidence; None for a dry run.
        ran: the suites that ran.
        seconds: the duration.
    """

    artifacts: dist.Artifacts | None
    ran: Sequence[str]
    seconds: float


def validate(options: ValidationOptions, progress: Progress) -> Outcomes:
    """Run suites in sequence; publish the evidence of each suite when it ends.

    Raises:
        CheckError: artifacts are missing, or not of one build.
        NotNativeError: the artifacts are for another architecture than this machine's.
        MissingRequirementError: a tool is missing, or the user is not root.
        UsageError: no scenario was selected.
    """
    started = time.monotonic()
    if dry_run.active():
        _log_dry_run(options, find(options.target, options.suites))
        return Outcomes(None, [], time.monotonic() - started)
    with dist.lock(options.target):
        subject = find(options.target, options.suites)
        _require_root()
        host_checks.require_exec(project.DIST)
        apt.ensure_installed(suites.tools(options.suites), yes=options.yes)
        if any(suite.emulators for suite in options.suites):
            checks.provide_emulators(yes=options.yes)
        artifacts = None
        ran = []
        # The first suite's results may replace those of all suites.
        before = dist.find(dist.evidence_directory(options.target))
        # The directory survives `kill -9`, with the results until then, until the next run.
        with (
            dist.staging(options.target, part="validation") as staging,
            _workspace() as workspace,
            _log_duration(options),
        ):
            for suite in options.suites:
                result = _run(suite, options, staging, workspace, progress)
                if result is not None:
                    if before and (found := evidence.changes(before.manifest, suite.name, result)):
                        result["changes"] = found
                    artifacts = _publish(subject, suite, result, staging)
                    if not result["partial"] and not result["aborted"]:
                        durations.remember(_step(suite, options), result["seconds"])
                    ran.append(suite.name)
    if artifacts is None:
        raise UsageError(
            f"--select {options.select}: no scenario of {', '.join(s.name for s in options.suites)}",
            "an expression as for pytest's -k, for example: --select 'heredoc or secret'",
        )
    return Outcomes(artifacts, ran, time.monotonic() - started)


def _log_duration(options: ValidationOptions) -> AbstractContextManager[None]:
    """Log how long the suites take; the duration of a selection is unknown."""
    if options.select:
        return contextlib.nullcontext()
    steps = [_step(suite, options) for suite in options.suites]
    return durations.announced("the validation", *steps, keep=False)


def _step(suite: Suite, options: ValidationOptions) -> str:
    """The key of a complete suite in :mod:`..core.durations`."""
    return f"validate {suite.name}{' --online' if options.online else ''}"


def _log_dry_run(options: ValidationOptions, subject: Subject) -> None:
    for suite in options.suites:
        log(f"would run: {process.show(command(suite, options, Path('DIST'), Path('WORK')))}")
    log(f"would validate {subject.target.name}, BuildKit {subject.binaries.manifest['version']}")
    log(f"would publish {filesystem.display_path(dist.evidence_directory(options.target))}/")


def _require_root() -> None:
    if os.geteuid() != 0:
        raise MissingRequirementError(
            "scenarios start daemons as root and as other users", f"run `{suites.AS_ROOT}`"
        )


@contextlib.contextmanager
def _workspace() -> Iterator[Path]:
    """A directory for the files of scenarios, removed afterwards, even after `kill -9`.

    Not in /tmp, which may be in memory. Like /tmp, every user may write to it.
    """
    with tempfile.TemporaryDirectory(prefix="validation-", dir="/var/tmp") as name:
        directory = Path(name)
        directory.chmod(0o1777)
        with process.run_if_killed([["sh", "-c", _REMOVE, "sh", directory]]):
            yield directory


def command(suite: Suite, options: ValidationOptions, staging: Path, workspace: Path) -> list[str]:
    """The command that runs a suite.

    Args:
        suite: the suite.
        options: the options.
        staging: the directory for the files of pytest and the recorder.
        workspace: the directory for the files of scenarios.
    """
    return [
        sys.executable, "-m", "pytest", str(suite.directory), "--color=no",
        "-p", "no:cacheprovider", "-p", f"{__package__}.pytest_plugin",
        f"--record={staging / suite.name}.jsonl", f"--junitxml={staging / evidence.junit(suite.name)}",
        "--override-ini", f"junit_suite_name={suite.name}", f"--basetemp={workspace / 'p'}",
        # A broken module does not hide the others.
        "--continue-on-collection-errors", *(["-k", options.select] if options.select else []),
    ]  # fmt: skip


def environment(options: ValidationOptions, workspace: Path) -> dict[str, str]:
    """Environment of the scenarios, and the artifacts to validate.

    No keys and tokens, and no settings of pytest: they would change what runs.
    """
    ours = process.whole_environment()
    return {
        **process.environment(),
        # `invoke test` counts the scenarios with its own tests (testing/capabilities.py).
        **{name: value for name, value in ours.items() if name.startswith("BUILDKIT_TEST_")},
        "PYTHONDONTWRITEBYTECODE": "1",
        "HYPOTHESIS_STORAGE_DIRECTORY": str(workspace / "hypothesis"),
        "TMPDIR": str(workspace),
        "BUILDKIT_VALIDATION_FOLDER": str(workspace),
        "BUILDKIT_VALIDATION_DIST": str(project.DIST),
        "BUILDKIT_VALIDATION_TARGET": options.target.name,
        "BUILDKIT_VALIDATION_ONLINE": "1" if options.online else "",
    }


def _run(
    suite: Suite, options: ValidationOptions, staging: Path, workspace: Path, progress: Progress
) -> dict[str, Any] | None:
    """Run a suite; None if no scenario was selected."""
    started = datetime.now(UTC)
    record = Record(staging / f"{suite.name}.jsonl")
    closing = ""

    def follow() -> None:
        before = len(record.results)
        for number, result in enumerate(record.follow(), before + 1):
            progress(suite, number, len(record.scenarios), result)

    with (staging / evidence.log(suite.name)).open("w", encoding="utf-8") as log_file:

        def write(line: str) -> None:
            nonlocal closing
            closing = line.strip() or closing
            print(line, file=log_file, flush=True)

        code = process.stream(
            command(suite, options, staging, workspace), write, cwd=project.ROOT,
            env=environment(options, workspace), on_tick=follow, grace=GRACE_SECONDS,
        )  # fmt: skip
    follow()
    if code == _MISUSED:
        raise UsageError(f"--select {options.select}: {closing}", "see `pytest --help`, option -k")
    if code == _NONE_SELECTED and options.select:
        return None
    log(closing)
    aborted = "" if code in {_ALL_PASSED, _SOME_FAILED} else _abort_reason(code, record)
    scenarios = record.all(aborted)
    finished = datetime.now(UTC)
    return {
        "started": timestamps.utc(started), "finished": timestamps.utc(finished),
        "seconds": round((finished - started).total_seconds(), 1),
        "partial": bool(options.select), "select": options.select, "online": options.online,
        "aborted": aborted, "versions": versions.here(suite.tools, emulators=suite.emulators) | record.used,
        "counts": suites.counts(scenarios), "scenarios": scenarios,
    }  # fmt: skip


def _abort_reason(code: int, record: Record) -> str:
    if code == _NONE_SELECTED:
        return "the suite has no scenarios"
    if any(one["name"] == "(collecting)" for one in record.results):
        return ""
    return f"pytest ended early ({process.describe_exit(code)})"


def _publish(
    subject: Subject, suite: Suite, result: Mapping[str, Any], staging: Path
) -> dist.Artifacts:
    """Publish a suite's results together with those of the other suites."""
    place = dist.evidence_directory(subject.target)
    previous = None
    if place.exists():
        try:
            previous = evidence.load(place)
        except CheckError as error:
            log(f"{error.brief}: dropped its results")
    document, dropped = evidence.assemble(
        subject, {suite.name: result}, previous.manifest if previous else None
    )
    if dropped:
        log(
            f"dropped the earlier results of {', '.join(dropped)}:"
            " they are for other artifacts or another machine"
        )
    return evidence.publish(subject, document, staging, previous.path if previous else None)
