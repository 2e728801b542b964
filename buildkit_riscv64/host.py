"""Facts about this machine, read from the machine itself."""

from __future__ import annotations

import functools
import os
import platform
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from . import process
from .arch import Architecture


class Execution(StrEnum):
    """How programs of this machine's architecture execute."""

    NATIVE = "native"
    QEMU_USER = "qemu-user"
    QEMU_SYSTEM = "qemu-system"


def _text(path: str | Path) -> str:
    """A file of the kernel's, or nothing where there is none."""
    try:
        return Path(path).read_bytes().replace(b"\0", b"\n").decode(errors="replace").strip()
    except OSError:
        return ""


def _qemu_user() -> bool:
    """True when a user-mode emulator translates this very process.

    qemu-user answers for /proc/self/exe and /proc/<pid>/exe with the emulated
    program, but hands /proc/self/task/<tid>/exe to the kernel, which names the
    file that really executes. Where the kernel says its own architecture
    (/proc/sys/kernel/arch, since Linux 6.1) that is the second witness: it
    would also unmask another emulator.
    """
    kernel = _text("/proc/sys/kernel/arch")
    if kernel and kernel != platform.machine():
        return True
    try:
        really = Path(f"/proc/self/task/{os.getpid()}/exe").readlink()
    except OSError:
        return False
    return really.name.startswith("qemu-")


def _qemu_system() -> bool:
    """True when an emulated processor runs this kernel; a virtual machine on KVM is native."""
    board = _text("/proc/device-tree/model") + _text("/proc/device-tree/compatible")
    if "qemu" in board.lower() and platform.machine() == Architecture.RISCV64.uname:
        # qemu's own processors say vendor 0; under KVM the real one's shows.
        vendors = {
            line.partition(":")[2].strip()
            for line in _text("/proc/cpuinfo").splitlines()
            if line.startswith("mvendorid")
        }
        return vendors <= {"0x0"}
    if process.which("systemd-detect-virt"):
        return process.probe(["systemd-detect-virt", "--vm"]).stdout.strip() == "qemu"
    return "TCG" in _text("/proc/cpuinfo")


@functools.cache
def execution() -> Execution:
    """How this machine executes, found out from the machine."""
    if _qemu_user():
        return Execution.QEMU_USER
    return Execution.QEMU_SYSTEM if _qemu_system() else Execution.NATIVE


def cpu() -> str:
    """The processor, by the best name that the kernel has for it."""
    fields: dict[str, str] = {}
    for line in _text("/proc/cpuinfo").splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    for key in ("model name", "uarch", "isa", "CPU implementer"):
        if fields.get(key):
            return fields[key]
    return platform.processor() or "unknown"


def memory_bytes(field: str = "MemTotal") -> int:
    """A field of /proc/meminfo, in bytes; 0 where there is none."""
    for line in _text("/proc/meminfo").splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    return 0


def cpus() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0))


def free_bytes(path: Path) -> int:
    """Free space for us where `path` is, or will be."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def distribution() -> str:
    """The distribution, as /etc/os-release says it."""
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return "unknown"


_EXECUTED = {
    Execution.NATIVE: "natively on {arch}",
    Execution.QEMU_SYSTEM: "on an emulated {arch} machine (qemu-system)",
    Execution.QEMU_USER: "on another machine, each program emulated for {arch} (qemu-user)",
}


def executed(facts: Mapping[str, Any]) -> str:
    """On what something ran, as in 'natively on riscv64'.

    Args:
        facts: :class:`Facts`, as a manifest has them.
    """
    return _EXECUTED[Execution(facts["execution"])].format(arch=facts["arch"])


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a manifest says about the machine."""

    arch: str
    execution: str
    kernel: str
    cpu: str
    cpus: int
    memory_bytes: int
    distribution: str

    def as_json(self) -> dict[str, object]:
        """For a manifest."""
        return asdict(self)


def facts() -> Facts:
    """Collect them; a few milliseconds."""
    return Facts(
        arch=str(Architecture.here()),
        execution=str(execution()),
        kernel=f"{platform.system()} {platform.release()}",
        cpu=cpu(),
        cpus=cpus(),
        memory_bytes=memory_bytes(),
        distribution=distribution(),
    )
