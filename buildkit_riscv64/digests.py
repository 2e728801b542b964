"""Digests of what decides an output: where one is another, the output is made anew."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hashlib import _Hash


def inputs(decisive: object) -> str:
    """The digest of all that decides an output, as manifests have it.

    Args:
        decisive: what JSON can say.
    """
    return "sha256:" + hashlib.sha256(json.dumps(decisive).encode()).hexdigest()


def add(digest: _Hash, *parts: bytes) -> None:
    """Add parts to a digest, each with its length: cut otherwise, they give another one."""
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)


def of_folder(folder: Path, recipe: str = "") -> str:
    """The digest of all files in a folder and below, with their names, in hexadecimal.

    Args:
        folder: which.
        recipe: what decides besides.
    """
    digest = hashlib.sha256(recipe.encode())
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        add(digest, str(path.relative_to(folder)).encode(), path.read_bytes())
    return digest.hexdigest()
