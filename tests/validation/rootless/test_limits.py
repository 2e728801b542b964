"""What upstream's docs/rootless.md says that is not to be had, or has its price: observed."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path

import pytest

from buildkit_riscv64 import process
from buildkit_riscv64.arch import Platform

from ...processes import alive, eventually
from .. import bases
from ..bases import BaseImage
from ..conftest import NewContext
from ..daemon import BOUND, Daemon, Ended
from ..gate import gate
from ..scenario import not_proven
from .conftest import NewRootless

#: Since then a user namespace may mount an overlay.
OVERLAYFS_SINCE = (5, 11)
INSECURE = "security.insecure"
#: A ping that does without raw sockets where it may, as busybox's does not; with libraries.
PING = ("iputils-ping", "libc6", "libcap2", "libidn2-0", "libunistring5")


@pytest.fixture
def builds(new_rootless: NewRootless, base: BaseImage, new_context: NewContext) -> Builds:
    """Starts a daemon of an ordinary user's on the host's network, and builds with it."""
    return Builds(new_rootless, base, new_context)


class Builds:
    """A daemon of an ordinary user's on the host's network, that builds one RUN at a time."""

    def __init__(self, new_rootless: NewRootless, base: BaseImage, new_context: NewContext) -> None:
        self._new_rootless = new_rootless
        self._base = base
        self._new_context = new_context

    def start(self, *flags: str) -> Daemon:
        """Start it, with these flags."""
        self.rootless = self._new_rootless(flags=flags)
        return self.rootless.daemon.start()

    def command(self, run: str, *args: str) -> list[str]:
        """The command that builds what runs this."""
        context = self._new_context(f"FROM base\nRUN {run}\n")
        return self.rootless.daemon.build_command(context, *self._base.flags(), *args)

    def run(self, run: str, *args: str) -> Ended:
        """Build what runs this."""
        context = self._new_context(f"FROM base\nRUN {run}\n")
        return self.rootless.daemon.build(context, *self._base.flags(), *args)


def _kernel() -> tuple[int, ...]:
    return tuple(int(part) for part in platform.release().split("-")[0].split(".")[:2])


def _snapshotter(daemon: Daemon) -> str:
    (worker,) = daemon.buildctl("debug", "workers", "--format={{json .}}").good().json
    return str(worker["labels"]["org.mobyproject.buildkit.worker.snapshotter"])


def test_overlayfs_since_5_11(builds: Builds) -> None:
    """Since Linux 5.11 overlayfs is taken without being asked for"""
    if _kernel() < OVERLAYFS_SINCE:
        not_proven(f"this kernel is older: {platform.release()}")
    assert _snapshotter(builds.start()) == "overlayfs"


def test_no_overlayfs_before_5_11(builds: Builds) -> None:
    """Before Linux 5.11 there is no overlayfs in a user namespace, and another snapshotter is taken"""
    if _kernel() >= OVERLAYFS_SINCE:
        not_proven(f"this kernel is newer: {platform.release()}")
    assert _snapshotter(builds.start()) in {"fuse-overlayfs", "native"}


def test_the_network_is_the_hosts(builds: Builds) -> None:
    """With RootlessKit's network host RUN is in the host's; network none is the only other"""
    builds.start()
    hosts = str(Path("/proc/self/ns/net").readlink())
    assert hosts in builds.run("readlink /proc/self/ns/net").good().stderr
    said = builds.run("--network=none readlink /proc/self/ns/net && ip -o link").good().stderr
    assert hosts not in said
    assert "lo:" in said
    # Its line of `ip -o link` is the only one: links are numbered.
    assert " 2: " not in said


def test_ping(builds: Builds, base: BaseImage, new_context: NewContext) -> None:
    """ping works on the host's network only where ping_group_range has the user's group"""
    daemon = builds.start()
    first, last = map(int, Path("/proc/sys/net/ipv4/ping_group_range").read_text().split())
    allowed = first <= builds.rootless.user.gid <= last
    # In /usr Debian has what the base has no links to from /.
    context = new_context(
        "FROM base\nCOPY root /\nRUN ln -s usr/lib /lib && ln -s usr/lib64 /lib64\n"
        "RUN /usr/bin/ping -c 1 -W 5 127.0.0.1\n"
    )
    bases.unpack(Platform.here(), PING, context / "root")
    said = daemon.build(context, *base.flags())
    if allowed:
        said.good()
    else:
        said.bad("ping: socket: Operation not permitted")


def test_devices(builds: Builds) -> None:
    """RUN cannot make device nodes, not even with security.insecure, which does let it mount"""
    builds.start(f"--allow-insecure-entitlement={INSECURE}")
    mounting = "mount -t tmpfs tmpfs /tmp"
    making = "busybox mknod /device c 1 3"
    builds.run(mounting).bad("permission denied")
    builds.run(making).bad("mknod: /device: Operation not permitted")
    allow = f"--allow={INSECURE}"
    builds.run(f"--security=insecure {mounting}", allow).good()
    builds.run(f"--security=insecure {making}", allow).bad("Operation not permitted")


def test_user_ids(builds: Builds) -> None:
    """RUN has as many user ids as the user is granted: what is above cannot own a file"""
    builds.start()
    # The user is root there, so they are one more.
    last = builds.rootless.user.granted
    builds.run(f"touch /file && chown {last} /file").good()
    builds.run(f"touch /file && chown {last + 1} /file").bad("chown: /file: Invalid argument")


def test_no_cgroups_without_delegation(builds: Builds) -> None:
    """Where no cgroup is delegated cgroup-parent changes nothing: RUN stays in the daemon's"""
    builds.start()
    with gate() as held:
        command = builds.command(held.command, "--opt=cgroup-parent=validation-none")
        with process.guarded(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL):
            waiting = held.wait()
            daemons = Path(f"/proc/{builds.rootless.pid}/cgroup").read_text()
            assert {Path(f"/proc/{pid}/cgroup").read_text() for pid in waiting} == {daemons}


_PEEK = "cat /proc/[0-9]*/cmdline | tr '\\0' ' '"


def test_process_sandbox(builds: Builds) -> None:
    """RUN sees no process of the daemon's, and none of its own outlives it"""
    builds.start()
    assert "rootlesskit" not in builds.run(_PEEK).good().stderr
    with gate() as held, gate() as end:
        command = builds.command(f"{held.leaving}; {end.command}")
        with process.guarded(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as client:
            held.wait()
            end.open()
            assert client.wait(BOUND) == 0
        assert held.deserted()
    builds.rootless.stop()


def test_no_process_sandbox(builds: Builds) -> None:
    """--oci-worker-no-process-sandbox: RUN sees the daemon's processes, and leaves its own behind"""
    daemon = builds.start("--oci-worker-no-process-sandbox")
    with gate() as held:
        assert "rootlesskit" in builds.run(f"{_PEEK}; {held.leaving}").good().stderr
        (left,) = held.wait()
        # The build is over, and what it has started is not.
        assert alive(left)
        daemon.stop()
        assert "(nc)" in (daemon.folder / "left").read_text()
        assert eventually(lambda: not alive(left))
