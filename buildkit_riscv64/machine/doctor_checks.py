"""Checks of `invoke doctor --phase machine`."""

from __future__ import annotations

import functools

from ..core import host, project
from ..core.arch import Platform
from ..core.console import Status, size
from ..system.checks import CheckResult, Phase, check, emulators, ok, tool

#: Peak disk use of a base build: packages, unpacked packages, raw and final image.
NEEDED_BYTES = 6 << 30
#: Commands that create or run a machine.
TOOLS = (
    "arch-test", "cpio", "depmod", "mke2fs", "mmdebstrap", "qemu-img", "rsync", "ssh", "xz",
)  # fmt: skip

for _name in TOOLS:
    check(_name, "Creates or runs the emulated machine.", Phase.MACHINE)(
        functools.partial(tool, _name, Status.FAIL)
    )


@check("riscv64 programs", "Debian's riscv64 packages run them when installed.", Phase.MACHINE)
def _riscv64_programs() -> CheckResult:
    return emulators([Platform.RISCV64], Status.FAIL)


@check("disk for machines", "The base build takes 6 GiB; each machine takes what it writes.", Phase.MACHINE)  # fmt: skip
def _disk() -> CheckResult:
    free = host.free_bytes(project.cache())
    detail = f"{size(free)} free for {project.cache()}"
    if free < NEEDED_BYTES:
        return CheckResult(Status.FAIL, detail, project.CACHE_HINT)
    return ok(detail)


@check("memory for machines", "A machine that compiles BuildKit needs 4 GiB.", Phase.MACHINE)
def _memory() -> CheckResult:
    available = host.memory_bytes("MemAvailable")
    if available < 5 << 30:
        return CheckResult(
            Status.WARN, f"{size(available)} available", "close programs, or use a board"
        )
    return ok(f"{size(available)} available")
