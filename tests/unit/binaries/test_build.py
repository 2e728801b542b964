from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from buildkit_riscv64.binaries import (
    build,
    bundle,
    c_toolchain,
    check,
    elf,
    make,
    source,
    toolchain,
)
from buildkit_riscv64.binaries import compile as compiler
from buildkit_riscv64.binaries.build import BuildMethod, BuildOptions
from buildkit_riscv64.core import dist, dry_run, host, process, project, schemas
from buildkit_riscv64.core.arch import Target
from buildkit_riscv64.core.errors import (
    BuildError,
    BusyError,
    CheckError,
    Failure,
    MissingRequirementError,
    NotNativeError,
    SourceError,
    StorageError,
    UsageError,
)

from .. import factories
from ..factories import GO, PINS, Commands, make_source
from ..published import command_answers, leftovers, tree

TARGET = Target.parse("linux-riscv64")


# Cache key.


def test_options() -> None:
    assert BuildOptions.parse(method="make", source="module") == BuildOptions(
        method=BuildMethod.MAKE, source="module"
    )
    for method in ("", "docker", "GO"):
        with pytest.raises(UsageError, match=f"--method {method}: .*no such"):
            BuildOptions.parse(method=method)


def digest(**changes: Any) -> str:
    return build.inputs(make_source(**changes), TARGET, BuildMethod.GO, PINS)


def test_every_input_is_in_the_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = [
        digest(), digest(state="other"), digest(version="v0.32.3"), digest(revision="0" * 40),
        digest(kind=source.Kind.SUBMODULE),
        build.inputs(make_source(), Target.parse("linux-riscv64-rva22u64"), BuildMethod.GO, PINS),
        build.inputs(make_source(), TARGET, BuildMethod.MAKE, PINS),
        build.inputs(make_source(), TARGET, BuildMethod.GO, replace(PINS, go="1.26.11")),
    ]  # fmt: skip
    monkeypatch.setattr(compiler, "flags", lambda *_args: ["-race"])
    seen.append(digest())
    monkeypatch.undo()
    monkeypatch.setattr(build, "RECIPE", build.RECIPE + 1)
    seen.append(digest())
    assert len(set(seen)) == len(seen)
    monkeypatch.undo()
    assert digest() == seen[0]


def test_location_is_not_in_the_digest() -> None:
    assert digest() == digest(location="elsewhere", directory=Path("/elsewhere"))


# A whole build, with a compiler that only writes headers.


