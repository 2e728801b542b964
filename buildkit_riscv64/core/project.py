"""Paths in this checkout, and of the user's cache."""

from __future__ import annotations

import os
from pathlib import Path

#: This project's name in documents that it writes.
MAKER = "buildkit-riscv64"
#: The Python package.
PACKAGE = "buildkit_riscv64"
#: The checkout.
ROOT = Path(__file__).resolve().parents[2]
#: The pins, which `invoke pins.update` changes.
PINS = ROOT / "pins" / "pins.toml"
#: Upstream as a Go module, with the hashes of every module that it is compiled from.
UPSTREAM_MODULE = ROOT / "pins" / "upstream"
#: Upstream as a git submodule.
SUBMODULE = ROOT / "buildkit"
#: Finished artifacts, and dotfiles of running tasks.
DIST = ROOT / "dist"
#: The hint where the disk with :func:`cache` is too small.
CACHE_HINT = "free some space, or set XDG_CACHE_HOME to a larger disk"


def cache() -> Path:
    """The user's cache, which may be deleted at any time."""
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # The specification says to ignore a relative path.
    return (base if base.is_absolute() else Path.home() / ".cache") / "buildkit-riscv64"
