"""What `invoke doctor --phase machine` looks at."""

from __future__ import annotations

import functools

from .. import host, project
from ..arch import Platform
from ..console import Status, size
from ..doctor import Phase, Seen, check, emulators, ok, tool
from . import base

for _name in base.TOOLS:
    check(_name, "It makes or runs the emulated machine.", Phase.MACHINE)(
        functools.partial(tool, _name, Status.FAIL)
    )


@check("riscv64 programs", "They configure Debian's packages for riscv64.", Phase.MACHINE)
def _riscv64_programs() -> Seen:
    return emulators([Platform.RISCV64], Status.FAIL)


@check("disk for machines", "Making the base takes 6 GiB, and a machine what it writes.", Phase.MACHINE)  # fmt: skip
def _disk() -> Seen:
    free = host.free_bytes(project.cache())
    detail = f"{size(free)} free for {project.cache()}"
    if free < base.NEEDED_BYTES:
        return Seen(Status.FAIL, detail, project.CACHE_HINT)
    return ok(detail)


@check("memory for machines", "A machine that compiles BuildKit needs 4 GiB.", Phase.MACHINE)
def _memory() -> Seen:
    available = host.memory_bytes("MemAvailable")
    if available < 5 << 30:
        return Seen(Status.WARN, f"{size(available)} available", "close programs, or use a board")
    return ok(f"{size(available)} available")
