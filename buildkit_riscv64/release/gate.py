"""The gate: what blocks the release of a target.

Each phase has its own requirements (:mod:`.phase_status`). A release also requires that another
machine compiled the same bytes, and that nothing in it was built under qemu-user, from earlier
pins or without Debian's security updates.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..core import dist, documents, pins, schemas
from ..core.arch import Architecture, Target
from ..core.errors import CheckError
from ..core.host import Execution
from .phase_status import PhaseStatus

#: The task that writes the verdict.
CROSS_CHECK = "verify-binaries --cross-check"


def release_blockers(target: Target, phases: Sequence[PhaseStatus]) -> list[str]:
    """The reasons why a target may not be released; empty when it may.

    Args:
        target: the target.
        phases: all phases of the target.
    """
    found = []
    if target.arch is not Architecture.RISCV64:
        found.append(f"{target.name} is not riscv64: other architectures are for development")
    elif not target.default:
        found.append(f"{target.name} does not run on every riscv64 machine")
    for phase in phases:
        found += [f"{phase.name}: {reason}" for reason in phase_blockers(phase)]
    binaries = phases[0].artifacts
    return found + (
        [f"cross-check: {reason}" for reason in cross_check(binaries, target)] if binaries else []
    )


def phase_blockers(phase: PhaseStatus) -> Iterator[str]:
    """The reasons why a release does not accept the artifacts of a phase."""
    yield from phase.reasons
    manifest = phase.manifest
    if phase.name == "binaries" and manifest:
        pinned = pins.load()
        if (manifest["version"], manifest["revision"]) != (pinned.version, pinned.commit):
            yield f"they are {manifest['version']}, but {pinned.version} is pinned now"
        if "bundle" in manifest:
            yield from _emulated(manifest["bundle"], "the bundle was compiled")
    if "security_updates" in manifest:
        yield from _emulated(manifest, "it was built")
        if not manifest["security_updates"]:
            yield "it was built without Debian's security updates"


def _emulated(built: Mapping[str, Any], what: str) -> Iterator[str]:
    if built["host"]["execution"] == Execution.QEMU_USER:
        yield f"{what} under qemu-user, not by a native or fully emulated machine"


def verdict(binaries: dist.Artifacts) -> Mapping[str, Any] | None:
    """Load the verdict of the cross-check; None without a cross-check.

    Raises:
        CheckError: the verdict cannot be read.
    """
    path = binaries.path / dist.VERDICT
    try:
        found: Mapping[str, Any] = documents.load(
            path, schemas.CROSS_CHECK, hint=f"run `invoke {CROSS_CHECK}`"
        )
    except FileNotFoundError:
        return None
    return found


def cross_check(binaries: dist.Artifacts, target: Target) -> Iterator[str]:
    """The reasons why no machine of another architecture has confirmed every program.

    Args:
        binaries: the binaries, with the verdict beside them.
        target: the target that they must be for.
    """
    try:
        found = verdict(binaries)
    except CheckError as error:
        yield error.brief
        return
    if found is None:
        yield "no machine of another architecture has compiled the same source"
        return
    ours = (target.name, binaries.manifest["version"])
    if (found["target"], found["version"]) != ours:
        yield f"it is for {found['version']} for {found['target']}"
    if found["checked_on"]["arch"] == target.arch:
        yield f"it ran on {target.arch} too"
    if not found["identical"]:
        yield "the other machine compiled different binaries"
    compared = confirmed(found)
    for name, file in binaries.files.items():
        if name.startswith("bin/") and compared.get(name) != file["sha256"]:
            yield f"it does not confirm {name}"


def confirmed(found: Mapping[str, Any]) -> dict[str, str]:
    """The programs that a verdict confirms: the sha256 of each, by its path in `dist/`."""
    return {
        file["name"]: file["artifact_sha256"]
        for file in found["files"]
        if file["artifact_sha256"] == file["compiled_again_sha256"]
    } | {
        # Programs with C code are compared by their build information.
        one["name"]: one.get("artifact_sha256", "")
        for one in found.get("compared_by_record", [])
        if not one["differences"]
    }
