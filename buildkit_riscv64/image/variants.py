"""Variants of the image."""

from __future__ import annotations

from enum import StrEnum


class Variant(StrEnum):
    """A variant, named after the Dockerfile's target and its directory in `dist/`."""

    ROOT = "root"
    ROOTLESS = "rootless"

    @property
    def suffix(self) -> str:
        """Suffix of tags, as in upstream's tags."""
        return "-rootless" if self is Variant.ROOTLESS else ""

    @property
    def task(self) -> str:
        """The task that builds it, with its flag."""
        return "build-image --rootless" if self is Variant.ROOTLESS else "build-image"
