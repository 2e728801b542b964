"""What the tests of validation share."""

from __future__ import annotations

from typing import Any

import pytest

from buildkit_riscv64 import apt, doctor


@pytest.fixture
def provided(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Which tools were asked for, and whether without a question; all are there."""
    asked: list[Any] = []
    monkeypatch.setattr(apt, "provide", lambda tools, yes: asked.append((list(tools), yes)))
    monkeypatch.setattr(doctor, "provide_emulators", lambda yes: asked.append(("emulators", yes)))
    return asked
