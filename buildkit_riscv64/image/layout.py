"""OCI image layouts: directories with one or more images, stored by digest.

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

from ..core import documents, filesystem, schemas
from ..core.errors import CheckError

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
TAR_TYPE = "application/vnd.oci.image.layer.v1.tar"
#: Docker's own list of the images in an archive.
DOCKER = "manifest.json"
#: Annotation with an image's name.
REF_NAME = "org.opencontainers.image.ref.name"

Descriptor = dict[str, Any]


def blob(layout: Path, digest: str) -> Path:
    """Path of a blob."""
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
    """Write `oci-layout` and `index.json`, which make a directory with blobs a layout."""
    filesystem.write_json(layout / "oci-layout", {"imageLayoutVersion": "1.0.0"})
    index = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": list(manifests)}
    filesystem.write_json(layout / "index.json", index)


def from_directory(
    root: Path, layout: Path, arch: str, variant: str = "", config: Mapping[str, Any] | None = None
) -> str:
    """Create a reproducible image with one layer from a root file system.

    Args:
        root: the root file system; root will own every file.
        layout: the layout to create.
        arch: architecture of the programs.
        variant: of the architecture, if any.
        config: how the image starts, in the format of OCI's configuration.

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
    digest = f"sha256:{filesystem.sha256(aside)}"
    layer = {"mediaType": TAR_TYPE, "digest": digest, "size": aside.stat().st_size}
    blob(layout, digest).parent.mkdir(parents=True)
    aside.replace(blob(layout, digest))
    platform = {"os": "linux", "architecture": arch} | ({"variant": variant} if variant else {})
    whole = {
        **platform, "config": config or {},
        "rootfs": {"type": "layers", "diff_ids": [digest]},
    }  # fmt: skip
    manifest = {
        "schemaVersion": 2, "mediaType": MANIFEST_TYPE, "layers": [layer],
        "config": _write_blob(layout, _encode(whole), CONFIG_TYPE),
    }  # fmt: skip
    descriptor = _write_blob(layout, _encode(manifest), MANIFEST_TYPE)
    write_index(layout, [{**descriptor, "platform": platform}])
    return str(descriptor["digest"])


@dataclass(frozen=True)
class Image:
    """An image for one platform.

    Args:
        layout: its layout.
        descriptor: of the manifest, from `index.json`.
        manifest: the image's manifest.
        config: the image's configuration.
    """

    layout: Path
    descriptor: Mapping[str, Any]
    manifest: Mapping[str, Any]
    config: Mapping[str, Any]

    @property
    def digest(self) -> str:
        """The image's digest."""
        return str(self.descriptor["digest"])

    @property
    def platform(self) -> dict[str, str]:
        """The platform, as in an index."""
        keys = ("os", "architecture", "variant")
        return {key: self.config[key] for key in keys if key in self.config}

    @property
    def layers(self) -> list[Path]:
        """Blobs of the layers, the lowest first."""
        return [blob(self.layout, layer["digest"]) for layer in self.manifest["layers"]]

    @property
    def size(self) -> int:
        """Compressed size in bytes."""
        return sum(int(layer["size"]) for layer in self.manifest["layers"])

    @property
    def blobs(self) -> Iterator[Descriptor]:
        """Descriptors of every blob, the manifest first."""
        yield dict(self.descriptor)
        yield self.manifest["config"]
        yield from self.manifest["layers"]


def _document(path: Path, kind: str) -> Any:
    """Read and validate a document of a layout.

    Raises:
        OSError: the document cannot be read.
        InvalidDocumentError: the document is invalid.
    """
    found = documents.parse_json(filesystem.read_bytes(path))
    documents.validate(found, schemas.OCI, kind)
    return found


def load(layout: Path) -> Image:
    """The only image of a layout.

    Raises:
        CheckError: no image, or more than one.
    """
    try:
        (descriptor,) = _document(layout / "index.json", "image")["manifests"]
        manifest = _document(blob(layout, descriptor["digest"]), "manifest")
        config = _document(blob(layout, manifest["config"]["digest"]), "config")
        return Image(layout, descriptor, manifest, config)
    except (OSError, ValueError) as error:
        raise CheckError(
            f"{filesystem.display_path(layout)} is not the layout of an image: {error}",
            "run `invoke build-image --force` to rebuild it",
        ) from error


