"""File locks between runs.

The kernel releases a lock when its holder ends, also after `kill -9`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from .console import log
from .errors import BusyError


@contextlib.contextmanager
def held(path: Path, waiting: str = "") -> Iterator[None]:
    """Hold a lock; wait while another run holds it.

    Args:
        path: the lock's file.
        waiting: the message of a run that waits; empty for none.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if waiting:
                log(waiting)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def exclusive(path: Path, subject: str) -> Iterator[None]:
    """Hold a lock; fail if another run holds it.

    Args:
        path: the lock's file, which names the process that holds it.
        subject: what the lock protects, for the error.

    Raises:
        BusyError: another run holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = path.read_text(errors="replace").strip()[:32] or "unknown"
            raise BusyError(
                f"another run (pid {owner}) is using {subject}", "wait for it, or end it"
            ) from error
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield
