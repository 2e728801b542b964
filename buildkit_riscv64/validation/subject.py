"""What is validated: the artifacts in `dist/`, all of one build."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .. import dist, schemas, storage
from ..arch import Architecture, Target
from ..errors import CheckError, NotNativeError
from ..image.variants import Variant
from .suites import Suite


@dataclass(frozen=True)
class Subject:
    """Binaries, and the images that were made of them.

    Args:
        target: what they are for.
        binaries: the folder of the binaries.
        images: the folders of the images that there are, by variant.
    """

    target: Target
    binaries: dist.Artifacts
    images: Mapping[str, dist.Artifacts]

    def as_json(self) -> dict[str, Any]:
        """What identifies them."""
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
    """The sha256 of each program, as the manifest has it."""
    return {command: binaries.files[dist.binary(command)]["sha256"] for command in dist.COMMANDS}


def find(target: Target, suites: Sequence[Suite]) -> Subject:
    """What suites are to validate.

    Raises:
        CheckError: something is missing, damaged, or of another build than the rest.
        NotNativeError: it is for another architecture than this machine's.
    """
    if target.arch is not Architecture.here():
        raise NotNativeError(
            f"{target.name} is validated on {target.arch}, and this machine is {Architecture.here()}",
            f"invoke on {target.arch} -- validate",
        )
    from ..binaries.check import finished, require_same_bytes

    binaries = finished(target)
    require_same_bytes(binaries, map(dist.binary, dist.COMMANDS))
    images: dict[str, dist.Artifacts] = {
        variant: image for variant in Variant if (image := _image(target, variant, binaries))
    }
    needing = [suite.name for suite in suites if suite.images]
    if needing and (missing := [variant for variant in Variant if variant not in images]):
        raise CheckError(
            f"no {missing[0]} image in {storage.shown(dist.image_folder(target, missing[0]))},"
            f" which {' and '.join(needing)} need",
            f"run `invoke {missing[0].task}` first",
        )
    return Subject(target, binaries, images)


def _image(target: Target, variant: Variant, binaries: dist.Artifacts) -> dist.Artifacts | None:
    folder = dist.image_folder(target, variant)
    if not folder.exists():
        return None
    image = dist.load(folder)
    place = storage.shown(folder)
    remedy = f"run `invoke {variant.task} --force`"
    if wrong := schemas.objection(image.manifest, schemas.IMAGE):
        raise CheckError(f"{place / dist.MANIFEST}: {wrong}", remedy)
    if image.manifest["binaries"] != programs(binaries):
        raise CheckError(
            f"the {variant} image holds other binaries than those in {storage.shown(binaries.path)}:"
            " they are not of one build",
            remedy,
        )
    if not image.unchanged():
        raise CheckError(f"the files in {place} are not those of its manifest", remedy)
    return image
