"""A copy of this checkout, as a clone would be."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from buildkit_riscv64.core.project import ROOT


def copy_checkout(directory: Path) -> None:
    """Copy the tracked files and the untracked files that git does not ignore."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    for name in filter(None, listing.split("\0")):
        if (ROOT / name).is_file():
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, directory / name)
