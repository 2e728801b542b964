"""Root directories for tests, created once and cached."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from buildkit_riscv64.core import locks, project

#: The mode of /dev/net/tun and /dev/fuse with udev, and without.
UDEV_MODE, KERNEL_MODE = "666", "600"

# A shell function. Arguments: the directory that becomes /dev, and the mode of /dev/net/tun
# and /dev/fuse. New nodes, because the modes of this machine's nodes vary and packages that
# are installed in a root may change them.
DEVICES = r"""
make_devices() {
    mount -t tmpfs -o mode=755 tmpfs "$1"
    mkdir "$1/net" "$1/pts" "$1/shm"
    mknod -m 666 "$1/null" c 1 3
    mknod -m 666 "$1/zero" c 1 5
    mknod -m 666 "$1/full" c 1 7
    mknod -m 666 "$1/random" c 1 8
    mknod -m 666 "$1/urandom" c 1 9
    mknod -m 666 "$1/tty" c 5 0
    mknod -m "$2" "$1/fuse" c 10 229
    mknod -m "$2" "$1/net/tun" c 10 200
    mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts "$1/pts"
    mount -t tmpfs tmpfs "$1/shm"
    ln -s pts/ptmx "$1/ptmx"
    ln -s /proc/self/fd "$1/fd"
}
"""


def cached_root(name: str, recipe: str, make: Callable[[Path], None]) -> Path:
    """A cached root directory; one test run at a time creates it.

    Args:
        name: its name in the cache.
        recipe: every input of its content, for the cache key.
        make: creates it at a path that does not exist.
    """
    cache = project.cache()
    root = cache / f"{name}-{hashlib.sha256(recipe.encode()).hexdigest()[:16]}"
    with locks.held(cache / f".{name}.lock"):
        for interrupted in cache.glob(f".{name}-*/"):
            shutil.rmtree(interrupted)
        if not root.is_dir():
            with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=cache) as aside:
                temporary = Path(aside) / "root"
                make(temporary)
                temporary.rename(root)
    return root
