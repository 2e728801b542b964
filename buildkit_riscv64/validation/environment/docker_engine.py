"""A real docker engine of Debian 13, without an installation on this machine.

Its packages are unpacked once into a root directory. dockerd runs there in its own
namespaces of mounts, processes and network, which end with it. It reaches only registries
in that network, and `docker run --volume` sees only the engine's work directory.
"""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from buildkit_riscv64.core import process
from buildkit_riscv64.core.arch import Architecture
from buildkit_riscv64.system import debian
from buildkit_riscv64.validation.environment.scripts import script

from .cached_roots import DEVICES, UDEV_MODE, cached_root
from .waiting import alive, eventually

#: Installed with dependencies; base-files brings the directories, mount is for entering.
PACKAGES = (
    "base-files", "docker-buildx", "docker-cli", "docker-registry", "docker.io", "iproute2",
    "mount", "procps", "tini",
)  # fmt: skip
#: Older engines cannot start privileged containers if root lacks a capability, as in sandboxes.
OLDEST = 23
#: Debian's paths; Docker's own dockerd has another path, and Debian 12 has no buildx.
DOCKER, DOCKERD = "usr/bin/docker", "usr/sbin/dockerd"
REGISTRY = "usr/bin/docker-registry"
BUILDX = "usr/libexec/docker/cli-plugins/docker-buildx"

# Arguments: the root, and a name. The root is read-only, because runs share it. A new /sys
# has no securityfs, so no AppArmor profile stays in the kernel. pivot_root is necessary:
# with chroot, `docker exec` enters the outer file system. docker-init reaps the processes
# that containerd leaves, which dockerd would not.
_ENTER = rf"""{DEVICES}
mount --bind -o ro "$1" root
mount -t proc proc root/proc
mount -t sysfs sysfs root/sys
mount --rbind /sys/fs/cgroup root/sys/fs/cgroup
make_devices root/dev {UDEV_MODE}
mount -t tmpfs tmpfs root/tmp
mount -t tmpfs tmpfs root/run
mount -t tmpfs tmpfs root/var/tmp
mkdir root/run/outer "root$PWD"
mount --bind . "root$PWD"
here=$PWD
cd root
pivot_root . run/outer
cd /
umount --lazy /run/outer
ip link set lo up
exec docker-init -- dockerd --host "unix://$here/docker.sock" --data-root "$here/data" \
    --exec-root /run/docker --pidfile /run/docker.pid --config-file /dev/null \
    --storage-driver overlay2 --iptables=false --ip6tables=false --cgroup-parent "/$2" \
    --log-level warn
"""

# Arguments: a directory, and the same name. When its input closes, so after `kill -9` too,
# this removes control groups and files, which no namespace removes. buildx chooses control
# groups of containers by their ids. Killed processes may need a moment to end.
_CLEAN = r"""
trap "" INT TERM HUP
read -r _
names="$2 $(ls "$1/data/containers")"
for _ in $(seq 300); do
    left=$(for name in $names; do
        find /sys/fs/cgroup -depth -type d -path "*/$name*" ! -exec rmdir {} \; -print
    done)
    rm -rf --one-file-system "$1" && test -z "$left" && exit
    sleep 0.1
done
exit 1
"""


def _root() -> Path:
    """The root with Debian's engine: this machine's own, or one unpacked into the cache."""
    if all((Path("/") / program).exists() for program in (DOCKER, DOCKERD, BUILDX, REGISTRY)):
        return Path("/")

    def make(root: Path) -> None:
        process.run(debian.unpack_command(debian.release(Architecture.here()), PACKAGES, root))

    return cached_root("test-dockerd", f"{debian.SUITE} {platform.machine()} {PACKAGES}", make)


def command(root: Path, program: str) -> list[str]:
    """The command that runs a program of the root with the root's C library."""
    libraries = next(root.glob("usr/lib/*/libc.so.6")).parent
    loader = next(libraries.glob("ld-linux*"))
    return [str(loader), "--library-path", str(libraries), str(root / program)]


def program() -> Path:
    """The engine's program."""
    return _root() / DOCKERD


def registry() -> list[str]:
    """The command of Debian's docker-registry, which an installation would start as a service."""
    return command(_root(), REGISTRY)


def _wrap(root: Path, program: str, wrapper: Path) -> None:
    script(wrapper, f'exec {process.show(command(root, program))} "$@"')


