"""The real upstream, compiled for real on this machine and for it; once, then verified."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from buildkit_riscv64 import pins
from buildkit_riscv64.arch import Architecture

from .miniature import Project, commit_checkout, copy_checkout, isolated, remove, succeeded

pytestmark = pytest.mark.integration

TARGET = f"linux-{Architecture.here()}"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A clone of this checkout, the user's own Go settings and caches, and no submodule."""
    folder = tmp_path_factory.mktemp("upstream")
    copy_checkout(folder / "checkout")
    git = isolated(folder)
    commit_checkout(folder / "checkout", pins.load().commit, git)
    # CI would install packages without asking.
    unwanted = {"CI", "GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY"}
    env = {name: value for name, value in os.environ.items() if name not in unwanted}
    yield Project(folder / "checkout", env)
    remove(folder)


@pytest.fixture(scope="module")
def target(project: Project) -> Path:
    """What a build makes; how much memory our own process took is told."""
    peak = "?"
    with project.started("build-binaries") as run:
        status = Path(f"/proc/{run.process.pid}/status")
        while run.process.poll() is None:
            for line in status.read_text().splitlines():
                if line.startswith("VmHWM:"):
                    peak = line.split(":")[1].strip()
            time.sleep(0.2)
        done = succeeded(run.wait())
    print(f"{done.stderr}\npeak memory of our own process: {peak}")
    return project.dist / TARGET


def test_programs_say_what_is_pinned(target: Path) -> None:
    pinned = pins.load()
    for command in ("buildctl", "buildkitd"):
        done = subprocess.run(
            [target / "bin" / command, "--version"], capture_output=True, text=True, check=True
        )
        expected = f"{command} github.com/moby/buildkit {pinned.version} {pinned.commit}\n"
        assert done.stdout == expected


def test_check(project: Project, target: Path) -> None:
    assert f"{TARGET}: " in succeeded(project.invoke("check-binaries")).stderr


def test_second_run_has_nothing_to_do(project: Project, target: Path) -> None:
    assert "up to date" in project.build().stderr


def test_sums(target: Path) -> None:
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=target, check=True)
    listed = {line.split()[1] for line in (target / "SHA256SUMS").read_text().splitlines()}
    present = {str(p.relative_to(target)) for p in target.rglob("*") if p.is_file()}
    assert present == listed | {"SHA256SUMS"}


def test_tarball(target: Path) -> None:
    pinned = pins.load()
    with tarfile.open(target / f"buildkit-{pinned.version}.{TARGET}.tar.gz") as archive:
        assert archive.getnames() == ["bin/buildctl", "bin/buildkitd"]
        for member in archive:
            content = archive.extractfile(member)
            assert content
            assert content.read() == (target / member.name).read_bytes()
            assert (member.uid, member.gid, member.mode) == (0, 0, 0o755)
            assert member.mtime == pinned.time.timestamp()


def test_bill_of_materials(target: Path) -> None:
    for command, least in (("buildctl", 30), ("buildkitd", 100)):
        bom = json.loads((target / f"{command}.cdx.json").read_text())
        assert bom["bomFormat"] == "CycloneDX"
        assert len(bom["components"]) > least
        program = hashlib.sha256((target / "bin" / command).read_bytes()).hexdigest()
        assert bom["metadata"]["component"]["hashes"][0]["content"] == program
        names = {component["name"] for component in bom["components"]}
        assert {"std", "google.golang.org/grpc"} <= names


def test_provenance(target: Path) -> None:
    pinned = pins.load()
    statement = json.loads((target / "provenance.intoto.json").read_text())
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicateType"] == "https://slsa.dev/provenance/v1"
    subjects = {s["name"]: s["digest"]["sha256"] for s in statement["subject"]}
    assert {"bin/buildctl", "bin/buildkitd"} <= set(subjects)
    for name, digest in subjects.items():
        assert hashlib.sha256((target / name).read_bytes()).hexdigest() == digest
    upstream, go = statement["predicate"]["buildDefinition"]["resolvedDependencies"]
    assert upstream["digest"]["gitCommit"] == pinned.commit
    assert upstream["digest"]["dirHash"].startswith("h1:")
    assert go["uri"].endswith(pinned.go_version)


def test_manifest_tells_how_it_ran(project: Project, target: Path) -> None:
    manifest = project.manifest()
    assert manifest["source"]["kind"] == "module"
    assert manifest["source"]["pinned"] is True
    assert manifest["host"]["arch"] == str(Architecture.here())
    assert manifest["host"]["execution"] in {"native", "qemu-user", "qemu-system"}


def test_rebuild_is_identical(project: Project, target: Path) -> None:
    done = project.invoke("verify-binaries", "--rebuild", timeout=7200)
    assert "bit-identical" in succeeded(done).stderr