def damaged(image: Image) -> str:
    """Digest of the first damaged blob, or an empty string."""
    for descriptor in image.blobs:
        path = blob(image.layout, descriptor["digest"])
        try:
            good = f"sha256:{filesystem.sha256(path)}" == descriptor["digest"]
        except OSError:
            good = False
        # The manifest comes first, so later descriptors are from an undamaged manifest.
        if not good or path.stat().st_size != descriptor.get("size"):
            return str(descriptor["digest"])
    return ""


def docker_manifest(image: Image) -> dict[str, Any]:
    """An image in docker's own format, which is older than OCI's and uses the same blobs."""
    return {
        "Config": str(blob(Path(), image.manifest["config"]["digest"])),
        "Layers": [str(layer.relative_to(image.layout)) for layer in image.layers],
    }


def archive(image: Image, path: Path, name: str) -> None:
    """Write a layout to an archive that `docker load` accepts.

    Args:
        image: the image.
        path: of the archive.
        name: the image's name in docker, such as `buildkit:v0.32.2`.
    """
    docker = [{**docker_manifest(image), "RepoTags": [name]}]

    def plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.uid = entry.gid = entry.mtime = 0
        entry.uname = entry.gname = ""
        entry.mode = 0o755 if entry.isdir() else 0o644
        return entry

    extra = image.layout / DOCKER
    filesystem.write_json(extra, docker)
    try:
        with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
            for file in sorted(image.layout.rglob("*")):
                tar.add(file, str(file.relative_to(image.layout)), recursive=False, filter=plain)
    finally:
        extra.unlink()


def combined(images: Sequence[Image]) -> tuple[Descriptor, bytes]:
    """The manifest of a single image, or an index of several.

    Returns:
        Its descriptor, and the content of an index or nothing; reproducible.
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
    """Create a layout from named images; several platforms become an index."""
    for image in {image.digest: image for parts in images.values() for image in parts}.values():
        for descriptor in image.blobs:
            _copy_blob(image.layout, layout, descriptor["digest"])
    entries = []
    for name, parts in images.items():
        entry, content = combined(parts)
        if content:
            _write_blob(layout, content, INDEX_TYPE)
        entries.append({**entry, "annotations": {REF_NAME: name}})
    write_index(layout, entries)


def names(layout: Path) -> dict[str, Descriptor]:
    """Descriptors in a layout by name; empty without a layout.

    Raises:
        CheckError: the layout cannot be read.
    """
    try:
        entries = _document(layout / "index.json", "named")["manifests"]
        return {one["annotations"][REF_NAME]: one for one in entries}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise CheckError(
            f"{filesystem.display_path(layout)} is not a layout of named images: {error}",
            "move it away, and run it again",
        ) from error


def merge(source: Path, layout: Path) -> None:
    """Add the named images of `source` to a layout, and replace those of the same names.

    Replaces the index last and atomically: after an interruption, the index is the old or
    the new one, and its blobs exist. Then removes unreferenced blobs.
    """
    entries = [*{**names(layout), **names(source)}.values()]
    for path in (source / "blobs").glob("*/*"):
        _copy_blob(source, layout, f"{path.parent.name}:{path.name}")
    write_index(layout, entries)
    try:
        needed = set(_reachable(layout, entries))
    except (OSError, ValueError):
        return  # a damaged layout does not tell which blobs are referenced
    for path in (layout / "blobs").glob("*/*"):
        if f"{path.parent.name}:{path.name}" not in needed:
            path.unlink()


def _reachable(layout: Path, descriptors: Iterable[Descriptor]) -> Iterator[str]:
    """Digests of every referenced blob."""
    for descriptor in descriptors:
        yield descriptor["digest"]
        if descriptor["mediaType"] == INDEX_TYPE:
            index = _document(blob(layout, descriptor["digest"]), "index")
            yield from _reachable(layout, index["manifests"])
        elif descriptor["mediaType"] == MANIFEST_TYPE:
            manifest = _document(blob(layout, descriptor["digest"]), "manifest")
            yield from _reachable(layout, [manifest["config"], *manifest["layers"]])


def _copy_blob(source: Path, layout: Path, digest: str) -> None:
    """Copy a blob from another layout atomically."""
    target = blob(layout, digest)
    if target.exists() and f"sha256:{filesystem.sha256(target)}" == digest:
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
