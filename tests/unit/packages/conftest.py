"""Fixtures of phase 4."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from buildkit_riscv64.core import dist, filesystem, host
from buildkit_riscv64.core.arch import Target
from buildkit_riscv64.packages import build

from ..phase4 import client, hub, read_plain_packages, releasable, write_package  # noqa: F401

TARGET = Target.parse("linux-riscv64")


def make_packages(finished: Path) -> Path:
    """Create packages of the finished binaries."""
    directory = finished / "packages"
    directory.mkdir()
    names = [(name, form) for name in build.NAMES for form in build.FORMATS]
    files = [build.file_name(name, form, "0.32.2-1", TARGET) for name, form in names]
    for file in files:
        write_package(directory / file, finished)
    records = dist.record(directory, files)
    for record, (name, form) in zip(records, names, strict=True):
        record |= {"package": name, "format": form, "version": "0.32.2-1", "arch": "riscv64"}
    binaries = json.loads((finished / "manifest.json").read_text())
    manifest = {
        "packages_version": 1, "target": "linux-riscv64", "version": "v0.32.2",
        "revision": binaries["revision"], "package_version": "0.32.2-1", "pinned": True,
        "time": "2026-08-04T12:27:40Z",
        "binaries": {c: filesystem.sha256(finished / dist.binary(c)) for c in dist.COMMANDS},
        "build": {"inputs": f"sha256:{'0' * 64}", "finished": "2026-08-05T00:00:00Z"},
        "host": host.facts().as_json(), "files": records,
    }  # fmt: skip
    filesystem.write_json(directory / "manifest.json", manifest)
    (directory / "SHA256SUMS").write_text(
        dist.sums([*records, *dist.record(directory, ["manifest.json"])])
    )
    return directory


@pytest.fixture
def packaged(finished: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Finished binaries and their packages."""
    read_plain_packages(monkeypatch)
    return make_packages(finished)
