"""The builder in Debian's docker engine, against our daemon, both with buildx.

Each run starts a new engine, and removes it with its data.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.candidates import DOCKER, OURS, Build, Candidate, Running
from benchmarks.definitions import CaseSpec
from buildkit_riscv64.buildkitd import daemon
from buildkit_riscv64.core import filesystem, process
from buildkit_riscv64.image import layout
from buildkit_riscv64.validation.environment import docker_engine
from buildkit_riscv64.validation.scenarios.bases import BaseImage

#: The name of the base image in the engine, for `FROM base`.
_BASE = "base:latest"
#: The host's network, as for our daemon.
_ENGINE_OPTIONS = ("--builder=default", "--network=host")
_NO_OUTPUT = "--output=type=cacheonly"


def _for_buildx(build: Build, *more: str) -> list[str]:
    """The command of buildx; without provenance, which only one of the candidates adds by default."""
    output = [] if any(one.startswith("--output") for one in build.arguments) else [_NO_OUTPUT]
    return [
        "docker", "buildx", "build", "--progress=plain", "--provenance=false",
        f"--build-arg=NUMBER={build.number}",
        *([f"--platform={build.platform}"] if build.platform else []),
        *output, *build.arguments, *more, str(build.context),
    ]  # fmt: skip


class _BuildxClient(Candidate):
    """A candidate with buildx."""

    def skip_reason(self, case: CaseSpec) -> str:
        """Skip cases that only one of the candidates can run."""
        if case.program or case.start:
            return "a docker engine includes more than a builder"
        if any("type=oci" in one for one in case.arguments):
            return "the engine's builder writes no OCI archives"
        return ""


@dataclass(frozen=True)
class BuildxCandidate(_BuildxClient):
    """Our daemon with buildx.

    Args:
        client: environment variables for buildx.
    """

    client: Mapping[str, str]

    @contextlib.contextmanager
    def started(
        self, directory: Path, base: BaseImage, flags: Sequence[str] = ()
    ) -> Iterator[Running]:
        """Start our daemon, and a builder of buildx for it."""
        env = process.environment(self.client)
        state = Path(tempfile.mkdtemp(prefix="state-", dir=directory))
        with daemon.started(self.binaries, state, flags) as running:
            name = f"benchmark-{running.pid}"
            create = ["docker", "buildx", "create", "--driver=remote", f"--name={name}"]
            process.read([*create, running.address], env=env, changes=True)
            where = [f"--builder={name}", f"--build-context={base.context()}"]
            yield Running(running.pid, lambda one: _for_buildx(one, *where), env)


class EngineCandidate(_BuildxClient):
    """The engine's own builder."""

    def as_json(self) -> dict[str, Any]:
        """The engine instead of binaries of BuildKit."""
        output = process.read(
            [*docker_engine.command(self.binaries, docker_engine.DOCKERD), "--version"]
        )
        # Docker version 26.1.5+dfsg1, build a72d7cd
        return {
            "label": self.label,
            "version": f"docker {output.split()[2].rstrip(',')}",
            "sha256": {"dockerd": filesystem.sha256(self.binaries / docker_engine.DOCKERD)},
        }

    @contextlib.contextmanager
    def started(
        self, directory: Path, base: BaseImage, flags: Sequence[str] = ()
    ) -> Iterator[Running]:
        """Start an engine with only the base image."""
        if flags:
            raise ValueError("flags of buildkitd do not apply")
        place = Path(tempfile.mkdtemp(prefix="engine-", dir=directory))
        layout.archive(layout.load(base.layout), place / "base.tar", _BASE)
        with docker_engine.private_engine(place) as engine:
            env = process.environment(engine.env)
            process.read(
                ["docker", "load", "--quiet", "-i", place / "base.tar"], env=env, changes=True
            )
            yield Running(engine.pid, lambda one: _for_buildx(one, *_ENGINE_OPTIONS), env)


def candidates(binaries: Path, directory: Path) -> list[Candidate]:
    """Our daemon and the engine's builder, both with buildx.

    Args:
        binaries: our binaries.
        directory: for the files of buildx.
    """
    client, work = directory / "client", directory / "client" / "work"
    work.mkdir(parents=True)
    # This engine is never started; only its client is used.
    env = docker_engine.Engine(client, work).env
    root = docker_engine.program().parents[len(Path(docker_engine.DOCKERD).parents) - 1]
    return [BuildxCandidate(OURS, binaries, env), EngineCandidate(DOCKER, root)]
