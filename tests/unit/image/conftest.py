"""What the tests of the image share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from buildkit_riscv64 import apt, dist
from buildkit_riscv64.arch import Architecture
from buildkit_riscv64.image import container, layout
from buildkit_riscv64.image.engines import Request
from buildkit_riscv64.image.tools import Base, Origin
from buildkit_riscv64.image.variants import Variant

from .picture import Alive


@pytest.fixture
def provided(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], bool]]:
    """Which tools were asked for, and whether without a question; all are there."""
    asked: list[tuple[list[str], bool]] = []
    monkeypatch.setattr(apt, "provide", lambda tools, yes: asked.append((list(tools), yes)))
    return asked


@pytest.fixture
def base(tmp_path: Path) -> Base:
    """A base of one file."""
    (tmp_path / "base.root").mkdir()
    (tmp_path / "base.root" / "sh").write_text("a shell")
    digest = layout.from_folder(tmp_path / "base.root", tmp_path / "base", Architecture.RISCV64)
    return Base(layout=tmp_path / "base", digest=digest, origin=Origin.ROOTFS)


@pytest.fixture
def wanted(base: Base) -> Request:
    """A build of the rootless image."""
    title = "BuildKit, rootless"
    return Request(
        variant=Variant.ROOTLESS, base=base, packages=Path("/scratch"), binaries=Path("/dist/bin"),
        arguments={"TITLE": title}, annotations={"title": title}, epoch=1785846460,
    )  # fmt: skip


@pytest.fixture
def alive(monkeypatch: pytest.MonkeyPatch) -> Alive:
    """The container of every image, for root."""
    made = Alive()

    @contextmanager
    def unpacked(place: Path) -> Iterator[Alive]:
        assert place.name == dist.LAYOUT
        yield made

    monkeypatch.setattr(container, "unpacked", unpacked)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return made
