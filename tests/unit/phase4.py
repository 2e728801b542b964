"""Fixtures for the tests of phase 4."""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from buildkit_riscv64.core import dist, filesystem
from buildkit_riscv64.core.arch import Target
from buildkit_riscv64.packages import contents
from buildkit_riscv64.upstream.github_client import Client
from buildkit_riscv64.validation import suites
from buildkit_riscv64.validation.artifacts import programs

from ..fake_github import Hub
from . import documents
from .factories import edit_manifest
from .image_factories import binaries as make_programs
from .image_factories import make_image
from .validation.factories import KNOWN, Publish, result, scene

PACKAGES = (
    "buildkit_0.32.2-1_riscv64.deb", "buildkit-0.32.2-1.riscv64.rpm",
    "buildkit-rootless_0.32.2-1_all.deb", "buildkit-rootless-0.32.2-1.noarch.rpm",
)  # fmt: skip


#: A test may hide the programs on PATH.
CAT = shutil.which("cat") or "cat"


def write_package(path: Path, directory: Path) -> None:
    """Write a package that is a plain tar archive of the programs in `dist/`."""
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as tar:
        for command in dist.COMMANDS:
            tar.add(directory / dist.binary(command), f"./usr/bin/{command}")


def forge(path: Path, directory: Path, aside: Path) -> None:
    """Replace a file by one with other programs; make manifest and checksums agree with it.

    Args:
        path: the file: a package, a tarball or an image archive.
        directory: of the artifacts that the file belongs to.
        aside: a new directory for the other programs.
    """
    if path.name.endswith(".image.tar"):
        (other,) = make_image(aside, version="v0.0.1").glob("*.image.tar")
        shutil.copy(other, path)
    else:
        make_programs(aside, Target.parse("linux-riscv64"), "v0.0.1")
        write_package(path, aside / "linux-riscv64")
    manifest = json.loads((directory / dist.MANIFEST).read_text())
    for file in manifest["files"]:
        file.update(dist.record(directory, [file["name"]])[0])
    dist.write_manifest(directory, manifest)


def read_plain_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read packages as plain tar archives; integration tests read real packages."""
    for suffix in (".deb", ".rpm"):
        monkeypatch.setitem(contents.READERS, suffix, (CAT,))


def pack(binaries: dist.Artifacts) -> Path:
    """Put plain tar archives into dist/ as packages, with their manifest."""
    directory = binaries.path / dist.PACKAGES
    directory.mkdir()
    manifest = documents.valid(
        documents.PACKAGES, host=binaries.manifest["host"], binaries=programs(binaries)
    )
    for name, file in zip(PACKAGES, manifest["files"], strict=True):
        write_package(directory / name, binaries.path)
        file.update(dist.record(directory, [name])[0])
    dist.write_manifest(directory, manifest)
    return directory


def confirm(directory: Path, **changes: Any) -> None:
    """Write the verdict of a cross-check on amd64 that confirms every program."""
    binaries = dist.load(directory)
    files = [
        {"name": name, "artifact_sha256": file["sha256"], "compiled_again_sha256": file["sha256"]}
        for name, file in binaries.files.items()
        if name.startswith("bin/")
    ]
    verdict = documents.valid(
        documents.CROSS_CHECK, files=files, version=binaries.manifest["version"],
        checked_on={**documents.HOST, "arch": "amd64"},
    )  # fmt: skip
    filesystem.write_json(directory / dist.VERDICT, verdict | changes)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A fake GitHub, with the environment to reach it."""
    with Hub().running() as started:
        for name, value in started.environment().items():
            monkeypatch.setenv(name, value)
        yield started


@pytest.fixture
def releasable(complete_dist: Path, publish: Publish, monkeypatch: pytest.MonkeyPatch) -> Path:
    """dist/linux-riscv64 with every part of a release."""
    read_plain_packages(monkeypatch)
    # The machine that runs the tests may be emulated.
    edit_manifest(complete_dist, lambda manifest: manifest["host"].update(execution="native"))
    known = {**KNOWN, ("cache", "test_two"): True}
    monkeypatch.setattr(suites.Suite, "scenarios", lambda _self: known)
    unproven = scene("test_two", "not proven")
    for name in suites.SUITES:
        publish({name: result(scene(), unproven)})
    pack(dist.load(complete_dist))
    confirm(complete_dist)
    return complete_dist


@pytest.fixture
def client(hub: Hub, slept: list[float]) -> Iterator[Client]:
    with Client.connected() as connected:
        yield connected
