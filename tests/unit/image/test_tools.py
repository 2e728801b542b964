from __future__ import annotations

import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from buildkit_riscv64 import process, project, storage
from buildkit_riscv64.arch import Architecture
from buildkit_riscv64.errors import Failure, NetworkError, StorageError, UsageError
from buildkit_riscv64.image import layout, tools
from buildkit_riscv64.image.packages import Archive, Package
from buildkit_riscv64.image.tools import Base, Origin

from ..making import Commands

ARCH = Architecture.RISCV64
DIGEST = f"sha256:{'ab' * 32}"
PLATFORM = ["--override-os", "linux", "--override-arch", "riscv64"]
INSPECT = [
    "skopeo", *PLATFORM, "--command-timeout", "20s", "inspect", "--format", "{{.Digest}}",
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
def skopeo(commands: Commands, monkeypatch: pytest.MonkeyPatch, base: Base) -> Commands:
    """A registry that answers, and dpkg-deb."""

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


def ensure(archive: Archive, origin: Origin = Origin.AUTO, packages: list[Package] = PACKAGES) -> Base:  # fmt: skip
    return tools.ensure(origin, archive, packages, yes=True)


def bases() -> Path:
    return project.cache() / "image-base"


def kept() -> list[str]:
    return sorted(path.name for path in bases().iterdir()) if bases().exists() else []


def asked(commands: Commands) -> list[str]:
    """The tools that were used, and what for."""
    words = {"inspect", "copy", "--extract"}
    return [next(word for word in args if word in words) for args in commands.args]


@pytest.mark.parametrize("name", ["auto", "registry", "rootfs"])
def test_the_bases(name: str) -> None:
    assert tools.parse(name) == name


@pytest.mark.parametrize("name", ["", "alpine", "AUTO", "rootfs "])
def test_there_are_no_others(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        tools.parse(name)
    assert caught.value.brief == f"--base {name}: no such base"
    assert caught.value.hint == "one of: auto, registry, rootfs"


# From a registry.


def test_a_registry_that_answers(archive: Archive, skopeo: Commands, base: Base) -> None:
    made = ensure(archive)
    folder = bases() / f"riscv64-{'ab' * 8}"
    assert made == Base(layout=folder, digest=base.digest, origin=Origin.REGISTRY)
    inspect, copy = skopeo.calls
    assert (inspect.args, inspect.options["timeout"]) == (INSPECT, 30)
    assert copy.args[:-1] == [
        "skopeo", *PLATFORM, "copy", "--quiet", f"docker://docker.io/library/debian:trixie-slim@{DIGEST}",
    ]  # fmt: skip
    assert copy.args[-1].startswith(f"oci:{bases()}/.making-")
    assert kept() == [folder.name]


def test_what_was_pulled_is_kept(archive: Archive, skopeo: Commands) -> None:
    first = ensure(archive)
    assert ensure(archive) == first
    assert asked(skopeo) == ["inspect", "copy", "inspect"]


def test_a_newer_one_is_pulled(archive: Archive, skopeo: Commands) -> None:
    first = ensure(archive)
    skopeo.answer("skopeo", "inspect", stdout=f"sha256:{'cd' * 32}\n")
    assert ensure(archive).layout != first.layout
    assert asked(skopeo) == ["inspect", "copy"] * 2


@pytest.mark.parametrize(
    "code", [pytest.param(1, id="no answer"), pytest.param(124, id="not in time")]
)
@pytest.mark.parametrize("verb", ["inspect", "copy"])
def test_a_registry_that_does_not_answer_is_done_without(archive: Archive, skopeo: Commands, capsys: pytest.CaptureFixture[str], verb: str, code: int) -> None:  # fmt: skip
    skopeo.answer("skopeo", verb, code=code, stderr=NO_ANSWER)
    assert ensure(archive).origin is Origin.ROOTFS
    assert "docker.io/library/debian:trixie-slim cannot be had (" in capsys.readouterr().err
    assert [name.partition("-")[0] for name in kept()] == ["riscv64"]


def test_why_it_is_done_without_is_told_in_short(archive: Archive, skopeo: Commands, capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    skopeo.answer("skopeo", "inspect", code=1, stderr=NO_ANSWER)
    ensure(archive)
    assert capsys.readouterr().err.splitlines()[0] == (
        "docker.io/library/debian:trixie-slim cannot be had (i/o timeout): doing without"
    )


@pytest.mark.parametrize("verb", ["inspect", "copy"])
def test_who_asks_for_the_registry_gets_no_other(archive: Archive, skopeo: Commands, provided: list[object], verb: str) -> None:  # fmt: skip
    skopeo.answer("skopeo", verb, code=1, stderr=NO_ANSWER)
    with pytest.raises(NetworkError) as caught:
        ensure(archive, Origin.REGISTRY)
    assert caught.value.hint == "check the network, or use --base rootfs"
    assert "--extract" not in asked(skopeo)
    assert kept() == []


def test_skopeo_is_installed_for_who_asks_for_the_registry(archive: Archive, skopeo: Commands, provided: list[object]) -> None:  # fmt: skip
    assert ensure(archive, Origin.REGISTRY).origin is Origin.REGISTRY
    assert provided == [(["skopeo"], True)]


def test_for_nobody_else(archive: Archive, skopeo: Commands, provided: list[object], monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setattr(process, "which", lambda _name: None)
    assert ensure(archive).origin is Origin.ROOTFS
    assert provided == []
    assert asked(skopeo) == ["--extract"] * 2


# Without one.


def test_a_base_of_packages(archive: Archive, skopeo: Commands, provided: list[object], capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    made = ensure(archive, Origin.ROOTFS)
    assert made.origin is Origin.ROOTFS
    assert made.layout.name.startswith("riscv64-")
    assert kept() == [made.layout.name]
    assert provided == []
    (root,) = {args[-1] for args in skopeo.args}
    assert skopeo.args == [
        ["dpkg-deb", "--extract", str(archive.path(package)), root] for package in PACKAGES
    ]
    assert root.startswith(f"{bases()}/")
    assert {call.options["timeout"] for call in skopeo.calls} == {None}
    assert capsys.readouterr().err == "making the base of 2 packages, once\n"


def test_it_has_their_files_but_for_documentation(archive: Archive, skopeo: Commands) -> None:
    image = layout.load(ensure(archive, Origin.ROOTFS).layout)
    assert layout.damaged(image) == ""
    assert image.config["architecture"] == "riscv64"
    (layer,) = image.layers
    with tarfile.open(layer) as tar:
        assert tar.getnames() == ["bin", *(f"bin/{package.file}" for package in PACKAGES), "usr"]


def test_it_is_made_once_for_the_same_packages(archive: Archive, skopeo: Commands) -> None:
    first = ensure(archive, Origin.ROOTFS)
    assert ensure(archive, Origin.ROOTFS) == first
    assert len(skopeo.calls) == 2
    assert ensure(archive, Origin.ROOTFS, PACKAGES[:1]).layout != first.layout
    assert ensure(Archive(Architecture.AMD64), Origin.ROOTFS).layout.name.startswith("amd64-")


def test_a_package_that_cannot_be_unpacked(archive: Archive, skopeo: Commands) -> None:
    skopeo.answer("dpkg-deb", code=2, stderr="dpkg-deb: error: No space left on device\n")
    with pytest.raises(StorageError, match="No space left on device") as caught:
        ensure(archive, Origin.ROOTFS)
    assert caught.value.hint == "is there space? df -h ~"
    assert kept() == []


# In the cache.


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def blob(folder: Path, name: str) -> Path:
    image = layout.load(folder)
    digests = {
        "manifest": image.digest, "config": image.manifest["config"]["digest"],
        "layer": image.manifest["layers"][0]["digest"],
    }  # fmt: skip
    return layout.blob(folder, digests[name])


DAMAGES: dict[str, Callable[[Path], object]] = {
    "a layer": lambda folder: flip(blob(folder, "layer")),
    "its configuration": lambda folder: flip(blob(folder, "config")),
    "its manifest": lambda folder: flip(blob(folder, "manifest")),
    "a missing layer": lambda folder: blob(folder, "layer").unlink(),
    "no index": lambda folder: (folder / "index.json").unlink(),
    "garbage": lambda folder: (folder / "index.json").write_text("{"),
    "two images": lambda folder: layout.write_index(
        folder, [dict(layout.load(folder).descriptor)] * 2
    ),
    "no blobs": lambda folder: shutil.rmtree(folder / "blobs"),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("origin", [Origin.REGISTRY, Origin.ROOTFS])
def test_a_damaged_base_is_made_anew(archive: Archive, skopeo: Commands, provided: list[object], origin: Origin, damage: str) -> None:  # fmt: skip
    first = ensure(archive, origin)
    whole = {path: storage.sha256(path) for path in first.layout.rglob("*") if path.is_file()}
    calls = len(skopeo.calls)
    DAMAGES[damage](first.layout)
    assert ensure(archive, origin) == first
    assert len(skopeo.calls) == 2 * calls
    assert {
        path: storage.sha256(path) for path in first.layout.rglob("*") if path.is_file()
    } == whole


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
@pytest.mark.parametrize("origin", [Origin.REGISTRY, Origin.ROOTFS])
def test_whatever_happens_nothing_half_made_is_left(archive: Archive, skopeo: Commands, provided: list[object], origin: Origin, error: BaseException) -> None:  # fmt: skip
    def fail(words: list[str]) -> None:
        place = Path(words[-1].removeprefix("oci:").removesuffix(":base"))
        place.mkdir(parents=True, exist_ok=True)
        (place / "half").write_text("half")
        raise error

    skopeo.answer("copy" if origin is Origin.REGISTRY else "dpkg-deb", does=fail)
    with pytest.raises(type(error)):
        ensure(archive, origin)
    assert kept() == []


def test_what_a_killed_run_left_is_removed(archive: Archive, skopeo: Commands) -> None:
    (bases() / ".making-abc" / "blobs").mkdir(parents=True)
    made = ensure(archive)
    assert kept() == [made.layout.name]


def test_a_registry_that_sends_something_else_is_no_base(archive: Archive, skopeo: Commands, provided: list[object]) -> None:  # fmt: skip
    skopeo.answer("skopeo", "copy")
    with pytest.raises(Failure):
        ensure(archive, Origin.REGISTRY)
    assert kept() == []