class Machine:
    """The environment of a build; tests break one part each."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.compiles: Callable[[Path, Path], None] = self.write
        self.verifies: Callable[[], None] = lambda: None
        self.info: dict[str, str] = {}

    def write(self, output: Path, scratch: Path) -> None:
        (scratch / "go-build").mkdir()
        for command in dist.COMMANDS:
            (output / command).write_bytes(factories.elf("riscv64") + command.encode())
            (output / command).chmod(0o755)

    def compile(
        self,
        _source: object,
        _go: object,
        output: Path,
        scratch: Path,
        _extra: object,
        *,
        profile: str,
    ) -> None:
        assert not profile
        self.done.append("compile")
        self.compiles(output, scratch)

    def verify(self, *_args: object) -> None:
        self.done.append("verify")
        self.verifies()


@pytest.fixture
def machine(
    checkout: Path, on: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, commands: Commands
) -> Machine:
    machine = Machine()
    on("riscv64")

    def ensure(_pins: object) -> Any:
        machine.done.append("go")
        return GO

    monkeypatch.setattr(toolchain, "ensure", ensure)
    monkeypatch.setattr(source, "prepare", lambda *_args: machine.done.append("prepare"))
    monkeypatch.setattr(source, "verify_modules", machine.verify)
    monkeypatch.setattr(compiler, "compile_commands", machine.compile)
    for module in (elf, check):
        monkeypatch.setattr(
            module, "read_build_info", lambda path, _go: factories.build_info(path.name, TARGET, **machine.info)
        )  # fmt: skip
    command_answers(commands, project.DIST / ".linux-riscv64.staging")
    return machine


def test_build(machine: Machine) -> None:
    outcome = build.build(BuildOptions())
    assert outcome.artifacts is not None
    assert not outcome.up_to_date
    assert machine.done[:2] == ["go", "prepare"]
    assert sorted(machine.done[2:]) == ["compile", "verify"]
    assert sorted(tree()) == [
        "SHA256SUMS", "bin/buildctl", "bin/buildkitd",
        "buildctl.cdx.json", "buildkit-v0.32.2.linux-riscv64.tar.gz", "buildkitd.cdx.json",
        "manifest.json", "provenance.intoto.json",
    ]  # fmt: skip
    assert leftovers() == []
    manifest = outcome.artifacts.manifest
    assert schemas.validation_error(manifest, schemas.BINARIES) == ""
    assert manifest["build"]["environment"] == {"CGO_ENABLED": "0"}
    assert manifest["build"]["flags"] == compiler.flags(source.resolve("module", PINS))
    assert manifest["source"]["time"] == "2026-08-04T12:27:40Z"


def test_only_compiling_builds_are_announced(machine: Machine, steps: list[str]) -> None:
    build.build(BuildOptions())
    build.build(BuildOptions())
    assert steps == ["build-binaries"]


def test_second_build_starts_nothing(machine: Machine, commands: Commands) -> None:
    build.build(BuildOptions())
    before = tree()
    machine.done.clear()
    commands.calls.clear()
    outcome = build.build(BuildOptions())
    assert outcome.up_to_date
    assert (machine.done, commands.calls) == ([], [])
    assert tree() == before


def other_source() -> None:
    with (project.UPSTREAM_MODULE / "go.sum").open("a") as file:
        file.write("x v1 h1:y\n")


def remove_checksums() -> None:
    (project.DIST / "linux-riscv64" / dist.SUMS).unlink()


def tamper(name: str, data: bytes = b"x") -> Callable[[], None]:
    return lambda: (project.DIST / "linux-riscv64" / name).write_bytes(data)  # type: ignore[return-value]


@pytest.mark.parametrize(
    "change",
    [
        other_source, tamper("bin/buildctl"), tamper("manifest.json", b"{"),
        tamper("manifest.json", b'{"build": []}'), tamper("manifest.json", b'{"build": null}'),
        tamper("manifest.json", b"[" * 100000),
        remove_checksums,
    ],
    ids=["source", "binary", "half a manifest", "list", "null", "deep", "no checksums"],
)  # fmt: skip
def test_any_change_triggers_a_build(machine: Machine, change: Callable[[], None]) -> None:
    build.build(BuildOptions())
    change()
    outcome = build.build(BuildOptions())
    assert not outcome.up_to_date
    assert outcome.artifacts is not None
    assert outcome.artifacts.unchanged()


def test_force(machine: Machine) -> None:
    build.build(BuildOptions())
    inode = (project.DIST / "linux-riscv64" / "bin" / "buildctl").stat().st_ino
    assert not build.build(BuildOptions(force=True)).up_to_date
    assert (project.DIST / "linux-riscv64" / "bin" / "buildctl").stat().st_ino != inode


def test_unchanged_binaries_are_not_packed_again(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    build.build(BuildOptions())
    before = tree()
    monkeypatch.setattr(build, "pack", lambda *_args: pytest.fail("packed"))
    build.build(BuildOptions(force=True))
    name = "buildkit-v0.32.2.linux-riscv64.tar.gz"
    assert tree()[name] == before[name]


def test_changed_binaries_are_packed_again(machine: Machine) -> None:
    build.build(BuildOptions())
    before = tree()
    write = machine.write

    def otherwise(output: Path, scratch: Path) -> None:
        write(output, scratch)
        with (output / "buildctl").open("ab") as file:
            file.write(b"more")

    machine.compiles = otherwise
    build.build(BuildOptions(force=True))
    name = "buildkit-v0.32.2.linux-riscv64.tar.gz"
    assert tree()[name] != before[name]


def test_dry(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    with dry_run.running(dry=True):
        outcome = build.build(BuildOptions())
    assert outcome.artifacts is None
    assert machine.done == []
    assert not project.DIST.exists()
    output = capsys.readouterr().err
    assert "would run, with go1.26.10 in" in output
    assert "go build -trimpath -buildvcs=false" in output


def test_dry_with_a_profile(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    with dry_run.running(dry=True):
        build.build(BuildOptions(goriscv64="rva22u64"))
    output = capsys.readouterr().err
    assert "GORISCV64=rva22u64 go build" in output
    assert "dist/linux-riscv64-rva22u64/" in output


def fails(error: BaseException) -> Callable[..., None]:
    def function(*_args: object) -> None:
        raise error

    return function


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (BuildError("x.go:1: syntax error"), BuildError),
        (StorageError("no space left while compiling"), StorageError),
        (OSError(28, "No space left on device", "/dist/x"), StorageError),
        (OSError(30, "Read-only file system", "/dist/x"), StorageError),
        (KeyboardInterrupt(), KeyboardInterrupt),
        (ZeroDivisionError(), ZeroDivisionError),
    ],
)
def test_failed_build_keeps_dist(
    machine: Machine, error: BaseException, expected: type[BaseException]
) -> None:
    build.build(BuildOptions())
    before = tree()

    def half(output: Path, scratch: Path) -> None:
        (output / "buildctl").write_bytes(b"half")
        raise error

    machine.compiles = half
    with pytest.raises(expected):
        build.build(BuildOptions(force=True))
    assert tree() == before
    assert leftovers() == []


def test_failed_first_build_leaves_nothing(machine: Machine) -> None:
    machine.compiles = fails(BuildError("x"))
    with pytest.raises(BuildError):
        build.build(BuildOptions())
    assert dist.targets() == []
    assert leftovers() == []


def test_changed_modules_explain_a_compiler_error(machine: Machine) -> None:
    machine.compiles = fails(BuildError("strange syntax error"))
    machine.verifies = fails(SourceError("the module cache has been changed"))
    with pytest.raises(SourceError, match="module cache"):
        build.build(BuildOptions())


def test_changed_modules_that_compile_are_refused(machine: Machine) -> None:
    machine.verifies = fails(SourceError("the module cache has been changed"))
    with pytest.raises(SourceError):
        build.build(BuildOptions())
    assert dist.targets() == []


@pytest.mark.parametrize(
    ("setting", "value"), [("GOARCH", "amd64"), ("CGO_ENABLED", "1"), ("-tags", "")]
)
def test_refused_binaries_are_not_published(machine: Machine, setting: str, value: str) -> None:
    machine.info[setting] = value
    with pytest.raises(CheckError, match="linux-riscv64: bin/buildctl"):
        build.build(BuildOptions())
    assert dist.targets() == []
    assert leftovers() == []


def test_binaries_of_another_architecture_are_not_published(machine: Machine) -> None:
    def cross(output: Path, scratch: Path) -> None:
        machine.write(output, scratch)
        (output / "buildctl").write_bytes(factories.elf("amd64"))

    machine.compiles = cross
    with pytest.raises(CheckError, match="machine: EM_X86_64, expected EM_RISCV"):
        build.build(BuildOptions())
    assert dist.targets() == []


def test_compiler_without_output(machine: Machine) -> None:
    machine.compiles = lambda *_args: None
    with pytest.raises(Failure) as caught:
        build.build(BuildOptions())
    assert caught.value.code != 1
    assert dist.targets() == []


def test_too_little_space(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "free_bytes", lambda _path: 100 << 20)
    with pytest.raises(StorageError, match=r"100\.0 MiB .*600\.0 MiB"):
        build.build(BuildOptions())
    assert machine.done == []


def test_concurrent_run_is_refused(machine: Machine) -> None:
    with dist.lock(TARGET), pytest.raises(BusyError, match=f"pid {os.getpid()}"):
        build.build(BuildOptions())
    assert machine.done == []


def test_cross_compilation_is_refused_first(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOARCH", "amd64")
    with pytest.raises(NotNativeError):
        build.build(BuildOptions())
    assert machine.done == []


def test_bad_source_is_refused_first(machine: Machine) -> None:
    with pytest.raises(UsageError, match="no such directory"):
        build.build(BuildOptions(source="/no/such/place"))
    assert machine.done == []


# With --bundle.


class Bundled:
    """The C toolchain and the steps of a bundle; tests break one part each."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.lacking: dict[str, str] = {}
        self.c = factories.C
        self.provided: list[bool] = []
        self.compiles: Callable[[bundle.Part], None] = lambda _part: None

    def provide(self, *, yes: bool) -> None:
        self.provided.append(yes)
        if self.lacking and not yes:
            raise MissingRequirementError("missing: libseccomp.a")

    def compile(
        self, part: bundle.Part, _go: object, output: Path, scratch: Path, level: dict[str, str]
    ) -> None:
        assert scratch.is_dir()
        self.machine.done.append(part.component.name)
        self.compiles(part)
        for command in part.commands:
            (output / command).write_bytes(factories.elf("riscv64") + command.encode())
            (output / command).chmod(0o755)


