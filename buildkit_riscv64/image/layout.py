"""OCI image layouts: a folder with an image, or several, by digest.

See https://github.com/opencontainers/image-spec/blob/main/image-layout.md.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import storage
from ..errors import CheckError

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
TAR_TYPE = "application/vnd.oci.image.layer.v1.tar"
#: Which of several images, by its name.
REF_NAME = "org.opencontainers.image.ref.name"

Descriptor = dict[str, Any]


def blob(layout: Path, digest: str) -> Path:
    """Where a blob is."""
    algorithm, _, value = digest.partition(":")
    return layout / "blobs" / algorithm / value


def _described(content: bytes, media_type: str) -> Descriptor:
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    return {"mediaType": media_type, "digest": digest, "size": len(content)}


def _write_blob(layout: Path, content: bytes, media_type: str) -> Descriptor:
    descriptor = _described(content, media_type)
    path = blob(layout, descriptor["digest"])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return descriptor


def _encode(value: Any) -> bytes:
    return json.dumps(value, indent=2, sort_keys=True).encode()


def write_index(layout: Path, manifests: Iterable[Descriptor]) -> None:
    """Write what makes a folder with blobs a layout."""
    storage.write_json(layout / "oci-layout", {"imageLayoutVersion": "1.0.0"})
    index = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": list(manifests)}
    storage.write_json(layout / "index.json", index)


def from_folder(root: Path, layout: Path, arch: str, variant: str = "") -> str:
    """Make an image of one layer from a root file system; the same gives the same.

    Args:
        root: the root file system; everything in it will be root's.
        layout: where the layout is to be made.
        arch: what its programs are for.
        variant: of the architecture, if it has one.

    Returns:
        The digest of its manifest.
    """

    def plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.uid = entry.gid = entry.mtime = 0
        entry.uname = entry.gname = ""
        return entry

    layout.mkdir(parents=True)
    aside = layout / "layer.tar"
    with tarfile.open(aside, "w", format=tarfile.GNU_FORMAT) as tar:
        for path in sorted(root.rglob("*")):
            tar.add(path, str(path.relative_to(root)), recursive=False, filter=plain)
    digest = f"sha256:{storage.sha256(aside)}"
    layer = {"mediaType": TAR_TYPE, "digest": digest, "size": aside.stat().st_size}
    blob(layout, digest).parent.mkdir(parents=True)
    aside.replace(blob(layout, digest))
    platform = {"os": "linux", "architecture": arch} | ({"variant": variant} if variant else {})
    config = {
        **platform, "config": {},
        "rootfs": {"type": "layers", "diff_ids": [digest]},
    }  # fmt: skip
    manifest = {
        "schemaVersion": 2, "mediaType": MANIFEST_TYPE, "layers": [layer],
        "config": _write_blob(layout, _encode(config), CONFIG_TYPE),
    }  # fmt: skip
    descriptor = _write_blob(layout, _encode(manifest), MANIFEST_TYPE)
    write_index(layout, [{**descriptor, "platform": platform}])
    return str(descriptor["digest"])


@dataclass(frozen=True)
class Image:
    """An image for one platform in a layout.

    Args:
        layout: the folder.
        descriptor: of its manifest, as `index.json` has it.
        manifest: its manifest.
        config: its configuration.
    """

    layout: Path
    descriptor: Mapping[str, Any]
    manifest: Mapping[str, Any]
    config: Mapping[str, Any]

    @property
    def digest(self) -> str:
        """By which anybody can pull exactly this image."""
        return str(self.descriptor["digest"])

    @property
    def platform(self) -> dict[str, str]:
        """What it runs on, as an index says it."""
        keys = ("os", "architecture", "variant")
        return {key: self.config[key] for key in keys if key in self.config}

    @property
    def layers(self) -> list[Path]:
        """Its layers' blobs, the lowest first."""
        return [blob(self.layout, layer["digest"]) for layer in self.manifest["layers"]]

    @property
    def size(self) -> int:
        """What a registry stores and a pull transfers, in bytes."""
        return sum(int(layer["size"]) for layer in self.manifest["layers"])

    @property
    def blobs(self) -> Iterator[Descriptor]:
        """Everything it consists of, its manifest first."""
        yield dict(self.descriptor)
        yield self.manifest["config"]
        yield from self.manifest["layers"]


def load(layout: Path) -> Image:
    """The only image of a layout.

    Raises:
        CheckError: it is not there, or there is not exactly one.
    """
    try:
        index = json.loads((layout / "index.json").read_text())
        (descriptor,) = index["manifests"]
        manifest = json.loads(blob(layout, descriptor["digest"]).read_bytes())
        config = json.loads(blob(layout, manifest["config"]["digest"]).read_bytes())
        if not isinstance(config, dict):
            raise TypeError("its configuration is no object")
        return Image(layout, descriptor, manifest, config)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckError(
            f"{storage.shown(layout)} is not the layout of an image: {error}",
            "run `invoke build-image --force` to make it anew",
        ) from error


