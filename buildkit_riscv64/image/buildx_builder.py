"""The docker engine: detection, client, and a buildx builder with our image."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.version import InvalidVersion, Version

from ..core import process, project
from ..core.console import log, step
from ..core.errors import BuildError, Failure, MissingRequirementError
from . import layout
from .build_request import Request, buildx
from .variants import Variant

#: The oldest engine whose BuildKit supports our Dockerfile (--start-interval).
OLDEST_ENGINE = "25.0"
#: Advice for users of podman.
PODMAN_HINT = (
    "use --engine buildkit, the default; podman supports --load and buildx builders with our image,"
    " and only --engine docker needs docker"
)
#: A local name, which no engine looks up in a registry.
_LOCAL = "localhost/buildkit-riscv64"


@dataclass(frozen=True)
class Engine:
    """The engine that answers the docker command.

    Args:
        version: the engine's version.
        podman: the engine is podman, which answers like docker.
    """

    version: str
    podman: bool

    @classmethod
    def of(cls, answer: Mapping[str, Any]) -> Engine:
        """The engine, from its answer to `/version`."""
        names = [str(one.get("Name")) for one in answer.get("Components") or []]
        return cls(str(answer["Version"]), any("Podman" in name for name in names))

    def __str__(self) -> str:
        """Name and version."""
        return f"podman {self.version}" if self.podman else f"engine {self.version}"


def _podman_command() -> str:
    """Podman's version if the docker command is podman (Debian's podman-docker); else empty."""
    match process.probe(["docker", "--version"]).stdout.split():
        case ["podman", "version", version, *_]:
            return version
    return ""


def engine() -> Engine:
    """The engine that answers the docker command.

    Raises:
        MissingRequirementError: no engine answers.
    """
    if version := _podman_command():
        return Engine(version, podman=True)
    answer = process.probe(["docker", "version", "--format", "{{json .Server}}"])
    with contextlib.suppress(json.JSONDecodeError, AttributeError, KeyError):
        if answer.ok:
            return Engine.of(json.loads(answer.stdout))
    raise MissingRequirementError(
        f"no engine answers: {answer.last_line}",
        "systemctl start docker; be root, or in group docker:"
        ' usermod --append --groups docker "$USER", then log in again',
    )


def connect(*, builds: bool) -> Any:
    """A client of the docker command's engine.

    Args:
        builds: the engine must be recent enough to build images.

    Raises:
        MissingRequirementError: no engine answers, access is denied, or the engine is too old.
    """
    import docker

    # The SDK ignores docker's contexts.
    answer = process.probe(
        ["docker", "context", "inspect", "--format", "{{.Endpoints.docker.Host}}"]
    )
    host = answer.stdout.strip() or os.environ.get("DOCKER_HOST", "")
    try:
        client = docker.from_env(environment={**os.environ, "DOCKER_HOST": host}, timeout=600)
        engine = Engine.of(client.version())
    except Exception as error:  # raised by three libraries
        raise _unreachable(host, error) from error
    if builds and engine.podman:
        raise MissingRequirementError(f"{engine} has no BuildKit to build with", PODMAN_HINT)
    version = engine.version
    try:
        too_old = Version(version.partition("+")[0]) < Version(OLDEST_ENGINE)
    except InvalidVersion:
        too_old = False
    if builds and too_old:
        raise MissingRequirementError(
            f"docker engine {version} is too old: at least {OLDEST_ENGINE}",
            "upgrade it (Debian 13 has 26.1), or use --engine buildkit",
        )
    return client


def _unreachable(host: str, error: Exception) -> MissingRequirementError:
    without = "or use --engine buildkit, without --load"
    chain: BaseException | None = error
    while chain is not None:
        if isinstance(chain, PermissionError) or "Permission denied" in str(chain):
            return MissingRequirementError(
                f"no permission to use the docker engine at {host}",
                'be in group docker: sudo usermod --append --groups docker "$USER",'
                f" then log in again; {without}",
            )
        chain = chain.__cause__ or chain.__context__
    service = "podman.socket" if _podman_command() else "docker"
    return MissingRequirementError(
        f"no docker engine answers at {host or 'its default address'}",
        f"sudo systemctl start {service}, {without}",
    )


def load(client: Any, archive: Path, name: str) -> None:
    """Load an image from a file into docker.

    Args:
        client: from :func:`connect`.
        archive: written by :func:`.layout.archive`.
        name: the image's name in docker.

    Raises:
        BuildError: the engine rejects the file.
    """
    with archive.open("rb") as file:
        try:
            for image in client.images.load(file):
                if name not in image.tags:
                    repository, _, tag = name.rpartition(":")
                    image.tag(repository, tag)
        except Exception as error:  # of the SDK or its HTTP library
            raise BuildError(
                f"docker cannot load {archive.name}: {error}", "is there space? docker system df"
            ) from error


def _names() -> tuple[str, str, str]:
    """Names of this checkout's builder, of its base image and of its own image."""
    checkout = hashlib.sha256(str(project.ROOT).encode()).hexdigest()[:12]
    return f"buildkit-riscv64-{checkout}", f"{_LOCAL}:base-{checkout}", f"{_LOCAL}:{checkout}"


@contextlib.contextmanager
def builder(request: Request) -> Iterator[str]:
    """A docker-container builder with our image, which docker's own BuildKit builds.

    Always removes the builder and the images.

    Returns:
        Name of the builder for buildx.

    Raises:
        MissingRequirementError: no usable engine, or no buildx.
        BuildError: docker cannot build or start the image.
    """
    if not process.probe(["docker", "buildx", "version"]).ok:
        raise MissingRequirementError(
            "docker has no buildx", "apt-get install docker-buildx, or use --engine buildkit"
        )
    client = connect(builds=True)
    name, base, ours = _names()
    remove = [["docker", "buildx", "rm", "--force", name], ["docker", "image", "rm", "--force", base, ours]]  # fmt: skip

    def clean() -> None:
        # Also removes leftovers of a killed run.
        for command in remove:
            process.probe(command, timeout=120, changes=True)

    clean()
    with process.run_if_killed(remove):
        try:
            with step("building the builder, by docker's own BuildKit"):
                with tempfile.TemporaryDirectory(prefix="bk-") as directory:
                    archive = Path(directory) / "base.tar"
                    layout.archive(layout.load(request.base.layout), archive, base)
                    load(client, archive, base)
                first = dataclasses.replace(request, variant=Variant.ROOT)
                process.run(
                    buildx(first, "default", f"docker-image://{base}", "--load", f"--tag={ours}"),
                    title="docker buildx build", error=BuildError, hint="the failed step is above",
                )  # fmt: skip
            with step("starting the builder"):
                create = [
                    "docker", "buildx", "create", f"--name={name}", "--driver=docker-container",
                    f"--driver-opt=image={ours}", "--bootstrap",
                ]  # fmt: skip
                answer = process.probe(create, timeout=None, changes=True)
                if not answer.ok:
                    raise _cannot_start(answer)
            yield name
        finally:
            log("removing the builder")
            clean()


def _cannot_start(answer: process.Result) -> Failure:
    reason = answer.last_line
    if "unable to apply caps" in f"{answer.stdout}{answer.stderr}":
        return MissingRequirementError(
            f"this docker engine cannot start privileged containers here: {reason}",
            "use a newer one (such as Debian 13's), or --engine buildkit",
        )
    return BuildError(
        f"buildx cannot start our image: {reason}", "see `docker logs`, or use --engine buildkit"
    )
