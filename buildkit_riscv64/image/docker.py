"""A docker engine: is it there, what it is told, and a builder in it made of our image."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packaging.version import InvalidVersion, Version

from .. import process, project
from ..console import say, step
from ..errors import BuildError, Failure, MissingRequirementError
from . import layout
from .variants import Variant

if TYPE_CHECKING:
    from .engines import Request

#: The first engine whose own BuildKit knows everything in our Dockerfile (--start-interval).
OLDEST_ENGINE = "25.0"
#: Not a registry's name, so that no engine goes and looks for it elsewhere.
_LOCAL = "localhost/buildkit-riscv64"


def connect(*, builds: bool) -> Any:
    """A client of the engine that the docker command uses.

    Args:
        builds: it shall build, which takes a newer one than to load an image.

    Raises:
        MissingRequirementError: none answers, we may not use it, or it is too old.
    """
    import docker

    # The SDK knows nothing of docker's contexts.
    answer = process.probe(
        ["docker", "context", "inspect", "--format", "{{.Endpoints.docker.Host}}"]
    )
    host = answer.stdout.strip() or os.environ.get("DOCKER_HOST", "")
    try:
        client = docker.from_env(environment={**os.environ, "DOCKER_HOST": host}, timeout=600)
        version = str(client.version()["Version"])
    except Exception as error:  # it fails in the ways of three libraries
        raise _unreachable(host, error) from error
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
    without = "or do without: --engine buildkit, and no --load"
    chain: BaseException | None = error
    while chain is not None:
        if isinstance(chain, PermissionError) or "Permission denied" in str(chain):
            return MissingRequirementError(
                f"no permission to use the docker engine at {host}",
                'be in group docker: sudo usermod --append --groups docker "$USER",'
                f" then log in again; {without}",
            )
        chain = chain.__cause__ or chain.__context__
    return MissingRequirementError(
        f"no docker engine answers at {host}", f"sudo systemctl start docker, {without}"
    )


def load(client: Any, archive: Path, name: str) -> None:
    """Have docker take an image from a file.

    Args:
        client: as from :func:`connect`.
        archive: as :func:`.layout.archive` writes it.
        name: what docker will call it.

    Raises:
        BuildError: the engine refuses it.
    """
    with archive.open("rb") as file:
        try:
            for image in client.images.load(file):
                if name not in image.tags:
                    image.tag(name)
        except Exception as error:  # the SDK's own, and its HTTP library's
            raise BuildError(
                f"docker cannot load {archive.name}: {error}", "is there space? docker system df"
            ) from error


def _names() -> tuple[str, str, str]:
    """What a build of this checkout calls its builder, and the images that that is made of."""
    checkout = hashlib.sha256(str(project.ROOT).encode()).hexdigest()[:12]
    return f"buildkit-riscv64-{checkout}", f"{_LOCAL}:base-{checkout}", f"{_LOCAL}:{checkout}"


@contextlib.contextmanager
def builder(request: Request) -> Iterator[str]:
    """A docker-container builder of our own image, which docker's own BuildKit has made.

    However we end, the builder and the images are removed.

    Returns:
        Its name, for buildx.

    Raises:
        MissingRequirementError: there is no usable engine, or no buildx.
        BuildError: docker cannot build the image, or start it.
    """
    from .engines import buildx

    if not process.probe(["docker", "buildx", "version"]).ok:
        raise MissingRequirementError(
            "docker has no buildx here", "apt-get install docker-buildx, or use --engine buildkit"
        )
    client = connect(builds=True)
    name, base, ours = _names()
    remove = [["docker", "buildx", "rm", "--force", name], ["docker", "image", "rm", "--force", base, ours]]  # fmt: skip

    def clean() -> None:
        # A run that was killed before this could be said has left them too.
        for command in remove:
            process.probe(command, timeout=120)

    clean()
    with process.afterwards(remove):
        try:
            with step("building the builder, by docker's own BuildKit"):
                with tempfile.TemporaryDirectory(prefix="bk-") as folder:
                    archive = Path(folder) / "base.tar"
                    layout.archive(layout.load(request.base.layout), archive, base)
                    load(client, archive, base)
                first = dataclasses.replace(request, variant=Variant.ROOT)
                process.run(
                    buildx(first, "default", f"docker-image://{base}", "--load", f"--tag={ours}"),
                    title="docker buildx build", error=BuildError, hint="the step that failed is above",
                )  # fmt: skip
            with step("starting it"):
                create = [
                    "docker", "buildx", "create", f"--name={name}", "--driver=docker-container",
                    f"--driver-opt=image={ours}", "--bootstrap",
                ]  # fmt: skip
                answer = process.probe(create, timeout=None)
                if not answer.ok:
                    raise _cannot_start(answer)
            yield name
        finally:
            say("removing the builder")
            clean()


def _cannot_start(answer: process.Result) -> Failure:
    reason = answer.last_line
    if "unable to apply caps" in f"{answer.stdout}{answer.stderr}":
        return MissingRequirementError(
            f"this docker engine cannot start privileged containers here: {reason}",
            "use a newer one (Debian 13's does), or --engine buildkit",
        )
    return BuildError(
        f"buildx cannot start our image: {reason}", "see `docker logs`, or use --engine buildkit"
    )
