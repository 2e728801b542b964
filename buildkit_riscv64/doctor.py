"""`invoke doctor`: check this machine for each phase, and print verdicts and fixes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

# Each module registers its checks, which run in this order.
# isort: off
from .binaries import doctor_checks as _binaries  # noqa: F401
from .image import doctor_checks as _image  # noqa: F401
from .validation import doctor_checks as _validation  # noqa: F401
from .release import doctor_checks as _automation  # noqa: F401
from .machine import doctor_checks as _machine  # noqa: F401
from .testing import doctor_checks as _testing  # noqa: F401

# isort: on
from .core.console import Status, emit_json, log, table
from .core.errors import DoctorError, UsageError
from .system.checks import CheckResult, DoctorFinding, Phase, apply_fixes, examine

#: The phases without `--phase`: not every user needs an emulated machine or runs our tests.
DEFAULT_PHASES = (Phase.BINARIES, Phase.IMAGE, Phase.VALIDATION, Phase.AUTOMATION)


@dataclass(frozen=True)
class Verdict:
    """The readiness of this machine for a phase.

    Args:
        phase: the phase.
        failed: names of the checks that are FAIL.
        warned: names of the checks that are WARN.
    """

    phase: Phase
    failed: tuple[str, ...]
    warned: tuple[str, ...]

    @classmethod
    def of(cls, phase: Phase, findings: Iterable[DoctorFinding]) -> Verdict:
        """The verdict for a phase."""
        own = [one for one in findings if phase in one.check.phases]

        def names(status: Status) -> tuple[str, ...]:
            return tuple(one.check.name for one in own if one.seen.status is status)

        return cls(phase, names(Status.FAIL), names(Status.WARN))

    def as_json(self) -> dict[str, Any]:
        """The record for `--json`, with the keys of a finding."""
        status = Status.FAIL if self.failed else Status.WARN if self.warned else Status.OK
        detail = f"not ready: {', '.join(self.failed)}" if self.failed else "ready"
        problems = ", ".join((*self.failed, *self.warned))
        return {
            "kind": "verdict",
            "name": str(self.phase),
            "phases": [str(self.phase)],
            "why": "A phase works when none of its checks is FAIL.",
            **asdict(CheckResult(status, detail, f"see the checks {problems}" if problems else "")),
        }


def main(phase: str, *, fix: bool, yes: bool, json: bool) -> None:
    """Run the checks, and print the result.

    Args:
        phase: the phase to check; :data:`DEFAULT_PHASES` when empty.
        fix: first fix the problems that can be fixed.
        yes: fix them without asking.
        json: print JSON: verdicts, then findings.

    Raises:
        UsageError: there is no such phase.
        DoctorError: a check failed.
    """
    if phase and phase not in list(Phase):
        raise UsageError(f"--phase {phase}: no such phase", f"one of: {', '.join(Phase)}")
    phases = [Phase(phase)] if phase else DEFAULT_PHASES
    findings = apply_fixes(phases, yes=yes) if fix else list(examine(phases))
    verdicts = [Verdict.of(one, findings) for one in phases]
    if json:
        emit_json([*(v.as_json() for v in verdicts), *(f.as_json() for f in findings)])
    else:
        _show(verdicts, findings)
    failed = [f.check.name for f in findings if f.seen.status is Status.FAIL]
    if failed:
        raise DoctorError(
            f"this machine is not ready: {', '.join(failed)}",
            "see the fixes above; `invoke doctor --fix` applies some of them",
        )


def _show(verdicts: Iterable[Verdict], findings: Sequence[DoctorFinding]) -> None:
    """Print the verdicts, then each problem with its fix, then the other checks."""
    ready: dict[bool, list[str]] = {}
    for verdict in verdicts:
        ready.setdefault(not verdict.failed, []).append(verdict.phase)
    for good, text in ((True, "ready for"), (False, "not ready for")):
        if good in ready:
            log(f"{text}: {', '.join(ready[good])}")
    log()
    for status in (Status.FAIL, Status.WARN):
        for finding in findings:
            if finding.seen.status is status:
                log(f"{status} {finding.check.name}: {finding.seen.detail}")
                log(f"  why: {finding.check.why}")
                log(f"  fix: {finding.seen.fix}")
    log()
    table(
        ("check", "", "found"),
        [(f.check.name, Status.OK, f.seen.detail) for f in findings if f.seen.status is Status.OK],
    )
