"""Fixtures for tests of the image."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from buildkit_riscv64.core import dist
from buildkit_riscv64.core.arch import Architecture
from buildkit_riscv64.image import container, layout
from buildkit_riscv64.image.base_image import BaseImage, Origin
from buildkit_riscv64.image.build_request import Request
from buildkit_riscv64.image.variants import Variant

from .fake_image import FakeContainer


@pytest.fixture
def base(tmp_path: Path) -> BaseImage:
    """A base with one file."""
    (tmp_path / "base.root").mkdir()
    (tmp_path / "base.root" / "sh").write_text("a shell")
    digest = layout.from_directory(tmp_path / "base.root", tmp_path / "base", Architecture.RISCV64)
    return BaseImage(layout=tmp_path / "base", digest=digest, origin=Origin.ROOTFS)


@pytest.fixture
def wanted(base: BaseImage) -> Request:
    """A request for the rootless image."""
    title = "BuildKit, rootless"
    return Request(
        variant=Variant.ROOTLESS, base=base, packages=Path("/scratch"), binaries=Path("/dist/bin"),
        arguments={"TITLE": title}, annotations={"title": title}, epoch=1785846460,
    )  # fmt: skip


@pytest.fixture
def fake_container(monkeypatch: pytest.MonkeyPatch) -> FakeContainer:
    """The container of every image, run by root."""
    fake = FakeContainer()

    @contextmanager
    def unpacked(place: Path) -> Iterator[FakeContainer]:
        assert place.name == dist.LAYOUT
        yield fake

    monkeypatch.setattr(container, "unpacked", unpacked)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return fake
