"""`invoke check-binaries` and `invoke verify-binaries`; and that nothing but native gets out."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from buildkit_riscv64.arch import Architecture

from .miniature import CHECKOUT, Project, refused, succeeded

pytestmark = pytest.mark.integration

HERE = Architecture.here()
#: An architecture that this machine does not have.
OTHER = Architecture.AMD64 if HERE is Architecture.RISCV64 else Architecture.RISCV64
TARGET = f"linux-{OTHER}"

# What a machine of the other architecture would make: the product's own pieces,
# told that they are there. ARGUMENT is run last, with the finished stage.
_ELSEWHERE = """
import dataclasses, sys
from pathlib import Path
from buildkit_riscv64 import dist, storage, host, pins
from buildkit_riscv64.arch import Target
from buildkit_riscv64.binaries import build, compile, source, toolchain

target, pinned, stage = Target.parse(sys.argv[1]), pins.load(), Path(sys.argv[2])
real = host.facts()
go, found = toolchain.ensure(pinned), source.resolve("module", pinned)
(stage / "bin").mkdir(parents=True)
(stage.parent / "scratch").mkdir(exist_ok=True)
compile.compile_commands(
    found, go, stage / "bin", stage.parent / "scratch", {"GOARCH": str(target.arch)}
)
host.facts = lambda: dataclasses.replace(real, arch=sys.argv[3])
record = {
    "via": "go", "flags": compile.flags(found), "environment": {"CGO_ENABLED": "0"},
    "inputs": build.inputs(found, target, build.Via.GO, pinned),
    "started": "2026-01-02T03:04:05Z", "finished": "2026-01-02T03:05:05Z", "seconds": 60.0,
}
build._describe(stage, build._head(found, go, record, target), go, target, None)
"""


def run_elsewhere(project: Project, *args: str, then: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", _ELSEWHERE + then, *args], cwd=project.root, env=project.env,
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def made_elsewhere(project: Project, *, arch: Architecture = OTHER) -> Path:
    """Artifacts of the other architecture in dist/, as if copied from such a machine."""
    folder = project.dist / TARGET
    done = run_elsewhere(project, TARGET, str(folder), str(arch))
    assert done.returncode == 0, done.stderr
    (project.dist / "scratch").rmdir()
    return folder


def forge(folder: Path, **changes: Any) -> None:
    """Change a manifest, and its hash where it is listed."""
    from buildkit_riscv64 import dist, storage

    manifest = json.loads((folder / "manifest.json").read_text())
    for path, value in changes.items():
        *outer, key = path.split("__")
        place = manifest
        for name in outer:
            place = place[name]
        place[key] = value
    storage.write_json(folder / "manifest.json", manifest)
    files = [*manifest["files"], *dist.record(folder, ["manifest.json"])]
    (folder / "SHA256SUMS").write_text(dist.sums(files))


def flip(file: Path) -> None:
    """Change a byte in a program so that it still runs."""
    # The last one ends a name in the table of symbols.
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
def test_check_finds_what_is_not_whole(built: Project, name: str, how: str) -> None:
    file = built.target() / name
    if how == "removed":
        file.unlink()
    else:
        file.write_bytes(b"")
    refused(built.invoke("check-binaries"), 7)
    # And the next build mends it without being told.
    built.build()
    succeeded(built.invoke("check-binaries"))


def test_check_finds_what_does_not_belong(built: Project) -> None:
    (built.target() / "bin" / "extra").write_text("")
    refused(built.invoke("check-binaries"), 7, "bin/extra")


def test_check_of_a_script_in_the_place_of_a_program(built: Project) -> None:
    program = built.target() / "bin" / "buildctl"
    program.write_text("#!/bin/sh\necho buildctl github.com/moby/buildkit v0.98.0\n")
    refused(built.invoke("check-binaries"), 7, "bin/buildctl")


def test_check_finds_a_program_that_is_not_static(built: Project) -> None:
    from buildkit_riscv64 import dist

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


def test_rebuild_finds_another_byte(built: Project) -> None:
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


def test_both_ways_at_once(built: Project) -> None:
    refused(built.invoke("verify-binaries", "--rebuild", "--cross-check"), 2)


def test_cross_check_needs_another_architecture(built: Project) -> None:
    refused(built.invoke("verify-binaries", "--cross-check"), 2, str(HERE))


# verify-binaries --cross-check


def test_cross_check_is_identical(built: Project) -> None:
    folder = made_elsewhere(built)
    refused(built.invoke("verify-binaries", "--rebuild", "--target", TARGET), 2, str(OTHER))
    before = built.files()
    done = succeeded(built.invoke("verify-binaries", "--cross-check", "--json"))
    (verdict,) = done.json
    assert verdict["identical"] is True
    assert verdict["target"] == TARGET
    assert verdict["compiled_on"]["arch"] == str(OTHER)
    assert verdict["checked_on"]["arch"] == str(HERE)
    assert json.loads((folder / "cross-check.json").read_text()) == verdict
    # What it compiled is gone: only the verdict is new, in the whole checkout.
    after = built.files()
    assert after.pop(f"dist/{TARGET}/cross-check.json")
    assert after == before
    # The artifacts are still good, and so is the verdict beside them.
    assert TARGET in succeeded(built.invoke("check-binaries")).stderr
    # Without a flag, each target is verified in the way that this machine can.
    done = succeeded(built.invoke("verify-binaries", "--json"))
    assert {v["target"]: v["identical"] for v in done.json} == {
        TARGET: True, f"linux-{HERE}": True,
    }  # fmt: skip


def test_cross_check_finds_another_byte(built: Project) -> None:
    folder = made_elsewhere(built)
    flip(folder / "bin" / "buildctl")
    before = built.files()
    refused(built.invoke("verify-binaries", "--cross-check"), 8, TARGET, "bin/buildctl")
    verdict = json.loads((folder / "cross-check.json").read_text())
    assert verdict["identical"] is False
    after = built.files()
    del after[f"dist/{TARGET}/cross-check.json"]
    assert after == before


def test_what_was_cross_compiled_is_refused(built: Project) -> None:
    """Honest about where it was compiled, it fails the checks."""
    made_elsewhere(built, arch=HERE)
    refused(built.invoke("check-binaries", "--target", TARGET), 7, "compiled natively on")


def test_forged_manifest_of_this_architecture_is_refused(built: Project) -> None:
    """Foreign programs in the folder of this architecture, with every hash made to fit."""
    from buildkit_riscv64 import dist

    foreign = made_elsewhere(built)
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
def test_what_was_cross_compiled_cannot_be_published(
    project: Project, claimed: Architecture
) -> None:
    """`dist.publish` is the only way into dist/, and takes nothing that is not native."""
    project.dist.mkdir()
    stage = project.dist / ".stage"
    then = "\ndist.publish(stage, target)\n"
    done = run_elsewhere(project, TARGET, str(stage), str(claimed), then=then)
    assert done.returncode == 1
    assert "NotNativeError" in done.stderr
    assert not (project.dist / TARGET).exists()


def test_only_verification_sets_goarch() -> None:
    package = CHECKOUT / "buildkit_riscv64"
    # toolchain.py names it too, to say what it must not differ from.
    setting = {p.name for p in package.rglob("*.py") if '"GOARCH": ' in p.read_text()}
    assert setting == {"toolchain.py", "verify.py"}
