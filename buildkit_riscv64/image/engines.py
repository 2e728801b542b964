"""Build engines: a temporary buildkitd of ours, or docker with a builder of our image.

Both use the exporter of the same BuildKit, so both give the same digest.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from ..buildkitd import daemon
from ..core import process
from ..core.errors import BuildError
from . import buildx_builder
from .build_request import CONTEXT, DOCKERFILE, Request, buildx


class Name(StrEnum):
    """Engines, as values of `--engine`."""

    BUILDKIT = "buildkit"
    DOCKER = "docker"


class Engine(Protocol):
    """An engine that builds a request."""

    def build(self, request: Request, directory: Path) -> None:
        """Build a request into a layout in `directory`.

        Raises:
            BuildError: a step failed; its output was shown.
            MissingRequirementError: the engine is missing.
        """


@dataclass(frozen=True)
class BuildKit:
    """Our own buildkitd, which builds its own image and needs only runc."""

    address: str

    def build(self, request: Request, directory: Path) -> None:
        """Build with buildctl."""
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
                f"--output={request.output(directory)}",
            ],
            title="buildctl build", error=BuildError, hint="the failed step is above",
        )  # fmt: skip


@dataclass(frozen=True)
class Docker:
    """docker's buildx, with a builder of our image."""

    builder: str

    def build(self, request: Request, directory: Path) -> None:
        """Build with buildx."""
        process.run(
            buildx(
                request, self.builder, f"oci-layout://{request.base.layout}@{request.base.digest}",
                # Provenance records time and place, which would change the digest.
                "--provenance=false", f"--output={request.output(directory)}",
            ),
            title="docker buildx build", error=BuildError, hint="the failed step is above",
        )  # fmt: skip


@contextlib.contextmanager
def running(name: Name, request: Request, *, yes: bool) -> Iterator[Engine]:
    """Run an engine for the duration of a block.

    Args:
        name: of the engine.
        request: the request to build; docker's builder is built from it too.
        yes: install missing packages without asking.

    Raises:
        MissingRequirementError: a requirement of the engine is missing.
        BuildError: the engine does not start.
    """
    if name is Name.BUILDKIT:
        with daemon.running(request.binaries, yes=yes) as address:
            yield BuildKit(address)
    else:
        with buildx_builder.builder(request) as builder:
            yield Docker(builder)
