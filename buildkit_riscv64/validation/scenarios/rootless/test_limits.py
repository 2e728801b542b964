"""The limitations in upstream's docs/rootless.md."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path

import pytest

from buildkit_riscv64.core import process
from buildkit_riscv64.core.arch import Platform
from buildkit_riscv64.validation.environment.waiting import BOUND, alive, eventually

from .. import bases
from ..barrier import barrier
from ..bases import BaseImage
from ..conftest import NewContext
from ..daemon import Daemon, Result
from ..scenario import not_proven
from .conftest import NewRootless

#: Since this version, a user namespace may mount an overlay.
OVERLAYFS_SINCE = (5, 11)
INSECURE = "security.insecure"
#: A ping that works without raw sockets, unlike busybox's, and its libraries.
PING = ("iputils-ping", "libc6", "libcap2", "libidn2-0", "libunistring5")


@pytest.fixture
def builds(new_rootless: NewRootless, base: BaseImage, new_context: NewContext) -> Builds:
    """Builds on a user's daemon with the host's network."""
    return Builds(new_rootless, base, new_context)


class Builds:
    """A user's daemon with the host's network, and builds of one RUN step."""

    def __init__(self, new_rootless: NewRootless, base: BaseImage, new_context: NewContext) -> None:
        self._new_rootless = new_rootless
        self._base = base
        self._new_context = new_context

    def start(self, *flags: str) -> Daemon:
        """Start the daemon with these flags."""
        self.rootless = self._new_rootless(flags=flags)
        return self.rootless.daemon.start()

    def command(self, run: str, *args: str) -> list[str]:
        """The command that builds this RUN step."""
        context = self._new_context(f"FROM base\nRUN {run}\n")
        return self.rootless.daemon.build_command(context, *self._base.flags(), *args)

    def run(self, run: str, *args: str) -> Result:
        """Build this RUN step."""
        context = self._new_context(f"FROM base\nRUN {run}\n")
        return self.rootless.daemon.build(context, *self._base.flags(), *args)


def _kernel() -> tuple[int, ...]:
    return tuple(int(part) for part in platform.release().split("-")[0].split(".")[:2])


def _snapshotter(daemon: Daemon) -> str:
    (worker,) = daemon.buildctl("debug", "workers", "--format={{json .}}").good().json
    return str(worker["labels"]["org.mobyproject.buildkit.worker.snapshotter"])


@pytest.mark.may_be_not_proven
def test_overlayfs_since_5_11(builds: Builds) -> None:
    """Since Linux 5.11 the default snapshotter is overlayfs"""
    if _kernel() < OVERLAYFS_SINCE:
        not_proven(f"this kernel is older: {platform.release()}")
    assert _snapshotter(builds.start()) == "overlayfs"


@pytest.mark.may_be_not_proven
def test_no_overlayfs_before_5_11(builds: Builds) -> None:
    """Before Linux 5.11 the default snapshotter is fuse-overlayfs or native"""
    if _kernel() >= OVERLAYFS_SINCE:
        not_proven(f"this kernel is newer: {platform.release()}")
    assert _snapshotter(builds.start()) in {"fuse-overlayfs", "native"}


def test_host_network(builds: Builds) -> None:
    """With RootlessKit's network host, RUN uses the host's network, or none"""
    builds.start()
    hosts = str(Path("/proc/self/ns/net").readlink())
    assert hosts in builds.run("readlink /proc/self/ns/net").good().stderr
    reported = builds.run("--network=none readlink /proc/self/ns/net && ip -o link").good().stderr
    assert hosts not in reported
    assert "lo:" in reported
    # Links are numbered: there is no second one.
    assert " 2: " not in reported


def test_ping(builds: Builds, base: BaseImage, new_context: NewContext) -> None:
    """ping works on the host's network only if ping_group_range includes the user's group"""
    daemon = builds.start()
    first, last = map(int, Path("/proc/sys/net/ipv4/ping_group_range").read_text().split())
    allowed = first <= builds.rootless.user.gid <= last
    # Debian keeps libraries in /usr; the base image has no links to them.
    context = new_context(
        "FROM base\nCOPY root /\nRUN ln -s usr/lib /lib && ln -s usr/lib64 /lib64\n"
        "RUN /usr/bin/ping -c 1 -W 5 127.0.0.1\n"
    )
    bases.unpack(Platform.here(), PING, context / "root")
    reported = daemon.build(context, *base.flags())
    if allowed:
        reported.good()
    else:
        reported.bad("ping: socket: Operation not permitted")


def test_devices(builds: Builds) -> None:
    """RUN cannot create device nodes, even with security.insecure, which allows mounts"""
    builds.start(f"--allow-insecure-entitlement={INSECURE}")
    mounting = "mount -t tmpfs tmpfs /tmp"
    making = "busybox mknod /device c 1 3"
    builds.run(mounting).bad("permission denied")
    builds.run(making).bad("mknod: /device: Operation not permitted")
    allow = f"--allow={INSECURE}"
    builds.run(f"--security=insecure {mounting}", allow).good()
    builds.run(f"--security=insecure {making}", allow).bad("Operation not permitted")


def test_user_ids(builds: Builds) -> None:
    """RUN can use only the user ids granted to the user"""
    builds.start()
    # The user is root in the namespace: one more id.
    last = builds.rootless.user.granted
    builds.run(f"touch /file && chown {last} /file").good()
    builds.run(f"touch /file && chown {last + 1} /file").bad("chown: /file: Invalid argument")


def test_no_cgroups_without_delegation(builds: Builds) -> None:
    """Without cgroup delegation, cgroup-parent has no effect: RUN stays in the daemon's cgroup"""
    builds.start()
    with barrier() as held:
        command = builds.command(held.command, "--opt=cgroup-parent=validation-none")
        with process.child_process(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL):
            waiting = held.wait()
            daemons = Path(f"/proc/{builds.rootless.pid}/cgroup").read_text()
            assert {Path(f"/proc/{pid}/cgroup").read_text() for pid in waiting} == {daemons}


_PEEK = "cat /proc/[0-9]*/cmdline | tr '\\0' ' '"


def test_process_sandbox(builds: Builds) -> None:
    """RUN does not see the daemon's processes, and its background processes end with the step"""
    builds.start()
    assert "rootlesskit" not in builds.run(_PEEK).good().stderr
    with barrier() as held, barrier() as end:
        command = builds.command(f"{held.background_command}; {end.command}")
        with process.child_process(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as client:
            held.wait()
            end.open()
            assert client.wait(BOUND) == 0
        assert held.no_waiters()
    builds.rootless.stop()


def test_no_process_sandbox(builds: Builds) -> None:
    """--oci-worker-no-process-sandbox: RUN sees the daemon's processes, and its background processes stay"""
    daemon = builds.start("--oci-worker-no-process-sandbox")
    with barrier() as held:
        assert "rootlesskit" in builds.run(f"{_PEEK}; {held.background_command}").good().stderr
        (left,) = held.wait()
        # The build has ended, but its background process has not.
        assert alive(left)
        builds.rootless.patience(10)
        daemon.stop()
        assert "(nc)" in (daemon.directory / "left").read_text()
        assert eventually(lambda: not alive(left))
