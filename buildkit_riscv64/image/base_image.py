"""The Dockerfile's `base`, which unpacks the packages: pulled from a registry, or built locally.

The base is an OCI layout. Nothing of it enters the image.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from ..core import process, project
from ..core.console import log
from ..core.errors import Failure, NetworkError, StorageError, UsageError
from ..system import apt
from . import layout
from .packages import Archive, Package

#: The image to pull.
REFERENCE = "docker.io/library/debian:trixie-slim"
#: Timeout of a registry's first answer, in seconds.
ANSWER_SECONDS = 60


class Origin(StrEnum):
    """Sources of the base."""

    AUTO = "auto"
    REGISTRY = "registry"
    ROOTFS = "rootfs"


@dataclass(frozen=True, kw_only=True)
class BaseImage:
    """An available base.

    Args:
        layout: its OCI layout.
        digest: of its manifest.
        origin: `registry` or `rootfs`.
    """

    layout: Path
    digest: str
    origin: Origin


def parse(text: str) -> Origin:
    """The origin named by `--base`.

    Raises:
        UsageError: unknown origin.
    """
    if text not in list(Origin):
        raise UsageError(f"--base {text}: no such base", f"one of: {', '.join(Origin)}")
    return Origin(text)


def ensure(
    origin: Origin, archive: Archive, packages: Sequence[Package], *, yes: bool
) -> BaseImage:
    """The base, from the cache if possible.

    Args:
        origin: the source; `auto` tries the registry first.
        archive: Debian's, locked.
        packages: the tools, already fetched; for a base without a registry.
        yes: with `--base registry`, install skopeo without asking.

    Raises:
        NetworkError: with `--base registry`, the registry does not answer.
        StorageError: no space left.
    """
    if origin is Origin.REGISTRY:
        apt.ensure_installed(["skopeo"], yes=yes)
    if origin is not Origin.ROOTFS and process.which("skopeo"):
        try:
            return _pull(archive.arch)
        except NetworkError as error:
            if origin is Origin.REGISTRY:
                raise
            reason = error.brief.rpartition(": ")[2].strip('"')
            log(f"cannot pull {REFERENCE} ({reason}): using --base rootfs")
    return _build(archive, packages)


def _directory(key: str) -> Path:
    return project.cache() / "image-base" / key


def _pull(arch: str) -> BaseImage:
    platform = ["--override-os", "linux", "--override-arch", arch]
    hint = "check the network, or use --base rootfs"
    # Ask for the digest first: usually the cached base is current.
    digest = process.read(
        ["skopeo", *platform, "--command-timeout", f"{ANSWER_SECONDS}s", "inspect",
         "--format", "{{.Digest}}", f"docker://{REFERENCE}"],
        timeout=ANSWER_SECONDS + 10, error=NetworkError, hint=hint,
    ).strip()  # fmt: skip
    directory = _directory(f"{arch}-{digest.removeprefix('sha256:')[:16]}")

    def fill(aside: Path) -> None:
        process.run(
            ["skopeo", *platform, "copy", "--quiet", f"docker://{REFERENCE}@{digest}",
             f"oci:{aside}:base"],
            error=NetworkError, hint=hint,
        )  # fmt: skip

    return BaseImage(layout=directory, digest=_cached(directory, fill), origin=Origin.REGISTRY)


def _build(archive: Archive, packages: Sequence[Package]) -> BaseImage:
    key = hashlib.sha256(json.dumps([p.as_json() for p in packages]).encode()).hexdigest()
    directory = _directory(f"{archive.arch}-{key[:16]}")

    def fill(aside: Path) -> None:
        log(f"building the base from {len(packages)} packages")
        with tempfile.TemporaryDirectory(dir=aside.parent) as temporary:
            root = Path(temporary) / "root"
            for package in packages:
                process.read(
                    ["dpkg-deb", "--extract", archive.path(package), root],
                    timeout=None, changes=True, error=StorageError, hint="is there space? df -h ~",
                )  # fmt: skip
            shutil.rmtree(root / "usr/share", ignore_errors=True)
            aside.rmdir()
            layout.from_directory(root, aside, archive.arch)

    return BaseImage(layout=directory, digest=_cached(directory, fill), origin=Origin.ROOTFS)


def _cached(directory: Path, fill: Callable[[Path], None]) -> str:
    """Fill a directory atomically, unless it holds an undamaged layout; return the digest."""
    try:
        image = layout.load(directory)
        if not layout.damaged(image):
            return image.digest
    except Failure:
        pass
    shutil.rmtree(directory, ignore_errors=True)
    directory.parent.mkdir(parents=True, exist_ok=True)
    for leftover in directory.parent.glob(".making-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    aside = Path(tempfile.mkdtemp(prefix=".making-", dir=directory.parent))
    try:
        fill(aside)
        digest = layout.load(aside).digest
        aside.rename(directory)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return digest
