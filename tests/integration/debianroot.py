"""A clean Debian 13 of this machine's architecture, for tests that install packages.

The cache has an unpacked and configured template; each test gets a copy. Programs run in the copy
in private mount and PID namespaces, and use this machine's network to reach servers on loopback. A
booted copy has systemd as its first process, and its own control groups and network.
"""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from buildkit_riscv64.core import process
from buildkit_riscv64.core.arch import Architecture
from buildkit_riscv64.system import debian, host_checks
from buildkit_riscv64.testing.pytest_plugin import require
from buildkit_riscv64.validation.environment.cached_roots import DEVICES, UDEV_MODE, cached_root
from buildkit_riscv64.validation.environment.waiting import BOUND, eventually

#: The dependencies of our packages, so that only our packages come from the tested repository; the
#: readers of their man pages, completions and profiles; and tools that the documentation assumes.
PACKAGES = (
    "adduser", "apparmor", "bash-completion", "ca-certificates", "curl", "dbus", "fish",
    "iproute2", "libpam-systemd", "man-db", "passwd", "procps", "rootlesskit", "runc",
    "slirp4netns", "sudo", "systemd", "uidmap", "zsh",
)  # fmt: skip

#: The capabilities and tools that a root needs.
NEEDS = ("daemons", "debian", "mmdebstrap")

# Arguments: the root, and a command. runc needs pivot_root: it fails below a chroot.
_ENTER = rf"""{DEVICES}
mount --bind "$1" "$1"
mount -t proc proc "$1/proc"
mount -t sysfs sysfs "$1/sys"
mount --rbind /sys/fs/cgroup "$1/sys/fs/cgroup"
make_devices "$1/dev" {UDEV_MODE}
mount -t tmpfs tmpfs "$1/tmp"
mount -t tmpfs tmpfs "$1/run"
cd "$1"
shift
mkdir run/outer
pivot_root . run/outer
cd /
umount --lazy /run/outer
rmdir /run/outer
exec "$@"
"""


# Arguments: the root, a control group version 2 for it, and the mode of devices that udev opens.
# The root cannot change the whole machine: kernel settings, devices and the console.
_BOOT = rf"""
echo $$ >"$2/cgroup.procs"
exec unshare --cgroup sh -euc '{DEVICES}
mount --bind "$1" "$1"
mount -t proc proc "$1/proc"
mount --bind "$1/proc/sys" "$1/proc/sys"
mount -o remount,bind,ro "$1/proc/sys"
# A user namespace can mount /proc only where an unrestricted one is visible.
mount -t proc proc "$1/mnt"
mount -t sysfs -o ro sysfs "$1/sys"
mount -t cgroup2 cgroup2 "$1/sys/fs/cgroup"
make_devices "$1/dev" "$2"
mount -t tmpfs tmpfs "$1/tmp"
mount -t tmpfs tmpfs "$1/run"
cd "$1"
mkdir run/outer
pivot_root . run/outer
cd /
umount --lazy /run/outer
rmdir /run/outer
exec env -i container=test PATH=/usr/sbin:/usr/bin LC_ALL=C.UTF-8 /lib/systemd/systemd
' sh "$1" "$3"
"""


def _template() -> Path:
    def make(root: Path) -> None:
        release = debian.release(Architecture.here())
        process.run(
            ["mmdebstrap", "--quiet", "--variant=apt", f"--include={','.join(PACKAGES)}",
             debian.SUITE, root, release.source()],
        )  # fmt: skip
        (root / "etc/apt/sources.list").unlink()

    return cached_root("test-debian", f"{debian.SUITE} {platform.machine()} {PACKAGES}", make)


@dataclass(frozen=True)
class Done:
    """The result of a command in a root."""

    code: int
    output: str


@dataclass(frozen=True)
class Root:
    """A copy of the Debian.

    Args:
        path: its root directory.
        init: the PID of its systemd on this machine; 0 where it is not booted.
    """

    path: Path
    init: int = 0

    def _argv(self, args: Sequence[str]) -> list[str]:
        if self.init:
            return ["nsenter", f"--target={self.init}", "--all", "--", *args]
        return [*process.namespaced(), "sh", "-euc", _ENTER, "sh", str(self.path), *args]

    @contextlib.contextmanager
    def booted(self, device_mode: str = UDEV_MODE) -> Iterator[Root]:
        """The root with systemd running; all of its processes end with the block.

        Args:
            device_mode: the mode of /dev/net/tun and /dev/fuse.
        """
        require("systemd")
        top = host_checks.cgroup2_mount()
        assert top, "control groups version 2 are not mounted"
        group = top / f"{self.path.parent.name}.test"
        group.mkdir()
        argv = [*process.namespaced(), "--net", "--uts", "--ipc", "sh", "-euc", _BOOT, "sh", str(self.path), str(group), device_mode]  # fmt: skip
        try:
            with subprocess.Popen(argv, stdin=subprocess.DEVNULL, process_group=0) as child:
                try:
                    assert eventually(lambda: self._answers(child.pid)), "systemd does not start"
                    (init,) = process.children(child.pid)
                    yield Root(self.path, init)
                finally:
                    child.kill()
        finally:
            assert eventually(lambda: _removed(group)), f"processes are left in {group}"

    def _answers(self, pid: int) -> bool:
        started = [Root(self.path, init) for init in process.children(pid)]
        up = {"running", "degraded"}
        return any(
            one.attempt("systemctl", "is-system-running").output.strip() in up for one in started
        )

    def attempt(self, *args: str, timeout: float = BOUND) -> Done:
        """Run a command in the root, with any exit code."""
        env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}  # fmt: skip
        done = subprocess.run(
            self._argv(args), env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, timeout=timeout, check=False,
        )  # fmt: skip
        return Done(done.returncode, done.stdout)

    def run(self, *args: str) -> str:
        """The output of a command in the root that must succeed."""
        done = self.attempt(*args)
        assert done.code == 0, f"{args}: {done.output}"
        return done.output

    def shell(self, script: str) -> str:
        """The output of a script in the root that must succeed."""
        return self.run("bash", "-euc", script)

    def read_inside(self, path: str) -> str:
        """The content of a file as programs in the root see it."""
        return self.run("cat", path)

    def sees(self, path: str) -> bool:
        """True when programs in the root see a file."""
        return self.attempt("test", "-e", path).code == 0

    def exists(self, path: str) -> bool:
        """True when the root has a file, by its absolute path."""
        return os.path.lexists(self.path / path.removeprefix("/"))

    def read(self, path: str) -> str:
        """The content of a file of the root."""
        return (self.path / path.removeprefix("/")).read_text()

    def write(self, path: str, text: str) -> None:
        """Write a file of the root."""
        file = self.path / path.removeprefix("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


def _removed(group: Path) -> bool:
    """Remove a control group and its children; False while they have processes."""
    for path in [*sorted(group.rglob("*/"), reverse=True), group]:
        try:
            path.rmdir()
        except FileNotFoundError:
            pass
        except OSError:
            return False
    return True


@contextlib.contextmanager
def debian_root() -> Iterator[Root]:
    """A copy of the Debian, removed at the end of the block."""
    for name in NEEDS:
        require(name)
    template = _template()
    # Not in /tmp, which may be in memory or on an overlay, and overlay snapshots need another
    # filesystem.
    with tempfile.TemporaryDirectory(prefix="debian-", dir="/var/tmp") as directory:
        root = Path(directory) / "root"
        subprocess.run(["cp", "--archive", "--reflink=auto", template, root], check=True)
        yield Root(root)
