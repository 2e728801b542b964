"""Fixtures of phase 4."""

from ..phase4 import client, hub, releasable  # noqa: F401
