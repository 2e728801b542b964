from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from buildkit_riscv64.core import filesystem
from buildkit_riscv64.core.errors import CheckError
from buildkit_riscv64.image import layout


def make(directory: Path, text: str = "one", arch: str = "riscv64") -> layout.Image:
    """An image with one file."""
    root = directory.with_name(f"{directory.name}.root")
    root.mkdir()
    (root / "file").write_text(text)
    layout.from_directory(root, directory, arch)
    return layout.load(directory)


def tree(directory: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()
    }


def edit(path: Path, change: Callable[[Any], object]) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def complete(directory: Path) -> None:
    """Assert that every blob of a layout exists and matches its digest."""
    needed = list(layout._reachable(directory, layout.names(directory).values()))
    for digest in needed:
        assert f"sha256:{filesystem.sha256(layout.blob(directory, digest))}" == digest


@pytest.fixture
def image(tmp_path: Path) -> layout.Image:
    return make(tmp_path / "image")


def test_same_directory_gives_the_same_image(tmp_path: Path) -> None:
    first = make(tmp_path / "first")
    os.utime(tmp_path / "first.root/file", (1, 1))
    layout.from_directory(tmp_path / "first.root", tmp_path / "second", "riscv64")
    assert tree(first.layout) == tree(tmp_path / "second")


def test_image_of_a_directory(image: layout.Image) -> None:
    (layer,) = image.layers
    with tarfile.open(layer) as tar:
        (entry,) = tar.getmembers()
    assert (entry.name, entry.uid, entry.mtime, entry.uname) == ("file", 0, 0, "")
    assert image.platform == {"os": "linux", "architecture": "riscv64"}
    assert image.size == layer.stat().st_size
    assert image.config["rootfs"]["diff_ids"] == [f"sha256:{layer.name}"]
    assert next(image.blobs)["digest"] == image.digest
    assert len({one["digest"] for one in image.blobs}) == 3


def test_not_a_layout(tmp_path: Path) -> None:
    with pytest.raises(CheckError, match="nowhere") as error:
        layout.load(tmp_path / "nowhere")
    assert "build-image --force" in error.value.hint


@pytest.mark.parametrize(
    "change",
    [
        lambda index: index["manifests"].append(index["manifests"][0]),
        lambda index: index["manifests"].clear(),
        lambda index: index["manifests"][0].pop("digest"),
        lambda index: index["manifests"][0].update(digest=f"sha256:{'0' * 64}"),
        lambda index: index.pop("manifests"),
    ],
)
def test_invalid_index(image: layout.Image, change: Callable[[Any], object]) -> None:
    edit(image.layout / "index.json", change)
    with pytest.raises(CheckError):
        layout.load(image.layout)


def test_good_image_is_not_damaged(image: layout.Image) -> None:
    assert layout.damaged(image) == ""


@pytest.mark.parametrize("number", [0, 1, 2])
def test_each_damaged_blob_is_found(image: layout.Image, number: int) -> None:
    digest = list(image.blobs)[number]["digest"]
    path = layout.blob(image.layout, digest)
    path.write_bytes(bytes(byte ^ 1 for byte in path.read_bytes()))
    assert layout.damaged(image) == digest
    path.unlink()
    assert layout.damaged(image) == digest


def test_wrong_size(image: layout.Image) -> None:
    edit(image.layout / "index.json", lambda index: index["manifests"][0].update(size=1))
    assert layout.damaged(layout.load(image.layout)) == image.digest


def test_descriptor_without_a_size(image: layout.Image) -> None:
    edit(image.layout / "index.json", lambda index: index["manifests"][0].pop("size"))
    with pytest.raises(CheckError, match="size"):
        layout.load(image.layout)


def test_damaged_manifest_is_not_trusted(image: layout.Image) -> None:
    edit(layout.blob(image.layout, image.digest), lambda manifest: manifest.update(layers=[{}]))
    with pytest.raises(CheckError, match="layers"):
        layout.load(image.layout)


def test_archive_can_be_loaded_by_docker(image: layout.Image, tmp_path: Path) -> None:
    before = tree(image.layout)
    for name in ("one.tar", "two.tar"):
        layout.archive(image, tmp_path / name, "buildkit:v0.32.2")
    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "two.tar").read_bytes()
    assert tree(image.layout) == before
    with tarfile.open(tmp_path / "one.tar") as tar:
        names = tar.getnames()
        inside = tar.extractfile("manifest.json")
        assert inside is not None
        (docker,) = json.load(inside)
    assert docker["RepoTags"] == ["buildkit:v0.32.2"]
    assert {docker["Config"], *docker["Layers"], "oci-layout", "index.json"} <= set(names)


def test_single_image_needs_no_index(image: layout.Image) -> None:
    descriptor, content = layout.combined([image])
    assert descriptor["digest"] == image.digest
    assert not content


def test_several_images_become_an_index(tmp_path: Path) -> None:
    images = [make(tmp_path / arch, arch=arch) for arch in ("amd64", "riscv64")]
    descriptor, content = layout.combined(images)
    assert layout.combined(images) == (descriptor, content)
    index = json.loads(content)
    assert (descriptor["mediaType"], index["mediaType"]) == (layout.INDEX_TYPE, layout.INDEX_TYPE)
    assert descriptor["size"] == len(content)
    assert [one["platform"]["architecture"] for one in index["manifests"]] == ["amd64", "riscv64"]
    assert [one["digest"] for one in index["manifests"]] == [image.digest for image in images]
    assert "annotations" not in index


