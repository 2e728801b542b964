"""Phase status: what each phase has built for a target, and why the next phase refuses it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core import dist
from ..core.arch import Architecture, Target
from ..core.errors import CheckError
from ..core.host import Execution
from ..image.variants import Variant
from ..machine import machines
from ..validation import evidence
from ..validation.artifacts import programs


@dataclass(frozen=True, kw_only=True)
class PhaseStatus:
    """The status of a phase for a target.

    Args:
        name: as in `binaries` or `root image`.
        made_by: the task that builds it, with options.
        artifacts: the artifacts; None when they are missing or unreadable.
        reasons: why the next phase refuses the artifacts; empty when it accepts them.
    """

    name: str
    made_by: str
    artifacts: dist.Artifacts | None
    reasons: tuple[str, ...] = ()

    @property
    def manifest(self) -> Mapping[str, Any]:
        """The artifacts' manifest; empty without artifacts."""
        return self.artifacts.manifest if self.artifacts else {}

    @property
    def state(self) -> str:
        """'done', 'missing', or 'refused' when the next phase refuses the artifacts."""
        if self.artifacts is None:
            return "missing"
        return "refused" if self.reasons else "done"


def _binaries(binaries: dist.Artifacts, target: Target) -> Iterator[str]:
    manifest = binaries.manifest
    if manifest["target"] != target.name:
        yield f"they are for {manifest['target']}"
    if not binaries.unchanged():
        yield "files differ from the manifest"
    machine = manifest["host"]
    if machine["arch"] != target.arch:
        yield f"they were compiled on {machine['arch']}, not natively"
    if machine["execution"] == Execution.QEMU_USER:
        yield "they were compiled under qemu-user, not by a native or fully emulated machine"
    if not manifest["source"]["pinned"]:
        yield "they are a development build, not the pinned source"


def _image(image: dist.Artifacts, binaries: dist.Artifacts | None, target: Target) -> Iterator[str]:
    manifest = image.manifest
    if manifest["target"] != target.name:
        yield f"it is for {manifest['target']}"
    if not image.unchanged():
        yield "files differ from the manifest"
    if binaries and manifest["binaries"] != programs(binaries):
        yield "it does not contain the current binaries"
    if manifest["host"]["arch"] != target.arch:
        yield f"it was built on {manifest['host']['arch']}, not natively"
    if not manifest["pinned"]:
        yield "it is a development build, not the pinned source"


def _packages(
    packages: dist.Artifacts, binaries: dist.Artifacts | None, target: Target
) -> Iterator[str]:
    manifest = packages.manifest
    if manifest["target"] != target.name:
        yield f"they are for {manifest['target']}"
    if not packages.unchanged():
        yield "files differ from the manifest"
    if not manifest["pinned"]:
        yield "they are a development build, not the pinned source"
    if binaries:
        if manifest["version"] != binaries.manifest["version"]:
            yield f"they are {manifest['version']}, not {binaries.manifest['version']}"
        packed = manifest["binaries"]
        if any(packed.get(name) != sha256 for name, sha256 in programs(binaries).items()):
            yield "they do not contain the current binaries"


def _phase(
    name: str, made_by: str, directory: Path, check: Callable[[dist.Artifacts], Iterator[str]]
) -> PhaseStatus:
    """Check a phase's directory; unreadable artifacts count as missing, with the reason."""
    try:
        found = dist.load(directory)
        return PhaseStatus(name=name, made_by=made_by, artifacts=found, reasons=tuple(check(found)))
    except CheckError as error:
        return PhaseStatus(name=name, made_by=made_by, artifacts=None, reasons=(error.brief,))


def phases(target: Target) -> list[PhaseStatus]:
    """The status of every phase of a target, in order."""
    directory = dist.directory(target)
    binaries = _phase(
        "binaries", "build-binaries", directory, lambda found: _binaries(found, target)
    )
    images = (
        _phase(
            f"{variant} image", variant.task, dist.image_directory(target, variant),
            lambda found: _image(found, binaries.artifacts, target),
        )
        for variant in Variant
    )  # fmt: skip
    validation = _phase(
        "validation", "validate", dist.evidence_directory(target),
        lambda found: iter(evidence.complete(found)),
    )  # fmt: skip
    packages = _phase(
        "packages", "build-packages", directory / dist.PACKAGES,
        lambda found: _packages(found, binaries.artifacts, target),
    )  # fmt: skip
    return [binaries, *images, validation, packages]


def native_command(task: str, target: Target) -> str:
    """The command that runs a task natively for a target, or that creates a missing machine."""
    if target.arch is Architecture.here():
        return f"invoke {task}"
    if target.arch is Architecture.RISCV64 and not machines.exists(target.arch):
        return "invoke machine.create"
    return f"invoke on {target.arch} -- {task}"
