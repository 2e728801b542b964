from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from buildkit_riscv64.core import dist, filesystem
from buildkit_riscv64.core.arch import Target
from buildkit_riscv64.core.errors import CheckError, NotNativeError
from buildkit_riscv64.validation import artifacts
from buildkit_riscv64.validation.artifacts import Subject
from buildkit_riscv64.validation.suites import SUITES

from ..factories import edit_manifest
from .factories import TARGET

ALONE = [SUITES["standalone"]]
ALL = list(SUITES.values())


def test_identity(found: Subject, complete_dist: Path) -> None:
    reported = found.as_json()
    assert reported["target"] == "linux-riscv64"
    assert reported["binaries"] == {
        command: filesystem.sha256(complete_dist / dist.binary(command))
        for command in dist.COMMANDS
    }
    for variant in ("root", "rootless"):
        manifest = json.loads((complete_dist / dist.IMAGE / variant / dist.MANIFEST).read_text())
        assert reported["images"][variant] == manifest["digest"]
        assert reported["inputs"][variant] == manifest["build"]["inputs"]


def test_standalone_needs_only_binaries(complete_dist: Path) -> None:
    shutil.rmtree(complete_dist / dist.IMAGE)
    reported = artifacts.find(TARGET, ALONE).as_json()
    assert reported["images"] == {"root": None, "rootless": None}
    assert reported["inputs"].keys() == {"binaries"}


@pytest.mark.parametrize(("variant", "more"), [("root", ""), ("rootless", " --rootless")])
def test_missing_image(complete_dist: Path, variant: str, more: str) -> None:
    shutil.rmtree(complete_dist / dist.IMAGE / variant)
    with pytest.raises(CheckError, match=f"no {variant} image in .*buildx and rootless") as caught:
        artifacts.find(TARGET, ALL)
    assert caught.value.hint == f"run `invoke build-image{more}` first"
    assert artifacts.find(TARGET, ALONE)


def test_missing_binaries(checkout: Path, on: Callable[[str], None]) -> None:
    on("riscv64")
    with pytest.raises(CheckError, match="no artifacts") as caught:
        artifacts.find(TARGET, ALONE)
    assert caught.value.hint == "run `invoke build-binaries` first"


def test_another_architecture(complete_dist: Path, on: Callable[[str], None]) -> None:
    on("x86_64")
    with pytest.raises(NotNativeError, match=r"linux-riscv64.*riscv64.*amd64") as caught:
        artifacts.find(TARGET, ALONE)
    assert caught.value.hint == "invoke on riscv64 -- validate"


@pytest.mark.parametrize("command", dist.COMMANDS)
def test_replaced_binary(complete_dist: Path, command: str) -> None:
    path = complete_dist / dist.binary(command)
    stat = path.stat()
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # as a careful forger would
    with pytest.raises(CheckError, match=f"{command} .*its manifest"):
        artifacts.find(TARGET, ALONE)


def test_directory_of_another_target(complete_dist: Path) -> None:
    shutil.copytree(complete_dist, complete_dist.parent / "linux-riscv64-rva22u64")
    with pytest.raises(CheckError, match=r"linux-riscv64(?!-)"):
        artifacts.find(Target.parse("linux-riscv64-rva22u64"), ALONE)


@pytest.mark.parametrize("variant", ["root", "rootless"])
def test_image_of_other_binaries(complete_dist: Path, variant: str) -> None:
    edit_manifest(
        complete_dist / dist.IMAGE / variant,
        lambda manifest: manifest["binaries"].update(buildctl="0" * 64),
    )
    with pytest.raises(CheckError, match=f"{variant} image.*binaries"):
        artifacts.find(TARGET, ALONE)  # even if no suite needs the image


@pytest.mark.parametrize("part", ["", "image/root"])
@pytest.mark.parametrize("text", ["{", "{}", "[]", '{"binaries": 5}'])
def test_damaged_manifests(complete_dist: Path, part: str, text: str) -> None:
    (complete_dist / part / dist.MANIFEST).write_text(text)
    with pytest.raises(CheckError):
        artifacts.find(TARGET, ALL)


def test_modified_image(complete_dist: Path) -> None:
    with (complete_dist / "image/root/sbom.cdx.json").open("a") as file:
        file.write(" ")
    with pytest.raises(CheckError, match=r"files in .*image/root.*manifest"):
        artifacts.find(TARGET, ALL)
