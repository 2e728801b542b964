"""Base images of the scenarios from Debian's busybox: they need no registry."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from buildkit_riscv64.core import locks, project
from buildkit_riscv64.core.arch import Platform
from buildkit_riscv64.image import layout, packages

#: Debian's statically linked busybox.
PACKAGE = "busybox-static"
#: The applets of busybox that the image has links for.
APPLETS = (
    "awk", "cat", "chmod", "chown", "cmp", "cp", "cut", "date", "dd", "df", "dirname", "du", "echo",
    "env", "expr", "false", "find", "grep", "head", "hostname", "id", "ip", "kill", "ln", "ls",
    "md5sum", "mkdir", "mktemp", "mount", "mv", "nc", "od", "ping", "printf", "ps", "pwd",
    "readlink", "rm", "rmdir", "sed", "seq", "sh", "sha256sum", "sleep", "sort", "stat", "sync",
    "tail", "tar", "tee", "test", "timeout", "touch", "tr", "true", "umount", "uname", "uniq", "wc",
    "wget", "which", "whoami", "xargs",
)  # fmt: skip


@dataclass(frozen=True)
class BaseImage:
    """An image in an OCI layout, for `FROM base`.

    Args:
        layout: the directory.
        digest: the digest of its manifest or index.
    """

    layout: Path
    digest: str

    def flags(self, name: str = "base") -> list[str]:
        """Options of buildctl for `FROM base`."""
        return [
            f"--oci-layout={name}={self.layout}",
            f"--opt=context:{name}=oci-layout://{name}@{self.digest}",
        ]

    def context(self, name: str = "base") -> str:
        """The named context for buildx and bake, as name=value."""
        return f"{name}=oci-layout://{self.layout}@{self.digest}"


def busybox(platform: Platform) -> BaseImage:
    """The base image for a platform, from the cache or built from Debian's package."""
    archive = packages.Archive(platform.debian)
    place = project.cache() / "validation-base"
    with locks.held(place / f".{archive.arch}.lock"):
        final = place / archive.arch
        if not final.is_dir():
            with (
                archive.locked(),
                tempfile.TemporaryDirectory(prefix=".making-", dir=place) as aside,
            ):
                root = Path(aside) / "root"
                _unpack(archive, [PACKAGE], root)
                _complete(root)
                layout.from_directory(
                    root, Path(aside) / "layout", platform.architecture, platform.variant
                )
                (Path(aside) / "layout").rename(final)
        return BaseImage(final, layout.load(final).digest)


def unpack(platform: Platform, names: Sequence[str], root: Path) -> None:
    """Unpack Debian packages into a directory, without their dependencies."""
    archive = packages.Archive(platform.debian)
    with archive.locked():
        _unpack(archive, names, root)


def _unpack(archive: packages.Archive, names: Sequence[str], root: Path) -> None:
    archive.update()
    found = archive.named(*names)
    archive.fetch(found)
    for package in found:
        subprocess.run(["dpkg-deb", "--extract", archive.path(package), root], check=True)


def index(platforms: Iterable[Platform], directory: Path) -> BaseImage:
    """An index of the base images for several platforms.

    Args:
        platforms: the platforms.
        directory: the directory of its layout.
    """
    images = [layout.load(busybox(platform).layout) for platform in platforms]
    layout.gather({"base": images}, directory)
    return BaseImage(directory, layout.combined(images)[0]["digest"])


def _complete(root: Path) -> None:
    """Add the directories and files that programs expect."""
    shutil.rmtree(root / "usr/share")
    for name in ("dev", "etc", "home", "proc", "root", "sys", "tmp", "var"):
        (root / name).mkdir(exist_ok=True)
    (root / "tmp").chmod(0o1777)
    (root / "etc/passwd").write_text(
        "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home:/bin/sh\n"
    )
    (root / "etc/group").write_text("root:x:0:\nuser:x:1000:\n")
    # Debian 13 has /bin in /usr.
    program = next(
        path for path in (root / "usr/bin/busybox", root / "bin/busybox") if path.is_file()
    )
    (root / "bin").mkdir(exist_ok=True)
    if program.parent != root / "bin":
        program.rename(root / "bin/busybox")
    shutil.rmtree(root / "usr")
    for applet in APPLETS:
        (root / "bin" / applet).symlink_to("busybox")
