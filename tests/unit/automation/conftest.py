"""What the tests of phase 4 share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from buildkit_riscv64 import dist
from buildkit_riscv64.automation.api import Client
from buildkit_riscv64.validation import suites
from buildkit_riscv64.validation.subject import programs

from ...hub import Hub
from ..making import edit_manifest
from ..validation.scenes import TARGET, Publish, result, scene

PACKAGE = "buildkit_0.32.2-1_riscv64.deb"


def pack(binaries: dist.Artifacts) -> Path:
    """Put packages into dist/ that are none, with all that is said of them."""
    place = binaries.path / dist.PACKAGES
    place.mkdir()
    (place / PACKAGE).write_bytes(b"!<arch>\n")
    manifest = {
        "target": TARGET.name, "version": "v0.32.2", "host": binaries.manifest["host"],
        "binaries": programs(binaries), "files": dist.record(place, [PACKAGE]),
    }  # fmt: skip
    dist.write_manifest(place, manifest)
    return place


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A GitHub that knows us."""
    with Hub().running() as started:
        for name, value in started.environment().items():
            monkeypatch.setenv(name, value)
        yield started


@pytest.fixture
def releasable(complete_dist: Path, publish: Publish) -> Path:
    """dist/linux-riscv64 with all that a release consists of."""
    # What makes it here is no riscv64 machine.
    edit_manifest(complete_dist, lambda made: made["host"].update(execution="native"))
    unproven = scene("test_two", "not proven")
    for name in suites.SUITES:
        publish({name: result(scene(), unproven)})
    pack(dist.load(complete_dist))
    return complete_dist


@pytest.fixture
def client(hub: Hub, slept: list[float]) -> Iterator[Client]:
    with Client.connected() as connected:
        yield connected
