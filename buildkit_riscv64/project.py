"""Where things are in this checkout."""

from __future__ import annotations

import os
from pathlib import Path

#: Our name, where documents say who made them.
MAKER = "buildkit-riscv64"
#: The checkout.
ROOT = Path(__file__).resolve().parent.parent
#: Pins that people read, and that `invoke source.update` moves.
PINS = ROOT / "pins.toml"
#: Upstream as a Go module, with the hashes of everything it is compiled from.
UPSTREAM_MODULE = ROOT / "upstream"
#: Upstream as a git submodule.
SUBMODULE = ROOT / "buildkit"
#: Finished artifacts, and nothing else but dotfiles of runs at work.
DIST = ROOT / "dist"
#: What to do where the disk with :func:`cache` is too small.
CACHE_HINT = "free some space, or set XDG_CACHE_HOME to a larger disk"


def cache() -> Path:
    """What may be deleted at any time, and is kept to save time."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "buildkit-riscv64"
