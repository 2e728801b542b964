"""Fixtures of the validation tests."""

from __future__ import annotations

from typing import Any

import pytest

from buildkit_riscv64.system import apt, checks


@pytest.fixture
def provided(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The tools requested for installation, and whether without a question; nothing is missing."""
    asked: list[Any] = []
    monkeypatch.setattr(
        apt, "ensure_installed", lambda tools, yes: asked.append((list(tools), yes))
    )
    monkeypatch.setattr(checks, "provide_emulators", lambda yes: asked.append(("emulators", yes)))
    return asked
