from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import re
import socket
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from buildkit_riscv64.core import filesystem, host
from buildkit_riscv64.core.errors import StorageError

from ..factories import promptly


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (errno.ENOSPC, "no space"),
        (errno.EDQUOT, "no space"),
        (errno.EROFS, "Read-only file system"),
        (errno.EACCES, "Permission denied"),
        (errno.EPERM, "Operation not permitted"),
        (errno.EIO, "Input/output error"),
    ],
)
def test_failure(code: int, reason: str) -> None:
    error = filesystem.failure(OSError(code, os.strerror(code), "/a/file"), Path("/a"))
    assert isinstance(error, StorageError)
    assert reason in error.brief
    assert "/a/file" in error.brief
    assert error.hint


def test_failure_without_a_name(tmp_path: Path) -> None:
    error = filesystem.failure(OSError(errno.ENOSPC, "No space left on device"), tmp_path)
    assert str(tmp_path) in error.brief


@pytest.mark.parametrize(
    "name", ["plain", "a b", "it's", "%h", "$HOME", "x" * 100, "ö", "a\nb", 'a"b', "a,b", "missing"]
)
def test_socket_directory(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """ssh, addresses and the kernel accept fewer characters than TMPDIR may have."""
    # A short path: the length of pytest's own differs from run to run.
    with tempfile.TemporaryDirectory(prefix="t", dir="/tmp") as short:
        temporary = Path(short) / name
        if name != "missing":
            temporary.mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(temporary))
        with filesystem.socket_directory() as directory:
            assert re.fullmatch(r"[A-Za-z0-9/_.+-]{1,75}", directory)
            assert (Path(directory).parent == temporary) is (name == "plain")
            assert Path(directory).stat().st_mode & 0o777 == 0o700
            with socket.socket(socket.AF_UNIX) as one:
                one.bind(f"{directory}/buildkitd.sock")
        assert not Path(directory).exists()


def test_no_writable_directory_for_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*, prefix: str, dir: str) -> str:  # noqa: A002 - tempfile's
        raise PermissionError(errno.EACCES, "Permission denied", f"{dir}/{prefix}")

    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    with pytest.raises(StorageError), filesystem.socket_directory():
        pytest.fail("no error")


def test_display_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert filesystem.display_path(tmp_path / "a" / "b") == Path("a/b")
    assert filesystem.display_path(tmp_path.parent) == tmp_path.parent


def test_sha256(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    assert filesystem.sha256(tmp_path / "file") == hashlib.sha256(b"content").hexdigest()


def test_require_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "free_bytes", lambda _path: 2 << 30)
    filesystem.require_space(tmp_path, 2 << 30, "a build needs")
    with pytest.raises(
        StorageError, match=rf"2\.0 GiB.*{tmp_path}.*a build needs 3\.0 GiB"
    ) as caught:
        filesystem.require_space(tmp_path, 3 << 30, "a build needs", "buy a disk")
    assert caught.value.hint == "buy a disk"


def test_files_are_written_atomically(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file.json"
    filesystem.write_json(path, {"é": 1})
    assert path.read_text() == '{\n  "é": 1\n}\n'

    def full(self: Path, text: str) -> int:
        self.write_bytes(text.encode()[:1])
        raise OSError(errno.ENOSPC, "No space left on device", str(self))

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space"):
        filesystem.write_json(path, {"other": 2})
    assert json.loads(path.read_bytes()) == {"é": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_make_public(tmp_path: Path) -> None:
    """Files with the right mode may belong to another user, so they are not changed."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a").chmod(0o2700)
    (tmp_path / "a" / "file").touch(mode=0o600)
    (tmp_path / "program").touch()
    (tmp_path / "program").chmod(0o7777)
    (tmp_path / "good").touch()
    (tmp_path / "good").chmod(0o644)
    (tmp_path / "link").symlink_to("missing")
    changed = (tmp_path / "good").stat().st_ctime_ns
    filesystem.make_public(tmp_path)
    paths = [path for path in tmp_path.rglob("*") if path.name != "link"]
    modes = {path.name: f"{path.stat().st_mode & 0o7777:o}" for path in paths}
    assert modes == {"a": "2755", "file": "644", "program": "755", "good": "644"}
    assert (tmp_path / "good").stat().st_ctime_ns == changed


def fifo(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/null")


@pytest.mark.parametrize("make", [fifo, device, Path.mkdir])
@pytest.mark.parametrize(
    "read", [filesystem.sha256, filesystem.read_bytes, filesystem.open_regular]
)
def test_only_regular_files_are_read(
    tmp_path: Path, make: Callable[[Path], object], read: Callable[[Path], object]
) -> None:
    path = tmp_path / "it"
    make(path)
    with promptly(), pytest.raises(OSError, match="not a regular file") as caught:
        read(path)
    assert caught.value.filename == str(path)


def test_a_link_to_a_regular_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("file")
    assert filesystem.read_bytes(tmp_path / "link") == b"content"
    assert filesystem.sha256(tmp_path / "link") == hashlib.sha256(b"content").hexdigest()


def archive_of(*entries: tarfile.TarInfo) -> tarfile.TarFile:
    """A tar archive in memory; each regular file contains its name."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for entry in entries:
            content = entry.name.encode() if entry.isreg() else b""
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return tarfile.open(fileobj=io.BytesIO(buffer.getvalue()))


def tar_entry(name: str, kind: bytes = tarfile.REGTYPE, mode: int = 0o644) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode, entry.linkname = kind, mode, "target"
    return entry


def test_unpack(tmp_path: Path) -> None:
    entries = (
        tar_entry("./bin", tarfile.DIRTYPE, 0o700), tar_entry("./bin/program", mode=0o6775),
        tar_entry("deep/file", mode=0o600),
    )  # fmt: skip
    filesystem.unpack(archive_of(*entries), tmp_path)
    assert (tmp_path / "bin/program").read_text() == "./bin/program"
    modes = {path.name: path.stat().st_mode & 0o7777 for path in tmp_path.rglob("*") if path.is_file()}  # fmt: skip
    assert modes == {"program": 0o755, "file": 0o644}


@pytest.mark.parametrize(
    "entry",
    [
        tar_entry("../outside"), tar_entry("a/../../outside"), tar_entry("/outside"),
        *(tar_entry("x", kind) for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE)),
    ],
    ids=["parent", "parents", "absolute", "symlink", "hard link", "fifo", "device"],
)  # fmt: skip
def test_unpack_refuses_all_but_files(tmp_path: Path, entry: tarfile.TarInfo) -> None:
    place = tmp_path / "place"
    place.mkdir()
    with pytest.raises(tarfile.ReadError):
        filesystem.unpack(archive_of(entry), place)
    assert [path.name for path in tmp_path.rglob("*")] == ["place"]
