"""What `invoke doctor --phase machine` looks at."""

from __future__ import annotations

import functools

from .. import host, process, project
from ..console import Status, size
from ..doctor import PACKAGES, Phase, Seen, check, tool
from . import base

#: What registers qemu for programs of other architectures.
EMULATOR = "qemu-user-binfmt"

for _name in base.TOOLS:
    check(_name, "It makes or runs the emulated machine.", Phase.MACHINE)(
        functools.partial(tool, _name, Status.FAIL)
    )


@check("emulator of riscv64 programs", "It runs them on this machine.", Phase.MACHINE)
def _emulator() -> Seen:
    if base.runs_riscv64():
        return Seen(Status.OK, "registered")
    # Debian 12's name, and that of later ones.
    for name in ("qemu-riscv64-static", "qemu-riscv64"):
        if process.which(name):
            return Seen(Status.OK, name)
    return Seen(Status.FAIL, "not installed", f"apt-get install {EMULATOR}", EMULATOR)


@check("riscv64 programs", "They configure Debian's packages for riscv64.", Phase.MACHINE)
def _riscv64_programs() -> Seen:
    if base.runs_riscv64():
        return Seen(Status.OK, "executed")
    if process.which("update-binfmts") is None:
        return Seen(
            Status.FAIL, "no emulator is registered for them",
            "apt-get install binfmt-support", PACKAGES["update-binfmts"],
        )  # fmt: skip
    registry = "/proc/sys/fs/binfmt_misc"
    mount = ("mount", "-t", "binfmt_misc", "binfmt_misc", registry)
    return Seen(
        Status.FAIL, "no emulator is registered for them",
        f"{' '.join(mount)}; update-binfmts --enable qemu-riscv64",
        commands=(
            *(() if base.binfmt_is_mounted() else (mount,)),
            ("update-binfmts", "--enable", "qemu-riscv64"),
        ),
    )  # fmt: skip


@check("disk for machines", "Making the base takes 6 GiB, and a machine what it writes.", Phase.MACHINE)  # fmt: skip
def _disk() -> Seen:
    free = host.free_bytes(project.cache())
    detail = f"{size(free)} free for {project.cache()}"
    if free < base.NEEDED_BYTES:
        return Seen(Status.FAIL, detail, "free some space, or set XDG_CACHE_HOME to a larger disk")
    return Seen(Status.OK, detail)


@check("memory for machines", "A machine that compiles BuildKit needs 4 GiB.", Phase.MACHINE)
def _memory() -> Seen:
    available = host.memory_bytes("MemAvailable")
    if available < 5 << 30:
        return Seen(Status.WARN, f"{size(available)} available", "close programs, or use a board")
    return Seen(Status.OK, f"{size(available)} available")
