"""A real docker engine of Debian 13, also on machines that have none: nothing is installed on them.

Its packages are unpacked into a root directory of their own, once, and dockerd is
started in there with mounts, processes and a network of its own. They end with it,
and so does whatever it has started or mounted. No registry can be reached from in
there but one that runs in that network: tests bring their images. And of this machine's
folders `docker run --volume` sees one: where the engine works.
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

from buildkit_riscv64 import debian, process
from buildkit_riscv64.arch import Architecture
from buildkit_riscv64.machine import base

from ..processes import alive, eventually
from .miniature import script
from .roots import kept

#: With all that they depend on; base-files brings the folders, mount is for entering.
PACKAGES = (
    "base-files", "docker-buildx", "docker-cli", "docker-registry", "docker.io", "iproute2",
    "mount", "procps", "tini",
)  # fmt: skip
#: Older ones cannot start privileged containers where root lacks a capability, as in sandboxes.
OLDEST = 23
#: Debian's places; Docker's own dockerd is elsewhere, and before Debian 13 there was no buildx.
DOCKER, DOCKERD = "usr/bin/docker", "usr/sbin/dockerd"
REGISTRY = "usr/bin/docker-registry"
BUILDX = "usr/libexec/docker/cli-plugins/docker-buildx"

# Arguments: the root, and a name. The root is read-only, for all runs share it. A new
# /sys has no securityfs, so no AppArmor profile gets into the kernel, where it would
# stay. It has to be pivot_root: under chroot, `docker exec` lands in the outer file
# system. docker-init reaps what containerd leaves, which dockerd would not.
_ENTER = r"""
mount --bind -o ro "$1" root
mount -t proc proc root/proc
mount -t sysfs sysfs root/sys
mount --rbind /sys/fs/cgroup root/sys/fs/cgroup
mount --rbind /dev root/dev
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

# Arguments: a folder, and the same name. This removes what no namespace takes along, when
# its input closes: so after `kill -9` too. buildx puts containers into a control group of
# its own choice, by their ids. What has just been killed may need a moment.
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
    """Where Debian's engine is: on this very machine, in the cache, or unpacked there now."""
    if all((Path("/") / program).exists() for program in (DOCKER, DOCKERD, BUILDX, REGISTRY)):
        return Path("/")

    def make(root: Path) -> None:
        process.run(base.unpack_command(debian.release(Architecture.here()), PACKAGES, root))

    return kept("test-dockerd", f"{debian.SUITE} {platform.machine()} {PACKAGES}", make)


def command(root: Path, program: str) -> list[str]:
    """How a program of the root's runs out here, where the C library may be older."""
    libraries = next(root.glob("usr/lib/*/libc.so.6")).parent
    loader = next(libraries.glob("ld-linux*"))
    return [str(loader), "--library-path", str(libraries), str(root / program)]


def program() -> Path:
    """The engine's program."""
    return _root() / DOCKERD


def registry() -> list[str]:
    """How Debian's docker-registry runs out here: installed, it would be a service."""
    return command(_root(), REGISTRY)


def _wrap(root: Path, program: str, wrapper: Path) -> None:
    script(wrapper, f'exec {process.show(command(root, program))} "$@"')


@dataclass(frozen=True)
class Access:
    """What it takes to use an engine.

    Args:
        env: what docker and buildx need in their environment; nothing for a machine's own.
        inside: what is put before a command that is to have the engine's network.
        seen: what lies below it containers can have, by `docker run --volume`.
    """

    env: dict[str, str] = field(default_factory=dict)
    inside: tuple[str, ...] = ()
    seen: Path = Path("/var/tmp")


