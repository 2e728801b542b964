"""Fixtures of the standalone suite."""

from __future__ import annotations

from pathlib import Path

import pytest

from ..bases import BaseImage
from ..daemon import Daemon
from .results import Builder


@pytest.fixture
def builder(daemon: Daemon, base: BaseImage, tmp_path: Path) -> Builder:
    """Builds on the session's daemon."""
    return Builder(daemon, base, tmp_path)
