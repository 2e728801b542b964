"""Programs of other platforms: emulators registered with the kernel.

See https://docs.kernel.org/admin-guide/binfmt-misc.html.
"""

from __future__ import annotations

import re
from pathlib import Path

from ..core.arch import Platform

#: The kernel's register of program formats.
REGISTRY = Path("/proc/sys/fs/binfmt_misc")
#: The packages' files with formats to register (binfmt.d(5)); systemd registers them.
FORMATS = Path("/usr/lib/binfmt.d")
#: Debian 12's package of the emulators.
PACKAGE = "qemu-user-static"


def is_mounted() -> bool:
    """True when the kernel's register is mounted."""
    return (REGISTRY / "status").exists()


def runs(platform: Platform) -> bool:
    """True when the kernel starts programs of a platform, natively or through an emulator."""
    if platform is Platform.here():
        return True
    try:
        entry = (REGISTRY / platform.binfmt).read_text()
    except OSError:
        return False
    # F: the kernel holds the emulator open, so it works in any root directory.
    return entry.startswith("enabled\n") and bool(re.search(r"^flags: \w*F\w*$", entry, re.M))


def _format(platform: Platform) -> Path:
    return FORMATS / f"{platform.binfmt}.conf"


def is_installed(platform: Platform) -> bool:
    """True when the emulator is installed with the flag F in its format."""
    try:
        return "F" in _format(platform).read_text().strip().rpartition(":")[2]
    except OSError:
        return False


def mount() -> tuple[str, ...]:
    """The command that mounts the register."""
    return "mount", "-t", "binfmt_misc", "binfmt_misc", str(REGISTRY)


def register(platform: Platform) -> tuple[str, ...]:
    """The command that registers a platform's emulator in its package's format."""
    entry = REGISTRY / platform.binfmt
    # First remove an emulator of the same name that is registered in another format.
    script = f"[ ! -e {entry} ] || echo -1 >{entry}; cat {_format(platform)} >{REGISTRY}/register"
    return "sh", "-c", script
