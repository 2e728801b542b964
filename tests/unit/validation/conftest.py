"""Fixtures of the validation tests."""

from __future__ import annotations

from typing import Any

import pytest

from buildkit_riscv64.system import apt, checks
from buildkit_riscv64.validation import suites

from .factories import KNOWN


@pytest.fixture(autouse=True)
def _known_scenarios(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The results of these tests are for a few scenarios, not for those of the checkout."""
    if request.node.path.name != "test_suites.py":
        monkeypatch.setattr(suites.Suite, "scenarios", lambda _self: KNOWN)


@pytest.fixture
def provided(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The tools requested for installation, and whether without a question; nothing is missing."""
    asked: list[Any] = []
    monkeypatch.setattr(
        apt, "ensure_installed", lambda tools, yes: asked.append((list(tools), yes))
    )
    monkeypatch.setattr(checks, "provide_emulators", lambda yes: asked.append(("emulators", yes)))
    return asked
