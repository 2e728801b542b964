from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import candidates
from benchmarks.candidates import Build
from buildkit_riscv64.core import dist, filesystem
from buildkit_riscv64.core.arch import Platform
from buildkit_riscv64.core.errors import CheckError, Failure, UsageError
from buildkit_riscv64.validation.scenarios.bases import BaseImage

from ..factories import make_source

Script = Callable[[str, str], Path]


@pytest.fixture
def directory(script: Script) -> Path:
    """A directory with programs that report a version."""
    for command in dist.COMMANDS:
        path = script(f"other/bin/{command}", f"echo {command} github.com/moby/buildkit v0.0.1 abc")
    return path.parent.parent


@pytest.mark.parametrize("inner", ["", "bin"])
def test_directory(directory: Path, inner: str) -> None:
    candidate = candidates.baseline(str(directory / inner))
    assert (candidate.label, candidate.binaries) == ("other", directory / "bin")
    described = candidate.as_json()
    assert described["version"] == "v0.0.1"
    assert described["sha256"]["buildkitd"] == filesystem.sha256(directory / "bin" / "buildkitd")
    assert str(directory) not in str(described), "results must not contain the path"


def test_directory_with_the_name_ours(directory: Path) -> None:
    assert candidates.baseline(str(directory.rename(directory.parent / "ours"))).label == "ours's"


def pack(directory: Path, *names: str) -> Path:
    archive = directory / "buildkit-v0.0.1.linux-x.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for name in names:
            tar.add(directory / name, name)
    return archive


def test_tarball_is_unpacked_once(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = pack(directory, "bin/buildkitd", "bin/buildctl")
    candidate = candidates.baseline(str(archive))
    assert candidate.label == "buildkit-v0.0.1.linux-x"
    assert candidate.as_json()["version"] == "v0.0.1"
    monkeypatch.setattr(tarfile, "open", lambda *_args: pytest.fail("unpacked again"))
    assert candidates.baseline(str(archive)) == candidate


def test_invalid_tarballs(directory: Path, tmp_path: Path) -> None:
    (directory / "bin" / "other").write_text("")
    for archive in (pack(directory, "bin/buildkitd"), pack(directory, "bin/other")):
        with pytest.raises(UsageError, match="tarball with"):
            candidates.baseline(str(archive))
    for content in (b"", b"text", b"\x1f\x8b" + bytes(20)):
        (tmp_path / "a.tar.gz").write_bytes(content)
        with pytest.raises(UsageError, match="tarball with"):
            candidates.baseline(str(tmp_path / "a.tar.gz"))


def test_tarball_writes_only_the_programs(tmp_path: Path) -> None:
    archive = tmp_path / "a.tar"
    with tarfile.open(archive, "w") as tar:
        for name in ("../escaped", "bin/buildctl", "bin/buildkitd"):
            tar.addfile(tarfile.TarInfo(name), io.BytesIO())
        link = tarfile.TarInfo("bin/buildctl")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    with pytest.raises(UsageError, match="tarball with"):
        candidates.baseline(str(archive))
    assert {path.name for path in tmp_path.iterdir()} == {"a.tar"}


@pytest.mark.parametrize("text", ["./none", "/none/at/all", "latest", "v1", "v0.32.2-rc1", ".", "~nobody/x"])  # fmt: skip
def test_invalid_baseline(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError):
        candidates.baseline(text)


def test_upstream_flags() -> None:
    """As in upstream's Dockerfile: no -trimpath, and tags only for the daemon."""
    buildctl, buildkitd = candidates.upstream_builds(make_source())
    assert not any("trimpath" in flag or "buildvcs" in flag for flag in (*buildctl, *buildkitd))
    assert "-tags" not in buildctl
    assert "-static" not in buildctl[-1]
    assert buildkitd[-2:] == ["-tags", "osusergo netgo static_build seccomp"]
    assert buildkitd[-3].endswith("-extldflags '-static'")


def test_missing_binaries(checkout: Path, on: Callable[[str], None]) -> None:
    on("riscv64")
    with pytest.raises(Failure) as caught:
        candidates.ours()
    assert isinstance(caught.value, CheckError)


def test_arguments_of_buildctl(tmp_path: Path) -> None:
    base = BaseImage(Path("/base"), "sha256:0")
    asked = candidates._for_buildctl(
        Build(context=Path("/c"), platform=Platform.RISCV64, number=7, arguments=["--secret=id=x"]),
        base,
    )
    assert asked == [
        "--progress=plain", "--frontend=dockerfile.v0", "--local=context=/c", "--local=dockerfile=/c",
        "--opt=build-arg:NUMBER=7", "--oci-layout=base=/base",
        "--opt=context:base=oci-layout://base@sha256:0", "--opt=platform=linux/riscv64", "--secret=id=x",
    ]  # fmt: skip
