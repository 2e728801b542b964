from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from buildkit_riscv64.binaries import bundle, c_toolchain, source, toolchain
from buildkit_riscv64.binaries import compile as compiler
from buildkit_riscv64.core import dist, pins, project
from buildkit_riscv64.core.arch import Target
from buildkit_riscv64.core.errors import BuildError, CheckError, SourceError
from buildkit_riscv64.core.pins import PinnedRelease

from .. import factories
from ..factories import GO, PINS, SUM, TIME, Commands

TARGET = Target.parse("linux-riscv64")
RUNC, PLUGINS, ROOTLESSKIT = bundle.COMPONENTS


# Components.


def test_each_program_has_one_component() -> None:
    programs = [command for one in bundle.COMPONENTS for command in one.packages]
    assert sorted(programs) == list(dist.BUNDLE)


@pytest.mark.parametrize(
    ("version", "module"),
    [
        ("v0.9.0", "github.com/rootless-containers/rootlesskit"),
        ("v1.1.1", "github.com/rootless-containers/rootlesskit"),
        ("v2.3.5", "github.com/rootless-containers/rootlesskit/v2"),
        ("v3.0.1", "github.com/rootless-containers/rootlesskit/v3"),
        ("v10.0.0-rc.1", "github.com/rootless-containers/rootlesskit/v10"),
    ],
)
def test_module_path_has_the_major_version(version: str, module: str) -> None:
    assert ROOTLESSKIT.module(version) == module
    assert ROOTLESSKIT.commands(version) == {"rootlesskit": f"{module}/cmd/rootlesskit"}


def test_program_at_the_module_root() -> None:
    assert RUNC.commands("v1.4.3") == {"buildkit-runc": "github.com/opencontainers/runc"}


def parts() -> list[bundle.Part]:
    return bundle.parts(PINS)


def test_parts(checkout: Path) -> None:
    runc, plugins, rootlesskit = parts()
    assert (runc.sum, runc.directory) == (SUM, project.UPSTREAM_MODULE / "runc")
    # Upstream's flags (its Dockerfile, stage `runc`), and ours for reproducibility.
    assert runc.flags == [
        "-trimpath", "-buildvcs=false", "-mod=readonly",
        "-tags=apparmor,seccomp,netgo,cgo,static_build,osusergo", "-ldflags=-extldflags -static",
    ]  # fmt: skip
    assert plugins.flags[3:] == [
        "-ldflags=-extldflags -static"
        " -X github.com/containernetworking/plugins/pkg/utils/buildversion.BuildVersion=v1.9.1"
    ]
    assert rootlesskit.flags == ["-trimpath", "-buildvcs=false", "-mod=readonly"]
    assert rootlesskit.location == "github.com/rootless-containers/rootlesskit/v3@v3.0.1"
    faster = Target.parse("linux-riscv64-rva22u64")
    assert runc.environment(faster) == {"CGO_ENABLED": "1", "GORISCV64": "rva22u64"}
    assert rootlesskit.environment(TARGET) == {"CGO_ENABLED": "0"}
    assert runc.job.selecting == runc.flags[2:4]


def test_pins_of_this_checkout_are_complete() -> None:
    """In this checkout, each go.sum has the hash, and `go` is the component's own version."""
    for part in bundle.parts(pins.load()):
        assert part.sum.startswith("h1:")
        text = (part.directory / "go.mod").read_text()
        for package in part.commands.values():
            assert re.search(rf"^(tool |\t){re.escape(package)}$", text, re.M)
        assert "toolchain" not in text
        assert f"module buildkit-riscv64.invalid/upstream/{part.component.name}\n" in text


Change = Callable[[Path], object]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "go.sum").unlink(), "No such file"),
        (lambda f: (f / "go.sum").write_text(""), "pins/upstream/runc/go.sum has no hash of github.com/opencontainers/runc v1.4.3"),
        (lambda f: (f / "go.mod").write_text("module x\n"), "pins/upstream/runc/go.mod does not require the pinned github.com/opencontainers/runc v1.4.3"),
    ],
)  # fmt: skip
def test_parts_with_wrong_module_files(checkout: Path, change: Change, message: str) -> None:
    change(project.UPSTREAM_MODULE / "runc")
    with pytest.raises(SourceError, match=message) as caught:
        parts()
    assert "invoke pins.update v0.32.2" in caught.value.hint


