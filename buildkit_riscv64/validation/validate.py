"""`invoke validate`: runs the scenarios against what lies in `dist/`, and keeps what was found."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .. import apt, dist, doctor, process, project, storage, timestamps
from ..arch import Target
from ..console import say
from ..errors import CheckError, MissingRequirementError, UsageError
from . import evidence, suites, versions
from .subject import Subject, find
from .suites import Outcome, Suite

#: Seconds that daemons get to end when we are interrupted.
GRACE_SECONDS = 60.0
#: What pytest's exit codes mean to us (https://docs.pytest.org/en/stable/reference/exit-codes.html).
_ALL_PASSED, _SOME_FAILED, _MISUSED, _NONE_SELECTED = 0, 1, 4, 5
# Settings of pytest's that would change what runs.
_UNWANTED = ("PYTEST_ADDOPTS", "PYTEST_PLUGINS", "PYTEST_DISABLE_PLUGIN_AUTOLOAD")
# Removes a folder in which something may still be ending.
_REMOVE = 'for _ in $(seq 300); do rm -rf --one-file-system "$1" && exit; sleep 0.1; done'


@dataclass(frozen=True, kw_only=True)
class Options:
    """What `invoke validate` was asked.

    Args:
        suites: which.
        target: artifacts for what; this machine must be able to run them.
        select: pytest's expression for some scenarios; empty for all.
        online: use official images too.
        dry: only say what would be done.
        yes: install what is missing without asking.
    """

    suites: Sequence[Suite]
    target: Target
    select: str = ""
    online: bool = False
    dry: bool = False
    yes: bool = False

    @classmethod
    def parse(cls, *, only: str, target: str, select: str, **others: bool) -> Options:
        """Options as the command line has them.

        Raises:
            UsageError: there is no such suite or target.
        """
        wanted = Target.parse(target) if target else Target.here()
        return cls(suites=suites.parse(only), target=wanted, select=select, **others)


@dataclass
class Record:
    """What the recorder has written until now.

    Args:
        path: its file.
    """

    path: Path
    scenarios: list[dict[str, Any]] = field(default_factory=list)
    results: list[dict[str, Any]] = field(default_factory=list)
    used: dict[str, str] = field(default_factory=dict)
    _read: int = 0

    def follow(self) -> list[dict[str, Any]]:
        """The results that are new. A line that is not whole yet waits."""
        if not self.path.exists():
            return []
        with self.path.open("rb") as file:
            file.seek(self._read)
            *lines, rest = file.read().split(b"\n")
            self._read = file.tell() - len(rest)
        new = []
        for line in lines:
            with contextlib.suppress(ValueError):
                told = json.loads(line)
                self.scenarios += told.get("collected", [])
                self.used |= told.get("used", {})
                if "result" in told:
                    new.append(told["result"])
        self.results += new
        return new

    def all(self, aborted: str) -> list[dict[str, Any]]:
        """Every scenario; those that never ran are not proven, and say why."""
        self.follow()
        known = {(one["group"], one["name"]): one for one in self.results}
        missing = [
            {
                **one, "outcome": str(Outcome.NOT_PROVEN), "seconds": 0.0, "failure": "", "logs": [],
                "reason": f"never ran: {aborted or 'nothing was heard of it'}",
            }
            for one in self.scenarios
            if (one["group"], one["name"]) not in known
        ]  # fmt: skip
        return [
            {key: value for key, value in one.items() if key != "suite"}
            for one in [*known.values(), *missing]
        ]


#: Told of each scenario that has finished: its suite, which number it is of how many, what became of it.
Tell = Callable[[Suite, int, int, Mapping[str, Any]], None]


@dataclass(frozen=True)
class Outcomes:
    """What became of a run.

    Args:
        artifacts: the evidence; None when nothing was to be done but said.
        ran: the suites that have run now.
        seconds: how long it took.
    """

    artifacts: dist.Artifacts | None
    ran: Sequence[str]
    seconds: float


def validate(options: Options, tell: Tell) -> Outcomes:
    """Run suites one after the other; each one's evidence is kept as soon as it has ended.

    Raises:
        CheckError: what is to be validated is not there, or not of one build.
        NotNativeError: it is for another architecture than this machine's.
        MissingRequirementError: a tool is missing, or we are not root.
        UsageError: no scenario was selected.
    """
    started = time.monotonic()
    if options.dry:
        _say_what_would_run(options, find(options.target, options.suites))
        return Outcomes(None, [], time.monotonic() - started)
    with dist.lock(options.target):
        subject = find(options.target, options.suites)
        _require_root()
        apt.provide(suites.tools(options.suites), yes=options.yes)
        if any(suite.emulators for suite in options.suites):
            doctor.provide_emulators(yes=options.yes)
        artifacts = None
        ran = []
        # It stays after `kill -9`, until the next run: what was found until then is in there.
        with dist.staging(options.target, part="validation") as made, _workshop() as workshop:
            for suite in options.suites:
                result = _run(suite, options, made, workshop, tell)
                if result is not None:
                    artifacts = _keep(subject, suite, result, made)
                    ran.append(suite.name)
    if artifacts is None:
        raise UsageError(
            f"--select {options.select}: no scenario of {', '.join(s.name for s in options.suites)}",
            "it is an expression of pytest's -k, as in: --select 'heredoc or secret'",
        )
    return Outcomes(artifacts, ran, time.monotonic() - started)


def _say_what_would_run(options: Options, subject: Subject) -> None:
    for suite in options.suites:
        say(f"would run: {process.show(command(suite, options, Path('DIST'), Path('WORK')))}")
    place = storage.shown(dist.evidence_folder(options.target))
    say(f"would publish what became of each scenario in {place}/")
    say(
        f"validated would be {subject.target.name}, BuildKit {subject.binaries.manifest['version']}"
    )


def _require_root() -> None:
    if os.geteuid() != 0:
        raise MissingRequirementError(
            "the scenarios start daemons as root, and as other users", f"`{suites.AS_ROOT}`"
        )


@contextlib.contextmanager
def _workshop() -> Iterator[Path]:
    """A folder for all that scenarios write, gone afterwards, even after `kill -9`.

    It is not in /tmp, which may be memory, and any user may write there, as in /tmp.
    """
    with tempfile.TemporaryDirectory(prefix="validation-", dir="/var/tmp") as name:
        folder = Path(name)
        folder.chmod(0o1777)
        with process.afterwards([["sh", "-c", _REMOVE, "sh", folder]]):
            yield folder


def command(suite: Suite, options: Options, made: Path, workshop: Path) -> list[str]:
    """The command that runs a suite.

    Args:
        suite: which.
        options: what was asked.
        made: the folder for what pytest and the recorder write.
        workshop: the folder for what scenarios write.
    """
    return [
        sys.executable, "-m", "pytest", str(suite.folder), "--color=no",
        "-p", "no:cacheprovider", "-p", f"{__package__}.recorder",
        f"--record={made / suite.name}.jsonl", f"--junitxml={made / evidence.junit(suite.name)}",
        "--override-ini", f"junit_suite_name={suite.name}", f"--basetemp={workshop / 'p'}",
        # A module that is broken does not hide the others.
        "--continue-on-collection-errors", *(["-k", options.select] if options.select else []),
    ]  # fmt: skip


def environment(options: Options, workshop: Path) -> dict[str, str]:
    """What scenarios see: everything of ours, and what they are to validate."""
    ours = process.whole_environment()
    return {
        **{name: value for name, value in ours.items() if name not in _UNWANTED},
        "PYTHONDONTWRITEBYTECODE": "1",
        "HYPOTHESIS_STORAGE_DIRECTORY": str(workshop / "hypothesis"),
        "TMPDIR": str(workshop),
        "BUILDKIT_VALIDATION_FOLDER": str(workshop),
        "BUILDKIT_VALIDATION_DIST": str(project.DIST),
        "BUILDKIT_VALIDATION_TARGET": options.target.name,
        "BUILDKIT_VALIDATION_ONLINE": "1" if options.online else "",
    }


def _run(
    suite: Suite, options: Options, made: Path, workshop: Path, tell: Tell
) -> dict[str, Any] | None:
    """What became of a suite; None when nothing of it was selected."""
    started = datetime.now(UTC)
    record = Record(made / f"{suite.name}.jsonl")
    closing = ""

    def follow() -> None:
        before = len(record.results)
        for number, result in enumerate(record.follow(), before + 1):
            tell(suite, number, len(record.scenarios), result)

    with (made / evidence.log(suite.name)).open("w", encoding="utf-8") as log:

        def write(line: str) -> None:
            nonlocal closing
            closing = line.strip() or closing
            print(line, file=log, flush=True)

        code = process.stream(
            command(suite, options, made, workshop), write, cwd=project.ROOT,
            env=environment(options, workshop), on_tick=follow, grace=GRACE_SECONDS,
        )  # fmt: skip
    follow()
    if code == _MISUSED:
        raise UsageError(f"--select {options.select}: {closing}", "see `pytest --help`, option -k")
    if code == _NONE_SELECTED and options.select:
        return None
    say(closing)
    aborted = "" if code in {_ALL_PASSED, _SOME_FAILED} else _abortion(code, record)
    scenarios = record.all(aborted)
    finished = datetime.now(UTC)
    return {
        "started": timestamps.utc(started), "finished": timestamps.utc(finished),
        "seconds": round((finished - started).total_seconds(), 1),
        "partial": bool(options.select), "select": options.select, "online": options.online,
        "aborted": aborted, "versions": versions.here(suite.tools, emulators=suite.emulators) | record.used,
        "counts": suites.counts(scenarios), "scenarios": scenarios,
    }  # fmt: skip


def _abortion(code: int, record: Record) -> str:
    if code == _NONE_SELECTED:
        return "it has no scenarios"
    if any(one["name"] == "(collecting)" for one in record.results):
        return ""
    return f"pytest ended early ({process.describe_exit(code)})"


def _keep(subject: Subject, suite: Suite, result: Mapping[str, Any], made: Path) -> dist.Artifacts:
    """Publish a suite's results together with those of the others."""
    place = dist.evidence_folder(subject.target)
    previous = None
    if place.exists():
        try:
            previous = evidence.load(place)
        except CheckError as error:
            say(f"{error.brief}: what it told is dropped")
    document, dropped = evidence.assemble(
        subject, {suite.name: result}, previous.manifest if previous else None
    )
    if dropped:
        say(
            f"dropped the earlier results of {', '.join(dropped)}:"
            " they are of other artifacts or of another machine"
        )
    return evidence.publish(subject, document, made, previous.path if previous else None)
