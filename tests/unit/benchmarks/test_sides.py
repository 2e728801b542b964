from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import sides
from benchmarks.sides import Build
from buildkit_riscv64 import dist, storage
from buildkit_riscv64.arch import Platform
from buildkit_riscv64.errors import CheckError, Failure, UsageError
from tests.validation.bases import BaseImage

from ..making import make_source

Script = Callable[[str, str], Path]


@pytest.fixture
def folder(script: Script) -> Path:
    """Programs that say a version."""
    for command in dist.COMMANDS:
        made = script(f"other/bin/{command}", f"echo {command} github.com/moby/buildkit v0.0.1 abc")
    return made.parent.parent


@pytest.mark.parametrize("inner", ["", "bin"])
def test_a_folder(folder: Path, inner: str) -> None:
    side = sides.against(str(folder / inner))
    assert (side.label, side.binaries) == ("other", folder / "bin")
    described = side.as_json()
    assert described["version"] == "v0.0.1"
    assert described["sha256"]["buildkitd"] == storage.sha256(folder / "bin" / "buildkitd")
    assert str(folder) not in str(described), "where it is is nobody else's business"


def test_a_folder_called_ours_is_still_the_other(folder: Path) -> None:
    assert sides.against(str(folder.rename(folder.parent / "ours"))).label == "ours's"


def pack(folder: Path, *names: str) -> Path:
    archive = folder / "buildkit-v0.0.1.linux-x.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for name in names:
            tar.add(folder / name, name)
    return archive


def test_a_tarball_is_unpacked_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = pack(folder, "bin/buildkitd", "bin/buildctl")
    side = sides.against(str(archive))
    assert side.label == "buildkit-v0.0.1.linux-x"
    assert side.as_json()["version"] == "v0.0.1"
    monkeypatch.setattr(tarfile, "open", lambda *_args: pytest.fail("unpacked again"))
    assert sides.against(str(archive)) == side


def test_tarballs_that_are_none(folder: Path, tmp_path: Path) -> None:
    (folder / "bin" / "other").write_text("")
    for archive in (pack(folder, "bin/buildkitd"), pack(folder, "bin/other")):
        with pytest.raises(UsageError, match="no tarball with"):
            sides.against(str(archive))
    for content in (b"", b"text", b"\x1f\x8b" + bytes(20)):
        (tmp_path / "a.tar.gz").write_bytes(content)
        with pytest.raises(UsageError, match="no tarball with"):
            sides.against(str(tmp_path / "a.tar.gz"))


def test_a_tarball_writes_nothing_but_the_programs(tmp_path: Path) -> None:
    archive = tmp_path / "a.tar"
    with tarfile.open(archive, "w") as tar:
        for name in ("../escaped", "bin/buildctl", "bin/buildkitd"):
            tar.addfile(tarfile.TarInfo(name), io.BytesIO())
        link = tarfile.TarInfo("bin/buildctl")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    with pytest.raises(UsageError, match="no tarball with"):
        sides.against(str(archive))
    assert {path.name for path in tmp_path.iterdir()} == {"a.tar"}


@pytest.mark.parametrize("text", ["./none", "/none/at/all", "latest", "v1", "v0.32.2-rc1", ".", "~nobody/x"])  # fmt: skip
def test_what_is_nothing_to_compare_with(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError):
        sides.against(text)


def test_upstream_s_own_flags() -> None:
    """As its Dockerfile has them: no -trimpath, and tags only for the daemon."""
    buildctl, buildkitd = sides.upstream_builds(make_source())
    assert not any("trimpath" in flag or "buildvcs" in flag for flag in (*buildctl, *buildkitd))
    assert "-tags" not in buildctl
    assert "-static" not in buildctl[-1]
    assert buildkitd[-2:] == ["-tags", "osusergo netgo static_build seccomp"]
    assert buildkitd[-3].endswith("-extldflags '-static'")


def test_nothing_built_yet(checkout: Path, on: Callable[[str], None]) -> None:
    on("riscv64")
    with pytest.raises(Failure) as caught:
        sides.compared("", checkout)
    assert isinstance(caught.value, CheckError)


def test_what_buildctl_is_asked(tmp_path: Path) -> None:
    base = BaseImage(Path("/base"), "sha256:0")
    asked = sides._for_buildctl(
        Build(context=Path("/c"), platform=Platform.RISCV64, number=7, arguments=["--secret=id=x"]),
        base,
    )
    assert asked == [
        "--progress=plain", "--frontend=dockerfile.v0", "--local=context=/c", "--local=dockerfile=/c",
        "--opt=build-arg:NUMBER=7", "--oci-layout=base=/base",
        "--opt=context:base=oci-layout://base@sha256:0", "--opt=platform=linux/riscv64", "--secret=id=x",
    ]  # fmt: skip
