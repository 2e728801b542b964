from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from buildkit_riscv64 import dist, project, storage
from buildkit_riscv64.arch import Target
from buildkit_riscv64.binaries import build, bundle, cc, source, toolchain, verify
from buildkit_riscv64.binaries import compile as compiler
from buildkit_riscv64.errors import (
    BuildError,
    CheckError,
    Failure,
    MismatchError,
    NotNativeError,
    SourceError,
    UsageError,
)

from .. import making
from ..making import GO, edit_manifest

TARGET = Target.parse("linux-riscv64")


class Compiler:
    """Stands in for Go: makes the artifacts' own bytes again, unless told otherwise."""

    def __init__(self, artifacts: Path) -> None:
        self.artifacts = artifacts
        self.asked: list[Mapping[str, str]] = []
        self.outputs: list[Path] = []
        self.change: Callable[[Path], object] = lambda _output: None

    def __call__(self, _source: object, _go: object, output: Path, _scratch: object, extra: Mapping[str, str], *, profile: str) -> None:  # fmt: skip
        assert not profile
        self.asked.append(extra)
        self.outputs.append(output)
        for command in dist.COMMANDS:
            (output / command).write_bytes((self.artifacts / "bin" / command).read_bytes())
        self.change(output)


@pytest.fixture
def go(finished: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Compiler:
    made = Compiler(finished)
    # The artifacts were made from the source that is there.
    there = source.resolve("module", making.PINS)
    digest = build.inputs(there, TARGET, build.Via.GO, making.PINS)
    edit_manifest(finished, lambda manifest: manifest["build"].update(inputs=digest))
    monkeypatch.setattr(compiler, "compile_commands", made)
    monkeypatch.setattr(toolchain, "ensure", lambda _pins: GO)
    monkeypatch.setattr(source, "prepare", lambda *_args: None)
    monkeypatch.setattr(source, "verify_modules", lambda *_args: None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return made


def other_bytes(output: Path) -> None:
    with (output / "buildkitd").open("ab") as file:
        file.write(b"x")


def run(*, rebuild: bool = False, cross_check: bool = False, target: str = "") -> list[dict[str, Any]]:  # fmt: skip
    return verify.main(target, rebuild=rebuild, cross_check=cross_check)


def tree(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): storage.sha256(p) for p in folder.rglob("*") if p.is_file()}


def test_rebuild(go: Compiler, tmp_path: Path) -> None:
    before = tree(project.DIST)
    (verdict,) = run(rebuild=True)
    assert verdict["identical"] is True
    assert verdict["target"] == "linux-riscv64"
    assert [file["name"] for file in verdict["files"]] == ["bin/buildctl", "bin/buildkitd"]
    for file in verdict["files"]:
        assert file["artifact_sha256"] == file["compiled_again_sha256"] == storage.sha256(go.artifacts / file["name"])  # fmt: skip
    (extra,) = go.asked
    assert list(extra) == ["GOCACHE"], "from nothing: not from the cache that made the artifacts"
    assert tree(project.DIST) == before
    assert not list((tmp_path / "cache").rglob("bin"))


def test_rebuild_of_a_profile_sets_no_goarch(go: Compiler) -> None:
    with pytest.raises(CheckError):
        run(rebuild=True, target="linux-riscv64-rva22u64")
    assert go.asked == []


@pytest.mark.parametrize("flag", ["rebuild", "cross_check"])
def test_other_bytes_are_a_mismatch(go: Compiler, on: Callable[[str], None], flag: str) -> None:
    if flag == "cross_check":
        on("x86_64")
    go.change = other_bytes
    with pytest.raises(MismatchError, match=r"another bin/buildkitd: sha256 [0-9a-f]{64}, and the artifact's is") as caught:  # fmt: skip
        run(**{flag: True})  # type: ignore[arg-type]
    assert caught.value.code == 8


def test_cross_check(go: Compiler, on: Callable[[str], None], tmp_path: Path) -> None:
    on("x86_64")
    before = tree(project.DIST)
    (verdict,) = run(cross_check=True)
    assert go.asked == [{"GOARCH": "riscv64"}]
    after = tree(project.DIST)
    assert after.keys() - before.keys() == {"linux-riscv64/cross-check.json"}
    assert before.items() <= after.items()
    assert json.loads((go.artifacts / dist.VERDICT).read_text()) == verdict
    assert (verdict["compiled_on"]["arch"], verdict["checked_on"]["arch"]) == ("riscv64", "amd64")
    assert verdict["identical"] is True
    assert not list((tmp_path / "cache").rglob("bin"))
    assert project.DIST not in go.outputs[0].parents


def test_a_verdict_of_a_mismatch_is_kept(go: Compiler, on: Callable[[str], None]) -> None:
    on("x86_64")
    go.change = other_bytes
    with pytest.raises(MismatchError):
        run(cross_check=True)
    assert json.loads((go.artifacts / dist.VERDICT).read_text())["identical"] is False


def test_what_was_cross_compiled_can_never_be_an_artifact(go: Compiler, on: Callable[[str], None]) -> None:  # fmt: skip
    """Even somebody who takes the output of a cross-check, and describes it, cannot publish it."""
    on("x86_64")
    taken: dict[str, bytes] = {}
    go.change = lambda output: taken.update({c: (output / c).read_bytes() for c in dist.COMMANDS})
    run(cross_check=True)
    before = tree(project.DIST)
    with dist.lock(TARGET), dist.staging(TARGET) as stage:
        making.describe(stage / "x", TARGET)
        for path in (stage / "x").iterdir():
            path.rename(stage / path.name)
        for command, content in taken.items():
            (stage / "bin" / command).write_bytes(content)
        assert dist.load(stage).manifest["host"]["arch"] == "amd64"
        with pytest.raises(NotNativeError, match="compiled on amd64"):
            dist.publish(stage, TARGET)
        # Nor by a lie in the manifest: this machine is what it is.
        edit_manifest(stage, lambda manifest: manifest["host"].update(arch="riscv64"))
        with pytest.raises(NotNativeError, match="compiled on amd64"):
            dist.publish(stage, TARGET)
    assert {k: v for k, v in tree(project.DIST).items() if "lock" not in k} == before


@pytest.mark.parametrize("error", [BuildError("no"), KeyboardInterrupt(), OSError(28, "full")])
def test_nothing_is_left_of_one_that_fails(go: Compiler, on: Callable[[str], None], tmp_path: Path, error: BaseException) -> None:  # fmt: skip
    on("x86_64")

    def fail(_output: Path) -> None:
        raise error

    go.change = fail
    before = tree(project.DIST)
    with pytest.raises(type(error)):
        run(cross_check=True)
    assert tree(project.DIST) == before
    assert not list((tmp_path / "cache").rglob("bin"))


# With a bundle.


class Parts:
    """Stands in for what compiles the bundle: makes the artifacts' own bytes again."""

    def __init__(self, artifacts: Path) -> None:
        self.artifacts = artifacts
        self.asked: list[tuple[str, Mapping[str, str]]] = []
        self.change: Callable[[Path], object] = lambda _output: None
        self.differences: list[str] = []
        self.compared: list[tuple[str, Mapping[str, str]]] = []

    def compile(self, part: bundle.Part, _go: object, output: Path, _scratch: object, extra: Mapping[str, str]) -> None:  # fmt: skip
        self.asked.append((part.component.name, extra))
        for command in part.commands:
            (output / command).write_bytes((self.artifacts / "bin" / command).read_bytes())
        self.change(output)

    def differ(self, part: bundle.Part, info: Mapping[str, Any], _go: object, target: Target, extra: Mapping[str, str]) -> list[str]:  # fmt: skip
        assert target == TARGET
        assert info["Path"] == part.module
        self.compared.append((part.component.name, extra))
        return self.differences


@pytest.fixture
def parts(bundled: Path, go: Compiler, monkeypatch: pytest.MonkeyPatch) -> Parts:
    made = Parts(bundled)
    there = bundle.inputs(bundle.parts(making.PINS), TARGET, making.PINS)
    edit_manifest(bundled, lambda manifest: manifest["bundle"].update(inputs=there))
    monkeypatch.setattr(bundle, "prepare", lambda *_args: None)
    monkeypatch.setattr(bundle, "verify", lambda *_args: None)
    monkeypatch.setattr(bundle, "compile_part", made.compile)
    monkeypatch.setattr(bundle, "differences", made.differ)
    monkeypatch.setattr(verify, "read_build_info", lambda path, _go: making.build_info(path.name, TARGET))  # fmt: skip
    monkeypatch.setattr(cc, "is_here", lambda recorded: recorded == making.C)
    return made


def names(verdict: dict[str, Any]) -> list[str]:
    return sorted(file["name"] for file in verdict["files"])


def test_rebuild_of_a_bundle_where_the_same_c_is(parts: Parts) -> None:
    (verdict,) = run(rebuild=True)
    assert verdict["identical"] is True
    assert names(verdict) == sorted(map(dist.binary, [*dist.COMMANDS, *dist.BUNDLE]))
    assert verdict["compared_by_record"] == []
    assert [name for name, _ in parts.asked] == ["runc", "cni-plugins", "rootlesskit"]
    assert {tuple(extra) for _, extra in parts.asked} == {("GOCACHE",)}


def test_rebuild_of_a_bundle_where_the_c_is_another(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setattr(cc, "is_here", lambda _recorded: False)
    (verdict,) = run(rebuild=True)
    assert verdict["identical"] is True
    assert "bin/buildkit-runc" not in names(verdict)
    (one,) = verdict["compared_by_record"]
    assert one["why"] == f"C is linked in, and this machine has not the same: {making.C['compiler']}, its libraries"  # fmt: skip
    assert [name for name, _ in parts.asked] == ["cni-plugins", "rootlesskit"]


def test_cross_check_of_a_bundle(parts: Parts, on: Callable[[str], None]) -> None:
    on("x86_64")
    (verdict,) = run(cross_check=True)
    assert verdict["identical"] is True
    pure = [name for name in dist.BUNDLE if name != "buildkit-runc"]
    assert names(verdict) == sorted(map(dist.binary, [*dist.COMMANDS, *pure]))
    cross = {"GOARCH": "riscv64"}
    assert parts.asked == [("cni-plugins", cross), ("rootlesskit", cross)]
    assert parts.compared == [("runc", cross)]
    runc = parts.artifacts / "bin" / "buildkit-runc"
    assert verdict["compared_by_record"] == [
        {
            "name": "bin/buildkit-runc", "artifact_sha256": storage.sha256(runc), "differences": [],
            "why": "C is linked in, and that for riscv64 is compiled there alone",
        }
    ]  # fmt: skip
    assert json.loads((parts.artifacts / dist.VERDICT).read_text()) == verdict


def test_a_bundle_of_other_bytes_is_a_mismatch(parts: Parts, on: Callable[[str], None]) -> None:
    on("x86_64")

    def change(output: Path) -> None:
        for path in output.glob("buildkit-cni-bridge"):
            path.write_bytes(b"other")

    parts.change = change
    with pytest.raises(MismatchError, match="another bin/buildkit-cni-bridge: sha256"):
        run(cross_check=True)
    assert json.loads((parts.artifacts / dist.VERDICT).read_text())["identical"] is False


def test_another_record_is_a_mismatch(parts: Parts, on: Callable[[str], None]) -> None:
    on("x86_64")
    parts.differences = ["tags: netgo, expected seccomp"]
    with pytest.raises(MismatchError, match="linux-riscv64: bin/buildkit-runc: tags: netgo, expected seccomp") as caught:  # fmt: skip
        run(cross_check=True)
    assert caught.value.code == 8
    assert json.loads((parts.artifacts / dist.VERDICT).read_text())["identical"] is False


def test_a_bundle_of_another_source(parts: Parts) -> None:
    with (project.UPSTREAM_MODULE / "runc" / "go.sum").open("a") as file:
        file.write("x v1 h1:y\n")
    with pytest.raises(SourceError, match="the bundle of linux-riscv64 was built from other sources"):  # fmt: skip
        run(rebuild=True)
    assert parts.asked == []


def test_without_a_bundle_a_verdict_says_nothing_of_one(go: Compiler) -> None:
    (verdict,) = run(rebuild=True)
    assert "compared_by_record" not in verdict


def test_both_ways_at_once(go: Compiler) -> None:
    with pytest.raises(UsageError, match="need machines of different architectures"):
        run(rebuild=True, cross_check=True)


def test_cross_check_at_home(go: Compiler) -> None:
    with pytest.raises(UsageError, match="needs a machine of another architecture"):
        run(cross_check=True)
    assert go.asked == []


def test_rebuild_elsewhere(go: Compiler, on: Callable[[str], None]) -> None:
    on("x86_64")
    with pytest.raises(UsageError, match="--rebuild of linux-riscv64 needs a riscv64 machine"):
        run(rebuild=True)
    assert go.asked == []


@pytest.mark.parametrize(
    ("machine", "expected"), [("riscv64", "GOCACHE"), ("x86_64", "GOARCH"), ("aarch64", "GOARCH")]
)
def test_without_a_flag_the_machine_decides(go: Compiler, on: Callable[[str], None], machine: str, expected: str) -> None:  # fmt: skip
    on(machine)
    run()
    assert list(go.asked[0]) == [expected]


def test_only_what_fits_is_verified(go: Compiler, on: Callable[[str], None]) -> None:
    making.describe(project.DIST / "linux-amd64", Target.parse("linux-amd64"))
    assert [verdict["target"] for verdict in run(rebuild=True)] == ["linux-riscv64"]


def test_another_source_now(go: Compiler) -> None:
    with (project.UPSTREAM_MODULE / "go.sum").open("a") as file:
        file.write("x v1 h1:y\n")
    with pytest.raises(SourceError, match="the source or the pins are others now"):
        run(rebuild=True)
    assert go.asked == []


@pytest.mark.parametrize(
    ("edit", "error", "message"),
    [
        (lambda m: m["build"].update(via="make"), UsageError, "container build"),
        (lambda m: m.pop("build"), CheckError, "cannot use .*manifest.json"),
        (lambda m: m.update(source=[]), CheckError, "cannot use .*manifest.json"),
        (lambda m: m.clear(), CheckError, "cannot use .*manifest.json"),
        (lambda m: m["source"].update(kind="path", location="/no/such"), UsageError, "no such directory"),
    ],
)  # fmt: skip
def test_manifests_that_cannot_be_verified(go: Compiler, edit: Callable[[dict[str, Any]], object], error: type[Failure], message: str) -> None:  # fmt: skip
    edit_manifest(go.artifacts, edit)
    with pytest.raises(error, match=message):
        run(rebuild=True)
    assert go.asked == []


def test_nothing_to_verify(checkout: Path, on: Callable[[str], None]) -> None:
    with pytest.raises(CheckError, match="nothing in"):
        run()
