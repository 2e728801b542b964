"""Root directories that tests need, made once and kept in the cache."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from buildkit_riscv64 import locks, project


def kept(name: str, recipe: str, make: Callable[[Path], None]) -> Path:
    """Where a root directory is; made if it is not there, by one test run at a time.

    Args:
        name: what it is called in the cache.
        recipe: all that decides what is in it.
        make: makes it, at a path where nothing is.
    """
    cache = project.cache()
    root = cache / f"{name}-{hashlib.sha256(recipe.encode()).hexdigest()[:16]}"
    with locks.held(cache / f".{name}.lock"):
        for interrupted in cache.glob(f".{name}-*/"):
            shutil.rmtree(interrupted)
        if not root.is_dir():
            with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=cache) as aside:
                made = Path(aside) / "root"
                make(made)
                made.rename(root)
    return root
