"""Start, readiness, restart and shutdown of the daemon."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import subprocess
import time
from pathlib import Path

from buildkit_riscv64.core.arch import Architecture
from buildkit_riscv64.validation.environment.waiting import BOUND, eventually

from ..barrier import barrier
from ..bases import BaseImage
from ..conftest import NewContext
from ..daemon import Daemon, NewDaemon, run


def test_versions(daemon: Daemon, version: str) -> None:
    """Daemon and client report the version of the build"""
    for command in ("buildctl", "buildkitd"):
        reported = run(daemon.binaries / command, "--version").good().stdout
        assert reported.startswith(f"{command} github.com/moby/buildkit {version} ")
    assert version in daemon.buildctl("debug", "info").good().stdout


def test_worker_and_platform(daemon: Daemon) -> None:
    """The daemon has an OCI worker for this machine's platform"""
    (worker,) = daemon.buildctl("debug", "workers", "--format={{json .}}").good().json
    assert worker["labels"]["org.mobyproject.buildkit.worker.executor"] == "oci"
    assert worker["labels"]["org.mobyproject.buildkit.worker.snapshotter"] == "overlayfs"
    assert worker["platforms"][0] == {"architecture": str(Architecture.here()), "os": "linux"}
    assert str(Architecture.here()) in daemon.buildctl("debug", "workers", "--verbose").good().stdout  # fmt: skip


def test_readiness(new_daemon: NewDaemon, base: BaseImage, new_context: NewContext) -> None:
    """A waiting client is served when the daemon starts; other clients get an error"""
    daemon = new_daemon()
    context = new_context("FROM base\nRUN true\n")
    daemon.build(context, *base.flags(), timeout=60).bad("buildkitd.sock", "no such file")
    command = daemon.build_command(context, *base.flags())
    # The default timeout is five seconds, which a slow machine may need to start.
    at = command.index("build")
    command[at:at] = ["--wait", f"--timeout={BOUND:.0f}"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as early:
        daemon.start()
        _, reported = early.communicate(timeout=BOUND)
    assert early.returncode == 0, reported


def test_socket_and_state_permissions(daemon: Daemon) -> None:
    """Only the daemon's user and group can access its socket and state"""
    socket = Path(daemon.address.removeprefix("unix://"))
    assert stat.S_IMODE(socket.stat().st_mode) & 0o007 == 0
    for secret in (daemon.root / "history.db", daemon.root / "runc-overlayfs" / "metadata_v2.db"):
        assert stat.S_IMODE(secret.stat().st_mode) & 0o077 == 0
    # Processes in its containers may pass, but not list names.
    assert stat.S_IMODE(daemon.root.stat().st_mode) & 0o066 == 0


def test_second_daemon_refused(daemon: Daemon) -> None:
    """A second daemon with the same state is refused, and the first continues"""
    run(
        daemon.binaries / "buildkitd", f"--root={daemon.root}",
        f"--addr={daemon.address}.second", f"--otel-socket-path={daemon.directory / 'second.sock'}",
        "--containerd-worker=false",
    ).bad("could not lock", "another instance running?")  # fmt: skip
    assert daemon.answers()


def test_restart_keeps_cache(
    new_daemon: NewDaemon, base: BaseImage, new_context: NewContext
) -> None:
    """SIGTERM stops the daemon, and a restart keeps the cache"""
    daemon = new_daemon().start()
    context = new_context("FROM base\nRUN cat /proc/sys/kernel/random/uuid >/when\n")
    assert daemon.build(context, *base.flags()).good().cached == [False]
    records = {one["id"] for one in daemon.du()}
    # After a signal buildkitd exits with code 1 and logs the signal.
    assert daemon.stop() == 1
    assert "got SIGTERM/SIGINT" in daemon.log
    assert "stopping server" in daemon.log
    assert not Path(daemon.address.removeprefix("unix://")).exists()
    daemon.start()
    assert records <= {one["id"] for one in daemon.du()}
    assert daemon.build(context, *base.flags()).good().cached == [True]


def test_sigterm_during_a_build(
    new_daemon: NewDaemon, base: BaseImage, new_context: NewContext
) -> None:
    """SIGTERM lets a running build finish and refuses new ones; three signals end the daemon at once"""
    daemon = new_daemon().start()
    for more, code, word in (
        (False, 0, "got SIGTERM/SIGINT, forcing shutdown"),
        (True, 1, "got 3 SIGTERM/SIGINTs, forcibly terminating"),
    ):
        with barrier() as held:
            context = new_context(f"FROM base\nRUN {held.command}\n")
            command = daemon.build_command(context, *base.flags())
            with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as client:
                held.wait()
                pid = daemon.pid
                os.kill(pid, signal.SIGTERM)
                assert eventually(lambda: not daemon.answers())
                # Two signals in quick succession may count as one.
                assert not more or eventually(lambda: _ended(daemon, pid, signal.SIGTERM))  # noqa: B023
                held.open()
                _, reported = client.communicate(timeout=BOUND)
            assert client.returncode == code, reported
            assert eventually(lambda: not daemon.running)
            assert held.no_waiters()
        assert daemon.stop() == 1
        assert word in daemon.log
        daemon.start()
    # The aborted build does not disturb the next one.
    daemon.build(context, *base.flags()).good()


def _ended(daemon: Daemon, pid: int, number: signal.Signals) -> bool:
    """Whether a daemon has ended; otherwise it gets another signal."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
    return not daemon.running


def test_client_interrupted(daemon: Daemon, base: BaseImage, new_context: NewContext) -> None:
    """Ctrl-C in the client cancels its build and ends the step's processes"""
    mark = f"{os.getpid()}.{time.monotonic_ns() % 10**6}"
    context = new_context(f"FROM base\nRUN echo begun && sleep {mark}\n")
    log = daemon.directory / "interrupted.log"
    with (
        log.open("w") as file,
        subprocess.Popen(daemon.build_command(context, *base.flags()), stderr=file) as client,
    ):
        assert eventually(lambda: _sleepers(mark))
        client.send_signal(signal.SIGINT)
        assert client.wait(BOUND) != 0
    assert eventually(lambda: not _sleepers(mark))
    assert daemon.answers()


def _sleepers(mark: str) -> list[str]:
    """The processes that run `sleep` with this argument."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_text().split("\0")
        except OSError:
            continue
        if words[:2] == ["sleep", mark]:
            found.append(path.parent.name)
    return found
