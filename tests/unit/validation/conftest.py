"""What the tests of validation share."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from buildkit_riscv64 import dist, doctor, host, project
from buildkit_riscv64.image.engines import Variant
from buildkit_riscv64.validation import evidence, subject, suites
from buildkit_riscv64.validation.subject import Subject

from ..image.picture import Picture
from .scenes import TARGET

#: Puts evidence of suites into dist/.
Publish = Callable[..., dist.Artifacts]


@pytest.fixture
def complete_dist(finished: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """dist/linux-riscv64 with binaries and both images; this is that machine, and we are root."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(host, "execution", lambda: host.Execution.NATIVE)
    monkeypatch.chdir(project.ROOT)
    for variant in Variant:
        picture = Picture(dist.load(finished), variant)
        if variant is Variant.ROOTLESS:
            picture.layers = [*picture.layers[:2], [], *picture.layers[2:], []]
        picture.finish()
    return finished


@pytest.fixture
def found(complete_dist: Path) -> Subject:
    """What is validated: all of it."""
    return subject.find(TARGET, list(suites.SUITES.values()))


@pytest.fixture
def publish(found: Subject, tmp_path: Path) -> Publish:
    """Puts results of suites into dist/, after those that are there."""

    def put(results: Mapping[str, Any], made: Path = tmp_path / "nothing") -> dist.Artifacts:
        place = dist.evidence_folder(TARGET)
        previous = evidence.load(place) if place.exists() else None
        document, _ = evidence.assemble(found, results, previous.manifest if previous else None)
        with dist.lock(TARGET):
            return evidence.publish(found, document, made, previous.path if previous else None)

    return put


@pytest.fixture
def provided(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Which tools were asked for, and whether without a question; all are there."""
    asked: list[Any] = []
    monkeypatch.setattr(doctor, "provide", lambda tools, yes: asked.append((list(tools), yes)))
    monkeypatch.setattr(doctor, "provide_emulators", lambda yes: asked.append(("emulators", yes)))
    return asked