PARTS = ["runc", "cni-plugins", "rootlesskit"]


@pytest.fixture
def bundled(machine: Machine, monkeypatch: pytest.MonkeyPatch, commands: Commands) -> Bundled:
    bundled = Bundled(machine)
    monkeypatch.setattr(c_toolchain, "missing", lambda: bundled.lacking)
    monkeypatch.setattr(c_toolchain, "ensure_installed", bundled.provide)
    monkeypatch.setattr(c_toolchain, "facts", lambda: bundled.c)
    monkeypatch.setattr(c_toolchain, "is_here", lambda recorded: recorded == bundled.c)
    monkeypatch.setattr(bundle, "prepare", lambda _parts, _go: machine.done.append("prepare"))
    monkeypatch.setattr(bundle, "verify", machine.verify)
    monkeypatch.setattr(bundle, "compile_part", bundled.compile)
    factories.answers(commands, project.DIST / ".linux-riscv64.staging")
    return bundled


def with_bundle(**options: Any) -> dist.Artifacts:
    artifacts = build.build(BuildOptions(bundle=True, **options)).artifacts
    assert artifacts is not None
    return artifacts


def test_build_with_a_bundle(bundled: Bundled) -> None:
    artifacts = with_bundle()
    assert [name for name in bundled.machine.done if name in PARTS] == PARTS
    programs = [*dist.COMMANDS, *dist.BUNDLE]
    assert sorted(tree()) == sorted(
        [
            "SHA256SUMS", "manifest.json", "provenance.intoto.json",
            "buildkit-v0.32.2.linux-riscv64.tar.gz",
            *map(dist.binary, programs), *map(dist.sbom, programs),
        ]
    )  # fmt: skip
    assert leftovers() == []
    assert schemas.validation_error(artifacts.manifest, schemas.BINARIES) == ""
    assert artifacts.programs == tuple(programs)
    with tarfile.open(artifacts.path / "buildkit-v0.32.2.linux-riscv64.tar.gz") as tar:
        assert tar.getnames() == sorted(map(dist.binary, programs))
    manifest = artifacts.manifest["bundle"]
    assert [one["name"] for one in manifest["components"]] == PARTS
    assert [one.get("c") for one in manifest["components"]] == [factories.C, None, None]
    assert manifest["host"] == artifacts.manifest["host"]


