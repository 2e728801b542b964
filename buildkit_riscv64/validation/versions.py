"""Versions of the programs that scenarios run."""

from __future__ import annotations

import platform
import re
from collections.abc import Sequence
from pathlib import Path

from ..core import process

#: Programs in the evidence. docker and buildx come from pytest_plugin.used().
NAMES = (
    "kernel", "docker", "buildx", "runc", "rootlesskit", "slirp4netns", "fuse-overlayfs",
    "qemu-user",
)  # fmt: skip

_NUMBER = re.compile(r"version:?\s+(\d[^\s,;)]*)", re.IGNORECASE)


def cgroup_version() -> int:
    """The version of this machine's control groups."""
    return 2 if Path("/sys/fs/cgroup/cgroup.controllers").exists() else 1


def of(tool: str) -> str:
    """The version that a command reports, or an empty string."""
    if process.which(tool) is None:
        return ""
    answer = process.probe([tool, "--version"])
    # fuse-overlayfs reports the version of another program first.
    lines = [line for line in answer.stdout.splitlines() if tool in line]
    found = _NUMBER.search("\n".join(lines) or answer.stdout)
    return found[1] if found else ""


def here(tools: Sequence[str], *, emulators: bool) -> dict[str, str | None]:
    """The versions of tools on this machine; None for every other program."""
    known = {name: of(name) for name in NAMES if name in tools}
    if emulators:
        known["qemu-user"] = _emulator()
    return {
        **dict.fromkeys(NAMES), **{name: version or None for name, version in known.items()},
        "kernel": platform.release(),
    }  # fmt: skip


def _emulator() -> str:
    """The version of Debian's emulators, which are in one package; its name differs in Debian 12."""
    names = [f"qemu-{one}{end}" for one in ("riscv64", "x86_64") for end in ("-static", "")]
    return next(filter(None, map(of, names)), "")
