"""The images that there are."""

from __future__ import annotations

from enum import StrEnum


class Variant(StrEnum):
    """An image, by the Dockerfile's target; also its folder in `dist/`."""

    ROOT = "root"
    ROOTLESS = "rootless"

    @property
    def suffix(self) -> str:
        """What it adds to a tag, as upstream's do."""
        return "-rootless" if self is Variant.ROOTLESS else ""

    @property
    def task(self) -> str:
        """The task that makes it, with its flag."""
        return "build-image --rootless" if self is Variant.ROOTLESS else "build-image"