def test_bundle_does_not_change_the_commands(bundled: Bundled) -> None:
    """A bundle changes neither the commands nor a later build without one."""
    build.build(BuildOptions())
    plain = tree()
    without = dist.load(project.DIST / "linux-riscv64").manifest
    build.build(BuildOptions(bundle=True, force=True))
    manifest = dist.load(project.DIST / "linux-riscv64").manifest
    assert manifest["build"]["inputs"] == without["build"]["inputs"]
    assert {name for name in plain if tree()[name] != plain[name]} == {
        "SHA256SUMS", "manifest.json", "provenance.intoto.json",
        "buildkit-v0.32.2.linux-riscv64.tar.gz",
    }  # fmt: skip
    build.build(BuildOptions(force=True))
    again = tree()
    assert "bundle" not in dist.load(project.DIST / "linux-riscv64").manifest
    assert again.keys() == plain.keys()
    assert again["buildkit-v0.32.2.linux-riscv64.tar.gz"] == plain["buildkit-v0.32.2.linux-riscv64.tar.gz"]  # fmt: skip


def test_second_build_with_a_bundle_starts_nothing(bundled: Bundled, commands: Commands) -> None:
    with_bundle()
    before = tree()
    bundled.machine.done.clear()
    commands.calls.clear()
    bundled.provided.clear()
    assert build.build(BuildOptions(bundle=True)).up_to_date
    # A build without --bundle also accepts it.
    assert build.build(BuildOptions()).up_to_date
    assert (bundled.machine.done, commands.calls, bundled.provided) == ([], [], [])
    assert tree() == before


