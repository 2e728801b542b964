"""Waiting for processes and conditions."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from buildkit_riscv64.core import durations

#: Seconds until a test gives up, the only time limit in tests. It is generous, and longer on
#: a slow or busy machine: a test that passes never waits so long.
BOUND = 300.0 * min(12.0, max(1.0, durations.slowness()))


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in {"Z", "X"}
    except OSError:
        return False


def eventually(true: Callable[[], object]) -> bool:
    """Wait until a condition is true; False after BOUND seconds."""
    end = time.monotonic() + BOUND
    while not true():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True
