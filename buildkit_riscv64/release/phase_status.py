"""Phase status: what each phase has built for a target, and why the next phase refuses it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..core import dist, documents, schemas
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
        remarks: notes that block nothing.
    """

    name: str
    made_by: str
    artifacts: dist.Artifacts | None
    reasons: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

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


def verdict(binaries: dist.Artifacts) -> Mapping[str, Any] | None:
    """Load the verdict of the cross-check on another machine; None without a cross-check.

    Raises:
        CheckError: the verdict cannot be read.
    """
    path = binaries.path / dist.VERDICT
    hint = "run `invoke verify-binaries --cross-check`"
    try:
        found: Mapping[str, Any] = documents.load(path, schemas.CROSS_CHECK, hint=hint)
    except FileNotFoundError:
        return None
    return found


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
    if (found := verdict(binaries)) is not None and not _agrees(found, binaries):
        yield "the cross-check on another machine compiled different binaries"


def _agrees(found: Mapping[str, Any], binaries: dist.Artifacts) -> bool:
    """True when a verdict confirms these binaries."""
    checked = {file["name"]: file["artifact_sha256"] for file in found["files"]}
    ours = {dist.binary(name): sha256 for name, sha256 in programs(binaries).items()}
    return found["identical"] is True and ours.items() <= checked.items()


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


def _packages(packages: dist.Artifacts, binaries: dist.Artifacts | None) -> Iterator[str]:
    if not packages.unchanged():
        yield "files differ from the manifest"
    if binaries:
        packed = packages.manifest["binaries"]
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
    if binaries.artifacts and verdict(binaries.artifacts) is None:
        remark = (
            "not cross-checked on another architecture: run `invoke verify-binaries --cross-check`"
        )
        binaries = replace(binaries, remarks=(remark,))
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
        lambda found: _packages(found, binaries.artifacts),
    )  # fmt: skip
    return [binaries, *images, validation, packages]


def native_command(task: str, target: Target) -> str:
    """The command that runs a task natively for a target, or that creates a missing machine."""
    if target.arch is Architecture.here():
        return f"invoke {task}"
    if target.arch is Architecture.RISCV64 and not machines.exists(target.arch):
        return "invoke machine.create"
    return f"invoke on {target.arch} -- {task}"
