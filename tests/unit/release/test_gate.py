from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from buildkit_riscv64.core import dist, filesystem, pins
from buildkit_riscv64.core.arch import Target
from buildkit_riscv64.core.errors import CheckError
from buildkit_riscv64.release import gate, phase_status

from .. import documents
from ..factories import edit_manifest
from ..phase4 import confirm
from ..validation.factories import TARGET, Publish, result, scene


def blockers(target: Target = TARGET) -> list[str]:
    return gate.release_blockers(target, phase_status.phases(target))


def test_no_blockers(releasable: Path) -> None:
    assert blockers() == []


def test_missing_cross_check(releasable: Path) -> None:
    (releasable / dist.VERDICT).unlink()
    (why,) = blockers()
    assert why.startswith("cross-check: ")


OTHER = {"name": "bin/buildctl", "artifact_sha256": "0" * 64, "compiled_again_sha256": "0" * 64}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"identical": False}, "different binaries"),
        ({"target": "linux-amd64"}, "linux-amd64"),
        ({"version": "v0.32.1"}, "v0.32.1"),
        ({"checked_on": {**documents.HOST, "arch": "riscv64"}}, "riscv64"),
        # A verdict on earlier binaries, on one program, and on none.
        ({"files": [OTHER, {**OTHER, "name": "bin/buildkitd"}]}, "bin/buildctl"),
        ({"files": [OTHER]}, "bin/buildkitd"),
        ({"files": []}, "bin/buildctl"),
    ],
)  # fmt: skip
def test_cross_check_that_confirms_less(
    releasable: Path, changes: dict[str, Any], reason: str
) -> None:
    confirm(releasable, **changes)
    found = blockers()
    assert found
    assert all(why.startswith("cross-check: ") for why in found)
    assert any(reason in why for why in found)


def test_cross_check_with_other_bytes(releasable: Path) -> None:
    """A verdict that claims `identical` about bytes that differ."""
    verdict = json.loads((releasable / dist.VERDICT).read_text())
    verdict["files"][0]["compiled_again_sha256"] = "0" * 64
    filesystem.write_json(releasable / dist.VERDICT, verdict)
    (why,) = blockers()
    assert verdict["files"][0]["name"] in why


@pytest.mark.parametrize(
    ("record", "confirmed"),
    [
        ({}, True),
        ({"artifact_sha256": "0" * 64}, False),
        ({"differences": ["another version"]}, False),
    ],
)
def test_program_of_the_bundle(releasable: Path, record: dict[str, Any], confirmed: bool) -> None:
    """A program with C code is compared by its build information."""
    name = "bin/buildkit-runc"
    (releasable / name).write_bytes(b"runc")
    (file,) = dist.record(releasable, [name])
    edit_manifest(releasable, lambda manifest: manifest["files"].append(file))
    assert blockers() == [f"cross-check: it does not confirm {name}"]
    verdict = json.loads((releasable / dist.VERDICT).read_text())
    compared = {"name": name, "artifact_sha256": file["sha256"], "differences": [], **record}
    filesystem.write_json(releasable / dist.VERDICT, {**verdict, "compared_by_record": [compared]})
    assert (blockers() == []) is confirmed


@pytest.mark.parametrize("text", ["", "[]", "{}", "nothing"])
def test_damaged_verdict(releasable: Path, text: str) -> None:
    (releasable / dist.VERDICT).write_text(text)
    (why,) = blockers()
    assert str(filesystem.display_path(releasable / dist.VERDICT)) in why
    with pytest.raises(CheckError, match="cross-check"):
        gate.verdict(dist.load(releasable))


@pytest.mark.parametrize(("version", "commit"), [("v0.33.1", ""), ("", "f" * 40)])
def test_pins_that_moved_on(
    releasable: Path, monkeypatch: pytest.MonkeyPatch, version: str, commit: str
) -> None:
    now = pins.load()
    now = dataclasses.replace(now, version=version or now.version, commit=commit or now.commit)
    monkeypatch.setattr(pins, "load", lambda: now)
    (why,) = blockers()
    assert why.startswith("binaries: ")
    assert "v0.32.2" in why


@pytest.mark.parametrize("variant", ["root", "rootless"])
@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (lambda m: m["host"].update(execution="qemu-user"), "qemu-user"),
        (lambda m: m.update(security_updates=False), "security updates"),
    ],
)
def test_images(
    releasable: Path, variant: str, edit: Callable[[dict[str, Any]], object], reason: str
) -> None:
    edit_manifest(releasable / "image" / variant, edit)
    (why,) = blockers()
    assert why.startswith(f"{variant} image: ")
    assert reason in why


def test_emulated_bundle(releasable: Path) -> None:
    binaries = phase_status.phases(TARGET)[0]
    assert binaries.artifacts
    bundle = {"host": {"execution": "qemu-user"}}
    manifest = {**binaries.manifest, "bundle": bundle}
    emulated = dataclasses.replace(
        binaries, artifacts=dataclasses.replace(binaries.artifacts, manifest=manifest)
    )
    (why,) = gate.phase_blockers(emulated)
    assert "bundle" in why
    assert "qemu-user" in why


def test_evidence_of_another_scenario(releasable: Path, publish: Publish) -> None:
    publish({"rootless": result(scene("test_two"))})
    (why,) = blockers()
    assert why.startswith("validation: suite rootless: cache::test_one ")
