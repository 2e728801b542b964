from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from buildkit_riscv64.core import dist
from buildkit_riscv64.machine import machines
from buildkit_riscv64.release import phase_status

from ..factories import edit_manifest
from ..validation.factories import TARGET, Publish, result, scene

NAMES = ["binaries", "root image", "rootless image", "validation", "packages"]


def reasons(name: str) -> list[str]:
    """The reasons why the next phase refuses a phase's artifacts."""
    return [
        why for phase in phase_status.phases(TARGET) if phase.name == name for why in phase.reasons
    ]


def test_every_phase_is_done(releasable: Path) -> None:
    found = phase_status.phases(TARGET)
    assert [phase.name for phase in found] == NAMES
    assert {phase.state for phase in found} == {"done"}
    assert not [why for phase in found for why in phase.reasons]


def test_every_phase_is_missing(checkout: Path) -> None:
    found = phase_status.phases(TARGET)
    assert [phase.name for phase in found] == NAMES
    assert {phase.state for phase in found} == {"missing"}
    assert all(phase.reasons for phase in found)
    assert all(phase.manifest == {} for phase in found)


Edit = Callable[[dict[str, Any]], object]


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (lambda m: m["host"].update(arch="amd64"), "amd64"),
        (lambda m: m["host"].update(execution="qemu-user"), "qemu-user"),
        (lambda m: m["source"].update(pinned=False), "development build"),
        (lambda m: m.update(target="linux-riscv64-rva22u64"), "linux-riscv64-rva22u64"),
        (lambda m: m.pop("host"), "host"),
        (lambda m: m.update(source=7), "source"),
    ],
)  # fmt: skip
def test_refused_binaries(releasable: Path, edit: Edit, reason: str) -> None:
    edit_manifest(releasable, edit)
    assert any(reason in why for why in reasons("binaries"))


def test_changed_binary(releasable: Path) -> None:
    (releasable / "bin" / "buildctl").write_bytes(b"else")
    (why,) = reasons("binaries")
    assert "manifest" in why


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (lambda m: m["binaries"].update(buildctl="0" * 64), "current binaries"),
        (lambda m: m["host"].update(arch="amd64"), "amd64"),
        (lambda m: m.update(pinned=False), "development build"),
        (lambda m: m.update(target="linux-amd64"), "linux-amd64"),
    ],
)
def test_refused_images(releasable: Path, edit: Edit, reason: str) -> None:
    edit_manifest(releasable / "image" / "rootless", edit)
    assert any(reason in why for why in reasons("rootless image"))
    assert reasons("root image") == []


def test_evidence_with_a_failure(releasable: Path, publish: Publish) -> None:
    publish({"standalone": result(scene(), scene("test_two", "failed"))})
    assert reasons("validation") == ["suite standalone: 1 failed"]


def test_missing_evidence(releasable: Path) -> None:
    shutil.rmtree(dist.evidence_directory(TARGET))
    (why,) = reasons("validation")
    assert "no evidence" in why


def test_packages_of_other_binaries(releasable: Path) -> None:
    path = releasable / dist.PACKAGES / dist.MANIFEST
    manifest = json.loads(path.read_text())
    edit_manifest(path.parent, lambda m: m["binaries"].update(buildkitd="0" * 64))
    (why,) = reasons("packages")
    assert "current binaries" in why
    (path.parent / manifest["files"][0]["name"]).write_bytes(b"other")
    assert any("manifest" in why for why in reasons("packages"))


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (lambda m: m.update(target="linux-amd64"), "linux-amd64"),
        (lambda m: m.update(version="v0.32.1"), "v0.32.1"),
        (lambda m: m.update(pinned=False), "development build"),
    ],
)
def test_refused_packages(releasable: Path, edit: Edit, reason: str) -> None:
    edit_manifest(releasable / dist.PACKAGES, edit)
    (why,) = reasons("packages")
    assert reason in why


@pytest.mark.parametrize(("machine", "start"), [("riscv64", "invoke "), ("x86_64", "invoke on riscv64 -- ")])  # fmt: skip
def test_native_command(
    releasable: Path,
    on: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    machine: str,
    start: str,
) -> None:
    on(machine)
    monkeypatch.setattr(machines, "exists", lambda _name: True)
    commands = [
        phase_status.native_command(phase.made_by, TARGET) for phase in phase_status.phases(TARGET)
    ]
    words = ["build-binaries", "build-image", "build-image --rootless", "validate", "build-packages"]  # fmt: skip
    assert commands == [start + word for word in words]