@pytest.fixture
def published(bundled: Bundled) -> Path:
    """The commands without a bundle, with an image and evidence."""
    build.build(BuildOptions())
    directory = project.DIST / "linux-riscv64"
    for name in ("image/root/layout/index.json", "evidence/index.html"):
        (directory / name).parent.mkdir(parents=True)
        (directory / name).write_text(name)
    bundled.machine.done.clear()
    return directory


def test_added_bundle_keeps_the_rest(
    bundled: Bundled, published: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, manifest = tree(), dist.load(published).manifest
    inode = (published / "bin" / "buildkitd").stat().st_ino
    after = with_bundle()
    assert set(bundled.machine.done) == {"go", "prepare", "verify", *PARTS}
    assert "buildctl and buildkitd are up to date" in capsys.readouterr().err
    assert (published / "bin" / "buildkitd").stat().st_ino == inode
    for name in ("build", "host", "go", "source"):
        assert after.manifest[name] == manifest[name]
    unchanged = [name for name in before if name.startswith(("bin/", "image/", "evidence/")) or name.endswith(".cdx.json")]  # fmt: skip
    assert len(unchanged) == 6
    assert {name: tree()[name] for name in unchanged} == {name: before[name] for name in unchanged}
    assert after.unchanged()


def test_announced_steps_with_a_bundle(bundled: Bundled, steps: list[str]) -> None:
    build.build(BuildOptions())
    with_bundle()
    with_bundle()
    with_bundle(force=True)
    assert steps == ["build-binaries", "build-binaries: the bundle", "build-binaries --bundle"]


def test_new_commands_have_no_image(bundled: Bundled, published: Path) -> None:
    other_source()
    with_bundle()
    assert "compile" in bundled.machine.done
    assert not (published / "image").exists()
    assert not (published / "evidence").exists()


def test_modified_commands_are_rebuilt(bundled: Bundled, published: Path) -> None:
    """Even if size and time are the same."""
    program = published / "bin" / "buildkitd"
    stat = program.stat()
    program.write_bytes(program.read_bytes()[:-1] + b"x")
    os.utime(program, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert dist.load(published).unchanged()
    with_bundle()
    assert "compile" in bundled.machine.done
    assert program.read_bytes().endswith(b"buildkitd")


def test_bundle_stays_when_commands_change(
    bundled: Bundled, capsys: pytest.CaptureFixture[str]
) -> None:
    before = with_bundle()
    bundled.machine.done.clear()
    bundled.provided.clear()
    other_source()
    after = with_bundle()
    assert "the bundle is up to date" in capsys.readouterr().err
    assert not set(PARTS) & set(bundled.machine.done)
    assert bundled.provided == []
    assert after.manifest["bundle"] == before.manifest["bundle"]


def test_changed_c_compiler_rebuilds_the_bundle(bundled: Bundled) -> None:
    with_bundle()
    bundled.machine.done.clear()
    bundled.c = {**factories.C, "compiler": "gcc 15"}
    manifest = with_bundle().manifest
    assert [name for name in bundled.machine.done if name in PARTS] == PARTS
    assert "compile" not in bundled.machine.done
    assert manifest["bundle"]["components"][0]["c"]["compiler"] == "gcc 15"


def test_c_toolchain_is_installed_only_for_the_bundle(bundled: Bundled) -> None:
    bundled.lacking = {"libseccomp.a": "libseccomp-dev"}
    build.build(BuildOptions())
    assert bundled.provided == []
    with pytest.raises(MissingRequirementError, match=r"missing: libseccomp\.a"):
        with_bundle()
    assert leftovers() == []
    with_bundle(yes=True)
    assert bundled.provided == [False, True]


def test_dry_with_a_bundle(bundled: Bundled, capsys: pytest.CaptureFixture[str]) -> None:
    build.build(BuildOptions())
    before = tree()
    bundled.lacking = {"libseccomp.a": "libseccomp-dev"}
    bundled.machine.done.clear()
    with dry_run.running(dry=True):
        assert build.build(BuildOptions(bundle=True)).artifacts is None
    assert (bundled.machine.done, bundled.provided) == ([], [])
    assert tree() == before
    output = capsys.readouterr().err
    assert "would install: libseccomp-dev" in output
    assert "buildctl and buildkitd are up to date" in output
    assert (
        "CGO_ENABLED=1 go build -trimpath -buildvcs=false -mod=readonly -tags=apparmor," in output
    )
    assert "CGO_ENABLED=0 go build" in output
    assert output.count("would run, with go1.26.10 in") == 3


def test_dry_reports_the_removed_bundle(
    bundled: Bundled, capsys: pytest.CaptureFixture[str]
) -> None:
    with_bundle()
    other_source()
    with dry_run.running(dry=True):
        build.build(BuildOptions())
    assert "existing bundle" in capsys.readouterr().err


@pytest.mark.parametrize("error", [BuildError("seccomp.h"), KeyboardInterrupt(), OSError(28, "No space left on device")])  # fmt: skip
def test_failed_bundle_keeps_dist(bundled: Bundled, published: Path, error: BaseException) -> None:
    before = tree()

    def fail(part: bundle.Part) -> None:
        if part.component.name == "cni-plugins":
            raise error

    bundled.compiles = fail
    with pytest.raises((Failure, KeyboardInterrupt)):
        with_bundle()
    assert tree() == before
    assert leftovers() == []


def test_changed_modules_of_a_bundle_are_refused(bundled: Bundled, published: Path) -> None:
    before = tree()
    bundled.machine.verifies = fails(SourceError("the module cache has been changed"))
    bundled.compiles = fails(BuildError("strange syntax error"))
    with pytest.raises(SourceError, match="module cache"):
        with_bundle()
    bundled.compiles = lambda _part: None
    with pytest.raises(SourceError, match="module cache"):
        with_bundle()
    assert tree() == before


def test_refused_bundle_is_not_published(
    bundled: Bundled, published: Path, commands: Commands
) -> None:
    before = tree()
    commands.answer(
        str(project.DIST / ".linux-riscv64.staging" / "bin" / "buildkit-runc"), "--version",
        stdout="runc version 1.4.3\nspec: 1\n",
    )  # fmt: skip
    with pytest.raises(CheckError, match="bin/buildkit-runc: seccomp: not linked in"):
        with_bundle()
    assert tree() == before


def test_bundle_needs_more_space(bundled: Bundled, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "free_bytes", lambda _path: 700 << 20)
    build.build(BuildOptions())
    with pytest.raises(StorageError, match=r"700\.0 MiB .*800\.0 MiB"):
        with_bundle()


def test_unpinned_bundle_is_refused_first(bundled: Bundled) -> None:
    project.PINS.write_text(project.PINS.read_text().partition("\n[bundle")[0])
    with pytest.raises(SourceError, match="no runc for"):
        with_bundle()
    assert bundled.machine.done == []
    build.build(BuildOptions())


def test_make_cannot_build_the_bundle(bundled: Bundled) -> None:
    with pytest.raises(UsageError, match="bundle"):
        with_bundle(method=BuildMethod.MAKE)
    assert bundled.machine.done == []


# --method make.


def path_source(tmp_path: Path, **changes: Any) -> source.Source:
    return make_source(kind=source.Kind.PATH, directory=tmp_path / "checkout", sum="", **changes)


@pytest.mark.parametrize(
    ("target", "changes", "error", "message"),
    [
        ("linux-riscv64-rva22u64", {}, UsageError, "rva22u64"),
        ("linux-riscv64", {"kind": source.Kind.MODULE}, SourceError, "needs a git checkout"),
        ("linux-riscv64", {"kind": source.Kind.PATH, "dirty": True}, UsageError, "builds commits only"),
    ],
)  # fmt: skip
def test_impossible_with_make(
    commands: Commands, target: str, changes: dict[str, Any], error: type[Failure], message: str
) -> None:
    with pytest.raises(error, match=message):
        make.refuse_impossible(make_source(**changes), Target.parse(target))
    assert commands.calls == []


def test_make_needs_an_engine(
    commands: Commands, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    installed = {"make"}
    monkeypatch.setattr(
        process, "which", lambda name: Path("/bin", name) if name in installed else None
    )
    with pytest.raises(MissingRequirementError, match="needs docker") as caught:
        make.refuse_impossible(path_source(tmp_path), TARGET)
    assert caught.value.tool == "docker"
    installed.add("docker")
    commands.answer("docker", "version", "--format", code=1, stderr="Cannot connect")
    with pytest.raises(MissingRequirementError, match=r"docker engine .*Cannot connect"):  # fmt: skip
        make.refuse_impossible(path_source(tmp_path), TARGET)
    commands.answer("docker", "version", "--format", stdout="28.0")
    make.refuse_impossible(path_source(tmp_path), TARGET)
    assert commands.args[-2:] == [
        ["docker", "buildx", "version"],
        ["docker", "version", "--format", "{{.Server.Version}}"],
    ]


def test_make(commands: Commands, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    upstream, clone = path_source(tmp_path), tmp_path / "scratch" / "buildkit"
    (tmp_path / "bin").mkdir()
    with pytest.raises(BuildError, match="bin/build/buildctl"):
        make.compile_commands(upstream, tmp_path / "bin", tmp_path / "scratch")
    assert commands.args == [
        ["git", "clone", "--quiet", "--shared", "--no-checkout", str(upstream.directory), str(clone)],
        ["git", "-C", str(clone), "checkout", "--quiet", "--detach", factories.COMMIT],
        ["git", "-C", str(clone), "tag", "--force", "v0.32.2", factories.COMMIT],
        ["make", "-C", str(clone), "binaries"],
    ]  # fmt: skip
    (clone / "bin" / "build").mkdir(parents=True)
    for command in dist.COMMANDS:
        (clone / "bin" / "build" / command).write_text(command)
    monkeypatch.setattr(make, "ensure", lambda _pins: GO)
    monkeypatch.setattr(make, "read_build_info", lambda _path, _go: {"GoVersion": "go1.25.1 X:x"})
    go = make.compile_commands(upstream, tmp_path / "bin", tmp_path / "scratch")
    assert (go.version, go.origin) == ("go1.25.1 X:x", "container")
    assert (tmp_path / "bin" / "buildkitd").read_text() == "buildkitd"


def test_unpinned_commit_gets_no_tag(commands: Commands, tmp_path: Path) -> None:
    with pytest.raises(BuildError):
        make.compile_commands(path_source(tmp_path, pinned=False), tmp_path, tmp_path)
    assert not [args for args in commands.args if "tag" in args]


def test_manifest_contains_no_local_paths(machine: Machine) -> None:
    outcome = build.build(BuildOptions())
    assert outcome.artifacts is not None
    text = json.dumps(outcome.artifacts.manifest)
    assert os.environ["HOME"] not in text
    assert str(project.ROOT) not in text
