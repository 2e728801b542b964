"""A clean Debian 13 of this machine's architecture, to install packages in for real.

It is unpacked and configured once, and kept in the cache; each test gets a copy. Programs
run in it with mounts and processes of their own, which end with them; the network is this
machine's, so that they reach a server on loopback. systemd is installed there, but does not
run: that takes a machine.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import http.server
import os
import platform
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from buildkit_riscv64 import debian, process, project
from buildkit_riscv64.arch import Architecture

#: What the packages depend on, so that nothing but them comes from their repository; and
#: what reads their man pages, completions and profiles.
PACKAGES = (
    "apparmor", "bash-completion", "fish", "man-db", "passwd", "rootlesskit", "runc",
    "slirp4netns", "systemd", "uidmap", "zsh",
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


def _template() -> Path:
    recipe = f"{debian.SUITE} {platform.machine()} {PACKAGES}"
    cache = project.cache()
    root = cache / f"test-debian-{hashlib.sha256(recipe.encode()).hexdigest()[:16]}"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / ".test-debian.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for interrupted in cache.glob(".test-debian-*/"):
            shutil.rmtree(interrupted)
        if not root.is_dir():
            release = debian.release(Architecture.here())
            with tempfile.TemporaryDirectory(prefix=".test-debian-", dir=cache) as aside:
                made = Path(aside) / "root"
                process.run(
                    ["mmdebstrap", "--quiet", "--variant=apt", f"--include={','.join(PACKAGES)}",
                     debian.SUITE, made, release.source()],
                )  # fmt: skip
                (made / "etc/apt/sources.list").unlink()
                made.rename(root)
    return root


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
    """

    path: Path

    def _argv(self, args: Sequence[str]) -> list[str]:
        return [*process.namespaced(), "sh", "-euc", _ENTER, "sh", str(self.path), *args]

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


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """A folder served over HTTP on loopback; its address."""
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
