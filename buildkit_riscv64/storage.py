"""Files and disks, whosever: how files are written, named to people and told apart."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from . import host
from .console import size
from .errors import StorageError


def sha256(path: Path) -> str:
    """A file's digest, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_whole(path: Path, text: str) -> None:
    """Write a file so that it appears whole or not at all."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        aside.write_text(text)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write JSON, whole or not at all."""
    write_whole(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def shown(path: Path) -> Path:
    """A path as short as it is clear: relative to the current directory where it is below."""
    with contextlib.suppress(ValueError):
        return path.relative_to(Path.cwd())
    return path


def failure(error: OSError, path: Path) -> StorageError:
    """What went wrong with writing, in our words."""
    place = shown(Path(error.filename) if error.filename else path)
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            return StorageError(f"no space left while writing {place}", "free some space; df -h .")
        case errno.EROFS | errno.EACCES | errno.EPERM:
            return StorageError(
                f"cannot write {place}: {error.strerror}", f"make {shown(path)} writable for you"
            )
    return StorageError(f"cannot write {place}: {error.strerror}", "check the file system")


def require_space(
    place: Path, needed: int, what: str, hint: str = "free some space; df -h ."
) -> None:
    """Refuse to begin what a full disk would end.

    Args:
        place: where it writes.
        needed: bytes, at most.
        what: it does with them, as in "a build needs".
        hint: what to do if there are not so many.

    Raises:
        StorageError: there are not.
    """
    free = host.free_bytes(place)
    if free < needed:
        raise StorageError(
            f"only {size(free)} free for {shown(place)}, and {what} {size(needed)}", hint
        )
