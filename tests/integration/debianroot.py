"""A clean Debian 13 of this machine's architecture, to install packages in for real.

It is unpacked and configured once, and kept in the cache; each test gets a copy. Programs
run in it with mounts and processes of their own, which end with them; the network is this
machine's, so that they reach a server on loopback. Or it is booted: then systemd is its
first process, with control groups and a network of its own.
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

from buildkit_riscv64 import debian, process
from buildkit_riscv64.arch import Architecture

from ..processes import eventually
from .roots import kept

#: What the packages depend on, so that nothing but them comes from their repository; what
#: reads their man pages, completions and profiles; and what the pages take for granted.
PACKAGES = (
    "adduser", "apparmor", "bash-completion", "ca-certificates", "curl", "dbus", "fish",
    "iproute2", "libpam-systemd", "man-db", "passwd", "procps", "rootlesskit", "runc",
    "slirp4netns", "sudo", "systemd", "uidmap", "zsh",
)  # fmt: skip

# Arguments: the root, and a command. It has to be pivot_root: runc does the same, and
# cannot below a chroot.
_ENTER = r"""
mount --bind "$1" "$1"
mount -t proc proc "$1/proc"
mount -t sysfs sysfs "$1/sys"
mount --rbind /sys/fs/cgroup "$1/sys/fs/cgroup"
mount --rbind /dev "$1/dev"
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


# Arguments: the root, and a control group of version 2 that is there for it. What belongs to
# the whole machine is not its to change: settings of the kernel, devices, the console.
_BOOT = r"""
echo $$ >"$2/cgroup.procs"
exec unshare --cgroup sh -euc '
mount --bind "$1" "$1"
mount -t proc proc "$1/proc"
mount --bind "$1/proc/sys" "$1/proc/sys"
mount -o remount,bind,ro "$1/proc/sys"
# A user namespace gets a /proc of its own only where one can be seen whole.
mount -t proc proc "$1/mnt"
mount -t sysfs -o ro sysfs "$1/sys"
mount -t cgroup2 cgroup2 "$1/sys/fs/cgroup"
mount -t tmpfs -o mode=755 tmpfs "$1/dev"
mkdir "$1/dev/net" "$1/dev/pts" "$1/dev/shm"
for device in null zero full random urandom tty fuse net/tun; do
    touch "$1/dev/$device"
    mount --bind "/dev/$device" "$1/dev/$device"
done
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts "$1/dev/pts"
ln -s pts/ptmx "$1/dev/ptmx"
ln -s /proc/self/fd "$1/dev/fd"
mount -t tmpfs tmpfs "$1/dev/shm"
mount -t tmpfs tmpfs "$1/tmp"
mount -t tmpfs tmpfs "$1/run"
cd "$1"
mkdir run/outer
pivot_root . run/outer
cd /
umount --lazy /run/outer
rmdir /run/outer
exec env -i container=test PATH=/usr/sbin:/usr/bin LC_ALL=C.UTF-8 /lib/systemd/systemd
' sh "$1"
"""


def _template() -> Path:
    def make(root: Path) -> None:
        release = debian.release(Architecture.here())
        process.run(
            ["mmdebstrap", "--quiet", "--variant=apt", f"--include={','.join(PACKAGES)}",
             debian.SUITE, root, release.source()],
        )  # fmt: skip
        (root / "etc/apt/sources.list").unlink()

    return kept("test-debian", f"{debian.SUITE} {platform.machine()} {PACKAGES}", make)


@dataclass(frozen=True)
class Done:
    """How a command in the root ended."""

    code: int
    output: str


@dataclass(frozen=True)
class Root:
    """A Debian of one's own.

    Args:
        path: its root directory.
        init: its systemd, seen from here; 0 where it is not booted.
    """

    path: Path
    init: int = 0

    def _argv(self, args: Sequence[str]) -> list[str]:
        if self.init:
            return ["nsenter", f"--target={self.init}", "--all", "--", *args]
        return [*process.namespaced(), "sh", "-euc", _ENTER, "sh", str(self.path), *args]

    @contextlib.contextmanager
    def booted(self) -> Iterator[Root]:
        """The same with its systemd running; all that it has started ends with the block."""
        group = _control_groups() / f"{self.path.parent.name}.test"
        group.mkdir()
        argv = [*process.namespaced(), "--net", "--uts", "--ipc", "sh", "-euc", _BOOT, "sh", str(self.path), str(group)]  # fmt: skip
        try:
            with subprocess.Popen(argv, stdin=subprocess.DEVNULL, process_group=0) as child:
                try:
                    assert eventually(lambda: self._answers(child.pid)), "systemd does not start"
                    (init,) = process.children(child.pid)
                    yield Root(self.path, init)
                finally:
                    child.kill()
        finally:
            assert eventually(lambda: _removed(group)), f"something is left in {group}"

    def _answers(self, pid: int) -> bool:
        started = [Root(self.path, init) for init in process.children(pid)]
        ended = {"running", "degraded"}
        return any(
            one.attempt("systemctl", "is-system-running").output.strip() in ended for one in started
        )

    def attempt(self, *args: str, timeout: float = 600) -> Done:
        """Run a command in it, however it ends."""
        env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}  # fmt: skip
        done = subprocess.run(
            self._argv(args), env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, timeout=timeout, check=False,
        )  # fmt: skip
        return Done(done.returncode, done.stdout)

    def run(self, *args: str) -> str:
        """The output of a command in it that must succeed."""
        done = self.attempt(*args)
        assert done.code == 0, f"{args}: {done.output}"
        return done.output

    def shell(self, script: str) -> str:
        """The output of a script in it that must succeed."""
        return self.run("bash", "-euc", script)

    def read_inside(self, path: str) -> str:
        """A file as programs in it see it."""
        return self.run("cat", path)

    def sees(self, path: str) -> bool:
        """Whether programs in it see a file."""
        return self.attempt("test", "-e", path).code == 0

    def exists(self, path: str) -> bool:
        """Whether it has a file, as an absolute path."""
        return os.path.lexists(self.path / path.removeprefix("/"))

    def read(self, path: str) -> str:
        """A file of it."""
        return (self.path / path.removeprefix("/")).read_text()

    def write(self, path: str, text: str) -> None:
        """Write a file of it."""
        file = self.path / path.removeprefix("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


def _control_groups() -> Path:
    """Where control groups of version 2 are mounted."""
    for line in Path("/proc/mounts").read_text().splitlines():
        _, place, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(place)
    raise AssertionError("there are no control groups of version 2")


def _removed(group: Path) -> bool:
    """Remove a control group and those below; False while somebody is in one."""
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
    """A copy of it, which is gone afterwards."""
    assert os.geteuid() == 0, "packages are installed by root"
    template = _template()
    # Not below /tmp, which may be in memory, or an overlay: snapshots cannot lie on another.
    with tempfile.TemporaryDirectory(prefix="debian-", dir="/var/tmp") as folder:
        root = Path(folder) / "root"
        subprocess.run(["cp", "--archive", "--reflink=auto", template, root], check=True)
        yield Root(root)
