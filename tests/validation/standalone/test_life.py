"""The daemon's life."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import time
from pathlib import Path

from buildkit_riscv64.arch import Architecture

from ...processes import eventually
from ..bases import BaseImage
from ..conftest import NewContext
from ..daemon import BOUND, Daemon, NewDaemon, run


def test_versions(daemon: Daemon, version: str) -> None:
    """Daemon and client say the version they were built as"""
    for command in ("buildctl", "buildkitd"):
        said = run(daemon.binaries / command, "--version").good().stdout
        assert said.startswith(f"{command} github.com/moby/buildkit {version} ")
    assert version in daemon.buildctl("debug", "info").good().stdout


def test_worker_and_platform(daemon: Daemon) -> None:
    """There is an OCI worker for this machine's platform"""
    (worker,) = daemon.buildctl("debug", "workers", "--format={{json .}}").good().json
    assert worker["labels"]["org.mobyproject.buildkit.worker.executor"] == "oci"
    assert worker["labels"]["org.mobyproject.buildkit.worker.snapshotter"] == "overlayfs"
    assert worker["platforms"][0] == {"architecture": str(Architecture.here()), "os": "linux"}
    assert str(Architecture.here()) in daemon.buildctl("debug", "workers", "--verbose").good().stdout  # fmt: skip


def test_readiness(new_daemon: NewDaemon, base: BaseImage, new_context: NewContext) -> None:
    """A client that waits is served as soon as the daemon is there; others hear that it is not"""
    daemon = new_daemon()
    context = new_context("FROM base\nRUN true\n")
    daemon.build(context, *base.flags(), timeout=60).bad("buildkitd.sock", "no such file")
    command = daemon.build_command(context, *base.flags())
    # Otherwise it waits for five seconds, which a slow machine may need to start.
    at = command.index("build")
    command[at:at] = ["--wait", f"--timeout={BOUND:.0f}"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as early:
        daemon.start()
        _, said = early.communicate(timeout=BOUND)
    assert early.returncode == 0, said


def test_socket_and_state_are_roots(daemon: Daemon) -> None:
    """The socket and the state are open to the daemon's user and group, and to nobody else"""
    socket = Path(daemon.address.removeprefix("unix://"))
    assert stat.S_IMODE(socket.stat().st_mode) & 0o007 == 0
    for secret in (daemon.root / "history.db", daemon.root / "runc-overlayfs" / "metadata_v2.db"):
        assert stat.S_IMODE(secret.stat().st_mode) & 0o077 == 0
    # Who is in a container of the daemon's may pass, and read no names.
    assert stat.S_IMODE(daemon.root.stat().st_mode) & 0o066 == 0


def test_one_state_has_one_daemon(daemon: Daemon) -> None:
    """A second daemon on the same state is refused, and the first goes on"""
    run(
        daemon.binaries / "buildkitd", f"--root={daemon.root}",
        f"--addr={daemon.address}.second", f"--otel-socket-path={daemon.folder / 'second.sock'}",
        "--containerd-worker=false",
    ).bad("could not lock", "another instance running?")  # fmt: skip
    assert daemon.answers()


def test_a_restart_keeps_the_cache(new_daemon: NewDaemon, base: BaseImage, new_context: NewContext) -> None:  # fmt: skip
    """SIGTERM ends it within seconds, and after a restart the cache is still there"""
    daemon = new_daemon().start()
    context = new_context("FROM base\nRUN cat /proc/sys/kernel/random/uuid >/when\n")
    assert daemon.build(context, *base.flags()).good().cached == [False]
    records = {one["id"] for one in daemon.du()}
    started = time.monotonic()
    # It ends with 1 whenever it is told to end, and says that it was.
    assert daemon.stop() == 1
    assert "got SIGTERM/SIGINT" in daemon.log
    assert time.monotonic() - started < 20
    assert "stopping server" in daemon.log
    assert not Path(daemon.address.removeprefix("unix://")).exists()
    daemon.start()
    assert records <= {one["id"] for one in daemon.du()}
    assert daemon.build(context, *base.flags()).good().cached == [True]


def test_sigterm_during_a_build(new_daemon: NewDaemon, base: BaseImage, new_context: NewContext) -> None:  # fmt: skip
    """SIGTERM lets a running build finish, and takes no other; three of them end it at once"""
    daemon = new_daemon().start()
    context = new_context("FROM base\nARG MARK\nRUN sleep $MARK\n")
    for seconds, signals, code, word in (
        ("5", 1, 0, "got SIGTERM/SIGINT, forcing shutdown"),
        ("3600", 3, 1, "got 3 SIGTERM/SIGINTs, forcibly terminating"),
    ):
        mark = f"{seconds}.{os.getpid()}"
        command = daemon.build_command(context, *base.flags(), f"--opt=build-arg:MARK={mark}")
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as client:
            assert eventually(lambda: _sleepers(mark), BOUND)  # noqa: B023
            pid = daemon.pid
            for _ in range(signals):
                os.kill(pid, signal.SIGTERM)
                # Two at once would be one.
                time.sleep(0.2)
            assert not daemon.answers()
            _, said = client.communicate(timeout=BOUND)
        assert client.returncode == code, said
        assert eventually(lambda: not daemon.running)
        assert eventually(lambda: not _sleepers(mark))  # noqa: B023
        assert daemon.stop() == 1
        assert word in daemon.log
        daemon.start()
    # What was cut off left nothing that a build would stumble over.
    daemon.build(context, *base.flags(), "--opt=build-arg:MARK=0").good()


def test_a_client_that_is_interrupted(daemon: Daemon, base: BaseImage, new_context: NewContext) -> None:  # fmt: skip
    """Ctrl-C in the client cancels its build, and the step's processes are gone"""
    mark = f"{os.getpid()}.{time.monotonic_ns() % 10**6}"
    context = new_context(f"FROM base\nRUN echo begun && sleep {mark}\n")
    log = daemon.folder / "interrupted.log"
    with (
        log.open("w") as file,
        subprocess.Popen(daemon.build_command(context, *base.flags()), stderr=file) as client,
    ):
        assert eventually(lambda: _sleepers(mark), BOUND)
        client.send_signal(signal.SIGINT)
        assert client.wait(60) != 0
    assert eventually(lambda: not _sleepers(mark))
    assert daemon.answers()


def _sleepers(mark: str) -> list[str]:
    """Processes that sleep for exactly so long."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_text().split("\0")
        except OSError:
            continue
        if words[:2] == ["sleep", mark]:
            found.append(path.parent.name)
    return found
