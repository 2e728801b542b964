"""Checks of this machine: declare, register, run and fix.

A check only reads. Its result names the Debian packages and commands that fix a problem, and
:func:`apply_fixes` applies them. The checks of a phase are in its package's `doctor_checks.py`;
`doctor.py` imports these modules.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from ..core import host, pins, process
from ..core.arch import Architecture, Platform
from ..core.console import Status, confirm, log
from ..core.errors import Failure, MissingRequirementError
from . import apt, binfmt


class Phase(StrEnum):
    """The values of `--phase`: the phases, the emulated machine, and our own tests."""

    BINARIES = "binaries"
    IMAGE = "image"
    VALIDATION = "validation"
    AUTOMATION = "automation"
    MACHINE = "machine"
    TEST = "test"


@dataclass(frozen=True)
class CheckResult:
    """The result of a check.

    Args:
        status: the severity.
        detail: the facts found.
        fix: how to fix the problem.
        package: the Debian packages that fix the problem, separated by spaces.
        commands: commands that fix the problem as root, after the packages are installed.
    """

    status: Status
    detail: str
    fix: str = ""
    package: str = ""
    commands: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True)
class Check:
    """A check of one requirement of phases.

    Args:
        name: the requirement.
        phases: the phases that need it.
        why: why they need it.
        look: the function that checks it.
    """

    name: str
    phases: frozenset[Phase]
    why: str
    look: Callable[[], CheckResult]


@dataclass(frozen=True)
class DoctorFinding:
    """A check and its result."""

    check: Check
    seen: CheckResult

    def as_json(self) -> dict[str, Any]:
        """The record for `--json`."""
        return {
            "kind": "check",
            "name": self.check.name,
            "phases": sorted(self.check.phases),
            "why": self.check.why,
            **asdict(self.seen),
        }


CHECKS: list[Check] = []


def check(
    name: str, why: str, *phases: Phase
) -> Callable[[Callable[[], CheckResult]], Callable[[], CheckResult]]:
    """Register a check.

    Args:
        name: the requirement; checks of several phases with the same name run once.
        why: why the phases need it.
        phases: the phases that need it.
    """

    def register(look: Callable[[], CheckResult]) -> Callable[[], CheckResult]:
        CHECKS.append(Check(name, frozenset(phases), why, look))
        return look

    return register


def ok(detail: str) -> CheckResult:
    """The result of a check without a problem."""
    return CheckResult(Status.OK, detail)


def tool(command: str, severity: Status, otherwise: str = "") -> CheckResult:
    """Check that a command is installed, and report the first line of its version.

    Args:
        command: its name.
        severity: the status when the command is missing.
        otherwise: the fix, where its package alone is not enough.
    """
    if process.which(command) is None:
        package = apt.PACKAGES[command]
        return CheckResult(
            severity, "not installed", otherwise or f"apt-get install {package}", package
        )
    answer = process.probe([command, "--version"])
    return ok(answer.stdout.strip().partition("\n")[0] if answer.ok else "installed")


def emulators(platforms: Sequence[Platform], severity: Status) -> CheckResult:
    """Check that programs of these platforms run on this machine, in any root directory.

    Args:
        platforms: the platforms.
        severity: the status when an emulator is missing.
    """
    missing = [one for one in platforms if not binfmt.runs(one)]
    if not missing:
        return ok(f"programs run for {', '.join(platforms)}")
    detail = f"no emulator that works in any root directory is registered for {', '.join(missing)}"
    installed = [one for one in missing if binfmt.is_installed(one)]
    if not installed:
        return CheckResult(severity, detail, f"apt-get install {binfmt.PACKAGE}", binfmt.PACKAGE)
    commands = [binfmt.register(one) for one in installed]
    if not binfmt.is_mounted():
        commands.insert(0, binfmt.mount())
    return CheckResult(
        severity, detail,
        "run `invoke doctor --fix` with this phase, or: systemctl restart systemd-binfmt",
        commands=tuple(commands),
    )  # fmt: skip


@check("architecture", "Binaries are compiled on the architecture they are for.", *Phase)
def _architecture() -> CheckResult:
    try:
        arch = Architecture.from_uname(platform.machine())
    except Failure as error:
        return CheckResult(Status.FAIL, error.brief, error.hint)
    how = f"{arch}, {host.execution()}"
    if host.execution() is host.Execution.QEMU_USER:
        return CheckResult(
            Status.WARN, how,
            "Go programs may hang under qemu-user (golang/go#70329): use a riscv64 machine",
        )  # fmt: skip
    if arch is not Architecture.RISCV64:
        return CheckResult(
            Status.OK, f"{how}: for development builds only; releases are for riscv64"
        )
    return ok(how)


@check("clock", "Certificates and signatures are invalid before their date.", *Phase)
def _clock() -> CheckResult:
    now, released = datetime.now(UTC), pins.load().time
    if now < released:
        return CheckResult(
            Status.FAIL, f"{now:%Y-%m-%d %H:%M} UTC is before the date of the pinned release",
            "timedatectl set-ntp true; a board without a battery starts in the past",
        )  # fmt: skip
    return ok(f"{now:%Y-%m-%d %H:%M} UTC")


@check("python", "The tasks run in it.", *Phase)
def _python() -> CheckResult:
    return ok(f"{platform.python_version()} in {sys.prefix}")


def needed(phases: Iterable[Phase]) -> list[Check]:
    """The checks of phases; checks with the same name become one check of all their phases."""
    wanted = frozenset(phases)
    found: dict[str, Check] = {}
    for one in CHECKS:
        if one.phases & wanted:
            first = found.setdefault(one.name, one)
            found[one.name] = replace(first, phases=first.phases | one.phases)
    return list(found.values())


def examine(phases: Iterable[Phase]) -> Iterator[DoctorFinding]:
    """Run the checks of phases."""
    for one in needed(phases):
        try:
            yield DoctorFinding(one, one.look())
        except Failure as error:
            yield DoctorFinding(one, CheckResult(Status.FAIL, error.brief, error.hint))
        except OSError as error:
            yield DoctorFinding(one, CheckResult(Status.WARN, f"the check failed: {error}"))


def provide_emulators(*, yes: bool) -> None:
    """Install and register emulators of other platforms, each after a question.

    If the user refuses to register an emulator, the scenarios report it.

    Raises:
        MissingRequirementError: none is installed and the answer was no, or a command failed.
    """
    foreign = [one for one in Platform if one is not Platform.here()]
    if not any(map(binfmt.is_installed, foreign)):
        apt.install_missing("emulators of other platforms", [binfmt.PACKAGE], yes=yes)
    result = emulators(foreign, Status.WARN)
    if not result.commands:
        return
    log(result.detail)
    if confirm("Register them with the kernel?", yes=yes):
        _run(result.commands)


def _run(commands: Iterable[Sequence[str]]) -> None:
    for command in commands:
        process.run([*process.as_root(), *command], error=MissingRequirementError)


def apply_fixes(phases: Iterable[Phase], *, yes: bool) -> list[DoctorFinding]:
    """Install the missing packages of phases, then run the commands of the other fixes.

    Args:
        phases: the phases.
        yes: do not ask.

    Returns:
        The findings after the fixes.

    Raises:
        MissingRequirementError: an installation or a command failed.
    """
    phases = list(phases)
    findings = list(examine(phases))
    packages = sorted({name for f in findings for name in f.seen.package.split()})
    if packages and apt.install(packages, yes=yes):
        findings = list(examine(phases))
    commands = [command for f in findings for command in f.seen.commands]
    _run(commands)
    return list(examine(phases)) if commands else findings
