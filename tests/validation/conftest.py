"""What every scenario may use: the binaries of dist/, daemons, base images, a registry, docker."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from buildkit_riscv64 import dist, project
from buildkit_riscv64.arch import Platform, Target
from buildkit_riscv64.validation import recorder

from ..integration import dockerd, registry
from ..integration.registry import Registry
from . import bases
from .bases import BaseImage
from .daemon import Daemon, NewDaemon

#: Where what is validated is; a dist/.
PLACE = Path(os.environ.get("BUILDKIT_VALIDATION_DIST", project.DIST))
#: And which folder in it.
TARGET = os.environ.get("BUILDKIT_VALIDATION_TARGET") or Target.here().name


@pytest.fixture(scope="session")
def artifacts() -> dist.Artifacts:
    """The binaries' folder for this machine, with its manifest."""
    return dist.load(PLACE / TARGET)


@pytest.fixture(scope="session")
def binaries(artifacts: dist.Artifacts) -> Path:
    """The folder with buildkitd and buildctl."""
    return artifacts.path / "bin"


@pytest.fixture(scope="session")
def images(artifacts: dist.Artifacts) -> Mapping[str, dist.Artifacts]:
    """The images' folders, by variant."""
    return {
        variant: dist.load(artifacts.path / dist.IMAGE / variant)
        for variant in ("root", "rootless")
    }


@pytest.fixture(scope="session")
def version(artifacts: dist.Artifacts) -> str:
    """What `--version` has to print, as in v0.32.2."""
    return str(artifacts.manifest["version"])


@pytest.fixture(scope="session")
def online() -> bool:
    """True when official images of a registry on the internet are to be used too."""
    return bool(os.environ.get("BUILDKIT_VALIDATION_ONLINE"))


@pytest.fixture(scope="session")
def workshop() -> Iterator[Path]:
    """A folder for what daemons keep: not on an overlay, over which there is none, and not in memory."""
    # `invoke validate` has such a folder for everything, and removes it whatever happens.
    place = os.environ.get("BUILDKIT_VALIDATION_FOLDER", "/var/tmp")
    folder = Path(tempfile.mkdtemp(prefix="validation-", dir=place))
    yield folder
    shutil.rmtree(folder)


class _Maker:
    """Makes daemons, and ends them."""

    def __init__(self, binaries: Path, workshop: Path) -> None:
        self._binaries = binaries
        self._workshop = workshop
        self._made: list[Daemon] = []

    def __call__(self, **options: Any) -> Daemon:
        folder = Path(tempfile.mkdtemp(dir=self._workshop))
        folder.chmod(0o755)
        self._made.append(Daemon(self._binaries, folder, **options))
        return self._made[-1]

    @property
    def log(self) -> str:
        """What all of them have said, for the evidence of a failure."""
        return "\n".join(daemon.log for daemon in self._made)

    def close(self) -> None:
        for daemon in self._made:
            daemon.close()
            shutil.rmtree(daemon.folder)


@pytest.fixture
def new_daemon(binaries: Path, workshop: Path) -> Iterator[NewDaemon]:
    """Makes daemons of a test's own, which end with it."""
    with contextlib.closing(_Maker(binaries, workshop)) as new:
        yield new


@pytest.fixture(scope="session")
def daemon(binaries: Path, workshop: Path) -> Iterator[Daemon]:
    """A daemon that runs, for all that only build: never stopped, pruned or broken."""
    with contextlib.closing(_Maker(binaries, workshop)) as new:
        yield new().start()


@pytest.fixture(scope="session")
def base() -> BaseImage:
    """The base image for this machine."""
    return bases.busybox(Platform.here())


#: Writes a build context: names and contents, the Dockerfile's among them.
NewContext = Callable[..., Path]


@pytest.fixture
def new_context(tmp_path: Path) -> NewContext:
    """Makes a folder with a Dockerfile, and files by name."""
    made = 0

    def make(dockerfile: str, **files: str | bytes) -> Path:
        nonlocal made
        made += 1
        folder = tmp_path / f"context-{made}"
        for name, content in {"Dockerfile": dockerfile, **files}.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return folder

    return make


@pytest.fixture
def local_registry(tmp_path: Path) -> Iterator[Registry]:
    """A registry on the loopback, plain HTTP, empty."""
    with registry.running(tmp_path / "registry") as started:
        yield started


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dockerd.Access]:
    """A real docker engine with buildx: this machine's own, or ours."""
    with dockerd.engine(tmp_path_factory.mktemp("docker")) as access:
        recorder.used(docker=dockerd.version(access.env), buildx=dockerd.buildx_version(access.env))
        yield access


@pytest.fixture(scope="session")
def docker(engine: dockerd.Access) -> dict[str, str]:
    """What the environment needs for docker to reach it."""
    return engine.env