@dataclass(frozen=True)
class Access:
    """How to use an engine.

    Args:
        env: variables for docker and buildx; empty for this machine's engine.
        inside: the prefix of a command that runs in the engine's network.
        shared: the directory that `docker run --volume` can mount.
    """

    env: dict[str, str] = field(default_factory=dict)
    inside: tuple[str, ...] = ()
    shared: Path = Path("/var/tmp")  # noqa: S108 - not in memory


class Engine:
    """A private engine; a restart keeps images and containers.

    Args:
        directory: for its log, and the programs and settings of its clients.
        work: for its socket and its data.
    """

    def __init__(self, directory: Path, work: Path) -> None:
        self.log = directory / "dockerd.log"
        self.env = {
            "PATH": f"{directory / 'bin'}:{os.environ['PATH']}",
            "DOCKER_CONFIG": str(directory / "config"),
            "DOCKER_HOST": f"unix://{work}/docker.sock",
        }
        self._root = _root()
        self._work = work
        self._running: tuple[process.Group, subprocess.Popen[bytes]] | None = None
        (work / "root").mkdir()
        _wrap(self._root, DOCKER, directory / "bin" / "docker")
        _wrap(self._root, BUILDX, directory / "config" / "cli-plugins" / "docker-buildx")

    def start(self) -> None:
        """Start it, and wait until it answers."""
        assert self._running is None, "already running"
        group = process.Group()
        with self.log.open("ab") as log:
            child = group.start(
                [*process.namespaced(), "--net",
                 "sh", "-euc", _ENTER, "sh", self._root, self._work.name],
                cwd=self._work, env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
                stdout=log.fileno(), stderr=log.fileno(),
            )  # fmt: skip
        self._running = group, child
        eventually(lambda: child.poll() is not None or version(self.env))
        assert version(self.env), f"dockerd does not answer: {self.log.read_text()[-3000:]}"

    @property
    def access(self) -> Access:
        """How to use it while it runs."""
        assert self._running is not None, "not running"
        (init,) = process.children(self._running[1].pid)
        return Access(self.env, ("nsenter", f"--net=/proc/{init}/ns/net"), self._work)

    @property
    def pid(self) -> int:
        """The process id of dockerd."""
        assert self._running is not None, "not running"
        below = process.children(self._running[1].pid)
        for pid in below:
            if Path(f"/proc/{pid}/comm").read_text().strip() == "dockerd":
                return pid
            below += process.children(pid)
        raise AssertionError("dockerd is not running")

    def stop(self) -> None:
        """Stop it; containers get process.GRACE_SECONDS."""
        self._end(signal.SIGTERM)
        (self._work / "docker.sock").unlink(missing_ok=True)

    def kill(self) -> None:
        """Kill it, as a crash would: its socket stays."""
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        if self._running is None:
            return
        (group, child), self._running = self._running, None
        inside = process.children(child.pid)
        if number is signal.SIGKILL:
            child.kill()
            child.wait()
        group.close(child)
        # The first process of a namespace ends last.
        assert eventually(lambda: not any(map(alive, inside))), "dockerd does not end"


def version(env: dict[str, str]) -> str:
    """The version of the engine, or an empty string if none answers."""
    if shutil.which("docker", path=env.get("PATH")) is None:
        return ""
    answer = process.probe(
        ["docker", "version", "--format", "{{.Server.Version}}"],
        env={**process.environment(), **env},
    )
    return answer.stdout.strip() if answer.ok else ""


def buildx_version(env: dict[str, str]) -> str:
    """The version of docker's buildx, or an empty string."""
    answer = process.probe(["docker", "buildx", "version"], env={**process.environment(), **env})
    return answer.stdout.split()[1] if answer.ok else ""


@contextlib.contextmanager
def private_engine(directory: Path) -> Iterator[Engine]:
    """A running private engine, for tests that stop it."""
    assert os.geteuid() == 0, "a docker engine needs root"
    # The path of a socket must be short; an overlay cannot be on another overlay.
    work = Path(tempfile.mkdtemp(prefix="dockerd-", dir="/var/tmp"))
    clean = ["sh", "-c", _CLEAN, "sh", str(work), work.name]
    with subprocess.Popen(
        clean, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, process_group=0
    ) as cleaner:
        engine = Engine(directory, work)
        try:
            engine.start()
            yield engine
        finally:
            engine.stop()
    assert cleaner.returncode == 0, f"dockerd left files in {work} or control groups"


@contextlib.contextmanager
def engine(directory: Path) -> Iterator[Access]:
    """This machine's engine if it is recent enough, otherwise a private one."""
    if int(version({}).partition(".")[0] or 0) >= OLDEST:
        yield Access()
    else:
        with private_engine(directory) as ours:
            yield ours.access
