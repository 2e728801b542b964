"""Fixtures of the platforms suite."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from buildkit_riscv64.core.arch import Platform

from .. import bases
from ..bases import BaseImage
from ..daemon import Daemon, NewDaemon
from . import foreign


@pytest.fixture(scope="session")
def every_base(tmp_path_factory: pytest.TempPathFactory) -> BaseImage:
    """The base images for all platforms, in one index."""
    return bases.index(Platform, tmp_path_factory.mktemp("bases") / "layout")


@pytest.fixture
def other() -> Platform:
    """A platform other than this machine's, whose emulator every Debian has."""
    return Platform.ARM64 if Platform.here() is not Platform.ARM64 else Platform.RISCV64


@pytest.fixture
def without() -> Iterator[list[str]]:
    """The prefix of a command that finds no emulators."""
    with foreign.no_emulators() as prefix:
        yield prefix


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """An empty directory, first on the PATH of `bare`."""
    directory = tmp_path / "tools"
    directory.mkdir()
    return directory


@pytest.fixture
def bare(new_daemon: NewDaemon, without: list[str], tools: Path) -> Iterator[Daemon]:
    """A daemon without emulators; it runs in a user namespace, so it is rootless."""
    # runc keeps its state in XDG_RUNTIME_DIR, unless it is really root.
    with tempfile.TemporaryDirectory(prefix="bk-") as runtime:
        before = [*without, "sh", "-c", 'PATH="$0:$PATH" XDG_RUNTIME_DIR="$1"; shift; export PATH XDG_RUNTIME_DIR; exec "$@"', str(tools), runtime]  # fmt: skip
        daemon = new_daemon(wrap=before, flags=["--rootless", "--oci-worker-net=host"])
        yield daemon.start()
        daemon.close()