def test_index_has_its_images_annotations(tmp_path: Path) -> None:
    images = [make(tmp_path / arch, arch=arch) for arch in ("amd64", "riscv64")]
    for one in images:
        assert isinstance(one.manifest, dict)
        one.manifest["annotations"] = {"org.opencontainers.image.version": "v0.32.2"}
    index = json.loads(layout.combined(images)[1])
    assert index["annotations"] == {"org.opencontainers.image.version": "v0.32.2"}


def test_platform_has_the_variant(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    layout.from_directory(tmp_path / "root", tmp_path / "image", "arm", "v7")
    image = layout.load(tmp_path / "image")
    assert image.platform == {"os": "linux", "architecture": "arm", "variant": "v7"}
    assert image.descriptor["platform"] == image.platform


def test_gathering(tmp_path: Path) -> None:
    images = [make(tmp_path / arch, arch=arch) for arch in ("amd64", "riscv64")]
    before = [tree(image.layout) for image in images]
    layout.gather({"v1": images, "latest": images, "alone": images[:1]}, tmp_path / "all")
    named = layout.names(tmp_path / "all")
    assert list(named) == ["v1", "latest", "alone"]
    assert (
        named["v1"]["digest"] == named["latest"]["digest"] == layout.combined(images)[0]["digest"]
    )
    assert named["alone"]["digest"] == images[0].digest
    complete(tmp_path / "all")
    assert [tree(image.layout) for image in images] == before


def test_gathering_takes_no_space(image: layout.Image, tmp_path: Path) -> None:
    layout.gather({"v1": [image]}, tmp_path / "all")
    for one in image.blobs:
        source, copy = (layout.blob(where, one["digest"]) for where in (image.layout, tmp_path / "all"))  # fmt: skip
        assert copy.samefile(source)


def test_gathering_without_hard_links(
    image: layout.Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_path: Path, _target: Path) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    layout.gather({"v1": [image]}, tmp_path / "all")
    complete(tmp_path / "all")


def test_no_layout_has_no_names(tmp_path: Path) -> None:
    assert layout.names(tmp_path) == {}


@pytest.mark.parametrize("text", ["{", "[]", '{"manifests": [{}]}', '{"manifests": 1}'])
def test_not_a_layout_of_named_images(tmp_path: Path, text: str) -> None:
    (tmp_path / "index.json").write_text(text)
    with pytest.raises(CheckError, match="layout"):
        layout.names(tmp_path)


@pytest.fixture
def merging(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """A layout with `old` and `latest`, and another with `new` and `latest`."""
    directories = tmp_path / "source", tmp_path / "target"
    for directory, name in zip(directories, ("new", "old"), strict=True):
        image = make(tmp_path / name, text=name)
        layout.gather({name: [image], "latest": [image]}, directory)
    yield directories
    complete(directories[1])


def test_merging(merging: tuple[Path, Path]) -> None:
    source, target = merging
    old = layout.names(target)["old"]
    layout.merge(source, target)
    named = layout.names(target)
    assert named["old"] == old
    assert {name: named[name] for name in ("new", "latest")} == layout.names(source)


def test_merging_into_nothing(merging: tuple[Path, Path], tmp_path: Path) -> None:
    source, _ = merging
    layout.merge(source, tmp_path / "nothing")
    assert tree(tmp_path / "nothing") == tree(source)


def test_unreferenced_blobs_are_removed(merging: tuple[Path, Path], tmp_path: Path) -> None:
    source, target = merging
    (target / "blobs/sha256/.interrupted.123").write_text("half")
    layout.merge(source, target)
    layout.gather({"old": [layout.load(tmp_path / "new")]}, tmp_path / "third")
    layout.merge(tmp_path / "third", target)
    assert tree(target / "blobs") == tree(source / "blobs")


def test_damaged_blob_is_replaced(merging: tuple[Path, Path]) -> None:
    source, target = merging
    layout.merge(source, target)
    for path in (source / "blobs/sha256").iterdir():
        (target / "blobs/sha256" / path.name).unlink()
        (target / "blobs/sha256" / path.name).write_text("damaged")
    layout.merge(source, target)
    complete(target)


def test_merging_into_a_damaged_layout(merging: tuple[Path, Path]) -> None:
    source, target = merging
    digest = layout.names(target)["old"]["digest"]
    content = layout.blob(target, digest).read_bytes()
    for damage in (b"", b"[]", b"{}"):
        layout.blob(target, digest).write_bytes(damage)
        layout.merge(source, target)
        assert set(layout.names(target)) == {"old", "new", "latest"}
    layout.blob(target, digest).write_bytes(content)


@pytest.mark.parametrize("verb", ["replace", "hardlink_to", "unlink"])
def test_merging_is_atomic(tmp_path: Path, verb: str) -> None:
    images = {name: make(tmp_path / name, text=name) for name in ("old", "new")}
    layout.gather({"latest": [images["new"]]}, tmp_path / "source")
    real = getattr(Path, verb)
    ended = 0
    for moment in range(100):
        target = tmp_path / f"target-{moment}"
        layout.gather({"latest": [images["old"]]}, target)
        left = moment

        def cut(path: Path, *args: Any, **options: Any) -> Any:
            nonlocal left
            if left == 0:
                raise KeyboardInterrupt
            left -= 1
            return real(path, *args, **options)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Path, verb, cut)
            try:
                layout.merge(tmp_path / "source", target)
                ended = moment
            except KeyboardInterrupt:
                pass
        complete(target)
        assert layout.names(target)["latest"]["digest"] in {one.digest for one in images.values()}
        layout.merge(tmp_path / "source", target)
        assert tree(target / "blobs") == tree(tmp_path / "source" / "blobs")
        if ended:
            break
    assert ended >= 3
