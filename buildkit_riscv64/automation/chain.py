"""The chain of phases: what each has finished for a target, and why the next may not start from it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .. import dist, storage
from ..arch import Architecture, Target
from ..errors import CheckError
from ..host import Execution
from ..image.variants import Variant
from ..validation import evidence
from ..validation.subject import programs


@dataclass(frozen=True, kw_only=True)
class Link:
    """What a phase has finished for a target.

    Args:
        name: as in `binaries` or `root image`.
        made_by: the task that makes it, with its options.
        artifacts: its folder; None where there is none that can be read.
        reasons: why the next phase may not start from it; nothing when it may.
        remarks: what is worth knowing, and keeps nobody from anything.
    """

    name: str
    made_by: str
    artifacts: dist.Artifacts | None
    reasons: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

    @property
    def manifest(self) -> Mapping[str, Any]:
        """What it says of itself; empty where there is nothing."""
        return self.artifacts.manifest if self.artifacts else {}

    @property
    def state(self) -> str:
        """'done', 'missing', or 'refused' when the next phase does not take it."""
        if self.artifacts is None:
            return "missing"
        return "refused" if self.reasons else "done"


def verdict(binaries: dist.Artifacts) -> Mapping[str, Any] | None:
    """What another machine found when it compiled the same; None where none did.

    Raises:
        CheckError: it cannot be read.
    """
    path = binaries.path / dist.VERDICT
    try:
        found = json.loads(path.read_text())
        return {"identical": bool(found["identical"]), **found}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckError(
            f"cannot read {storage.shown(path)}: {error}",
            "run `invoke verify-binaries --cross-check`",
        ) from error


def _binaries(binaries: dist.Artifacts, target: Target) -> Iterator[str]:
    manifest = binaries.manifest
    if manifest["target"] != target.name:
        yield f"they are for {manifest['target']}"
    if not binaries.unchanged():
        yield "the files are not those of the manifest"
    machine = manifest["host"]
    if machine["arch"] != target.arch:
        yield f"they were compiled on {machine['arch']}, not natively"
    if machine["execution"] == Execution.QEMU_USER:
        yield "the compiler was emulated program by program (qemu-user), not the machine"
    if not manifest["source"]["pinned"]:
        yield "they are a development build, not of the pinned source"
    if (seen := verdict(binaries)) is not None and not _agrees(seen, binaries):
        yield "the cross-check by another machine gave other bytes"


def _agrees(seen: Mapping[str, Any], binaries: dist.Artifacts) -> bool:
    """True when a verdict is of these binaries, and good."""
    of = {file["name"]: file["artifact_sha256"] for file in seen["files"]}
    ours = {dist.binary(name): sha256 for name, sha256 in programs(binaries).items()}
    return seen["identical"] is True and ours.items() <= of.items()


def _image(image: dist.Artifacts, binaries: dist.Artifacts | None, target: Target) -> Iterator[str]:
    manifest = image.manifest
    if manifest["target"] != target.name:
        yield f"it is for {manifest['target']}"
    if not image.unchanged():
        yield "the files are not those of its manifest"
    if binaries and manifest["binaries"] != programs(binaries):
        yield "it holds other binaries than those that are there now"
    if manifest["host"]["arch"] != target.arch:
        yield f"it was made on {manifest['host']['arch']}, not natively"
    if not manifest["pinned"]:
        yield "it is of a development build, not of the pinned source"


def _packages(packages: dist.Artifacts, binaries: dist.Artifacts | None) -> Iterator[str]:
    if not packages.unchanged():
        yield "the files are not those of their manifest"
    if binaries:
        held = packages.manifest["binaries"]
        if any(held.get(name) != sha256 for name, sha256 in programs(binaries).items()):
            yield "they hold other binaries than those that are there now"


def _link(name: str, made_by: str, folder: Path, look: Callable[[dist.Artifacts], Iterator[str]]) -> Link:  # fmt: skip
    """Look at a folder; one that cannot be made sense of is as good as none, and says why."""
    try:
        found = evidence.load(folder) if folder.name == dist.EVIDENCE else dist.load(folder)
        return Link(name=name, made_by=made_by, artifacts=found, reasons=tuple(look(found)))
    except CheckError as error:
        return Link(name=name, made_by=made_by, artifacts=None, reasons=(error.brief,))
    except (KeyError, TypeError, AttributeError) as error:
        reason = f"{storage.shown(folder)}: its manifest makes no sense ({error!r})"
        return Link(name=name, made_by=made_by, artifacts=None, reasons=(reason,))


def links(target: Target) -> list[Link]:
    """The chain for a target, in its order: what has been made, up to what a release consists of."""
    place = dist.folder(target)
    binaries = _link("binaries", "build-binaries", place, lambda found: _binaries(found, target))
    if binaries.artifacts and verdict(binaries.artifacts) is None:
        remark = "no machine of another architecture has compiled the same yet: `invoke verify-binaries --cross-check`"
        binaries = replace(binaries, remarks=(remark,))
    images = (
        _link(
            f"{variant} image", variant.task, dist.image_folder(target, variant),
            lambda found: _image(found, binaries.artifacts, target),
        )
        for variant in Variant
    )  # fmt: skip
    validation = _link(
        "validation", "validate", dist.evidence_folder(target),
        lambda found: iter(evidence.complete(found)),
    )  # fmt: skip
    packages = _link(
        "packages", "build-packages", place / dist.PACKAGES,
        lambda found: _packages(found, binaries.artifacts),
    )  # fmt: skip
    return [binaries, *images, validation, packages]


def remedy(link: Link, target: Target) -> str:
    """The command that makes a link anew, where it can be made."""
    away = "" if target.arch is Architecture.here() else f"on {target.arch} -- "
    return f"invoke {away}{link.made_by}"
