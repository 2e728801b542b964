"""`invoke status`: the phases of each target, and what blocks a release."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..core import dist
from ..core.arch import Architecture, Target
from . import gate, phase_status


@dataclass(frozen=True)
class TargetStatus:
    """The release status of a target.

    Args:
        target: the target.
        phases: the status of each phase.
    """

    target: Target
    phases: Sequence[phase_status.PhaseStatus]

    @property
    def blocked(self) -> list[str]:
        """The release blockers; empty when the target can be released."""
        return gate.release_blockers(self.target, self.phases)

    @property
    def next(self) -> str:
        """The next command towards a release; empty when none helps."""
        for phase in self.phases:
            if any(gate.phase_blockers(phase)):
                return phase_status.native_command(phase.made_by, self.target)
        if not self.blocked:
            return f"invoke release --target {self.target.name}"
        only_cross_check = all(reason.startswith("cross-check: ") for reason in self.blocked)
        if only_cross_check and self.target.arch is not Architecture.here():
            return f"invoke {gate.CROSS_CHECK} --target {self.target.name}"
        return ""

    @property
    def summary(self) -> str:
        """The status in one sentence."""
        missing = [phase.name for phase in self.phases if phase.state == "missing"]
        if not self.blocked:
            return f"{self.target.name} is ready to release."
        if missing:
            return f"{self.target.name} is not ready to release: {', '.join(missing)} missing."
        return f"{self.target.name} is not ready to release: {self.blocked[0]}."

    def as_json(self) -> dict[str, Any]:
        """The status as JSON."""
        return {
            "target": self.target.name,
            "releasable": not self.blocked,
            "next": self.next,
            "phases": [
                {
                    "name": phase.name, "state": phase.state, "reasons": list(phase.reasons),
                    **facts(phase),
                }
                for phase in self.phases
            ],
        }  # fmt: skip


def facts(phase: phase_status.PhaseStatus) -> dict[str, Any]:
    """A phase's version, host, time and identifying hashes."""
    manifest = phase.manifest
    host: Mapping[str, Any] = manifest.get("host", {})
    when = manifest.get("finished") or manifest.get("build", {}).get("finished")
    return {
        "version": manifest.get("version"),
        "arch": host.get("arch"),
        "execution": host.get("execution"),
        "machine": host.get("distribution"),
        "finished": when,
        "sha256": identity(phase),
    }


def identity(phase: phase_status.PhaseStatus) -> dict[str, str]:
    """The hashes by which the next phase identifies the artifacts."""
    manifest = phase.manifest
    if "digest" in manifest:
        return {"digest": manifest["digest"]}
    if "suites" in manifest:
        return {"of": manifest["binaries"]["buildkitd"]}
    return {
        file["name"]: file["sha256"]
        for file in manifest.get("files", [])
        if file["name"].startswith("bin/") or file["name"].endswith((".deb", ".rpm"))
    }


def statuses(target: str) -> list[TargetStatus]:
    """The status of one target, or of every target in `dist/`.

    Raises:
        UsageError: the target does not exist.
    """
    wanted = [Target.parse(target)] if target else dist.targets()
    return [TargetStatus(one, phase_status.phases(one)) for one in wanted]
