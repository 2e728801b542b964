"""Build requests: every input of an image build, and the buildx command for them."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..core import project
from .base_image import BaseImage
from .variants import Variant

#: The main context of every build.
CONTEXT = project.ROOT / "dockerfiles"
DOCKERFILE = "buildkit.Dockerfile"


def configuration(variant: Variant) -> dict[str, Path]:
    """Our files in an image, as the Dockerfile copies them: the file by its path in the image."""
    directories = ["common", "rootless"] if variant is Variant.ROOTLESS else ["common"]
    return {
        str(path.relative_to(CONTEXT / directory)): path
        for directory in directories
        for path in sorted((CONTEXT / directory).rglob("*"))
        if path.is_file()
    }


@dataclass(frozen=True, kw_only=True)
class Request:
    """Every input of an image build.

    Args:
        variant: root or rootless.
        base: the base that unpacks packages.
        packages: the directory with the .deb files and their lists.
        binaries: the directory with buildkitd and buildctl.
        arguments: build arguments of the Dockerfile.
        annotations: of the image's manifest.
        epoch: upper limit of timestamps in the image, in seconds since 1970.
        cached: reuse steps of earlier builds.
    """

    variant: Variant
    base: BaseImage
    packages: Path
    binaries: Path
    arguments: Mapping[str, str]
    annotations: Mapping[str, str]
    epoch: int
    cached: bool = True

    def contexts(self) -> dict[str, Path]:
        """The Dockerfile's named contexts that are directories."""
        return {"packages": self.packages, "binaries": self.binaries}

    def build_arguments(self) -> dict[str, str]:
        """Build arguments, with SOURCE_DATE_EPOCH."""
        return {**self.arguments, "SOURCE_DATE_EPOCH": str(self.epoch)}

    def output(self, directory: Path) -> str:
        """The exporter's options: a layout in a directory, with timestamps limited to the epoch."""
        options = {
            "type": "oci", "dest": str(directory), "tar": "false", "rewrite-timestamp": "true",
            "oci-mediatypes": "true", "compression": "gzip", "force-compression": "true",
            **{f"annotation.{key}": value for key, value in self.annotations.items()},
        }  # fmt: skip
        # The exporter's options are a line of CSV.
        row = io.StringIO()
        csv.writer(row, quoting=csv.QUOTE_ALL, lineterminator="").writerow(
            f"{k}={v}" for k, v in options.items()
        )
        return row.getvalue()


def buildx(request: Request, builder: str, base: str, *output: str) -> list[str]:
    """The buildx command of a request.

    Args:
        request: what to build.
        builder: name of the builder.
        base: the base, as the value of a named context.
        output: options for the output.
    """
    return [
        "docker", "buildx", "build", f"--builder={builder}", f"--target={request.variant}",
        f"--file={CONTEXT / DOCKERFILE}", f"--build-context=base={base}",
        *([] if request.cached else ["--no-cache"]),
        *(f"--build-context={name}={path}" for name, path in request.contexts().items()),
        *(f"--build-arg={key}={value}" for key, value in request.build_arguments().items()),
        *output, str(CONTEXT),
    ]  # fmt: skip
