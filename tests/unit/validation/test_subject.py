from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from buildkit_riscv64 import dist, storage
from buildkit_riscv64.arch import Target
from buildkit_riscv64.errors import CheckError, NotNativeError
from buildkit_riscv64.validation import subject
from buildkit_riscv64.validation.subject import Subject
from buildkit_riscv64.validation.suites import SUITES

from ..making import edit_manifest
from .scenes import TARGET

ALONE = [SUITES["standalone"]]
ALL = list(SUITES.values())


def test_what_identifies_it(found: Subject, complete_dist: Path) -> None:
    told = found.as_json()
    assert told["target"] == "linux-riscv64"
    assert told["binaries"] == {
        command: storage.sha256(complete_dist / dist.binary(command)) for command in dist.COMMANDS
    }
    for variant in ("root", "rootless"):
        manifest = json.loads((complete_dist / dist.IMAGE / variant / dist.MANIFEST).read_text())
        assert told["images"][variant] == manifest["digest"]
        assert told["inputs"][variant] == manifest["build"]["inputs"]


def test_binaries_alone_will_do_for_standalone(complete_dist: Path) -> None:
    shutil.rmtree(complete_dist / dist.IMAGE)
    told = subject.find(TARGET, ALONE).as_json()
    assert told["images"] == {"root": None, "rootless": None}
    assert told["inputs"].keys() == {"binaries"}


@pytest.mark.parametrize(("variant", "more"), [("root", ""), ("rootless", " --rootless")])
def test_an_image_is_missing(complete_dist: Path, variant: str, more: str) -> None:
    shutil.rmtree(complete_dist / dist.IMAGE / variant)
    with pytest.raises(CheckError, match=f"no {variant} image in .*, which buildx and rootless need") as caught:  # fmt: skip
        subject.find(TARGET, ALL)
    assert caught.value.hint == f"run `invoke build-image{more}` first"
    assert subject.find(TARGET, ALONE)


def test_nothing_was_built(checkout: Path, on: Callable[[str], None]) -> None:
    on("riscv64")
    with pytest.raises(CheckError, match="no artifacts") as caught:
        subject.find(TARGET, ALONE)
    assert caught.value.hint == "run `invoke build-binaries` first"


def test_another_architecture(complete_dist: Path, on: Callable[[str], None]) -> None:
    on("x86_64")
    with pytest.raises(NotNativeError, match="linux-riscv64 is validated on riscv64") as caught:
        subject.find(TARGET, ALONE)
    assert caught.value.hint == "invoke on riscv64 -- validate"


@pytest.mark.parametrize("command", dist.COMMANDS)
def test_a_program_that_was_swapped(complete_dist: Path, command: str) -> None:
    path = complete_dist / dist.binary(command)
    stat = path.stat()
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    import os

    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # as a careful forger would
    with pytest.raises(CheckError, match=f"{command} is not that of its manifest"):
        subject.find(TARGET, ALONE)


def test_a_binaries_folder_under_another_name(complete_dist: Path) -> None:
    shutil.copytree(complete_dist, complete_dist.parent / "linux-riscv64-rva22u64")
    with pytest.raises(CheckError, match="holds binaries for linux-riscv64"):
        subject.find(Target.parse("linux-riscv64-rva22u64"), ALONE)


@pytest.mark.parametrize("variant", ["root", "rootless"])
def test_an_image_of_other_binaries(complete_dist: Path, variant: str) -> None:
    edit_manifest(
        complete_dist / dist.IMAGE / variant,
        lambda manifest: manifest["binaries"].update(buildctl="0" * 64),
    )
    with pytest.raises(CheckError, match=f"{variant} image holds other binaries.*not of one build"):
        subject.find(TARGET, ALONE)  # even if it is not needed


@pytest.mark.parametrize("part", ["", "image/root"])
@pytest.mark.parametrize("text", ["{", "{}", "[]", '{"binaries": 5}'])
def test_damaged_manifests(complete_dist: Path, part: str, text: str) -> None:
    (complete_dist / part / dist.MANIFEST).write_text(text)
    with pytest.raises(CheckError):
        subject.find(TARGET, ALL)


def test_an_image_that_was_changed(complete_dist: Path) -> None:
    with (complete_dist / "image/root/sbom.cdx.json").open("a") as file:
        file.write(" ")
    with pytest.raises(CheckError, match="image/root are not those of its manifest"):
        subject.find(TARGET, ALL)
