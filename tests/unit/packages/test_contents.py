"""Programs inside packages and archives."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from buildkit_riscv64.core.errors import CheckError
from buildkit_riscv64.packages import contents

ELF = b"\x7fELF buildctl"
OTHER = b"\x7fELF other"
SCRIPT = b"#!/bin/sh\n"
LINK = b""
VERIFIED = {"buildctl": hashlib.sha256(ELF).hexdigest()}


def write_tar(path: Path, files: Mapping[str, bytes]) -> None:
    """Write a tar archive; a file without content becomes a symbolic link."""
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            if content == LINK:
                entry.type, entry.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(entry, io.BytesIO(content))


@pytest.fixture(params=[".deb", ".rpm", ".tar.gz"])
def archive(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:  # fmt: skip
    """Where a test writes an archive. Packages are plain tar archives; integration tests read real ones."""
    for suffix in (".deb", ".rpm"):
        monkeypatch.setitem(contents.READERS, suffix, ("cat",))
    return tmp_path / f"x{request.param}"


def test_the_verified_programs_pass(archive: Path) -> None:
    share = {"./usr/share/bash-completion/completions/buildctl": SCRIPT, "./usr/bin/check": SCRIPT}
    write_tar(archive, {"./usr/bin/buildctl": ELF, **share})
    contents.require_verified([archive], VERIFIED, "rebuild")


@pytest.mark.parametrize(
    "files",
    [
        {"usr/bin/buildctl": OTHER},
        {"usr/bin/buildctl": SCRIPT},
        {"usr/bin/buildctl": LINK, "usr/lib/buildctl": ELF},
        {"usr/bin/buildctl": ELF, "usr/local/bin/buildctl": SCRIPT},
        {"usr/bin/buildctl": ELF, "usr/bin/unknown": OTHER},
        {"usr/bin/buildctl": ELF, "usr/share/doc/unknown": OTHER},
    ],
)
def test_other_programs_are_refused(archive: Path, files: dict[str, bytes]) -> None:
    write_tar(archive, files)
    with pytest.raises(CheckError) as caught:
        contents.require_verified([archive], VERIFIED, "rebuild")
    assert archive.name in caught.value.brief
    assert Path([*files][-1]).name in caught.value.brief or "buildctl" in caught.value.brief


def test_a_missing_program_is_refused(archive: Path) -> None:
    write_tar(archive, {"usr/bin/check": SCRIPT})
    with pytest.raises(CheckError, match="buildctl"):
        contents.require_verified([archive], VERIFIED, "rebuild")


def test_programs_may_be_in_several_archives(tmp_path: Path) -> None:
    for name, content in (("a", ELF), ("b", OTHER)):
        write_tar(tmp_path / f"{name}.tar.gz", {f"bin/{name}": content})
    sums = {"a": hashlib.sha256(ELF).hexdigest(), "b": hashlib.sha256(OTHER).hexdigest()}
    contents.require_verified([tmp_path / "a.tar.gz", tmp_path / "b.tar.gz"], sums, "rebuild")


@pytest.mark.parametrize("content", [b"", b"no archive", b"\x7fELF"])
def test_what_is_no_archive_is_refused(archive: Path, content: bytes) -> None:
    archive.write_bytes(content)
    with pytest.raises(CheckError):
        contents.require_verified([archive], VERIFIED, "rebuild")
