"""The daemon's life."""

from __future__ import annotations

from buildkit_riscv64.arch import Architecture

from ..bases import BaseImage
from ..conftest import NewContext
from ..daemon import Daemon, NewDaemon


def test_versions(daemon: Daemon, version: str) -> None:
    """Daemon and client say the version they were built as"""
    for command in ("buildctl", "buildkitd"):
        from ..daemon import run

        said = run(daemon.binaries / command, "--version").good().stdout
        assert said.startswith(f"{command} github.com/moby/buildkit {version} ")
    assert version in daemon.buildctl("debug", "info").good().stdout


def test_worker_and_platform(daemon: Daemon) -> None:
    """There is an OCI worker for this machine's platform"""
    (worker,) = daemon.buildctl("debug", "workers", "--format={{json .}}").good().json
    assert worker["labels"]["org.mobyproject.buildkit.worker.executor"] == "oci"
    assert worker["platforms"][0] == {"architecture": str(Architecture.here()), "os": "linux"}


def test_a_restart_keeps_the_cache(new_daemon: NewDaemon, base: BaseImage, new_context: NewContext) -> None:  # fmt: skip
    """SIGTERM ends it in seconds, and after a restart the cache is still there"""
    daemon = new_daemon().start()
    context = new_context("FROM base\nRUN date +%s%N >/when\n")
    assert "CACHED" not in daemon.build(context, *base.flags()).good().stderr
    daemon.stop()
    daemon.start()
    assert "CACHED" in daemon.build(context, *base.flags()).good().stderr
