from __future__ import annotations

import gzip
import hashlib
import io
import os
import tarfile
import zlib
from datetime import UTC, datetime
from pathlib import Path

import pytest

from buildkit_riscv64.binaries import tarball
from buildkit_riscv64.core import filesystem, host

from ..factories import TIME


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two files; one does not fit into a chunk."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setattr(tarball, "_CHUNK_BYTES", 32 << 10)
    noise = hashlib.shake_128(b"noise").digest(16 << 10)
    (tmp_path / "bin" / "buildctl").write_bytes(noise * 9 + b"end")
    (tmp_path / "bin" / "buildkitd").write_bytes(b"small")
    return tmp_path


NAMES = ["bin/buildkitd", "bin/buildctl"]


def test_tarball_holds_the_files(files: Path) -> None:
    tarball.pack(files, NAMES, files / "a.tar.gz", TIME)
    with tarfile.open(files / "a.tar.gz") as tar:
        assert tar.getnames() == ["bin/buildctl", "bin/buildkitd"]
        for entry in tar:
            assert (entry.uid, entry.gid, entry.uname, entry.gname) == (0, 0, "root", "root")
            assert (entry.mode, entry.mtime) == (0o755, int(TIME.timestamp()))
            content = tar.extractfile(entry)
            assert content is not None
            assert content.read() == (files / entry.name).read_bytes()


def test_several_chunks_make_one_gzip_file(files: Path) -> None:
    tarball.pack(files, NAMES, files / "a.tar.gz", TIME)
    data = (files / "a.tar.gz").read_bytes()
    member = zlib.decompressobj(wbits=31)
    member.decompress(data)
    assert member.unused_data, "more than one member, or this test shows nothing"
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(data)), mode="r:") as tar:
        assert len(tar.getmembers()) == 2
    assert data[4:8] == bytes(4), "no time in the header"


def test_tarball_is_reproducible(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = set()
    for number, cpus in enumerate((1, 2, 64)):
        monkeypatch.setattr(host, "cpus", lambda cpus=cpus: cpus)
        for name in NAMES:
            os.utime(files / name, (number, number))
            (files / name).chmod(0o700 + number)
        names = NAMES if number else NAMES[::-1]
        tarball.pack(files, names, files / "a.tar.gz", TIME)
        seen.add(filesystem.sha256(files / "a.tar.gz"))
    assert len(seen) == 1


def test_timestamp_changes_the_tarball(files: Path) -> None:
    tarball.pack(files, ["bin/buildkitd"], files / "a", TIME)
    tarball.pack(files, ["bin/buildkitd"], files / "b", datetime(2026, 1, 1, tzinfo=UTC))
    assert (files / "a").read_bytes() != (files / "b").read_bytes()


def test_tarball_of_a_missing_file(files: Path) -> None:
    with pytest.raises(FileNotFoundError):
        tarball.pack(files, ["bin/none"], files / "a", TIME)
