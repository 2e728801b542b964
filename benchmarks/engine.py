"""The builder that is in Debian's docker engine, against our daemon: buildx is the client of both.

The engine is started aside as the tests do it, anew for each run, and gone with all it knew.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.declaration import Declared
from benchmarks.sides import DOCKER, OURS, Build, Running, Side
from buildkit_riscv64 import process, storage
from buildkit_riscv64.image import daemon, layout
from tests.integration import dockerd
from tests.validation.bases import BaseImage

#: What `FROM base` looks for in the engine.
_BASE = "base:latest"
#: Ours has no network of its own for each step, either.
_IN_THE_ENGINE = ("--builder=default", "--network=host")
_NO_OUTPUT = "--output=type=cacheonly"


def _for_buildx(build: Build, *more: str) -> list[str]:
    """What buildx is asked; provenance only one of the two would make unasked."""
    output = [] if any(one.startswith("--output") for one in build.arguments) else [_NO_OUTPUT]
    return [
        "docker", "buildx", "build", "--progress=plain", "--provenance=false",
        f"--build-arg=NUMBER={build.number}",
        *([f"--platform={build.platform}"] if build.platform else []),
        *output, *build.arguments, *more, str(build.context),
    ]  # fmt: skip


class _Builder(Side):
    """One of the two."""

    def reason_not_to(self, case: Declared) -> str:
        """Only what both do."""
        if case.program or case.start:
            return "an engine is more than a builder"
        if any("type=oci" in one for one in case.arguments):
            return "the builder in the engine writes no OCI archives"
        return ""


@dataclass(frozen=True)
class ByBuildx(_Builder):
    """Our daemon, with buildx as its client.

    Args:
        client: what the environment needs for buildx.
    """

    client: Mapping[str, str]

    @contextlib.contextmanager
    def started(
        self, folder: Path, base: BaseImage, flags: Sequence[str] = ()
    ) -> Iterator[Running]:
        """Our daemon, with a name that buildx has for it."""
        env = process.environment(self.client)
        state = Path(tempfile.mkdtemp(prefix="state-", dir=folder))
        with daemon.started(self.binaries, state, flags) as running:
            name = f"benchmark-{running.pid}"
            create = ["docker", "buildx", "create", "--driver=remote", f"--name={name}"]
            process.read([*create, running.address], env=env)
            where = [f"--builder={name}", f"--build-context={base.context()}"]
            yield Running(running.pid, lambda one: _for_buildx(one, *where), env)


class InTheEngine(_Builder):
    """The engine's own builder."""

    def as_json(self) -> dict[str, Any]:
        """The engine, in place of binaries of BuildKit's."""
        said = process.read([*dockerd.command(self.binaries, dockerd.DOCKERD), "--version"])
        # Docker version 26.1.5+dfsg1, build a72d7cd
        return {
            "label": self.label,
            "version": f"docker {said.split()[2].rstrip(',')}",
            "sha256": {"dockerd": storage.sha256(self.binaries / dockerd.DOCKERD)},
        }

    @contextlib.contextmanager
    def started(
        self, folder: Path, base: BaseImage, flags: Sequence[str] = ()
    ) -> Iterator[Running]:
        """An engine that has nothing but the base image."""
        if flags:
            raise ValueError("this is about buildkitd")
        place = Path(tempfile.mkdtemp(prefix="engine-", dir=folder))
        layout.archive(layout.load(base.layout), place / "base.tar", _BASE)
        with dockerd.own(place) as engine:
            env = process.environment(engine.env)
            process.read(["docker", "load", "--quiet", "-i", place / "base.tar"], env=env)
            yield Running(engine.pid, lambda one: _for_buildx(one, *_IN_THE_ENGINE), env)


def sides(binaries: Path, folder: Path) -> list[Side]:
    """Both: ours, and the engine's.

    Args:
        binaries: ours.
        folder: for what buildx keeps.
    """
    client, work = folder / "client", folder / "client" / "work"
    work.mkdir(parents=True)
    # An engine that is never started has a client, too.
    env = dockerd.Engine(client, work).env
    root = dockerd.program().parents[len(Path(dockerd.DOCKERD).parents) - 1]
    return [ByBuildx(OURS, binaries, env), InTheEngine(DOCKER, root)]
