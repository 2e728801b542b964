"""`invoke check-binaries`, `invoke verify-binaries`, and the ban on cross-compiled artifacts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from buildkit_riscv64.core import dist, filesystem
from buildkit_riscv64.core.arch import Architecture

from . import foreign_build
from .miniature import Project, refused, succeeded

pytestmark = pytest.mark.integration

HERE = Architecture.here()
#: Another architecture than this machine's.
OTHER = Architecture.AMD64 if HERE is Architecture.RISCV64 else Architecture.RISCV64
TARGET = f"linux-{OTHER}"


def run_elsewhere(
    project: Project, *args: str, publish: bool = False
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, foreign_build.__file__, *args, *(["publish"] if publish else [])],
        cwd=project.root, env=project.env | {"PYTHONPATH": str(project.root)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def foreign_artifacts(project: Project, *, arch: Architecture = OTHER) -> Path:
    """Artifacts of the other architecture in dist/, as if copied from another machine."""
    directory = project.dist / TARGET
    done = run_elsewhere(project, TARGET, str(directory), str(arch))
    assert done.returncode == 0, done.stderr
    (project.dist / "scratch").rmdir()
    return directory


def forge(directory: Path, **changes: Any) -> None:
    """Change a manifest, and update its checksum."""
    manifest = json.loads((directory / "manifest.json").read_text())
    for path, value in changes.items():
        *outer, key = path.split("__")
        place = manifest
        for name in outer:
            place = place[name]
        place[key] = value
    filesystem.write_json(directory / "manifest.json", manifest)
    files = [*manifest["files"], *dist.record(directory, ["manifest.json"])]
    (directory / "SHA256SUMS").write_text(dist.sums(files))


def flip(file: Path) -> None:
    """Change a byte in a program so that it still runs."""
    # The last byte ends a name in the symbol table.
    file.write_bytes(file.read_bytes()[:-1] + b"x")


# check-binaries


def test_check_finds_a_changed_program(built: Project) -> None:
    flip(built.target() / "bin" / "buildctl")
    refused(built.invoke("check-binaries"), 7, "bin/buildctl", "sha256")


@pytest.mark.parametrize(
    "name",
    ["bin/buildkitd", "manifest.json", "SHA256SUMS", "provenance.intoto.json", "buildctl.cdx.json"],
)
@pytest.mark.parametrize("how", ["removed", "emptied"])
def test_check_finds_damaged_files(built: Project, name: str, how: str) -> None:
    file = built.target() / name
    if how == "removed":
        file.unlink()
    else:
        file.write_bytes(b"")
    refused(built.invoke("check-binaries"), 7)
    # The next build fixes it without a flag.
    built.build()
    succeeded(built.invoke("check-binaries"))


def test_check_finds_foreign_files(built: Project) -> None:
    (built.target() / "bin" / "extra").write_text("")
    refused(built.invoke("check-binaries"), 7, "bin/extra")


def test_check_finds_a_script_instead_of_a_program(built: Project) -> None:
    program = built.target() / "bin" / "buildctl"
    program.write_text("#!/bin/sh\necho buildctl github.com/moby/buildkit v0.98.0\n")
    refused(built.invoke("check-binaries"), 7, "bin/buildctl")


def test_check_finds_a_dynamic_program(built: Project) -> None:
    program = built.target() / "bin" / "buildctl"
    program.write_bytes(Path("/bin/sh").read_bytes())
    manifest = built.manifest()
    files = [
        dist.record(built.target(), [f["name"]])[0] if f["name"] == "bin/buildctl" else f
        for f in manifest["files"]
    ]
    forge(built.target(), files=files)
    done = built.invoke("check-binaries")
    refused(done, 7, "bin/buildctl", "linked")


def test_check_as_json(built: Project) -> None:
    found = succeeded(built.invoke("check-binaries", "--json")).json
    (findings,) = found.values()
    assert {f["status"] for f in findings} == {"OK"}
    checks = {f["check"] for f in findings}
    assert checks >= {"ELF class", "machine", "linked", "Go", "--version", "--help", "sha256"}
    (built.target() / "bin" / "buildctl").write_text("")
    done = built.invoke("check-binaries", "--json")
    refused(done, 7)
    assert any(f["status"] == "FAIL" for f in done.json[built.target().name])


# verify-binaries --rebuild


def test_rebuild_is_identical(built: Project) -> None:
    before = built.files()
    done = succeeded(built.invoke("verify-binaries", "--rebuild", "--json"))
    (verdict,) = done.json
    assert verdict["identical"] is True
    assert [f["name"] for f in verdict["files"]] == ["bin/buildctl", "bin/buildkitd"]
    assert "bit-identical" in done.stderr
    assert built.files() == before


def test_rebuild_finds_a_changed_byte(built: Project) -> None:
    flip(built.target() / "bin" / "buildkitd")
    before = built.files()
    refused(built.invoke("verify-binaries", "--rebuild"), 8, "bin/buildkitd")
    assert built.files() == before


def test_rebuild_from_the_submodule(project: Project) -> None:
    project.fetch_submodule()
    project.build()
    succeeded(project.invoke("verify-binaries", "--rebuild"))
    (project.root / "buildkit" / "version" / "new.go").write_text("package version\n")
    refused(project.invoke("verify-binaries", "--rebuild"), 4, "version/new.go")


def test_both_flags_are_refused(built: Project) -> None:
    refused(built.invoke("verify-binaries", "--rebuild", "--cross-check"), 2)


def test_cross_check_needs_another_architecture(built: Project) -> None:
    refused(built.invoke("verify-binaries", "--cross-check"), 2, str(HERE))


# verify-binaries --cross-check


def test_cross_check_is_identical(built: Project) -> None:
    directory = foreign_artifacts(built)
    refused(built.invoke("verify-binaries", "--rebuild", "--target", TARGET), 2, str(OTHER))
    before = built.files()
    done = succeeded(built.invoke("verify-binaries", "--cross-check", "--json"))
    (verdict,) = done.json
    assert verdict["identical"] is True
    assert verdict["target"] == TARGET
    assert verdict["compiled_on"]["arch"] == str(OTHER)
    assert verdict["checked_on"]["arch"] == str(HERE)
    assert json.loads((directory / "cross-check.json").read_text()) == verdict
    # Only the verdict is new in the checkout.
    after = built.files()
    assert after.pop(f"dist/{TARGET}/cross-check.json")
    assert after == before
    # The artifacts and the verdict pass the checks.
    assert TARGET in succeeded(built.invoke("check-binaries")).stderr
    # Without a flag, the architecture decides.
    done = succeeded(built.invoke("verify-binaries", "--json"))
    assert {v["target"]: v["identical"] for v in done.json} == {
        TARGET: True, f"linux-{HERE}": True,
    }  # fmt: skip


def test_cross_check_finds_a_changed_byte(built: Project) -> None:
    directory = foreign_artifacts(built)
    flip(directory / "bin" / "buildctl")
    before = built.files()
    refused(built.invoke("verify-binaries", "--cross-check"), 8, TARGET, "bin/buildctl")
    verdict = json.loads((directory / "cross-check.json").read_text())
    assert verdict["identical"] is False
    after = built.files()
    del after[f"dist/{TARGET}/cross-check.json"]
    assert after == before


def test_cross_compiled_artifacts_are_refused(built: Project) -> None:
    """A truthful manifest fails the checks."""
    foreign_artifacts(built, arch=HERE)
    refused(built.invoke("check-binaries", "--target", TARGET), 7, "compiled natively on")


def test_forged_manifest_of_this_architecture_is_refused(built: Project) -> None:
    """Foreign programs in the directory of this architecture, with matching checksums."""
    foreign = foreign_artifacts(built)
    target = built.dist / f"linux-{HERE}"
    manifest = json.loads((target / "manifest.json").read_text())
    for name in ("bin/buildctl", "bin/buildkitd"):
        (target / name).write_bytes((foreign / name).read_bytes())
    files = [
        dist.record(target, [f["name"]])[0] if f["name"].startswith("bin/") else f
        for f in manifest["files"]
    ]
    forge(target, files=files)
    refused(built.invoke("check-binaries", "--target", target.name), 7, "machine")


@pytest.mark.parametrize("claimed", [HERE, OTHER])
def test_cross_compiled_artifacts_cannot_be_published(
    project: Project, claimed: Architecture
) -> None:
    """`dist.publish` is the only way into dist/, and refuses everything cross-compiled."""
    project.dist.mkdir()
    stage = project.dist / ".stage"
    done = run_elsewhere(project, TARGET, str(stage), str(claimed), publish=True)
    assert done.returncode == 1
    assert "NotNativeError" in done.stderr
    assert not (project.dist / TARGET).exists()
