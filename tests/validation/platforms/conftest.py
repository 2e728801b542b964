"""What the scenarios of other platforms share."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from buildkit_riscv64.arch import Platform

from .. import bases
from ..bases import BaseImage
from ..daemon import Daemon, NewDaemon
from . import foreign


@pytest.fixture(scope="session")
def every_base(tmp_path_factory: pytest.TempPathFactory) -> BaseImage:
    """The base image for every platform."""
    return bases.index(Platform, tmp_path_factory.mktemp("bases") / "layout")


@pytest.fixture
def other() -> Platform:
    """A platform that is not this machine's, and whose emulator every Debian has."""
    return Platform.ARM64 if Platform.here() is not Platform.ARM64 else Platform.RISCV64


@pytest.fixture
def without() -> Iterator[list[str]]:
    """What is put before a command that is to find no emulators."""
    with foreign.no_emulators() as prefix:
        yield prefix


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """An empty folder that is first on the PATH of `bare`."""
    folder = tmp_path / "tools"
    folder.mkdir()
    return folder


@pytest.fixture
def bare(new_daemon: NewDaemon, without: list[str], tools: Path) -> Iterator[Daemon]:
    """A daemon that finds no emulators; in a user namespace, it is rootless to itself."""
    # There runc keeps its state, unless it is really root.
    with tempfile.TemporaryDirectory(prefix="bk-") as runtime:
        before = [*without, "sh", "-c", 'PATH="$0:$PATH" XDG_RUNTIME_DIR="$1"; shift; export PATH XDG_RUNTIME_DIR; exec "$@"', str(tools), runtime]  # fmt: skip
        daemon = new_daemon(wrap=before, flags=["--rootless", "--oci-worker-net=host"])
        yield daemon.start()
        daemon.close()
