"""Outputs: directories, archives, images, registries."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from buildkit_riscv64.core.arch import Architecture
from buildkit_riscv64.image import layout
from buildkit_riscv64.validation.environment.registry import Registry
from buildkit_riscv64.validation.environment.waiting import BOUND

from ..conftest import NewContext
from ..daemon import run
from .results import Builder, contents, layer, pull, text

OCI = "application/vnd.oci.image"
DOCKER = "application/vnd.docker"


@pytest.fixture
def context(new_context: NewContext) -> Path:
    """A context with two layers on the base: a file, and files of a step with owners, modes and links."""
    return new_context(
        "FROM base\nCOPY file /made/file\n"
        "RUN cd /made && sed s/in/out/ file >other && chown 12:34 other && chmod 4750 other"
        " && ln -s file symlink && ln other hardlink && mkdir -m 1777 directory && rm file\n"
        'LABEL org.example.name=outputs\nCMD ["cat", "/made/other"]\n',
        file="what is put in\n",
    )


def _check_made(members: dict[str, tarfile.TarInfo], other: bytes) -> None:
    """Check /made: content, owners, modes and links."""
    assert other == b"what is put out\n"
    assert (members["made/symlink"].type, members["made/symlink"].linkname) == (tarfile.SYMTYPE, "file")  # fmt: skip
    pair = [members[f"made/{name}"] for name in ("other", "hardlink")]
    assert {it.type for it in pair} == {tarfile.REGTYPE, tarfile.LNKTYPE}
    for it in pair:
        assert (it.mode, it.uid, it.gid) == (0o4750, 12, 34)
    assert members["made/directory"].mode == 0o1777


def _members(archive: tarfile.TarFile) -> dict[str, tarfile.TarInfo]:
    return {member.name.removeprefix("./").rstrip("/"): member for member in archive}


def test_local(builder: Builder, context: Path) -> None:
    """Local output: content, modes and links; existing files stay, except in mode delete"""
    dest = builder.place()
    (dest / "stays").mkdir(parents=True)
    (dest / "stays" / "file").write_text("of before")
    builder.build(context, f"--output=type=local,dest={dest}").good()
    results = dest / "made"
    assert text(results) == {"hardlink": "what is put out", "other": "what is put out"}
    assert results.joinpath("other").stat().st_mode & 0o777 == 0o750
    assert results.joinpath("symlink").readlink() == Path("file")
    assert results.joinpath("directory").is_dir()
    assert (dest / "bin" / "sh").readlink() == Path("busybox")
    assert text(dest / "stays") == {"file": "of before"}
    builder.build(context, f"--output=type=local,dest={dest},mode=delete").good()
    assert not (dest / "stays").exists()
    assert text(results) == {"hardlink": "what is put out", "other": "what is put out"}


def test_tar(builder: Builder, context: Path) -> None:
    """Output as a tar archive, to a file and to standard output"""
    dest = builder.place()
    builder.build(context, f"--output=type=tar,dest={dest}").good()
    with tarfile.open(dest) as archive:
        members = _members(archive)
        other = archive.extractfile(members["made/other"])
        assert other
        _check_made(members, other.read())
        assert members["bin/sh"].linkname == "busybox"
        assert "made/file" not in members
        names = set(members)
    command = builder.command(context, "--output=type=tar")
    reported = subprocess.run(command, check=True, capture_output=True, timeout=BOUND).stdout
    with tarfile.open(fileobj=io.BytesIO(reported)) as archive:
        assert set(_members(archive)) == names


def test_oci(builder: Builder, context: Path) -> None:
    """Output as an OCI image, as directory and archive: digests, configuration, layers"""
    image = builder.image(context)
    assert layout.damaged(image) == ""
    assert image.manifest["mediaType"] == layout.MANIFEST_TYPE
    assert image.platform == {"os": "linux", "architecture": str(Architecture.here())}
    assert image.config["config"]["Labels"] == {"org.example.name": "outputs"}
    assert image.config["config"]["Cmd"] == ["cat", "/made/other"]
    base, copied, ran = image.layers
    assert contents(copied) == {"made/file": b"what is put in\n"}
    with layer(ran) as archive:
        members = _members(archive)
    assert "made/.wh.file" in members
    _check_made(members, contents(ran)["made/other"])
    dest = builder.place()
    builder.build(context, f"--output=type=oci,name=example.org/oci:tag,dest={dest}").good()
    with tarfile.open(dest) as archive:
        names = archive.getnames()
        index = _json(archive, "index.json")
    assert len(names) == len(set(names))
    (descriptor,) = index["manifests"]
    assert descriptor["digest"] == image.digest
    assert descriptor["annotations"]["io.containerd.image.name"] == "example.org/oci:tag"
    assert {base.name, copied.name, ran.name} <= {Path(name).name for name in names}


def _json(archive: tarfile.TarFile, name: str) -> Any:
    member = archive.extractfile(name)
    assert member
    return json.load(member)


def test_docker(builder: Builder, context: Path) -> None:
    """Output for docker load: names, configuration, ordered layers; docker media types on request"""
    name = "example.org/docker:tag"
    for attributes, types in (
        ("", [layout.MANIFEST_TYPE, *[f"{OCI}.layer.v1.tar+gzip"] * 2]),
        (
            ",oci-mediatypes=false",
            [
                f"{DOCKER}.distribution.manifest.v2+json",
                *[f"{DOCKER}.image.rootfs.diff.tar.gzip"] * 2,
            ],
        ),
    ):
        dest = builder.place()
        builder.build(context, f"--output=type=docker,name={name},dest={dest}{attributes}").good()
        with tarfile.open(dest) as archive:
            (image,) = _json(archive, "manifest.json")
            config = _json(archive, image["Config"])
            (descriptor,) = _json(archive, "index.json")["manifests"]
            manifest = _json(archive, f"blobs/sha256/{descriptor['digest'].partition(':')[2]}")
        assert image["RepoTags"] == [name]
        assert config["config"]["Cmd"] == ["cat", "/made/other"]
        layers = manifest["layers"]
        assert [manifest["mediaType"], *(it["mediaType"] for it in layers[1:])] == types
        assert [f"sha256:{Path(it).name}" for it in image["Layers"]] == [
            it["digest"] for it in layers
        ]
        # skopeo can read the archive.
        directory = builder.place()
        run("skopeo", "--insecure-policy", "copy", f"docker-archive:{dest}:{name}", f"oci:{directory}:it").good()  # fmt: skip
        assert contents(layout.load(directory).layers[-1])["made/other"] == b"what is put out\n"


def test_push(
    builder: Builder,
    context: Path,
    local_registry: Registry,
    new_context: NewContext,
    tmp_path: Path,
) -> None:
    """A pushed image has the digest that buildctl reported, and can be pulled"""
    metadata = tmp_path / "metadata.json"
    names = [f"{local_registry.host}/some/image:{tag}" for tag in ("one", "two")]
    builder.build(
        context, f'--output=type=image,"name={",".join(names)}",push=true',
        f"--metadata-file={metadata}",
    ).good()  # fmt: skip
    digest = json.loads(metadata.read_text())["containerimage.digest"]
    image = builder.image(context)
    for name in names:
        got = layout.load(pull(name, builder.place("pulled")))
        assert got.digest == digest
        assert layout.damaged(got) == ""
        assert [it.name for it in got.layers] == [it.name for it in image.layers]
    # The daemon pulls the image by its digest and builds on it.
    onto = new_context(
        "FROM it AS work\nRUN cp -r /made /out\nFROM scratch\nCOPY --from=work /out /\n"
    )
    results = builder.directory(onto, f"--opt=context:it=docker-image://{names[0]}@{digest}")
    assert (results / "other").read_bytes() == b"what is put out\n"
    wrong = f"docker-image://{names[0]}@{image.manifest['config']['digest']}"
    builder.build(onto, f"--opt=context:it={wrong}").bad(wrong.removeprefix("docker-image://"))


def test_push_refused(builder: Builder, context: Path, local_registry: Registry) -> None:
    """A push to an unreachable registry fails with an error that names it"""
    local_registry.kill()
    name = f"{local_registry.host}/some/image"
    builder.build(context, f"--output=type=image,name={name},push=true").bad(
        f"failed to push {name}", "connection refused"
    )


#: By compression: the suffix of the media type, and the first bytes of a blob.
COMPRESSIONS = {
    "gzip": (".layer.v1.tar+gzip", b"\x1f\x8b"),
    "zstd": (".layer.v1.tar+zstd", b"\x28\xb5\x2f\xfd"),
    "estargz": (".layer.v1.tar+gzip", b"\x1f\x8b"),
    "uncompressed": (".layer.v1.tar", b"made/"),
}


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_compression(builder: Builder, context: Path, compression: str) -> None:
    """Each compression has its media type and format, and the same content"""
    ending, magic = COMPRESSIONS[compression]
    image = builder.image(context, output=f"type=oci,compression={compression},force-compression=true,oci-mediatypes=true")  # fmt: skip
    assert layout.damaged(image) == ""
    assert [it["mediaType"] for it in image.manifest["layers"]] == [f"{OCI}{ending}"] * 3
    if compression != "uncompressed":
        assert all(path.read_bytes().startswith(magic) for path in image.layers)
    plain = builder.image(
        context, output="type=oci,compression=uncompressed,force-compression=true"
    )
    assert not any(tarfile_is_compressed(path) for path in plain.layers)
    assert [contents(path) for path in image.layers] == [contents(path) for path in plain.layers]
    with layer(image.layers[-1]) as archive:
        members = _members(archive)
    _check_made(members, contents(image.layers[-1])["made/other"])
    for it, path in zip(image.manifest["layers"], image.layers, strict=True):
        digest = it.get("annotations", {}).get("containerd.io/snapshot/stargz/toc.digest")
        assert (digest is not None) == (compression == "estargz")
        if digest:
            assert f"sha256:{hashlib.sha256(_table_of_contents(path)).hexdigest()}" == digest


def _table_of_contents(path: Path) -> bytes:
    """The table of contents of an estargz layer; the last 51 bytes contain its offset.

    See https://github.com/containerd/stargz-snapshotter/blob/main/docs/estargz.md.
    """
    content = path.read_bytes()
    # The gzip header's extra field: SG, its length, the offset in hexadecimal, STARGZ.
    footer = content[-51:]
    match = re.search(rb"SG..([0-9a-f]{16})STARGZ", footer, re.DOTALL)
    assert match
    table = gzip.decompress(content[int(match[1], 16) : -51])
    with tarfile.open(fileobj=io.BytesIO(table)) as archive:
        reader = archive.extractfile("stargz.index.json")
        assert reader
        return reader.read()


def tarfile_is_compressed(path: Path) -> bool:
    """Whether a file is not an uncompressed tar archive."""
    return path.read_bytes()[257:262] != b"ustar"


def test_compression_level(builder: Builder, new_context: NewContext) -> None:
    """A higher compression level creates smaller layers"""
    words = " ".join(str(number**3) for number in range(30000))
    # A layer is compressed only once, so each build has a different layer.
    context = new_context("FROM scratch\nARG NAME\nCOPY words /$NAME\n", words=words)
    sizes = [
        builder.image(
            context, f"--opt=build-arg:NAME={kind}-{level}",
            output=f"type=oci,compression={kind},compression-level={level},force-compression=true",
        ).size
        for kind, levels in (("gzip", (1, 9)), ("zstd", (1, 19)))
        for level in levels
    ]  # fmt: skip
    assert sizes[0] > sizes[1]
    assert sizes[2] > sizes[3]


def test_reproducible(builder: Builder, new_context: NewContext) -> None:
    """With SOURCE_DATE_EPOCH, two builds without cache have the same digest"""
    epoch = 1_234_567_890
    context = new_context(
        "FROM base\nARG SOURCE_DATE_EPOCH\nCOPY file /made/\n"
        "RUN mkdir /made/now && date >/dev/null && echo $SOURCE_DATE_EPOCH >/made/now/epoch\n",
        file="content",
    )

    def digest(*args: str, output: str) -> layout.Image:
        return builder.image(context, "--no-cache", *args, output=output)

    opt = f"--opt=build-arg:SOURCE_DATE_EPOCH={epoch}"
    # Without it, timestamps differ.
    assert digest(output="type=oci").digest != digest(output="type=oci").digest
    one, other = (digest(opt, output="type=oci,rewrite-timestamp=true") for _ in range(2))
    assert one.digest == other.digest
    assert one.config["created"] == "2009-02-13T23:31:30Z"
    for path in one.layers[1:]:
        with layer(path) as archive:
            assert {int(member.mtime) for member in archive if member.isreg()} == {epoch}
    assert contents(one.layers[-1])["made/now/epoch"].strip() == str(epoch).encode()
    results = builder.directory(context, opt)
    assert int((results / "made/now/epoch").stat().st_mtime) == epoch


def test_annotations(builder: Builder, context: Path) -> None:
    """Annotations of the manifest and of its descriptor"""
    dest = builder.place("layout")
    attributes = ",".join(
        f"annotation{place}.org.example.it={value}"
        for place, value in (("", "manifest"), ("-manifest-descriptor", "descriptor"))
    )
    builder.build(context, f"--output=type=oci,tar=false,dest={dest},{attributes}").good()
    image = layout.load(dest)
    assert image.manifest["annotations"]["org.example.it"] == "manifest"
    assert image.descriptor["annotations"]["org.example.it"] == "descriptor"


def test_several_outputs(builder: Builder, context: Path) -> None:
    """One build writes several outputs with the same content"""
    directory, archive = builder.place(), builder.place()
    oci = builder.place("layout")
    builder.build(
        context, f"--output=type=local,dest={directory}", f"--output=type=tar,dest={archive}",
        f"--output=type=oci,tar=false,dest={oci}",
    ).good()  # fmt: skip
    assert (directory / "made/other").read_bytes() == b"what is put out\n"
    with tarfile.open(archive) as opened:
        assert "made/other" in _members(opened)
    assert contents(layout.load(oci).layers[-1])["made/other"] == b"what is put out\n"
