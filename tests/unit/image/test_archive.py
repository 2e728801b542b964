"""Image archives for `docker load`."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from buildkit_riscv64.core import dist, filesystem
from buildkit_riscv64.core.errors import CheckError
from buildkit_riscv64.image import archive, layout
from buildkit_riscv64.image.variants import Variant

from ..image_factories import make_image

OTHER_VERSION = "v0.0.1"


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """The archive of a finished image."""
    (found,) = make_image(tmp_path).glob("*.image.tar")
    return found


@pytest.fixture
def verified(image: Path) -> dict[str, str]:
    """The sha256 of the programs that the image should contain."""
    programs = image.parents[2] / "bin"
    return {command: filesystem.sha256(programs / command) for command in dist.COMMANDS}


def rewrite(image: Path, change: Callable[[Path], object], again: Path) -> None:
    """Unpack an archive, change the directory, and pack it again."""
    with tarfile.open(image) as tar:
        filesystem.unpack(tar, again)
    change(again)
    with tarfile.open(image, "w") as tar:
        tar.add(again, ".")


def test_the_verified_programs_pass(image: Path, verified: dict[str, str]) -> None:
    archive.require_verified(image, verified, Variant.ROOT)


def test_other_programs_are_refused(image: Path, verified: dict[str, str], tmp_path: Path) -> None:
    """An image that is complete and consistent, but of other programs."""
    (other,) = make_image(tmp_path / "other", version=OTHER_VERSION).glob("*.image.tar")
    with pytest.raises(CheckError, match="is not the verified program") as caught:
        archive.require_verified(other, verified, Variant.ROOT)
    assert other.name in caught.value.brief


def publish(directory: Path, found: layout.Image, manifest: dict[str, Any]) -> None:
    """Let both lists of the archive name another manifest."""
    described = layout._write_blob(directory, json.dumps(manifest).encode(), layout.MANIFEST_TYPE)
    layout.write_index(directory, [{**found.descriptor, **described}])
    loaded = [{**layout.docker_manifest(layout.load(directory)), "RepoTags": ["x"]}]
    (directory / layout.DOCKER).write_text(json.dumps(loaded))


def add_layer(directory: Path, name: str) -> None:
    """Add a layer with a file."""
    found = layout.load(directory)
    file = directory.parent / "layer" / name
    file.parent.mkdir(parents=True)
    file.write_text("#!/bin/sh\n")
    layout.from_directory(directory.parent / "layer", directory.parent / "one", "riscv64")
    added = layout.load(directory.parent / "one")
    layer = added.manifest["layers"][0]
    for blob in added.layers:
        blob.rename(layout.blob(directory, layer["digest"]))
    publish(directory, found, {**found.manifest, "layers": [*found.manifest["layers"], layer]})


def shadow(directory: Path) -> None:
    """Add a layer with another buildctl that comes first on PATH."""
    add_layer(directory, "usr/local/bin/buildctl")


def another_entry_point(directory: Path) -> None:
    """Add a layer with another entry point."""
    add_layer(directory, "usr/bin/buildkitd-entrypoint")


def another_start(directory: Path) -> None:
    """Let the image start another program."""
    found = layout.load(directory)
    config = {**found.config, "config": {"Entrypoint": ["/usr/bin/buildkitd"]}}
    described = layout._write_blob(directory, json.dumps(config).encode(), layout.CONFIG_TYPE)
    publish(directory, found, {**found.manifest, "config": described})


def another_list(directory: Path) -> None:
    """Let docker load another image than the index names."""
    listed = json.loads((directory / layout.DOCKER).read_text())
    listed[0]["Layers"] = ["blobs/sha256/" + "0" * 64]
    (directory / layout.DOCKER).write_text(json.dumps(listed))


def damage(directory: Path) -> None:
    """Change a byte of a layer."""
    (path,) = layout.load(directory).layers
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "change",
    [
        shadow,
        another_entry_point,
        another_start,
        another_list,
        damage,
        lambda directory: (directory / layout.DOCKER).unlink(),
        lambda directory: (directory / layout.DOCKER).write_text("null"),
        lambda directory: (directory / "index.json").write_text("{}"),
    ],
)
def test_a_forged_archive_is_refused(
    image: Path, verified: dict[str, str], tmp_path: Path, change: Callable[[Path], object]
) -> None:
    rewrite(image, lambda _directory: None, tmp_path / "same")
    archive.require_verified(image, verified, Variant.ROOT)
    rewrite(image, change, tmp_path / "forged")
    with pytest.raises(CheckError) as caught:
        archive.require_verified(image, verified, Variant.ROOT)
    assert image.name in caught.value.brief


def test_another_variant_is_refused(image: Path, verified: dict[str, str]) -> None:
    with pytest.raises(CheckError, match="differs from this checkout"):
        archive.require_verified(image, verified, Variant.ROOTLESS)


def test_what_is_no_archive_is_refused(image: Path, verified: dict[str, str]) -> None:
    image.write_bytes(b"no archive")
    with pytest.raises(CheckError) as caught:
        archive.require_verified(image, verified, Variant.ROOT)
    assert image.name in caught.value.brief
