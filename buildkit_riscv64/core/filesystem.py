"""Filesystem helpers: atomic writes, display paths, checksums, free space."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import re
import shutil
import stat
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from . import host, process
from .console import size
from .errors import StorageError


def open_regular(path: Path) -> io.BufferedReader:
    """Open a regular file, or a link to one, for reading.

    Raises:
        OSError: there is no such file, or it is a fifo, a device or a directory. To open a fifo
            would wait for a writer, and to open a device may act on it.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return path.open("rb")


def read_bytes(path: Path) -> bytes:
    """The content of a regular file; raises OSError as :func:`open_regular`."""
    with open_regular(path) as file:
        return file.read()


def sha256(path: Path) -> str:
    """The digest of a regular file, in hexadecimal; raises OSError as :func:`open_regular`."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def unpack(archive: tarfile.TarFile, directory: Path) -> None:
    """Unpack directories and regular files of a tar archive that another machine may have written.

    Debian 12's Python has no filters for `TarFile.extractall`.

    Args:
        archive: the open archive.
        directory: an empty directory.

    Raises:
        tarfile.ReadError: an entry is a link or a device, or leads out of the directory.
        OSError: a file cannot be written.
    """
    for entry in archive:
        path = PurePosixPath(entry.name)
        if path.is_absolute() or ".." in path.parts or not (entry.isdir() or entry.isreg()):
            raise tarfile.ReadError(f"{entry.name!r} is not a file or directory below the top")
        place = directory / path
        if entry.isdir():
            place.mkdir(parents=True, exist_ok=True)
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        content = archive.extractfile(entry)
        assert content is not None
        with content, place.open("wb") as file:
            shutil.copyfileobj(content, file)
        place.chmod(0o755 if entry.mode & stat.S_IXUSR else 0o644)


def write_whole(path: Path, text: str) -> None:
    """Write a file atomically."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        aside.write_text(text)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically."""
    write_whole(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def make_public(path: Path) -> None:
    """Let every user read published files, and only their owner write them.

    Args:
        path: a file, or a directory with everything in it.

    Raises:
        OSError: a file has another mode and belongs to another user.
    """
    for found in (path, *path.rglob("*")):
        mode = found.lstat().st_mode
        if stat.S_ISLNK(mode):
            continue
        public = 0o755 if stat.S_ISDIR(mode) or mode & stat.S_IXUSR else 0o644
        if stat.S_ISDIR(mode):
            # New files in a directory with this mode get its group.
            public |= mode & stat.S_ISGID
        if stat.S_IMODE(mode) != public:
            found.chmod(public)


# A socket's path has at most 107 characters; ssh adds 17 characters temporarily. Some characters
# are special in a configuration or an address: ssh replaces `%h` by a host.
_PLAIN = re.compile(r"/[A-Za-z0-9/_.+-]{0,50}")


@contextlib.contextmanager
def socket_directory() -> Iterator[str]:
    """A private temporary directory for sockets, with a short path of plain characters.

    It is in TMPDIR if that path is short and plain.

    Raises:
        StorageError: no directory for temporary files can be written.
    """
    error = OSError(errno.EACCES, os.strerror(errno.EACCES), "/tmp")  # noqa: S108 - named, not used
    for parent in (tempfile.gettempdir(), "/tmp", "/var/tmp", "/dev/shm"):  # noqa: S108 - mkdtemp
        if not _PLAIN.fullmatch(parent):
            continue
        try:
            directory = tempfile.mkdtemp(prefix="bk-", dir=parent)
        except OSError as reason:
            error = reason
            continue
        try:
            with process.run_if_killed([["rm", "-rf", directory]]):
                yield directory
        finally:
            shutil.rmtree(directory, ignore_errors=True)
        return
    raise failure(error, Path(error.filename))


def display_path(path: Path) -> Path:
    """A path for messages: relative if it is below the current directory."""
    with contextlib.suppress(ValueError):
        return path.relative_to(Path.cwd())
    return path


def failure(error: OSError, path: Path) -> StorageError:
    """The failure for an error while writing to a path."""
    file = display_path(Path(error.filename) if error.filename else path)
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            return StorageError(f"no space left while writing {file}", "free some space; df -h .")
        case errno.EROFS | errno.EACCES | errno.EPERM:
            hint = f"make {display_path(path)} writable for your user"
        case _:
            hint = "check the filesystem"
    return StorageError(f"cannot write {file}: {error.strerror}", hint)


def require_space(
    path: Path, needed: int, purpose: str, hint: str = "free some space; df -h ."
) -> None:
    """Fail early where the disk is too small.

    Args:
        path: the file or directory to write.
        needed: bytes to write, at most.
        purpose: subject and verb, as in "a build needs".
        hint: what to do where the disk is too small.

    Raises:
        StorageError: less space is free.
    """
    free = host.free_bytes(path)
    if free < needed:
        raise StorageError(
            f"only {size(free)} free for {display_path(path)}, and {purpose} {size(needed)}", hint
        )
