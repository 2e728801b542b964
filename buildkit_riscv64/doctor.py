"""`invoke doctor`: what each phase needs of this machine, and whether it is there.

A check looks and tells; it never changes anything. What can be mended names
the Debian packages that mend it, and :func:`main` installs them. What all phases need is looked
at here; what one needs, in its package's module `needs`.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from . import apt, binfmt, host, pins, process
from .arch import Architecture, Platform
from .console import Status, confirm, emit_json, say, table
from .errors import DoctorError, Failure, MissingRequirementError, UsageError


class Phase(StrEnum):
    """The phases, as `--phase` takes them; and `machine`, which stands in for a board."""

    BINARIES = "binaries"
    IMAGE = "image"
    VALIDATION = "validation"
    AUTOMATION = "automation"
    MACHINE = "machine"


@dataclass(frozen=True)
class Seen:
    """What a check saw.

    Args:
        status: how bad it is.
        detail: what was seen.
        fix: how to mend it.
        package: the Debian package that mends it, if one does, or several with spaces between.
        commands: what mends it as root, once packages are there.
    """

    status: Status
    detail: str
    fix: str = ""
    package: str = ""
    commands: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True)
class Check:
    """One thing that phases need.

    Args:
        name: what is looked at.
        phases: who needs it.
        why: why it matters.
        look: looks at it.
    """

    name: str
    phases: frozenset[Phase]
    why: str
    look: Callable[[], Seen]


@dataclass(frozen=True)
class Finding:
    """A check and what it saw."""

    check: Check
    seen: Seen

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "name": self.check.name,
            "phases": sorted(self.check.phases),
            "why": self.check.why,
            **asdict(self.seen),
        }


CHECKS: list[Check] = []


def check(
    name: str, why: str, *phases: Phase
) -> Callable[[Callable[[], Seen]], Callable[[], Seen]]:
    """Register a check.

    Args:
        name: what is looked at; where phases have the same, it is looked at once.
        why: why it matters.
        phases: who needs it.
    """

    def register(look: Callable[[], Seen]) -> Callable[[], Seen]:
        CHECKS.append(Check(name, frozenset(phases), why, look))
        return look

    return register


def ok(detail: str) -> Seen:
    """Nothing is wrong."""
    return Seen(Status.OK, detail)


def tool(command: str, severity: Status, otherwise: str = "") -> Seen:
    """Look at a command, and at the first line of what it says of its version.

    Args:
        command: its name.
        severity: how bad it is when it is not there.
        otherwise: how to mend that, where it takes more than its package.
    """
    if process.which(command) is None:
        package = apt.PACKAGES[command]
        return Seen(severity, "not installed", otherwise or f"apt-get install {package}", package)
    answer = process.probe([command, "--version"])
    return ok(answer.stdout.strip().partition("\n")[0] if answer.ok else "installed")


def emulators(platforms: Sequence[Platform], severity: Status) -> Seen:
    """Look whether programs of these platforms run here, in any root directory.

    Args:
        platforms: all of them are to run.
        severity: how bad it is when one does not.
    """
    missing = [one for one in platforms if not binfmt.runs(one)]
    if not missing:
        return ok(f"programs run for {', '.join(platforms)}")
    detail = f"no emulator is registered that works in any root directory for {', '.join(missing)}"
    installed = [one for one in missing if binfmt.is_installed(one)]
    if not installed:
        return Seen(severity, detail, f"apt-get install {binfmt.PACKAGE}", binfmt.PACKAGE)
    commands = [binfmt.register(one) for one in installed]
    if not binfmt.is_mounted():
        commands.insert(0, binfmt.mount())
    return Seen(
        severity, detail,
        "`invoke doctor --fix` with this phase registers them; so does: systemctl restart systemd-binfmt",
        commands=tuple(commands),
    )  # fmt: skip


@check("architecture", "Binaries are compiled on the architecture they are for.", *Phase)
def _architecture() -> Seen:
    try:
        arch = Architecture.from_uname(platform.machine())
    except Failure as error:
        return Seen(Status.FAIL, error.brief, error.hint)
    how = f"{arch}, {host.execution()}"
    if host.execution() is host.Execution.QEMU_USER:
        return Seen(
            Status.WARN, how,
            "Go programs may hang under qemu-user (golang/go#70329): use a riscv64 machine",
        )  # fmt: skip
    if arch is not Architecture.RISCV64:
        return Seen(Status.OK, f"{how}: development builds only; riscv64 is what is released")
    return ok(how)


@check("clock", "Certificates and signatures are refused before their time.", *Phase)
def _clock() -> Seen:
    now, made = datetime.now(UTC), pins.load().time
    if now < made:
        return Seen(
            Status.FAIL, f"it says {now:%Y-%m-%d %H:%M} UTC, and what is pinned was made later",
            "timedatectl set-ntp true; a board without a battery starts in the past",
        )  # fmt: skip
    return ok(f"{now:%Y-%m-%d %H:%M} UTC")


@check("python", "The tasks are written for it.", *Phase)
def _python() -> Seen:
    return ok(f"{platform.python_version()} in {sys.prefix}")


def needed(phases: Iterable[Phase]) -> list[Check]:
    """The checks that phases need; of several with one name the first, for all of them."""
    # Each registers its own, in the order in which they are looked at.
    # isort: off
    from .binaries import needs as _binaries  # noqa: F401
    from .image import needs as _image  # noqa: F401
    from .validation import needs as _validation  # noqa: F401
    from .automation import needs as _automation  # noqa: F401
    from .machine import needs as _machine  # noqa: F401
    # isort: on

    wanted = frozenset(phases)
    found: dict[str, Check] = {}
    for one in CHECKS:
        if one.phases & wanted:
            first = found.setdefault(one.name, one)
            found[one.name] = replace(first, phases=first.phases | one.phases)
    return list(found.values())


def examine(phases: Iterable[Phase]) -> Iterator[Finding]:
    """Look at everything that phases need."""
    for one in needed(phases):
        try:
            yield Finding(one, one.look())
        except Failure as error:
            yield Finding(one, Seen(Status.FAIL, error.brief, error.hint))
        except OSError as error:
            yield Finding(one, Seen(Status.WARN, f"cannot be found out: {error}"))


def provide_emulators(*, yes: bool) -> None:
    """Have emulators of other platforms installed and registered, each after a question.

    One that is not registered since the answer was no is what the scenarios then tell.

    Raises:
        MissingRequirementError: none is installed and the answer was no, or it failed.
    """
    foreign = [one for one in Platform if one is not Platform.here()]
    if not any(map(binfmt.is_installed, foreign)):
        apt.have("emulators of other platforms", [binfmt.PACKAGE], yes=yes)
    seen = emulators(foreign, Status.WARN)
    if not seen.commands:
        return
    say(seen.detail)
    if confirm("Register them with the kernel?", yes=yes):
        _run(seen.commands)


def _run(commands: Iterable[Sequence[str]], *, dry: bool = False) -> None:
    for command in commands:
        process.run([*process.as_root(), *command], dry=dry, error=MissingRequirementError)


def mend(phases: Iterable[Phase], *, yes: bool, dry: bool = False) -> list[Finding]:
    """Install what phases lack, and run what mends the rest.

    Args:
        phases: they are to have what they need.
        yes: do not ask.
        dry: only say what would run.

    Returns:
        What is found afterwards.

    Raises:
        MissingRequirementError: something could not be installed.
    """
    phases = list(phases)
    findings = list(examine(phases))
    packages = sorted({name for f in findings for name in f.seen.package.split()})
    if packages and apt.install(packages, yes=yes, dry=dry):
        findings = list(examine(phases))
    commands = [command for f in findings for command in f.seen.commands]
    _run(commands, dry=dry)
    return list(examine(phases)) if commands else findings


def main(phase: str, *, fix: bool, yes: bool, json: bool, dry: bool) -> None:
    """`invoke doctor`.

    Args:
        phase: only what this one needs; all when empty, but for the emulated machine.
        fix: mend what can be mended first.
        yes: do not ask about that.
        json: tell it for scripts.
        dry: only say how it would be mended.

    Raises:
        UsageError: there is no such phase.
        DoctorError: something is FAIL.
    """
    if phase and phase not in list(Phase):
        raise UsageError(f"--phase {phase}: no such phase", f"one of: {', '.join(Phase)}")
    # The emulated machine is for those who have no board, and asked for.
    phases = [Phase(phase)] if phase else [one for one in Phase if one is not Phase.MACHINE]
    findings = mend(phases, yes=yes, dry=dry) if fix else list(examine(phases))
    if json:
        emit_json([finding.as_json() for finding in findings])
    else:
        rows = [(f.check.name, str(f.seen.status), f.seen.detail) for f in findings]
        table(("what", "", "seen"), rows)
        for finding in findings:
            if finding.seen.status is not Status.OK:
                say(f"{finding.seen.status} {finding.check.name}: {finding.seen.detail}")
                say(f"  why: {finding.check.why}")
                say(f"  fix: {finding.seen.fix}")
    failed = [f.check.name for f in findings if f.seen.status is Status.FAIL]
    if failed:
        raise DoctorError(
            f"this machine is not ready: {', '.join(failed)}",
            "mend it as said above, or run `invoke doctor --fix`",
        )
