from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from buildkit_riscv64.binaries import build, bundle, c_toolchain, source, toolchain, verify
from buildkit_riscv64.binaries import compile as compiler
from buildkit_riscv64.core import dist, filesystem, project
from buildkit_riscv64.core.arch import Target
from buildkit_riscv64.core.errors import (
    BuildError,
    CheckError,
    Failure,
    MismatchError,
    NotNativeError,
    SourceError,
    UsageError,
)

from .. import factories
from ..factories import GO, edit_manifest

TARGET = Target.parse("linux-riscv64")


class Compiler:
    """Fake Go; by default it writes the bytes of the artifacts."""

    def __init__(self, artifacts: Path) -> None:
        self.artifacts = artifacts
        self.asked: list[Mapping[str, str]] = []
        self.outputs: list[Path] = []
        self.change: Callable[[Path], object] = lambda _output: None

    def __call__(
        self,
        _source: object,
        _go: object,
        output: Path,
        _scratch: object,
        extra: Mapping[str, str],
        *,
        profile: str,
    ) -> None:
        assert not profile
        self.asked.append(extra)
        self.outputs.append(output)
        for command in dist.COMMANDS:
            (output / command).write_bytes((self.artifacts / "bin" / command).read_bytes())
        self.change(output)


@pytest.fixture
def go(finished: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Compiler:
    compile_again = Compiler(finished)
    # The artifacts come from the current source.
    current = source.resolve("module", factories.PINS)
    digest = build.inputs(current, TARGET, build.BuildMethod.GO, factories.PINS)
    edit_manifest(finished, lambda manifest: manifest["build"].update(inputs=digest))
    monkeypatch.setattr(compiler, "compile_commands", compile_again)
    monkeypatch.setattr(toolchain, "ensure", lambda _pins: GO)
    monkeypatch.setattr(source, "prepare", lambda *_args: None)
    monkeypatch.setattr(source, "verify_modules", lambda *_args: None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return compile_again


def other_bytes(output: Path) -> None:
    with (output / "buildkitd").open("ab") as file:
        file.write(b"x")


def run(
    *, rebuild: bool = False, cross_check: bool = False, target: str = ""
) -> list[dict[str, Any]]:
    return verify.main(target, rebuild=rebuild, cross_check=cross_check)


def tree(directory: Path) -> dict[str, str]:
    return {
        str(p.relative_to(directory)): filesystem.sha256(p)
        for p in directory.rglob("*")
        if p.is_file()
    }


def test_rebuild(go: Compiler, tmp_path: Path) -> None:
    before = tree(project.DIST)
    (verdict,) = run(rebuild=True)
    assert verdict["identical"] is True
    assert verdict["target"] == "linux-riscv64"
    assert [file["name"] for file in verdict["files"]] == ["bin/buildctl", "bin/buildkitd"]
    for file in verdict["files"]:
        assert file["artifact_sha256"] == file["compiled_again_sha256"] == filesystem.sha256(go.artifacts / file["name"])  # fmt: skip
    (extra,) = go.asked
    assert list(extra) == ["GOCACHE"], "must use an empty cache"
    assert tree(project.DIST) == before
    assert not list((tmp_path / "cache").rglob("bin"))


def test_each_verification_is_announced(
    parts: Parts, on: Callable[[str], None], steps: list[str]
) -> None:
    run(rebuild=True)
    on("x86_64")
    run(cross_check=True)
    bundle = ", with the bundle"
    assert steps == [f"verify-binaries --rebuild{bundle}", f"verify-binaries --cross-check{bundle}"]


def test_rebuild_of_a_profile_sets_no_goarch(go: Compiler) -> None:
    with pytest.raises(CheckError):
        run(rebuild=True, target="linux-riscv64-rva22u64")
    assert go.asked == []


@pytest.mark.parametrize("flag", ["rebuild", "cross_check"])
def test_different_bytes_are_a_mismatch(go: Compiler, on: Callable[[str], None], flag: str) -> None:
    if flag == "cross_check":
        on("x86_64")
    go.change = other_bytes
    with pytest.raises(MismatchError, match=r"bin/buildkitd.* [0-9a-f]{64}\b.* [0-9a-f]{64}") as caught:  # fmt: skip
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


def test_mismatch_writes_a_verdict(go: Compiler, on: Callable[[str], None]) -> None:
    on("x86_64")
    go.change = other_bytes
    with pytest.raises(MismatchError):
        run(cross_check=True)
    assert json.loads((go.artifacts / dist.VERDICT).read_text())["identical"] is False


def test_cross_compiled_binaries_cannot_be_published(
    go: Compiler, on: Callable[[str], None]
) -> None:
    """The output of a cross-check cannot be published, even with a manifest."""
    on("x86_64")
    taken: dict[str, bytes] = {}
    go.change = lambda output: taken.update({c: (output / c).read_bytes() for c in dist.COMMANDS})
    run(cross_check=True)
    before = tree(project.DIST)
    with dist.lock(TARGET), dist.staging(TARGET) as stage:
        factories.describe(stage / "x", TARGET)
        for path in (stage / "x").iterdir():
            path.rename(stage / path.name)
        for command, content in taken.items():
            (stage / "bin" / command).write_bytes(content)
        assert dist.load(stage).manifest["host"]["arch"] == "amd64"
        with pytest.raises(NotNativeError, match="compiled on amd64"):
            dist.publish(stage, TARGET)
        # Nor with a forged manifest.
        edit_manifest(stage, lambda manifest: manifest["host"].update(arch="riscv64"))
        with pytest.raises(NotNativeError, match="compiled on amd64"):
            dist.publish(stage, TARGET)
    assert {k: v for k, v in tree(project.DIST).items() if "lock" not in k} == before


@pytest.mark.parametrize("error", [BuildError("no"), KeyboardInterrupt(), OSError(28, "full")])
def test_failed_verification_leaves_nothing(
    go: Compiler, on: Callable[[str], None], tmp_path: Path, error: BaseException
) -> None:
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
    """Fake compiler of the bundle, which writes the bytes of the artifacts."""

    def __init__(self, artifacts: Path) -> None:
        self.artifacts = artifacts
        self.asked: list[tuple[str, Mapping[str, str]]] = []
        self.change: Callable[[Path], object] = lambda _output: None
        self.differences: list[str] = []
        self.compared: list[tuple[str, Mapping[str, str]]] = []

    def compile(
        self,
        part: bundle.Part,
        _go: object,
        output: Path,
        _scratch: object,
        extra: Mapping[str, str],
    ) -> None:
        self.asked.append((part.component.name, extra))
        for command in part.commands:
            (output / command).write_bytes((self.artifacts / "bin" / command).read_bytes())
        self.change(output)

    def differ(
        self,
        part: bundle.Part,
        info: Mapping[str, Any],
        _go: object,
        target: Target,
        extra: Mapping[str, str],
    ) -> list[str]:
        assert target == TARGET
        assert info["Path"] == part.module
        self.compared.append((part.component.name, extra))
        return self.differences


@pytest.fixture
def parts(bundled: Path, go: Compiler, monkeypatch: pytest.MonkeyPatch) -> Parts:
    parts = Parts(bundled)
    digest = bundle.inputs(bundle.parts(factories.PINS), TARGET, factories.PINS)
    edit_manifest(bundled, lambda manifest: manifest["bundle"].update(inputs=digest))
    monkeypatch.setattr(bundle, "prepare", lambda *_args: None)
    monkeypatch.setattr(bundle, "verify", lambda *_args: None)
    monkeypatch.setattr(bundle, "compile_part", parts.compile)
    monkeypatch.setattr(bundle, "differences", parts.differ)
    monkeypatch.setattr(verify, "read_build_info", lambda path, _go: factories.build_info(path.name, TARGET))  # fmt: skip
    monkeypatch.setattr(c_toolchain, "is_here", lambda recorded: recorded == factories.C)
    return parts


def names(verdict: dict[str, Any]) -> list[str]:
    return sorted(file["name"] for file in verdict["files"])


def test_rebuild_of_a_bundle_with_the_same_toolchain(parts: Parts) -> None:
    (verdict,) = run(rebuild=True)
    assert verdict["identical"] is True
    assert names(verdict) == sorted(map(dist.binary, [*dist.COMMANDS, *dist.BUNDLE]))
    assert verdict["compared_by_record"] == []
    assert [name for name, _ in parts.asked] == ["runc", "cni-plugins", "rootlesskit"]
    assert {tuple(extra) for _, extra in parts.asked} == {("GOCACHE",)}


def test_rebuild_of_a_bundle_with_another_toolchain(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(c_toolchain, "is_here", lambda _recorded: False)
    (verdict,) = run(rebuild=True)
    assert verdict["identical"] is True
    assert "bin/buildkit-runc" not in names(verdict)
    (one,) = verdict["compared_by_record"]
    assert factories.C["compiler"] in one["why"]
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
    (record,) = verdict["compared_by_record"]
    assert "riscv64" in record["why"]
    assert (record["name"], record["differences"]) == ("bin/buildkit-runc", [])
    assert record["artifact_sha256"] == filesystem.sha256(runc)
    assert json.loads((parts.artifacts / dist.VERDICT).read_text()) == verdict


def test_different_bundle_bytes_are_a_mismatch(parts: Parts, on: Callable[[str], None]) -> None:
    on("x86_64")

    def change(output: Path) -> None:
        for path in output.glob("buildkit-cni-bridge"):
            path.write_bytes(b"other")

    parts.change = change
    with pytest.raises(MismatchError, match="bin/buildkit-cni-bridge: sha256"):
        run(cross_check=True)
    assert json.loads((parts.artifacts / dist.VERDICT).read_text())["identical"] is False


def test_different_build_information_is_a_mismatch(parts: Parts, on: Callable[[str], None]) -> None:
    on("x86_64")
    parts.differences = ["tags: netgo, expected seccomp"]
    with pytest.raises(MismatchError, match="linux-riscv64: bin/buildkit-runc: tags: netgo, expected seccomp") as caught:  # fmt: skip
        run(cross_check=True)
    assert caught.value.code == 8
    assert json.loads((parts.artifacts / dist.VERDICT).read_text())["identical"] is False


def test_bundle_of_another_source(parts: Parts) -> None:
    with (project.UPSTREAM_MODULE / "runc" / "go.sum").open("a") as file:
        file.write("x v1 h1:y\n")
    with pytest.raises(SourceError, match="bundle of linux-riscv64"):  # fmt: skip
        run(rebuild=True)
    assert parts.asked == []


def test_verdict_without_a_bundle(go: Compiler) -> None:
    (verdict,) = run(rebuild=True)
    assert "compared_by_record" not in verdict


def test_both_flags_are_refused(go: Compiler) -> None:
    with pytest.raises(UsageError, match="--rebuild and --cross-check"):
        run(rebuild=True, cross_check=True)


def test_cross_check_on_the_same_architecture(go: Compiler) -> None:
    with pytest.raises(UsageError, match="--cross-check needs"):
        run(cross_check=True)
    assert go.asked == []


def test_rebuild_on_another_architecture(go: Compiler, on: Callable[[str], None]) -> None:
    on("x86_64")
    with pytest.raises(UsageError, match="--rebuild of linux-riscv64"):
        run(rebuild=True)
    assert go.asked == []


@pytest.mark.parametrize(
    ("machine", "expected"), [("riscv64", "GOCACHE"), ("x86_64", "GOARCH"), ("aarch64", "GOARCH")]
)
def test_architecture_decides_without_a_flag(
    go: Compiler, on: Callable[[str], None], machine: str, expected: str
) -> None:
    on(machine)
    run()
    assert list(go.asked[0]) == [expected]


def test_only_matching_targets_are_verified(go: Compiler, on: Callable[[str], None]) -> None:
    factories.describe(project.DIST / "linux-amd64", Target.parse("linux-amd64"))
    assert [verdict["target"] for verdict in run(rebuild=True)] == ["linux-riscv64"]


def test_changed_source(go: Compiler) -> None:
    with (project.UPSTREAM_MODULE / "go.sum").open("a") as file:
        file.write("x v1 h1:y\n")
    with pytest.raises(SourceError, match=r"linux-riscv64 .*v0\.32\.2"):
        run(rebuild=True)
    assert go.asked == []


@pytest.mark.parametrize(
    ("edit", "error", "message"),
    [
        (lambda m: m["build"].update(via="make"), UsageError, "container build"),
        (lambda m: m.pop("build"), CheckError, "manifest.json"),
        (lambda m: m.update(source=[]), CheckError, "manifest.json"),
        (lambda m: m.clear(), CheckError, "manifest.json"),
        (lambda m: m["source"].update(kind="path", location="/no/such"), UsageError, "no such directory"),
    ],
)  # fmt: skip
def test_unverifiable_manifests(
    go: Compiler, edit: Callable[[dict[str, Any]], object], error: type[Failure], message: str
) -> None:
    edit_manifest(go.artifacts, edit)
    with pytest.raises(error, match=message):
        run(rebuild=True)
    assert go.asked == []


def test_nothing_to_verify(checkout: Path, on: Callable[[str], None]) -> None:
    with pytest.raises(CheckError, match="nothing in"):
        run()
