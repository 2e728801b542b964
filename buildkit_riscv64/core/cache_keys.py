"""Cache keys: a changed key triggers a rebuild."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hashlib import _Hash


def inputs(decisive: object) -> str:
    """The digest of every input of an output, in the form that manifests record.

    Args:
        decisive: the inputs, as a value that JSON can represent.
    """
    return "sha256:" + hashlib.sha256(json.dumps(decisive).encode()).hexdigest()


def add(digest: _Hash, *parts: bytes) -> None:
    """Add parts to a digest, each with its length, so that other boundaries give another digest."""
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)


def of_directory(directory: Path, recipe: str = "") -> str:
    """The digest of all files below a directory and their names, in hexadecimal.

    Args:
        directory: the directory.
        recipe: another input, as text.
    """
    digest = hashlib.sha256(recipe.encode())
    for path in sorted(path for path in directory.rglob("*") if path.is_file()):
        add(digest, str(path.relative_to(directory)).encode(), path.read_bytes())
    return digest.hexdigest()
