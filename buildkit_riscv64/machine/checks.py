"""What `invoke doctor --phase machine` looks at."""

from __future__ import annotations

import functools
from pathlib import Path

from .. import host, project
from ..console import Status, size
from ..doctor import Phase, Seen, check, tool
from . import base

#: Emulators for programs of other architectures, as Debian 12 calls them.
EMULATOR = "qemu-user-static"
#: Where they say how to register them (binfmt.d(5)); systemd does it where it runs.
FORMAT = Path("/usr/lib/binfmt.d/qemu-riscv64.conf")

for _name in base.TOOLS:
    check(_name, "It makes or runs the emulated machine.", Phase.MACHINE)(
        functools.partial(tool, _name, Status.FAIL)
    )


@check("riscv64 programs", "They configure Debian's packages for riscv64.", Phase.MACHINE)
def _riscv64_programs() -> Seen:
    if base.runs_riscv64():
        return Seen(Status.OK, "executed")
    detail = "no emulator is registered for them that works in any root directory"
    if not _emulator_is_installed():
        return Seen(Status.FAIL, detail, f"apt-get install {EMULATOR}", EMULATOR)
    registry = base.BINFMT
    mount = ("mount", "-t", "binfmt_misc", "binfmt_misc", str(registry))
    # One that is registered otherwise has the same name, and would stay.
    register = (
        "sh", "-c",
        f"[ ! -e {registry}/qemu-riscv64 ] || echo -1 >{registry}/qemu-riscv64;"
        f" cat {FORMAT} >{registry}/register",
    )  # fmt: skip
    return Seen(
        Status.FAIL, detail, f"systemctl restart systemd-binfmt, or as root: {register[-1]}",
        commands=(*(() if base.binfmt_is_mounted() else (mount,)), register),
    )  # fmt: skip


def _emulator_is_installed() -> bool:
    """True for an emulator that is to be registered with the flag F."""
    try:
        return "F" in FORMAT.read_text().strip().rpartition(":")[2]
    except OSError:
        return False


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
