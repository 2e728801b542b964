"""Facts about this machine: execution, processor, memory, distribution."""

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

from . import process, schemas
from .arch import Architecture


class Execution(StrEnum):
    """The way in which programs of this machine's architecture execute."""

    NATIVE = "native"
    QEMU_USER = "qemu-user"
    QEMU_SYSTEM = "qemu-system"


def _text(path: str | Path) -> str:
    """The text of a file of the kernel; empty where the file is missing."""
    try:
        return Path(path).read_bytes().replace(b"\0", b"\n").decode(errors="replace").strip()
    except OSError:
        return ""


def _qemu_user() -> bool:
    """True when a user-mode emulator executes this process.

    qemu-user intercepts /proc/self/exe and /proc/<pid>/exe, but not /proc/self/task/<tid>/exe,
    where the kernel names the executed file. /proc/sys/kernel/arch (since Linux 6.1) shows the
    kernel's own architecture, and so any other emulator.
    """
    kernel = _text("/proc/sys/kernel/arch")
    if kernel and kernel != platform.machine():
        return True
    try:
        executed_file = Path(f"/proc/self/task/{os.getpid()}/exe").readlink()
    except OSError:
        return False
    return executed_file.name.startswith("qemu-")


def _qemu_system() -> bool:
    """True when an emulated processor runs this kernel; a virtual machine on KVM is native."""
    board = _text("/proc/device-tree/model") + _text("/proc/device-tree/compatible")
    if "qemu" in board.lower() and platform.machine() == Architecture.RISCV64.uname:
        # qemu's emulated processors have vendor 0; under KVM, the host's vendor is shown.
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
    """The execution of this process: native or emulated."""
    if _qemu_user():
        return Execution.QEMU_USER
    return Execution.QEMU_SYSTEM if _qemu_system() else Execution.NATIVE


def cpu() -> str:
    """The processor's name: the first of four fields of /proc/cpuinfo that has a value."""
    fields: dict[str, str] = {}
    for line in _text("/proc/cpuinfo").splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    for key in ("model name", "uarch", "isa", "CPU implementer"):
        if fields.get(key):
            return fields[key]
    return platform.processor() or "unknown"


def memory_bytes(field: str = "MemTotal") -> int:
    """A field of /proc/meminfo, in bytes; 0 where the field is missing."""
    for line in _text("/proc/meminfo").splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    return 0


def cpus() -> int:
    """The number of processors that this process may use."""
    return len(os.sched_getaffinity(0))


def free_bytes(path: Path) -> int:
    """Free space for this user on the filesystem of a path, which need not exist."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def distribution() -> str:
    """The distribution, from /etc/os-release."""
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
    """The execution in words, as in 'natively on riscv64'.

    Args:
        facts: a :class:`HostInfo` in a manifest.
    """
    return _EXECUTED[Execution(facts["execution"])].format(arch=facts["arch"])


@dataclass(frozen=True, kw_only=True)
class HostInfo:
    """The machine, as manifests record it."""

    arch: str
    execution: str
    kernel: str
    cpu: str
    cpus: int
    memory_bytes: int
    distribution: str

    def as_json(self) -> dict[str, object]:
        """The record for a manifest."""
        return asdict(self)


def facts() -> HostInfo:
    """Collect the facts about this machine; takes a few milliseconds."""
    return HostInfo(
        arch=str(Architecture.here()),
        execution=str(execution()),
        kernel=schemas.line(f"{platform.system()} {platform.release()}"),
        cpu=schemas.line(cpu()),
        cpus=cpus(),
        memory_bytes=memory_bytes(),
        distribution=schemas.line(distribution()),
    )
