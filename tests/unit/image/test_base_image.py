from __future__ import annotations

import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from buildkit_riscv64.core import filesystem, process, project
from buildkit_riscv64.core.arch import Architecture
from buildkit_riscv64.core.errors import Failure, NetworkError, StorageError, UsageError
from buildkit_riscv64.image import base_image, layout
from buildkit_riscv64.image.base_image import BaseImage, Origin
from buildkit_riscv64.image.packages import Archive, Package

from ..factories import Commands

ARCH = Architecture.RISCV64
DIGEST = f"sha256:{'ab' * 32}"
PLATFORM = ["--override-os", "linux", "--override-arch", "riscv64"]
INSPECT = [
    "skopeo", *PLATFORM, "--command-timeout", f"{base_image.ANSWER_SECONDS}s", "inspect", "--format", "{{.Digest}}",
    "docker://docker.io/library/debian:trixie-slim",
]  # fmt: skip
NO_ANSWER = 'time="…" level=fatal msg="Error parsing image name: pinging: i/o timeout"\n'

PACKAGES = [
    Package(name=name, version="1:1", architecture="riscv64", sha256="0" * 64, size=1)
    for name in ("dash", "tar")
]


@pytest.fixture
def archive() -> Archive:
    return Archive(ARCH)


@pytest.fixture
def skopeo(commands: Commands, monkeypatch: pytest.MonkeyPatch, base: BaseImage) -> Commands:
    """Skopeo with a registry that answers, and dpkg-deb."""

    def copy(words: list[str]) -> None:
        place = Path(words[-1].removeprefix("oci:").removesuffix(":base"))
        shutil.copytree(base.layout, place, dirs_exist_ok=True)

    def extract(words: list[str]) -> None:
        for name in ("bin/{}", "usr/share/doc/{}"):
            path = Path(words[-1], name.format(Path(words[-2]).name))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("content")

    monkeypatch.setattr(process, "which", lambda name: Path("/usr/bin", name))
    commands.answer("skopeo", "inspect", stdout=f"{DIGEST}\n")
    commands.answer("skopeo", "copy", does=copy)
    commands.answer("dpkg-deb", does=extract)
    return commands


def ensure(
    archive: Archive, origin: Origin = Origin.AUTO, packages: list[Package] = PACKAGES
) -> BaseImage:
    return base_image.ensure(origin, archive, packages, yes=True)


def bases() -> Path:
    return project.cache() / "image-base"


def cached_bases() -> list[str]:
    return sorted(path.name for path in bases().iterdir()) if bases().exists() else []


def asked(commands: Commands) -> list[str]:
    """The verbs of the commands that ran."""
    words = {"inspect", "copy", "--extract"}
    return [next(word for word in args if word in words) for args in commands.args]


@pytest.mark.parametrize("name", ["auto", "registry", "rootfs"])
def test_origins(name: str) -> None:
    assert base_image.parse(name) == name


