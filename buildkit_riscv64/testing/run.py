"""One run of `invoke test`: examine the host, install tools, run nox sessions, print totals."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..binaries import c_toolchain, toolchain
from ..core import dry_run, durations, pins, process, project
from ..core.console import count, log
from ..core.errors import CheckError, MissingRequirementError
from ..system import apt
from . import capabilities
from .capabilities import Limits


@dataclass(frozen=True, kw_only=True)
class Request:
    """The options of `invoke test`.

    Args:
        sessions: nox sessions, separated by commas; empty for nox's default.
        all_: fail if a test is left out.
        yes: install missing packages without asking.
    """

    sessions: str = ""
    all_: bool = False
    yes: bool = False

    def flags(self) -> list[str]:
        """The flags of the command line."""
        flags = [f"--session={self.sessions}"] if self.sessions else []
        return flags + [flag for flag, on in (("--all", self.all_), ("--yes", self.yes)) if on]


@dataclass
class Totals:
    """The totals of several test runs.

    Args:
        outcomes: number of tests by pytest's outcome.
        failed: names of failed tests.
        left_out: number of tests by the reason why they did not run.
        not_proven: number of skipped scenarios; the evidence has the reasons.
        seconds: duration of all runs.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    not_proven: int = 0
    seconds: float = 0.0

    @classmethod
    def read(cls, path: Path) -> Totals:
        """Add up the counts that the pytest plugin has written."""
        totals = cls()
        for line in path.read_text().splitlines() if path.exists() else ():
            run = json.loads(line)
            totals.outcomes.update(run["outcomes"])
            totals.failed += run["failed"]
            totals.left_out.update(run["left_out"])
            totals.not_proven += run["not_proven"]
            totals.seconds += run["seconds"]
        return totals

    def closing_line(self) -> str:
        """The totals in the form of pytest's summary line."""
        counts = {**self.outcomes, "deselected": self.left_out.total()}
        words = [f"{counts[name]} {name}" for name in capabilities.OUTCOMES if counts.get(name)]
        minutes, seconds = divmod(round(self.seconds), 60)
        time = f"{self.seconds:.2f}s ({minutes // 60}:{minutes % 60:02}:{seconds:02})"
        return f" {', '.join(words) or 'no tests ran'} in {time} ".center(80, "=")


def _install(sessions: Sequence[str], limits: Limits, *, yes: bool) -> None:
    """Install the tools of these sessions that this host can have."""
    real = capabilities.are_real(sessions)
    tools = capabilities.TOOLS if real else ("git",)
    if real and "pages" not in limits.capabilities:
        tools = (*tools, capabilities.BROWSER)
    apt.ensure_installed([name for name in tools if name not in limits.capabilities], yes=yes)
    if real and "c" not in limits.capabilities:
        c_toolchain.ensure_installed(yes=yes)
    if (real or "lint" in sessions) and "go" not in limits.capabilities:
        toolchain.ensure(pins.load())


def _owner() -> tuple[int, int] | None:
    """The user and group of sudo, if the checkout belongs to that user."""
    user, group = (os.environ.get(name, "") for name in ("SUDO_UID", "SUDO_GID"))
    if os.geteuid() != 0 or not (user.isdigit() and group.isdigit()):
        return None
    owner = project.ROOT.stat().st_uid
    return (int(user), int(group)) if owner == int(user) != 0 else None


@contextlib.contextmanager
def _ownership_kept() -> Iterator[None]:
    """Give files that root writes into the checkout to the user of sudo."""
    owner = _owner()
    try:
        yield
    finally:
        if owner:
            for path in project.ROOT.rglob("*"):
                # A process that is ending may still remove files.
                with contextlib.suppress(FileNotFoundError):
                    if path.lstat().st_uid == 0:
                        os.chown(path, *owner, follow_symlinks=False)


def _close(limits: Limits, totals: Totals, sessions: Iterable[Mapping[str, Any]]) -> None:
    """Log the results of sessions and the totals of tests.

    Args:
        limits: the limits of this host.
        totals: the totals of all test runs.
        sessions: the sessions in nox's report.
    """
    by_result: dict[str, list[str]] = {}
    for session in sessions:
        by_result.setdefault(session["result"], []).append(session["name"])
    log()
    for result, names in by_result.items():
        log(f"sessions {result}: {', '.join(names)}")
    for name in totals.failed:
        log(f"failed: {name}")
    ran = [f"{totals.outcomes[name]} {name}" for name in capabilities.RAN if totals.outcomes[name]]
    log(f"ran: {', '.join(ran) or 'no tests'}")
    if totals.not_proven:
        scenarios = count(totals.not_proven, "scenario")
        log(f"not proven on this machine: {scenarios}; the evidence has the reasons")
    log(f"not run here: {count(totals.left_out.total(), 'test')}")
    for reason, number in totals.left_out.most_common():
        log(f"  {number}: {reason}")
    for name, reason in limits.sessions.items():
        log(f"  {name}: {reason}")
    log(totals.closing_line())


def _sessions(report: Path) -> list[dict[str, Any]]:
    """The sessions in nox's report; empty where nox ended before it wrote the report."""
    return list(json.loads(report.read_text())["sessions"]) if report.exists() else []


def run(options: Request) -> None:
    """Run the sessions, and leave out tests that this host cannot run.

    Raises:
        UsageError: there is no such session.
        MissingRequirementError: this host can run none of the sessions or, with --all, not every
            test; or a tool could not be installed.
        CheckError: a session failed or, with --all, a test did not run.
    """
    sessions = capabilities.chosen(options.sessions)
    command = [sys.executable, "-m", "nox", "--sessions", *sessions]
    if dry_run.active():
        process.run(command)
        return
    if capabilities.needs_sudo(sessions):
        again = [sys.executable, "-m", "buildkit_riscv64", "test", *options.flags()]
        process.replace(capabilities.as_root(again))
    limits = capabilities.examine(sessions)
    if not os.environ.get(capabilities.ANNOUNCED):
        capabilities.announce(limits)
        os.environ[capabilities.ANNOUNCED] = "1"
    if options.all_:
        capabilities.refuse(limits)
    if limits.sessions.keys() >= set(sessions):
        raise MissingRequirementError(
            "this host can run none of these sessions", "see the reasons above"
        )
    with _ownership_kept(), tempfile.TemporaryDirectory(prefix="test-") as name:
        _install(sessions, limits, yes=options.yes)
        step = " ".join(["test", options.sessions, "in part" if limits else ""]).rstrip()
        with durations.announced("the test run", step):
            totals = _nox(command, limits, Path(name))
    if options.all_ and totals.left_out:
        raise CheckError(
            f"--all: {count(totals.left_out.total(), 'test')} did not run", "see the reasons above"
        )


def _nox(command: Sequence[str], limits: Limits, temporary: Path) -> Totals:
    """Run nox, and log the results.

    Raises:
        CheckError: a session failed.
    """
    limits_file, tally, report = (temporary / name for name in ("limits", "tally", "report"))
    limits.write(limits_file)
    env = {
        **process.whole_environment(),
        capabilities.LIMITS: str(limits_file),
        capabilities.TALLY: str(tally),
    }
    failure = None
    try:
        process.run(
            [*command, "--report", str(report)], cwd=project.ROOT, env=env, title="nox",
            error=CheckError, hint="see the failures above",
        )  # fmt: skip
    except CheckError as error:
        failure = error
    totals = Totals.read(tally)
    _close(limits, totals, _sessions(report))
    if failure:
        raise failure
    return totals
