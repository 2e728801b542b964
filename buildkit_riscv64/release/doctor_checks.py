"""Checks of `invoke doctor --phase automation`: packages, their repositories, signatures."""

from __future__ import annotations

import functools
import os
from pathlib import Path

from ..core.console import Status
from ..system.checks import CheckResult, Phase, check, ok, tool

_CALLED = {
    "apt-ftparchive": "Writes the indexes of the apt repository.",
    "bsdtar": "Reads finished .rpm files.",
    "createrepo_c": "Writes the indexes of the dnf repository.",
    "dpkg-deb": "Reads finished .deb files.",
    "gpg": "Signs releases and repositories.",
    "rpmsign": "Signs .rpm files.",
}

for _name, _why in _CALLED.items():
    check(_name, _why, Phase.AUTOMATION)(functools.partial(tool, _name, Status.WARN))


@check("memory for keys", "Private keys are kept in memory, in /dev/shm.", Phase.AUTOMATION)  # fmt: skip
def _shm() -> CheckResult:
    directory = Path("/dev/shm")  # noqa: S108 - only checked
    if directory.is_dir() and os.access(directory, os.W_OK):
        return ok(f"{directory} is writable")
    return CheckResult(
        Status.FAIL, f"{directory} is missing or not writable",
        "mkdir -p /dev/shm && mount -t tmpfs -o mode=1777 tmpfs /dev/shm",
    )  # fmt: skip