def test_unpinned_part(checkout: Path) -> None:
    with pytest.raises(SourceError, match=r"runc .*v0\.32\.2") as caught:
        bundle.parts(replace(PINS, bundle={}))
    assert "invoke pins.update v0.32.2" in caught.value.hint


# Cache key.


def test_every_input_is_in_the_digest(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def digest(pinned: pins.Pins = PINS, target: str = "linux-riscv64") -> str:
        return bundle.inputs(bundle.parts(pinned), Target.parse(target), pinned)

    named = {
        **PINS.bundle,
        "runc": PinnedRelease(version="v1.4.3", time=TIME, commit=factories.COMMIT),
    }
    seen = [
        digest(), digest(replace(PINS, go="1.26.11")), digest(target="linux-riscv64-rva22u64"),
        digest(replace(PINS, bundle=named)),
    ]  # fmt: skip
    with monkeypatch.context() as patch:
        patch.setattr(bundle, "RECIPE", bundle.RECIPE + 1)
        seen.append(digest())
    with monkeypatch.context() as patch:
        patch.setattr(compiler, "ANYWHERE", ("-race",))
        seen.append(digest())
    with (project.UPSTREAM_MODULE / "rootlesskit" / "go.sum").open("a") as file:
        file.write("x v1 h1:y\n")
    seen.append(digest())
    assert len(set(seen)) == len(seen)


def test_upstream_release_is_not_in_the_digest(checkout: Path) -> None:
    other = replace(PINS, version="v0.33.0", commit="1" * 40)
    assert bundle.inputs(parts(), TARGET, PINS) == bundle.inputs(parts(), TARGET, other)


@pytest.fixture
def manifest(checkout: Path) -> dict[str, Any]:
    return {"bundle": copy.deepcopy(factories.record_of_bundle(TARGET))}


@pytest.mark.parametrize(
    ("lacking", "same", "current"), [(False, True, True), (False, False, False), (True, False, True)]
)  # fmt: skip
def test_is_current(
    manifest: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    lacking: bool,
    same: bool,
    current: bool,
) -> None:
    """Another compiler invalidates runc, but without a compiler it cannot be rebuilt."""
    monkeypatch.setattr(c_toolchain, "missing", lambda: {"gcc": "gcc"} if lacking else {})
    monkeypatch.setattr(c_toolchain, "is_here", lambda recorded: same and recorded == factories.C)
    digest = manifest["bundle"]["inputs"]
    assert bundle.is_current(manifest, digest) is current
    assert not bundle.is_current(manifest, "sha256:other")
    assert not bundle.is_current({}, digest)
    assert not bundle.is_current({"bundle": []}, digest)


def test_component_of_a_program(manifest: dict[str, Any]) -> None:
    assert bundle.of(manifest, "buildkit-cni-bridge")["version"] == "v1.9.1"
    del manifest["bundle"]["components"][0]
    with pytest.raises(CheckError, match=r"component .*buildkit-runc"):
        bundle.of(manifest, "buildkit-runc")


# Fetching and compiling.


def test_each_part_is_fetched_and_verified(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[object] = []
    monkeypatch.setattr(source, "prepare", lambda part, _go: done.append(part.location))
    monkeypatch.setattr(source, "verify_modules", lambda _part, _go, name: done.append(name))
    bundle.prepare(parts(), GO)
    bundle.verify(parts(), GO)
    assert done == [*(part.location for part in parts()), "runc", "cni-plugins", "rootlesskit"]


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[Mapping[str, str]]:
    """Fake Go, which names programs after their packages; its environments."""
    seen: list[Mapping[str, str]] = []

    def run(
        job: compiler.Job, _go: object, output: Path, _scratch: Path, env: Mapping[str, str]
    ) -> None:
        seen.append(env)
        for package in job.packages:
            words = [word for word in package.split("/") if word not in {"v2", "v3"}]
            (output / words[-1]).write_text(package)

    monkeypatch.setattr(compiler, "run", run)
    return seen


def test_programs_are_renamed(
    checkout: Path, compiled: list[Mapping[str, str]], tmp_path: Path
) -> None:
    output, scratch = tmp_path / "bin", tmp_path / "scratch"
    output.mkdir()
    scratch.mkdir()
    for part in parts():
        bundle.compile_part(part, GO, output, scratch, {"GORISCV64": "rva22u64"})
    assert sorted(path.name for path in output.iterdir()) == list(dist.BUNDLE)
    assert (output / "buildkit-cni-host-local").read_text().endswith("/plugins/ipam/host-local")
    level = {"GORISCV64": "rva22u64"}
    assert compiled == [{"CGO_ENABLED": "1", **level}, level, level]
    assert list(scratch.iterdir()) == []


def test_major_version_is_not_a_program_name(
    checkout: Path, compiled: object, tmp_path: Path
) -> None:
    part = replace(parts()[0], release=PinnedRelease(version="v2.0.0", time=TIME))
    (tmp_path / "scratch").mkdir()
    bundle.compile_part(part, GO, tmp_path, tmp_path / "scratch", {})
    assert (tmp_path / "buildkit-runc").read_text() == "github.com/opencontainers/runc/v2"


def test_compiler_error(checkout: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(*_args: object) -> None:
        raise BuildError("no seccomp.h")

    monkeypatch.setattr(compiler, "run", fail)
    (tmp_path / "scratch").mkdir()
    with pytest.raises(BuildError, match=r"no seccomp\.h"):
        bundle.compile_part(parts()[0], GO, tmp_path, tmp_path / "scratch", {})
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("buildkit-")] == []


# Build information.


@pytest.fixture
def listed(checkout: Path, commands: Commands, monkeypatch: pytest.MonkeyPatch) -> Commands:
    monkeypatch.setattr(toolchain, "environment", lambda _go, extra: dict(extra))
    modules = f"github.com/opencontainers/runc v1.4.3 {SUM}\n\n\ngolang.org/x/sys v0.38.0 {SUM}\ngolang.org/x/sys v0.38.0 {SUM}\n"  # fmt: skip
    commands.answer("list", "-deps", stdout=modules)
    return commands


def differences(**changes: Any) -> list[str]:
    info = factories.build_info("buildkit-runc", TARGET)
    settings = info["Settings"] | changes.pop("Settings", {})
    cross = {"GOARCH": "riscv64"}
    return bundle.differences(
        parts()[0], {**info, **changes, "Settings": settings}, GO, TARGET, cross
    )


def test_matching_build_information(listed: Commands) -> None:
    assert differences() == []
    (call,) = listed.calls
    assert call.args == [
        "/go/bin/go", "list", "-deps", "-f", "{{with .Module}}{{.Path}} {{.Version}} {{.Sum}}{{end}}",
        "-mod=readonly", "-tags=apparmor,seccomp,netgo,cgo,static_build,osusergo",
        "github.com/opencontainers/runc",
    ]  # fmt: skip
    assert call.options["env"] == {"CGO_ENABLED": "1", "GOARCH": "riscv64"}
    assert call.options["cwd"] == project.UPSTREAM_MODULE / "runc"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"GoVersion": "go1.26.9"}, "Go: go1.26.9, expected go1.26.10"),
        ({"Path": "example.com/evil"}, "package: example.com/evil, expected github.com/opencontainers/runc"),
        ({"Deps": []}, "modules: "),
        ({"Deps": None}, "modules: "),
        ({"Main": {"Path": "github.com/opencontainers/runc", "Version": "v1.4.3", "Sum": "h1:other"}}, "h1:other"),
        ({"Settings": {"CGO_ENABLED": "0"}}, "CGO_ENABLED: 0, expected 1"),
        ({"Settings": {"-tags": "netgo"}}, "tags: netgo, expected apparmor,seccomp"),
        ({"Settings": {"-trimpath": ""}}, "-trimpath: , expected true"),
        ({"Settings": {"GOARCH": "amd64"}}, "architecture: amd64, expected riscv64"),
        ({"Settings": {"GORISCV64": "rva22u64"}}, "GORISCV64: rva22u64, expected rva20u64"),
    ],
)  # fmt: skip
def test_differing_build_information(
    listed: Commands, changes: dict[str, Any], message: str
) -> None:
    (reported,) = differences(**changes)
    assert message in reported
