"""Versions of the programs that scenarios run."""

from __future__ import annotations

import platform
import re
from collections.abc import Sequence
from pathlib import Path

from .. import process

#: What evidence tells the version of. docker and buildx say it through recorder.used().
NAMES = (
    "kernel", "docker", "buildx", "runc", "rootlesskit", "slirp4netns", "fuse-overlayfs",
    "qemu-user",
)  # fmt: skip

_NUMBER = re.compile(r"version:?\s+(\d[^\s,;)]*)", re.IGNORECASE)


def cgroup_version() -> int:
    """Which version of control groups this machine uses."""
    return 2 if Path("/sys/fs/cgroup/cgroup.controllers").exists() else 1


def of(tool: str) -> str:
    """The version that a command says it is, or nothing."""
    if process.which(tool) is None:
        return ""
    said = process.probe([tool, "--version"])
    # fuse-overlayfs first tells the version of something else.
    lines = [line for line in said.stdout.splitlines() if tool in line]
    found = _NUMBER.search("\n".join(lines) or said.stdout)
    return found[1] if found else ""


def here(tools: Sequence[str], *, emulators: bool) -> dict[str, str | None]:
    """The versions on this machine; None for what scenarios that call these tools have no use of."""
    known = {name: of(name) for name in NAMES if name in tools}
    if emulators:
        known["qemu-user"] = _emulator()
    return {
        **dict.fromkeys(NAMES), **{name: version or None for name, version in known.items()},
        "kernel": platform.release(),
    }  # fmt: skip


def _emulator() -> str:
    """The version of Debian's emulators: all are of one package, which Debian 12 calls otherwise."""
    names = [f"qemu-{one}{end}" for one in ("riscv64", "x86_64") for end in ("-static", "")]
    return next(filter(None, map(of, names)), "")
