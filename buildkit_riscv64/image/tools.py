"""What unpacks the packages, as the Dockerfile's `base`: with a registry, or without.

Either way it is an OCI layout, and nothing of it gets into the image.
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

from .. import apt, process, project
from ..console import say
from ..errors import Failure, NetworkError, StorageError, UsageError
from . import layout
from .packages import Archive, Package

#: What is taken when a registry answers.
REFERENCE = "docker.io/library/debian:trixie-slim"
#: Seconds for a registry to answer at all.
ANSWER_SECONDS = 20


class Origin(StrEnum):
    """Where the base comes from."""

    AUTO = "auto"
    REGISTRY = "registry"
    ROOTFS = "rootfs"


@dataclass(frozen=True, kw_only=True)
class Base:
    """A base that is there.

    Args:
        layout: its OCI layout.
        digest: of its manifest.
        origin: `registry` or `rootfs`.
    """

    layout: Path
    digest: str
    origin: Origin


def parse(text: str) -> Origin:
    """The origin that `--base` asks for.

    Raises:
        UsageError: there is none of that name.
    """
    if text not in list(Origin):
        raise UsageError(f"--base {text}: no such base", f"one of: {', '.join(Origin)}")
    return Origin(text)


def ensure(origin: Origin, archive: Archive, packages: Sequence[Package], *, yes: bool) -> Base:
    """The base: from the cache, or made or fetched now.

    Args:
        origin: where from; `auto` asks the registry first.
        archive: Debian's, locked.
        packages: the tools, already fetched; for a base without a registry.
        yes: install skopeo without asking, if a registry is asked for.

    Raises:
        NetworkError: the registry was asked for, and does not answer.
        StorageError: there is no space.
    """
    if origin is Origin.REGISTRY:
        apt.provide(["skopeo"], yes=yes)
    if origin is not Origin.ROOTFS and process.which("skopeo"):
        try:
            return _pull(archive.arch)
        except NetworkError as error:
            if origin is Origin.REGISTRY:
                raise
            reason = error.brief.rpartition(": ")[2].strip('"')
            say(f"{REFERENCE} cannot be had ({reason}): doing without")
    return _make(archive, packages)


def _folder(key: str) -> Path:
    return project.cache() / "image-base" / key


def _pull(arch: str) -> Base:
    platform = ["--override-os", "linux", "--override-arch", arch]
    hint = "check the network, or use --base rootfs"
    # First only its digest: most of the time it is what it was.
    digest = process.read(
        ["skopeo", *platform, "--command-timeout", f"{ANSWER_SECONDS}s", "inspect",
         "--format", "{{.Digest}}", f"docker://{REFERENCE}"],
        timeout=ANSWER_SECONDS + 10, error=NetworkError, hint=hint,
    ).strip()  # fmt: skip
    folder = _folder(f"{arch}-{digest.removeprefix('sha256:')[:16]}")

    def fill(aside: Path) -> None:
        process.run(
            ["skopeo", *platform, "copy", "--quiet", f"docker://{REFERENCE}@{digest}",
             f"oci:{aside}:base"],
            error=NetworkError, hint=hint,
        )  # fmt: skip

    return Base(layout=folder, digest=_once(folder, fill), origin=Origin.REGISTRY)


def _make(archive: Archive, packages: Sequence[Package]) -> Base:
    key = hashlib.sha256(json.dumps([p.as_json() for p in packages]).encode()).hexdigest()
    folder = _folder(f"{archive.arch}-{key[:16]}")

    def fill(aside: Path) -> None:
        say(f"making the base of {len(packages)} packages, once")
        with tempfile.TemporaryDirectory(dir=aside.parent) as temporary:
            root = Path(temporary) / "root"
            for package in packages:
                process.read(
                    ["dpkg-deb", "--extract", archive.path(package), root],
                    timeout=None, error=StorageError, hint="is there space? df -h ~",
                )  # fmt: skip
            shutil.rmtree(root / "usr/share", ignore_errors=True)
            aside.rmdir()
            layout.from_folder(root, aside, archive.arch)

    return Base(layout=folder, digest=_once(folder, fill), origin=Origin.ROOTFS)


def _once(folder: Path, fill: Callable[[Path], None]) -> str:
    """Fill a folder aside and put it in its place, unless a good one is there."""
    try:
        image = layout.load(folder)
        if not layout.damaged(image):
            return image.digest
    except Failure:
        pass
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    for leftover in folder.parent.glob(".making-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    aside = Path(tempfile.mkdtemp(prefix=".making-", dir=folder.parent))
    try:
        fill(aside)
        digest = layout.load(aside).digest
        aside.rename(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return digest
