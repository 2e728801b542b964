from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from buildkit_riscv64 import dist, storage
from buildkit_riscv64.automation import chain
from buildkit_riscv64.errors import CheckError
from buildkit_riscv64.validation.subject import programs

from ..making import edit_manifest
from ..validation.scenes import TARGET, Publish, result, scene

NAMES = ["binaries", "root image", "rootless image", "validation", "packages"]


def reasons(name: str) -> list[str]:
    """Why the next phase does not take what a phase has made."""
    return [why for link in chain.links(TARGET) if link.name == name for why in link.reasons]


def cross_check(folder: Path, **changes: Any) -> None:
    """Leave the verdict of another machine."""
    files = [
        {"name": dist.binary(name), "artifact_sha256": sha256, "compiled_again_sha256": sha256}
        for name, sha256 in programs(dist.load(folder)).items()
    ]
    storage.write_json(folder / dist.VERDICT, {"identical": True, "files": files, **changes})


def test_all_is_good(releasable: Path) -> None:
    cross_check(releasable)
    found = chain.links(TARGET)
    assert [link.name for link in found] == NAMES
    assert {link.state for link in found} == {"done"}
    assert not [why for link in found for why in (*link.reasons, *link.remarks)]


def test_nothing_is_there(checkout: Path) -> None:
    found = chain.links(TARGET)
    assert [link.name for link in found] == NAMES
    assert {link.state for link in found} == {"missing"}
    assert all(link.reasons for link in found)
    assert all(link.manifest == {} for link in found)


def test_nobody_has_cross_checked(releasable: Path) -> None:
    binaries = chain.links(TARGET)[0]
    assert (binaries.state, binaries.reasons) == ("done", ())
    assert "verify-binaries --cross-check" in binaries.remarks[0]


Edit = Callable[[dict[str, Any]], object]


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (lambda m: m["host"].update(arch="amd64"), "they were compiled on amd64, not natively"),
        (lambda m: m["host"].update(execution="qemu-user"), "the compiler was emulated program by program"),
        (lambda m: m["source"].update(pinned=False), "they are a development build"),
        (lambda m: m.update(target="linux-riscv64-rva22u64"), "they are for linux-riscv64-rva22u64"),
        (lambda m: m.pop("host"), "its manifest makes no sense (KeyError('host'))"),
        (lambda m: m.update(source=7), "its manifest makes no sense"),
    ],
)  # fmt: skip
def test_binaries_that_are_refused(releasable: Path, edit: Edit, reason: str) -> None:
    edit_manifest(releasable, edit)
    assert any(reason in why for why in reasons("binaries"))


def test_a_binary_was_changed(releasable: Path) -> None:
    (releasable / "bin" / "buildctl").write_bytes(b"else")
    assert reasons("binaries") == ["the files are not those of the manifest"]


@pytest.mark.parametrize(
    "changes",
    [
        {"identical": False},
        # Of binaries that were there before.
        {"files": [{"name": "bin/buildctl", "artifact_sha256": "0" * 64}]},
    ],
)
def test_the_cross_check_is_not_good(releasable: Path, changes: dict[str, Any]) -> None:
    cross_check(releasable, **changes)
    assert reasons("binaries") == ["the cross-check by another machine gave other bytes"]


@pytest.mark.parametrize("text", ["", "[]", "{}", "nothing"])
def test_a_damaged_verdict(releasable: Path, text: str) -> None:
    (releasable / dist.VERDICT).write_text(text)
    (why,) = reasons("binaries")
    assert why.startswith(f"cannot read {storage.shown(releasable / dist.VERDICT)}")
    with pytest.raises(CheckError, match="cross-check"):
        chain.verdict(dist.load(releasable))


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (lambda m: m["binaries"].update(buildctl="0" * 64), "it holds other binaries"),
        (lambda m: m["host"].update(arch="amd64"), "it was made on amd64, not natively"),
        (lambda m: m.update(pinned=False), "it is of a development build"),
        (lambda m: m.update(target="linux-amd64"), "it is for linux-amd64"),
    ],
)
def test_images_that_are_refused(releasable: Path, edit: Edit, reason: str) -> None:
    edit_manifest(releasable / "image" / "rootless", edit)
    assert any(reason in why for why in reasons("rootless image"))
    assert reasons("root image") == []


def test_evidence_with_a_failure(releasable: Path, publish: Publish) -> None:
    publish({"standalone": result(scene(), scene("test_two", "failed"))})
    assert reasons("validation") == ["suite standalone: 1 failed"]


def test_evidence_is_missing(releasable: Path) -> None:
    shutil.rmtree(dist.evidence_folder(TARGET))
    (why,) = reasons("validation")
    assert why.startswith("no evidence in ")


def test_packages_of_other_binaries(releasable: Path) -> None:
    path = releasable / dist.PACKAGES / dist.MANIFEST
    manifest = json.loads(path.read_text())
    edit_manifest(path.parent, lambda m: m["binaries"].update(buildkitd="0" * 64))
    assert reasons("packages") == ["they hold other binaries than those that are there now"]
    (path.parent / manifest["files"][0]["name"]).write_bytes(b"other")
    assert "the files are not those of their manifest" in reasons("packages")


@pytest.mark.parametrize(("machine", "start"), [("riscv64", "invoke "), ("x86_64", "invoke on riscv64 -- ")])  # fmt: skip
def test_what_to_do(releasable: Path, on: Callable[[str], None], machine: str, start: str) -> None:
    on(machine)
    commands = [chain.remedy(link, TARGET) for link in chain.links(TARGET)]
    words = ["build-binaries", "build-image", "build-image --rootless", "validate", "build-packages"]  # fmt: skip
    assert commands == [start + word for word in words]
