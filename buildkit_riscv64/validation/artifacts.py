"""The artifacts in `dist/` to validate, all of one build."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..binaries.check import finished, require_same_bytes
from ..core import dist, filesystem
from ..core.arch import Architecture, Target
from ..core.errors import CheckError, NotNativeError
from ..image.variants import Variant
from .suites import Suite


@dataclass(frozen=True)
class Subject:
    """Binaries, and the images that contain them.

    Args:
        target: the target.
        binaries: the binaries.
        images: the present images, by variant.
    """

    target: Target
    binaries: dist.Artifacts
    images: Mapping[str, dist.Artifacts]

    def as_json(self) -> dict[str, Any]:
        """The identity of the artifacts: versions and digests."""
        manifest = self.binaries.manifest
        digests = {variant: image.manifest["digest"] for variant, image in self.images.items()}
        return {
            "target": self.target.name,
            "version": manifest["version"],
            "revision": manifest["revision"],
            "pinned": manifest["source"]["pinned"],
            "binaries": programs(self.binaries),
            "images": {str(variant): digests.get(variant) for variant in Variant},
            "inputs": {
                "binaries": self.binaries.inputs,
                **{str(variant): image.inputs for variant, image in self.images.items()},
            },
        }


def programs(binaries: dist.Artifacts) -> dict[str, str]:
    """The sha256 of each program, from the manifest."""
    return {command: binaries.files[dist.binary(command)]["sha256"] for command in dist.COMMANDS}


def find(target: Target, suites: Sequence[Suite]) -> Subject:
    """Find the artifacts for suites and check them.

    Raises:
        CheckError: an artifact is missing, damaged, or of another build.
        NotNativeError: the artifacts are for another architecture than this machine's.
    """
    if target.arch is not Architecture.here():
        raise NotNativeError(
            f"{target.name} can be validated only on {target.arch}; this machine is {Architecture.here()}",
            f"invoke on {target.arch} -- validate",
        )
    binaries = finished(target)
    require_same_bytes(binaries, map(dist.binary, dist.COMMANDS))
    images: dict[str, dist.Artifacts] = {
        variant: image for variant in Variant if (image := _image(target, variant, binaries))
    }
    needing = [suite.name for suite in suites if suite.images]
    if needing and (missing := [variant for variant in Variant if variant not in images]):
        raise CheckError(
            f"no {missing[0]} image in {filesystem.display_path(dist.image_directory(target, missing[0]))},"
            f" which {' and '.join(needing)} need",
            f"run `invoke {missing[0].task}` first",
        )
    return Subject(target, binaries, images)


def _image(target: Target, variant: Variant, binaries: dist.Artifacts) -> dist.Artifacts | None:
    directory = dist.image_directory(target, variant)
    if not directory.exists():
        return None
    image = dist.load(directory)
    place = filesystem.display_path(directory)
    fix = f"run `invoke {variant.task} --force`"
    if image.manifest["binaries"] != programs(binaries):
        raise CheckError(
            f"the {variant} image contains different binaries than"
            f" {filesystem.display_path(binaries.path)}: they are not of one build",
            fix,
        )
    if not image.unchanged():
        raise CheckError(f"the files in {place} differ from its manifest", fix)
    return image
