from __future__ import annotations

import errno
import hashlib
import json
import os
from pathlib import Path

import pytest

from buildkit_riscv64 import host, storage
from buildkit_riscv64.errors import StorageError


@pytest.mark.parametrize(
    ("code", "brief"),
    [
        (errno.ENOSPC, "no space left while writing /a/file"),
        (errno.EDQUOT, "no space left while writing /a/file"),
        (errno.EROFS, "cannot write /a/file: Read-only file system"),
        (errno.EACCES, "cannot write /a/file: Permission denied"),
        (errno.EPERM, "cannot write /a/file: Operation not permitted"),
        (errno.EIO, "cannot write /a/file: Input/output error"),
    ],
)
def test_failure(code: int, brief: str) -> None:
    error = storage.failure(OSError(code, os.strerror(code), "/a/file"), Path("/a"))
    assert isinstance(error, StorageError)
    assert error.brief == brief
    assert error.hint


def test_failure_without_a_name(tmp_path: Path) -> None:
    error = storage.failure(OSError(errno.ENOSPC, "No space left on device"), tmp_path)
    assert error.brief == f"no space left while writing {tmp_path}"


def test_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert storage.shown(tmp_path / "a" / "b") == Path("a/b")
    assert storage.shown(tmp_path.parent) == tmp_path.parent


def test_sha256(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    assert storage.sha256(tmp_path / "file") == hashlib.sha256(b"content").hexdigest()


def test_space_is_there_or_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "free_bytes", lambda _path: 2 << 30)
    storage.require_space(tmp_path, 2 << 30, "a build needs")
    with pytest.raises(StorageError) as caught:
        storage.require_space(tmp_path, 3 << 30, "a build needs", "buy a disk")
    assert caught.value.brief == f"only 2.0 GiB free for {tmp_path}, and a build needs 3.0 GiB"
    assert caught.value.hint == "buy a disk"


def test_files_appear_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file.json"
    storage.write_json(path, {"é": 1})
    assert path.read_text() == '{\n  "é": 1\n}\n'

    def full(self: Path, text: str) -> int:
        self.write_bytes(text.encode()[:1])
        raise OSError(errno.ENOSPC, "No space left on device", str(self))

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space"):
        storage.write_json(path, {"other": 2})
    assert json.loads(path.read_bytes()) == {"é": 1}
    assert list(tmp_path.iterdir()) == [path]