class Engine:
    """An engine of our own; stopped and started again, it has the same images and containers.

    Args:
        folder: for its log, and for the programs and settings of its clients.
        work: for its socket and its data.
    """

    def __init__(self, folder: Path, work: Path) -> None:
        self.log = folder / "dockerd.log"
        self.env = {
            "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
            "DOCKER_CONFIG": str(folder / "config"),
            "DOCKER_HOST": f"unix://{work}/docker.sock",
        }
        self._root = _root()
        self._work = work
        self._running: tuple[process.Group, subprocess.Popen[bytes]] | None = None
        (work / "root").mkdir()
        _wrap(self._root, DOCKER, folder / "bin" / "docker")
        _wrap(self._root, BUILDX, folder / "config" / "cli-plugins" / "docker-buildx")

    def start(self) -> None:
        """Start it, and return as soon as it answers."""
        assert self._running is None, "it runs"
        group = process.Group()
        with self.log.open("ab") as log:
            child = group.start(
                [*process.namespaced(), "--net",
                 "sh", "-euc", _ENTER, "sh", self._root, self._work.name],
                cwd=self._work, env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
                stdout=log.fileno(), stderr=log.fileno(),
            )  # fmt: skip
        self._running = group, child
        eventually(lambda: child.poll() is not None or version(self.env), 120)
        assert version(self.env), f"dockerd does not answer: {self.log.read_text()[-3000:]}"

    @property
    def access(self) -> Access:
        """What it takes to use it, as long as it runs."""
        assert self._running is not None, "it does not run"
        (init,) = process.children(self._running[1].pid)
        return Access(self.env, ("nsenter", f"--net=/proc/{init}/ns/net"), self._work)

    @property
    def pid(self) -> int:
        """Of dockerd itself, below what has entered its root for it."""
        assert self._running is not None, "it does not run"
        below = process.children(self._running[1].pid)
        for pid in below:
            if Path(f"/proc/{pid}/comm").read_text().strip() == "dockerd":
                return pid
            below += process.children(pid)
        raise AssertionError("there is no dockerd")

    def stop(self) -> None:
        """End it; containers get as long as process.GRACE_SECONDS."""
        self._end(signal.SIGTERM)
        (self._work / "docker.sock").unlink(missing_ok=True)

    def kill(self) -> None:
        """End it as a crash would: its socket stays, and nobody listens there."""
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
        # A namespace's first process is gone when all others are.
        assert eventually(lambda: not any(map(alive, inside))), "dockerd does not end"


def version(env: dict[str, str]) -> str:
    """The version of the engine that answers, if one does."""
    if shutil.which("docker", path=env.get("PATH")) is None:
        return ""
    answer = process.probe(
        ["docker", "version", "--format", "{{.Server.Version}}"],
        env={**process.environment(), **env},
    )
    return answer.stdout.strip() if answer.ok else ""


def buildx_version(env: dict[str, str]) -> str:
    """The version of buildx that docker would run, if there is one."""
    answer = process.probe(["docker", "buildx", "version"], env={**process.environment(), **env})
    return answer.stdout.split()[1] if answer.ok else ""


@contextlib.contextmanager
def own(folder: Path) -> Iterator[Engine]:
    """A running engine of our own, for tests that stop it."""
    assert os.geteuid() == 0, "a docker engine needs root"
    # Sockets' paths are short; images' overlays cannot lie on another overlay.
    work = Path(tempfile.mkdtemp(prefix="dockerd-", dir="/var/tmp"))
    clean = ["sh", "-c", _CLEAN, "sh", str(work), work.name]
    with subprocess.Popen(
        clean, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, process_group=0
    ) as cleaner:
        engine = Engine(folder, work)
        try:
            engine.start()
            yield engine
        finally:
            engine.stop()
    assert cleaner.returncode == 0, f"something of dockerd is left in {work} or its control groups"


@contextlib.contextmanager
def engine(folder: Path) -> Iterator[Access]:
    """This machine's engine, where a modern one answers, or one of our own."""
    if int(version({}).partition(".")[0] or 0) >= OLDEST:
        yield Access()
    else:
        with own(folder) as ours:
            yield ours.access
