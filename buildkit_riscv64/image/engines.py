"""Who runs the Dockerfile: our own fresh buildkitd, or docker with our image as its builder.

Both end in the same exporter of the same BuildKit, so both give the same digest.
"""

from __future__ import annotations

import contextlib
import csv
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from .. import process, project
from ..errors import BuildError
from . import daemon, docker
from .tools import Base
from .variants import Variant

#: What every build has as its main context.
CONTEXT = project.ROOT / "dockerfiles"
DOCKERFILE = "buildkit.Dockerfile"


class Name(StrEnum):
    """The engines, as `--engine` takes them."""

    BUILDKIT = "buildkit"
    DOCKER = "docker"


@dataclass(frozen=True, kw_only=True)
class Request:
    """Everything that decides what a build makes.

    Args:
        variant: which image.
        base: what unpacks packages.
        packages: the folder with the .deb files and their lists.
        binaries: the folder with buildkitd and buildctl.
        arguments: the Dockerfile's arguments.
        annotations: of the image's manifest.
        epoch: seconds since 1970 that no time in the image is later than.
        cached: steps may be taken from earlier builds.
    """

    variant: Variant
    base: Base
    packages: Path
    binaries: Path
    arguments: Mapping[str, str]
    annotations: Mapping[str, str]
    epoch: int
    cached: bool = True

    def contexts(self) -> dict[str, Path]:
        """The Dockerfile's named contexts that are plain folders."""
        return {"packages": self.packages, "binaries": self.binaries}

    def build_arguments(self) -> dict[str, str]:
        """The Dockerfile's arguments, and the epoch as everybody reads it."""
        return {**self.arguments, "SOURCE_DATE_EPOCH": str(self.epoch)}

    def output(self, folder: Path) -> str:
        """The exporter's options: a layout in a folder, with no time of today in it."""
        options = {
            "type": "oci", "dest": str(folder), "tar": "false", "rewrite-timestamp": "true",
            "oci-mediatypes": "true", "compression": "gzip", "force-compression": "true",
            **{f"annotation.{key}": value for key, value in self.annotations.items()},
        }  # fmt: skip
        # The exporter's options are a line of CSV.
        row = io.StringIO()
        csv.writer(row, quoting=csv.QUOTE_ALL, lineterminator="").writerow(
            f"{k}={v}" for k, v in options.items()
        )
        return row.getvalue()


class Engine(Protocol):
    """Whoever can build a request."""

    def build(self, request: Request, folder: Path) -> None:
        """Leave the image's layout in a folder.

        Raises:
            BuildError: a step failed; its output has been shown.
            MissingRequirementError: the engine is not there.
        """


@dataclass(frozen=True)
class BuildKit:
    """Our own buildkitd: it builds its own image, and nothing else is needed but runc."""

    address: str

    def build(self, request: Request, folder: Path) -> None:
        """Build by buildctl."""
        options = {
            "target": request.variant,
            "filename": DOCKERFILE,
            "context:base": f"oci-layout://base@{request.base.digest}",
            **{f"context:{name}": f"local:{name}" for name in request.contexts()},
            **{f"build-arg:{key}": value for key, value in request.build_arguments().items()},
        }
        places = {"context": CONTEXT, "dockerfile": CONTEXT, **request.contexts()}
        process.run(
            [
                request.binaries / "buildctl", "--addr", self.address, "build",
                "--frontend=dockerfile.v0",
                *([] if request.cached else ["--no-cache"]),
                *(f"--opt={key}={value}" for key, value in options.items()),
                *(f"--local={name}={path}" for name, path in places.items()),
                f"--oci-layout=base={request.base.layout}",
                f"--output={request.output(folder)}",
            ],
            title="buildctl build", error=BuildError, hint="the step that failed is above",
        )  # fmt: skip


@dataclass(frozen=True)
class Docker:
    """docker's buildx, with a builder made of our image by docker's own BuildKit."""

    builder: str

    def build(self, request: Request, folder: Path) -> None:
        """Build by buildx."""
        process.run(
            buildx(
                request, self.builder, f"oci-layout://{request.base.layout}@{request.base.digest}",
                # By default it adds where and when it was built, which is never the same.
                "--provenance=false", f"--output={request.output(folder)}",
            ),
            title="docker buildx build", error=BuildError, hint="the step that failed is above",
        )  # fmt: skip


def buildx(request: Request, builder: str, base: str, *output: str) -> list[str]:
    """The buildx command for a request.

    Args:
        request: what to build.
        builder: whose.
        base: where that builder finds the base, as a named context's value.
        output: options that say what becomes of it.
    """
    return [
        "docker", "buildx", "build", f"--builder={builder}", f"--target={request.variant}",
        f"--file={CONTEXT / DOCKERFILE}", f"--build-context=base={base}",
        *([] if request.cached else ["--no-cache"]),
        *(f"--build-context={name}={path}" for name, path in request.contexts().items()),
        *(f"--build-arg={key}={value}" for key, value in request.build_arguments().items()),
        *output, str(CONTEXT),
    ]  # fmt: skip


@contextlib.contextmanager
def running(name: Name, request: Request, *, yes: bool) -> Iterator[Engine]:
    """An engine that is ready, and gone afterwards.

    Args:
        name: which one.
        request: what will be built; docker's builder is made from the same.
        yes: install what is missing without asking.

    Raises:
        MissingRequirementError: what the engine needs is not there.
        BuildError: it does not start.
    """
    if name is Name.BUILDKIT:
        with daemon.running(request.binaries, yes=yes) as address:
            yield BuildKit(address)
    else:
        with docker.builder(request) as builder:
            yield Docker(builder)
