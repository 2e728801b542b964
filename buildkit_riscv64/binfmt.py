"""Programs of other platforms: which of them the kernel starts, through an emulator that it holds open.

See https://docs.kernel.org/admin-guide/binfmt-misc.html.
"""

from __future__ import annotations

import re
from pathlib import Path

from .arch import Platform

#: The kernel's register of program formats.
REGISTRY = Path("/proc/sys/fs/binfmt_misc")
#: Where packages say what to register (binfmt.d(5)); systemd does it where it runs.
FORMATS = Path("/usr/lib/binfmt.d")
#: Debian's emulators, as Debian 12 calls them.
PACKAGE = "qemu-user-static"


def is_mounted() -> bool:
    """True when the kernel's register can be seen."""
    return (REGISTRY / "status").exists()


def runs(platform: Platform) -> bool:
    """True when the kernel starts programs of a platform, itself or through an emulator."""
    if platform is Platform.here():
        return True
    try:
        entry = (REGISTRY / platform.binfmt).read_text()
    except OSError:
        return False
    # F: opened when it was registered, so that it works in any root directory.
    return entry.startswith("enabled\n") and bool(re.search(r"^flags: \w*F\w*$", entry, re.M))


def _format(platform: Platform) -> Path:
    return FORMATS / f"{platform.binfmt}.conf"


def is_installed(platform: Platform) -> bool:
    """True for an emulator that is to be registered with the flag F."""
    try:
        return "F" in _format(platform).read_text().strip().rpartition(":")[2]
    except OSError:
        return False


def mount() -> tuple[str, ...]:
    """The command that mounts the register."""
    return "mount", "-t", "binfmt_misc", "binfmt_misc", str(REGISTRY)


def register(platform: Platform) -> tuple[str, ...]:
    """The command that registers a platform's emulator, as its package says."""
    entry = REGISTRY / platform.binfmt
    # One that is registered otherwise has the same name, and would stay.
    script = f"[ ! -e {entry} ] || echo -1 >{entry}; cat {_format(platform)} >{REGISTRY}/register"
    return "sh", "-c", script
