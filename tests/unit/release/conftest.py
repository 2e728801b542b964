"""Fixtures of phase 4."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from buildkit_riscv64.core import filesystem
from buildkit_riscv64.packages import signing
from buildkit_riscv64.system import apt

from ...fake_github import Hub, release
from ..factories import Commands
from ..phase4 import client, hub, releasable  # noqa: F401


class Signer:
    """A fake signer."""

    fingerprint = "F" * 40

    def sign_detached(self, path: Path) -> Path:
        signature = path.with_name(f"{path.name}.asc")
        signature.write_text("signed")
        return signature

    def public_key(self) -> str:
        return "the key"


@pytest.fixture
def signer(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextlib.contextmanager
    def opened(key: str = "") -> Iterator[Signer]:
        yield Signer()

    monkeypatch.setattr(signing, "opened", opened)
    monkeypatch.setattr(apt, "ensure_installed", lambda tools, yes: None)


@pytest.fixture
def gh(commands: Commands, signer: None, hub: Hub) -> Commands:  # noqa: F811 - a fixture
    """A fake gh that creates the release."""

    def create(words: list[str]) -> None:
        tag, files = words[3], [Path(word) for word in words if word.startswith(os.sep)]
        assets = [{"name": p.name, "digest": f"sha256:{filesystem.sha256(p)}"} for p in files]
        hub.ours.releases.insert(0, release(tag, assets=assets))

    commands.answer("gh", "release", "create", does=create)
    return commands
