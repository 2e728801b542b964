"""Locks that are waited for: one run after the other.

The kernel lets go of a lock however its holder ends.
"""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

from .console import say


@contextlib.contextmanager
def held(path: Path, waiting: str = "") -> Iterator[None]:
    """Hold a lock; where another run holds it, wait until that has ended.

    Args:
        path: the lock's file.
        waiting: what to say while we wait; empty for nothing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if waiting:
                say(waiting)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
