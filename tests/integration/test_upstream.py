"""The real upstream, compiled natively once, then verified."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from buildkit_riscv64.core import pins, process
from buildkit_riscv64.core.arch import Architecture, Platform
from buildkit_riscv64.validation.environment.waiting import BOUND
from buildkit_riscv64.validation.scenarios import bases
from buildkit_riscv64.validation.scenarios.daemon import Daemon

from .miniature import Project, path_with, succeeded

pytestmark = pytest.mark.integration

TARGET = f"linux-{Architecture.here()}"
COMMANDS = ("buildctl", "buildkitd")


def test_programs_have_the_pinned_version(upstream_target: Path) -> None:
    pinned = pins.load()
    for command in COMMANDS:
        done = subprocess.run(
            [upstream_target / "bin" / command, "--version"],
            capture_output=True,
            text=True,
            check=True,
        )
        expected = f"{command} github.com/moby/buildkit {pinned.version} {pinned.commit}\n"
        assert done.stdout == expected


def test_check(upstream_project: Project, upstream_target: Path) -> None:
    assert f"{TARGET}: " in succeeded(upstream_project.invoke("check-binaries")).stderr


def test_second_run_is_up_to_date(upstream_project: Project, upstream_target: Path) -> None:
    assert "up to date" in upstream_project.build().stderr


def test_checksums(upstream_target: Path) -> None:
    subprocess.run(
        ["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=upstream_target, check=True
    )
    listed = {line.split()[1] for line in (upstream_target / "SHA256SUMS").read_text().splitlines()}
    present = {
        str(p.relative_to(upstream_target)) for p in upstream_target.rglob("*") if p.is_file()
    }
    assert present == listed | {"SHA256SUMS"}


def test_tarball(upstream_target: Path) -> None:
    pinned = pins.load()
    programs = sorted(f"bin/{path.name}" for path in (upstream_target / "bin").iterdir())
    assert {"bin/buildctl", "bin/buildkitd"} <= set(programs)
    with tarfile.open(upstream_target / f"buildkit-{pinned.version}.{TARGET}.tar.gz") as archive:
        assert archive.getnames() == programs
        for member in archive:
            content = archive.extractfile(member)
            assert content
            assert content.read() == (upstream_target / member.name).read_bytes()
            assert (member.uid, member.gid, member.mode) == (0, 0, 0o755)
            assert member.mtime == pinned.time.timestamp()


def test_bill_of_materials(upstream_target: Path) -> None:
    for command, least in (("buildctl", 30), ("buildkitd", 100)):
        bom = json.loads((upstream_target / f"{command}.cdx.json").read_text())
        assert bom["bomFormat"] == "CycloneDX"
        assert len(bom["components"]) > least
        program = hashlib.sha256((upstream_target / "bin" / command).read_bytes()).hexdigest()
        assert bom["metadata"]["component"]["hashes"][0]["content"] == program
        names = {component["name"] for component in bom["components"]}
        assert {"std", "google.golang.org/grpc"} <= names


def test_provenance(upstream_target: Path) -> None:
    pinned = pins.load()
    statement = json.loads((upstream_target / "provenance.intoto.json").read_text())
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicateType"] == "https://slsa.dev/provenance/v1"
    subjects = {s["name"]: s["digest"]["sha256"] for s in statement["subject"]}
    assert {"bin/buildctl", "bin/buildkitd"} <= set(subjects)
    for name, digest in subjects.items():
        assert hashlib.sha256((upstream_target / name).read_bytes()).hexdigest() == digest
    upstream, go = statement["predicate"]["buildDefinition"]["resolvedDependencies"]
    assert upstream["digest"]["gitCommit"] == pinned.commit
    assert upstream["digest"]["dirHash"].startswith("h1:")
    assert go["uri"].endswith(pinned.go_version)


def test_manifest_records_the_execution(upstream_project: Project, upstream_target: Path) -> None:
    manifest = upstream_project.manifest()
    assert manifest["source"]["kind"] == "module"
    assert manifest["source"]["pinned"] is True
    assert manifest["host"]["arch"] == str(Architecture.here())
    assert manifest["host"]["execution"] in {"native", "qemu-user", "qemu-system"}


def test_rebuild_is_identical(upstream_project: Project, upstream_target: Path) -> None:
    done = upstream_project.invoke("verify-binaries", "--rebuild", timeout=24 * BOUND)
    assert "bit-identical" in succeeded(done).stderr


@pytest.fixture
def bundled(upstream_project: Project, upstream_target: Path, tmp_path: Path) -> Path:
    """The directory of the programs, after adding a bundle."""
    copy = Project(tmp_path / "checkout", upstream_project.env)
    shutil.copytree(upstream_project.root, copy.root, symlinks=True)
    before = {name: (upstream_target / "bin" / name).stat().st_mtime_ns for name in COMMANDS}
    succeeded(copy.invoke("build-binaries", "--bundle", timeout=24 * BOUND))
    directory = copy.target() / "bin"
    assert {name: (directory / name).stat().st_mtime_ns for name in COMMANDS} == before
    assert "bin/buildkit-runc" in succeeded(copy.invoke("check-binaries")).stderr
    return directory


@pytest.mark.needs("c", "daemons", "debian", "iptables")
def test_container_and_network_of_the_bundle(
    bundled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """buildkitd finds neither the machine's runc nor its network."""
    base = bases.busybox(Platform.here())
    tools = Path(path_with(tmp_path / "tools", "unshare"))
    for name in ("iptables", "ip6tables"):
        found = process.which(name)
        assert found, f"the tests need {name}"
        (tools / name).symlink_to(found)
    monkeypatch.setenv("PATH", f"{bundled}:{tools}")
    # The plugins' changes end with their network namespace.
    isolated = [*process.namespaced(), "--net"]
    monkeypatch.setattr(process, "namespaced", lambda: isolated)
    context = tmp_path / "context"
    context.mkdir()
    (context / "Dockerfile").write_text(
        "FROM base\nRUN ip addr show dev eth0 && grep Seccomp: /proc/self/status\n"
    )
    daemon = Daemon(bundled, tmp_path / "daemon", flags=["--oci-worker-net=bridge"])
    try:
        daemon.start()
        output = daemon.build(context, *base.flags()).good().stderr
    finally:
        daemon.close()
    assert re.search(r"inet 10\.10\.0\.\d+/16", output)
    assert re.search(r"Seccomp:\s+2", output), "runc was compiled with seccomp"