def damaged(image: Image) -> str:
    """The digest of the first blob that is not what it is called; or nothing."""
    for descriptor in image.blobs:
        path = blob(image.layout, descriptor["digest"])
        try:
            good = f"sha256:{storage.sha256(path)}" == descriptor["digest"]
        except OSError:
            good = False
        # What a damaged manifest says of the others is not looked at: it is the first.
        if not good or path.stat().st_size != descriptor.get("size"):
            return str(descriptor["digest"])
    return ""


def archive(image: Image, path: Path, name: str) -> None:
    """Write a layout as one file that `docker load` takes too.

    Args:
        image: the image.
        path: the file.
        name: what docker is to call it, as in `buildkit:v0.32.2`.
    """
    # Of docker's own format, since before there was OCI's; it points into the same blobs.
    docker = [
        {
            "Config": str(blob(Path(), image.manifest["config"]["digest"])),
            "RepoTags": [name],
            "Layers": [str(layer.relative_to(image.layout)) for layer in image.layers],
        }
    ]

    def plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.uid = entry.gid = entry.mtime = 0
        entry.uname = entry.gname = ""
        entry.mode = 0o755 if entry.isdir() else 0o644
        return entry

    extra = image.layout / "manifest.json"
    storage.write_json(extra, docker)
    try:
        with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
            for file in sorted(image.layout.rglob("*")):
                tar.add(file, str(file.relative_to(image.layout)), recursive=False, filter=plain)
    finally:
        extra.unlink()


def combined(images: Sequence[Image]) -> tuple[Descriptor, bytes]:
    """What stands for images of one name: the manifest of one, an index of several.

    Returns:
        Its descriptor, and the content of an index; the same images give the same.
    """
    descriptors = [
        {
            "mediaType": MANIFEST_TYPE, "digest": image.digest,
            "size": image.descriptor["size"], "platform": image.platform,
        }
        for image in images
    ]  # fmt: skip
    if len(descriptors) == 1:
        return descriptors[0], b""
    index = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": descriptors}
    if annotations := images[0].manifest.get("annotations"):
        index["annotations"] = annotations
    content = _encode(index)
    return _described(content, INDEX_TYPE), content


def gather(images: Mapping[str, Sequence[Image]], layout: Path) -> None:
    """Make a layout of images: by name, one for each platform; several become an index."""
    for image in {image.digest: image for parts in images.values() for image in parts}.values():
        for descriptor in image.blobs:
            _take_over(image.layout, layout, descriptor["digest"])
    entries = []
    for name, parts in images.items():
        entry, content = combined(parts)
        if content:
            _write_blob(layout, content, INDEX_TYPE)
        entries.append({**entry, "annotations": {REF_NAME: name}})
    write_index(layout, entries)


def names(layout: Path) -> dict[str, Descriptor]:
    """What a layout has by name; nothing where there is none.

    Raises:
        CheckError: it cannot be read.
    """
    try:
        entries = json.loads((layout / "index.json").read_text())["manifests"]
        return {one["annotations"][REF_NAME]: one for one in entries}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckError(
            f"{storage.shown(layout)} is not a layout of named images: {error}",
            "move it away, and run it again",
        ) from error


def merge(source: Path, layout: Path) -> None:
    """Add what a layout has by name to another, in the place of what that has by the same names.

    The index is replaced last and in one step: whenever this is interrupted, it is
    the old one or the new one, and what it names is there. What nothing leads to
    any more is removed after that.
    """
    entries = [*{**names(layout), **names(source)}.values()]
    for path in (source / "blobs").glob("*/*"):
        _take_over(source, layout, f"{path.parent.name}:{path.name}")
    write_index(layout, entries)
    try:
        needed = set(_reachable(layout, entries))
    except (OSError, ValueError, KeyError, TypeError):
        return  # what somebody has damaged says nothing of what is needed
    for path in (layout / "blobs").glob("*/*"):
        if f"{path.parent.name}:{path.name}" not in needed:
            path.unlink()


def _reachable(layout: Path, descriptors: Iterable[Descriptor]) -> Iterator[str]:
    """The digests of all that descriptors lead to."""
    for descriptor in descriptors:
        yield descriptor["digest"]
        if descriptor["mediaType"] == INDEX_TYPE:
            index = json.loads(blob(layout, descriptor["digest"]).read_bytes())
            yield from _reachable(layout, index["manifests"])
        elif descriptor["mediaType"] == MANIFEST_TYPE:
            manifest = json.loads(blob(layout, descriptor["digest"]).read_bytes())
            yield from _reachable(layout, [manifest["config"], *manifest["layers"]])


def _take_over(source: Path, layout: Path, digest: str) -> None:
    """Have a blob of another layout here too; whole, or not at all."""
    target = blob(layout, digest)
    if target.exists() and f"sha256:{storage.sha256(target)}" == digest:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        try:
            aside.hardlink_to(blob(source, digest))
        except OSError:
            shutil.copyfile(blob(source, digest), aside)
        aside.replace(target)
    finally:
        aside.unlink(missing_ok=True)
