"""Fixtures of all suites: the binaries of dist/, daemons, base images, a registry, docker."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from buildkit_riscv64.core import dist, project
from buildkit_riscv64.core.arch import Platform, Target
from buildkit_riscv64.testing.pytest_plugin import register
from buildkit_riscv64.validation import pytest_plugin
from buildkit_riscv64.validation.environment import docker_engine, registry
from buildkit_riscv64.validation.environment.registry import Registry

from . import bases
from .bases import BaseImage
from .daemon import Daemon, NewDaemon

#: The dist/ directory with the artifacts to validate.
PLACE = Path(os.environ.get("BUILDKIT_VALIDATION_DIST", project.DIST))
#: The name of the target directory.
TARGET = os.environ.get("BUILDKIT_VALIDATION_TARGET") or Target.here().name


def pytest_configure(config: pytest.Config) -> None:
    """Count the scenarios as tests of `invoke test`."""
    register(config)


@pytest.fixture(scope="session")
def artifacts() -> dist.Artifacts:
    """The binaries in dist/, with their manifest."""
    return dist.load(PLACE / TARGET)


@pytest.fixture(scope="session")
def binaries(artifacts: dist.Artifacts) -> Path:
    """The directory with buildkitd and buildctl."""
    return artifacts.path / "bin"


@pytest.fixture(scope="session")
def images(artifacts: dist.Artifacts) -> Mapping[str, dist.Artifacts]:
    """The images, by variant."""
    return {
        variant: dist.load(artifacts.path / dist.IMAGE / variant)
        for variant in ("root", "rootless")
    }


@pytest.fixture(scope="session")
def version(artifacts: dist.Artifacts) -> str:
    """The version that `--version` must print, as in v0.32.2."""
    return str(artifacts.manifest["version"])


@pytest.fixture(scope="session")
def online() -> bool:
    """Whether to use official images from a registry on the internet."""
    return bool(os.environ.get("BUILDKIT_VALIDATION_ONLINE"))


@pytest.fixture(scope="session")
def workspace() -> Iterator[Path]:
    """A directory for daemons, not in memory and not on an overlay, where overlayfs cannot work."""
    # `invoke validate` provides the parent directory, and always removes it.
    place = os.environ.get("BUILDKIT_VALIDATION_FOLDER", "/var/tmp")
    directory = Path(tempfile.mkdtemp(prefix="validation-", dir=place))
    yield directory
    shutil.rmtree(directory)


class _Maker:
    """Creates daemons and ends them."""

    def __init__(self, binaries: Path, workspace: Path) -> None:
        self._binaries = binaries
        self._workspace = workspace
        self._daemons: list[Daemon] = []

    def __call__(self, **options: Any) -> Daemon:
        directory = Path(tempfile.mkdtemp(dir=self._workspace))
        directory.chmod(0o755)
        self._daemons.append(Daemon(self._binaries, directory, **options))
        return self._daemons[-1]

    @property
    def log(self) -> str:
        """The logs of its daemons, for the evidence of a failure."""
        return "\n".join(daemon.log for daemon in self._daemons)

    def close(self) -> None:
        for daemon in self._daemons:
            daemon.close()
            shutil.rmtree(daemon.directory)


@pytest.fixture
def new_daemon(binaries: Path, workspace: Path) -> Iterator[NewDaemon]:
    """Creates daemons, which end with the test."""
    with contextlib.closing(_Maker(binaries, workspace)) as new:
        yield new


@pytest.fixture(scope="session")
def daemon(binaries: Path, workspace: Path) -> Iterator[Daemon]:
    """A running daemon for scenarios that only build: never stop, prune or break it."""
    with contextlib.closing(_Maker(binaries, workspace)) as new:
        yield new().start()


@pytest.fixture(scope="session")
def base() -> BaseImage:
    """The base image for this machine's platform."""
    return bases.busybox(Platform.here())


#: Writes a build context: a Dockerfile, and files by name.
NewContext = Callable[..., Path]


@pytest.fixture
def new_context(tmp_path: Path) -> NewContext:
    """Creates a directory with a Dockerfile, and files by name."""
    number = 0

    def make(dockerfile: str, **files: str | bytes) -> Path:
        nonlocal number
        number += 1
        directory = tmp_path / f"context-{number}"
        for name, content in {"Dockerfile": dockerfile, **files}.items():
            path = directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return directory

    return make


@pytest.fixture
def local_registry(tmp_path: Path) -> Iterator[Registry]:
    """An empty registry on the loopback, plain HTTP."""
    with registry.running(tmp_path / "registry") as started:
        yield started


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[docker_engine.Access]:
    """A real docker engine with buildx: this machine's, or a private one."""
    with docker_engine.engine(tmp_path_factory.mktemp("docker")) as access:
        pytest_plugin.used(
            docker=docker_engine.version(access.env),
            buildx=docker_engine.buildx_version(access.env),
        )
        yield access


@pytest.fixture(scope="session")
def docker(engine: docker_engine.Access) -> dict[str, str]:
    """Environment variables for docker."""
    return engine.env
