"""Watching processes that come and go."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from buildkit_riscv64 import host
from buildkit_riscv64.host import Execution

#: Seconds; long enough for a busy board. What passes never waits so long.
BOUND = 40.0
#: The same for what starts daemons or builds, also on an emulated machine.
BUILD_BOUND = 300.0 if host.execution() is Execution.NATIVE else 1800.0


def alive(pid: int) -> bool:
    """True while a process runs; one that only waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in {"Z", "X"}
    except OSError:
        return False


def eventually(true: Callable[[], object], bound: float = BOUND) -> bool:
    """True as soon as it is; False when it never is."""
    end = time.monotonic() + bound
    while not true():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True
