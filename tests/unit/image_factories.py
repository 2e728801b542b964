"""Factories of finished images of a few KiB, as `invoke build-image` publishes them."""

from __future__ import annotations

import shutil
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Any

from buildkit_riscv64.core import dist, filesystem
from buildkit_riscv64.core.arch import Target
from buildkit_riscv64.image import (
    base_image,
    build,
    build_request,
    check,
    engines,
    layout,
    variants,
)
from buildkit_riscv64.image.packages import Package

from .factories import COMMIT, elf

CREATED = "2026-08-04T12:27:40Z"
RECORD: dict[str, Any] = {
    "engine": "buildkit", "base": {"origin": "rootfs", "digest": f"sha256:{'0' * 64}"},
    "inputs": f"sha256:{'1' * 64}", "started": CREATED, "finished": CREATED, "seconds": 1.0,
}  # fmt: skip
PACKAGES = [
    Package(name="tini", version="0.19.0-3", architecture="riscv64", sha256="2" * 64, size=1000)
]


def binaries(place: Path, target: Target, version: str) -> dict[str, Path]:
    """Write programs that have only headers into a target's directory."""
    paths = {}
    for command in dist.COMMANDS:
        path = place / target.name / dist.binary(command)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(elf(target.arch) + f"{command} {version}".encode())
        paths[command] = path
    return paths


def make_image(
    place: Path,
    target: str = "linux-riscv64",
    variant: str = "root",
    *,
    version: str = "v0.32.2",
    revision: str = COMMIT,
    pinned: bool = True,
    created: str = CREATED,
    payload: bytes = b"",
) -> Path:
    """Create the finished directory of an image, and its binaries.

    Args:
        place: a `dist/`.
        target: the target's name.
        variant: the image's variant.
        version: BuildKit's version.
        revision: BuildKit's commit.
        pinned: the source is the pinned one.
        created: the commit's time.
        payload: content of an additional file.
    """
    options = build.ImageOptions(
        variant=variants.Variant(variant), engine=engines.Name.BUILDKIT,
        base=base_image.Origin.ROOTFS, target=Target.parse(target),
    )  # fmt: skip
    programs = binaries(place, options.target, version)
    files = [
        {"name": dist.binary(command), "sha256": filesystem.sha256(path)}
        for command, path in programs.items()
    ]
    source = {"time": created, "pinned": pinned}
    phase_1 = dist.Artifacts(
        place / target,
        {"version": version, "revision": revision, "source": source, "files": files},
    )
    folder = place / target / dist.IMAGE / variant
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as root:
        (Path(root) / "usr/bin").mkdir(parents=True)
        for path in programs.values():
            shutil.copy(path, Path(root) / "usr/bin")
        for name, file in build_request.configuration(options.variant).items():
            (Path(root) / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, Path(root) / name)
        (Path(root) / "variant").write_text(variant)
        (Path(root) / "payload").write_bytes(payload)
        config: dict[str, Any] = {"Entrypoint": check.ENTRYPOINT}
        if options.variant is variants.Variant.ROOTLESS:
            config["User"] = "1000:1000"
        layout.from_directory(Path(root), folder / dist.LAYOUT, options.target.arch, config=config)
    epoch = int(datetime.fromisoformat(created).timestamp())
    build._describe(options, folder, phase_1, PACKAGES, RECORD, epoch, updates=True)
    return folder
