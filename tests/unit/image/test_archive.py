"""Image archives for `docker load`."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from buildkit_riscv64.core import dist, filesystem
from buildkit_riscv64.core.errors import CheckError
from buildkit_riscv64.image import archive, layout

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
        tar.extractall(again, filter="data")
    change(again)
    with tarfile.open(image, "w") as tar:
        tar.add(again, ".")


def test_the_verified_programs_pass(image: Path, verified: dict[str, str]) -> None:
    archive.require_verified(image, verified)


def test_other_programs_are_refused(image: Path, verified: dict[str, str], tmp_path: Path) -> None:
    """An image that is complete and consistent, but of other programs."""
    (other,) = make_image(tmp_path / "other", version=OTHER_VERSION).glob("*.image.tar")
    with pytest.raises(CheckError, match="is not the verified program") as caught:
        archive.require_verified(other, verified)
    assert other.name in caught.value.brief


def shadow(directory: Path) -> None:
    """Add a layer with another buildctl that comes first on PATH."""
    found = layout.load(directory)
    root = directory.parent / "layer"
    (root / "usr/local/bin").mkdir(parents=True)
    (root / "usr/local/bin/buildctl").write_text("#!/bin/sh\n")
    (directory / "index.json").unlink()
    digest = layout.from_directory(root, directory.parent / "one", "riscv64")
    added = layout.load(directory.parent / "one")
    assert added.digest == digest
    layer = added.manifest["layers"][0]
    for blob in added.layers:
        blob.rename(layout.blob(directory, layer["digest"]))
    manifest = {**found.manifest, "layers": [*found.manifest["layers"], layer]}
    content = json.dumps(manifest).encode()
    described = layout._write_blob(directory, content, layout.MANIFEST_TYPE)
    layout.write_index(directory, [{**found.descriptor, **described}])
    loaded = [{**layout.docker_manifest(layout.load(directory)), "RepoTags": ["x"]}]
    (directory / layout.DOCKER).write_text(json.dumps(loaded))


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
    archive.require_verified(image, verified)
    rewrite(image, change, tmp_path / "forged")
    with pytest.raises(CheckError) as caught:
        archive.require_verified(image, verified)
    assert image.name in caught.value.brief


def test_what_is_no_archive_is_refused(image: Path, verified: dict[str, str]) -> None:
    image.write_bytes(b"no archive")
    with pytest.raises(CheckError) as caught:
        archive.require_verified(image, verified)
    assert image.name in caught.value.brief