@pytest.mark.parametrize("name", ["", "alpine", "AUTO", "rootfs "])
def test_unknown_origin(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        base_image.parse(name)
    assert f"--base {name}" in caught.value.brief
    assert "auto, registry, rootfs" in caught.value.hint


# From a registry.


def test_registry_answers(archive: Archive, skopeo: Commands, base: BaseImage) -> None:
    pulled = ensure(archive)
    directory = bases() / f"riscv64-{'ab' * 8}"
    assert pulled == BaseImage(layout=directory, digest=base.digest, origin=Origin.REGISTRY)
    inspect, copy = skopeo.calls
    assert (inspect.args, inspect.options["timeout"]) == (INSPECT, base_image.ANSWER_SECONDS + 10)
    assert copy.args[:-1] == [
        "skopeo", *PLATFORM, "copy", "--quiet", f"docker://docker.io/library/debian:trixie-slim@{DIGEST}",
    ]  # fmt: skip
    assert copy.args[-1].startswith(f"oci:{bases()}/.making-")
    assert cached_bases() == [directory.name]


def test_pulled_base_is_cached(archive: Archive, skopeo: Commands) -> None:
    first = ensure(archive)
    assert ensure(archive) == first
    assert asked(skopeo) == ["inspect", "copy", "inspect"]


def test_newer_base_is_pulled(archive: Archive, skopeo: Commands) -> None:
    first = ensure(archive)
    skopeo.answer("skopeo", "inspect", stdout=f"sha256:{'cd' * 32}\n")
    assert ensure(archive).layout != first.layout
    assert asked(skopeo) == ["inspect", "copy"] * 2


@pytest.mark.parametrize(
    "code", [pytest.param(1, id="no answer"), pytest.param(124, id="not in time")]
)
@pytest.mark.parametrize("verb", ["inspect", "copy"])
def test_rootfs_if_the_registry_does_not_answer(
    archive: Archive, skopeo: Commands, capsys: pytest.CaptureFixture[str], verb: str, code: int
) -> None:
    skopeo.answer("skopeo", verb, code=code, stderr=NO_ANSWER)
    assert ensure(archive).origin is Origin.ROOTFS
    assert "docker.io/library/debian:trixie-slim" in capsys.readouterr().err
    assert [name.partition("-")[0] for name in cached_bases()] == ["riscv64"]


def test_reason_for_rootfs_is_logged(
    archive: Archive, skopeo: Commands, capsys: pytest.CaptureFixture[str]
) -> None:
    skopeo.answer("skopeo", "inspect", code=1, stderr=NO_ANSWER)
    ensure(archive)
    assert "i/o timeout" in capsys.readouterr().err.splitlines()[0]


@pytest.mark.parametrize("verb", ["inspect", "copy"])
def test_no_rootfs_with_base_registry(
    archive: Archive, skopeo: Commands, provided: list[object], verb: str
) -> None:
    skopeo.answer("skopeo", verb, code=1, stderr=NO_ANSWER)
    with pytest.raises(NetworkError) as caught:
        ensure(archive, Origin.REGISTRY)
    assert "--base rootfs" in caught.value.hint
    assert "--extract" not in asked(skopeo)
    assert cached_bases() == []


def test_skopeo_is_installed_for_base_registry(
    archive: Archive, skopeo: Commands, provided: list[object]
) -> None:
    assert ensure(archive, Origin.REGISTRY).origin is Origin.REGISTRY
    assert provided == [(["skopeo"], True)]


def test_skopeo_is_not_installed_otherwise(
    archive: Archive, skopeo: Commands, provided: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "which", lambda _name: None)
    assert ensure(archive).origin is Origin.ROOTFS
    assert provided == []
    assert asked(skopeo) == ["--extract"] * 2


# Without a registry.


def test_base_of_packages(
    archive: Archive, skopeo: Commands, provided: list[object], capsys: pytest.CaptureFixture[str]
) -> None:
    built = ensure(archive, Origin.ROOTFS)
    assert built.origin is Origin.ROOTFS
    assert built.layout.name.startswith("riscv64-")
    assert cached_bases() == [built.layout.name]
    assert provided == []
    (root,) = {args[-1] for args in skopeo.args}
    assert skopeo.args == [
        ["dpkg-deb", "--extract", str(archive.path(package)), root] for package in PACKAGES
    ]
    assert root.startswith(f"{bases()}/")
    assert {call.options["timeout"] for call in skopeo.calls} == {None}
    assert "2 packages" in capsys.readouterr().err


def test_base_has_the_packages_files_without_documentation(
    archive: Archive, skopeo: Commands
) -> None:
    image = layout.load(ensure(archive, Origin.ROOTFS).layout)
    assert layout.damaged(image) == ""
    assert image.config["architecture"] == "riscv64"
    (layer,) = image.layers
    with tarfile.open(layer) as tar:
        assert tar.getnames() == ["bin", *(f"bin/{package.file}" for package in PACKAGES), "usr"]


def test_base_is_cached_by_its_packages(archive: Archive, skopeo: Commands) -> None:
    first = ensure(archive, Origin.ROOTFS)
    assert ensure(archive, Origin.ROOTFS) == first
    assert len(skopeo.calls) == 2
    assert ensure(archive, Origin.ROOTFS, PACKAGES[:1]).layout != first.layout
    assert ensure(Archive(Architecture.AMD64), Origin.ROOTFS).layout.name.startswith("amd64-")


def test_package_cannot_be_unpacked(archive: Archive, skopeo: Commands) -> None:
    skopeo.answer("dpkg-deb", code=2, stderr="dpkg-deb: error: No space left on device\n")
    with pytest.raises(StorageError, match="No space left on device"):
        ensure(archive, Origin.ROOTFS)
    assert cached_bases() == []


# In the cache.


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def blob(directory: Path, name: str) -> Path:
    image = layout.load(directory)
    digests = {
        "manifest": image.digest, "config": image.manifest["config"]["digest"],
        "layer": image.manifest["layers"][0]["digest"],
    }  # fmt: skip
    return layout.blob(directory, digests[name])


DAMAGES: dict[str, Callable[[Path], object]] = {
    "a layer": lambda directory: flip(blob(directory, "layer")),
    "its configuration": lambda directory: flip(blob(directory, "config")),
    "its manifest": lambda directory: flip(blob(directory, "manifest")),
    "a missing layer": lambda directory: blob(directory, "layer").unlink(),
    "no index": lambda directory: (directory / "index.json").unlink(),
    "garbage": lambda directory: (directory / "index.json").write_text("{"),
    "two images": lambda directory: layout.write_index(
        directory, [dict(layout.load(directory).descriptor)] * 2
    ),
    "no blobs": lambda directory: shutil.rmtree(directory / "blobs"),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("origin", [Origin.REGISTRY, Origin.ROOTFS])
def test_damaged_base_is_rebuilt(
    archive: Archive, skopeo: Commands, provided: list[object], origin: Origin, damage: str
) -> None:
    first = ensure(archive, origin)
    whole = {path: filesystem.sha256(path) for path in first.layout.rglob("*") if path.is_file()}
    calls = len(skopeo.calls)
    DAMAGES[damage](first.layout)
    assert ensure(archive, origin) == first
    assert len(skopeo.calls) == 2 * calls
    assert {
        path: filesystem.sha256(path) for path in first.layout.rglob("*") if path.is_file()
    } == whole


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
@pytest.mark.parametrize("origin", [Origin.REGISTRY, Origin.ROOTFS])
def test_failure_leaves_no_partial_base(
    archive: Archive, skopeo: Commands, provided: list[object], origin: Origin, error: BaseException
) -> None:
    def fail(words: list[str]) -> None:
        place = Path(words[-1].removeprefix("oci:").removesuffix(":base"))
        place.mkdir(parents=True, exist_ok=True)
        (place / "half").write_text("half")
        raise error

    skopeo.answer("copy" if origin is Origin.REGISTRY else "dpkg-deb", does=fail)
    with pytest.raises(type(error)):
        ensure(archive, origin)
    assert cached_bases() == []


def test_leftovers_of_a_killed_run_are_removed(archive: Archive, skopeo: Commands) -> None:
    (bases() / ".making-abc" / "blobs").mkdir(parents=True)
    pulled = ensure(archive)
    assert cached_bases() == [pulled.layout.name]


def test_invalid_pull_is_refused(
    archive: Archive, skopeo: Commands, provided: list[object]
) -> None:
    skopeo.answer("skopeo", "copy")
    with pytest.raises(Failure):
        ensure(archive, Origin.REGISTRY)
    assert cached_bases() == []
