from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from buildkit_riscv64 import dist, host, process, project, schemas, storage
from buildkit_riscv64.arch import Target
from buildkit_riscv64.binaries import build, bundle, cc, check, elf, make, source, toolchain
from buildkit_riscv64.binaries import compile as compiler
from buildkit_riscv64.binaries.build import Options, Via
from buildkit_riscv64.errors import (
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

from .. import making
from ..making import GO, PINS, Commands, make_source

TARGET = Target.parse("linux-riscv64")


# What decides.


def test_options() -> None:
    assert Options.parse(via="make", source="module") == Options(via=Via.MAKE, source="module")
    for via in ("", "docker", "GO"):
        with pytest.raises(UsageError, match="no such way to compile"):
            Options.parse(via=via)


def digest(**changes: Any) -> str:
    return build.inputs(make_source(**changes), TARGET, Via.GO, PINS)


def test_everything_that_decides_is_in_the_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = [
        digest(), digest(state="other"), digest(version="v0.32.3"), digest(revision="0" * 40),
        digest(kind=source.Kind.SUBMODULE),
        build.inputs(make_source(), Target.parse("linux-riscv64-rva22u64"), Via.GO, PINS),
        build.inputs(make_source(), TARGET, Via.MAKE, PINS),
        build.inputs(make_source(), TARGET, Via.GO, replace(PINS, go="1.26.11")),
    ]  # fmt: skip
    monkeypatch.setattr(compiler, "flags", lambda *_args: ["-race"])
    seen.append(digest())
    monkeypatch.undo()
    monkeypatch.setattr(build, "RECIPE", build.RECIPE + 1)
    seen.append(digest())
    assert len(set(seen)) == len(seen)
    monkeypatch.undo()
    assert digest() == seen[0]


def test_where_it_lies_does_not_decide() -> None:
    assert digest() == digest(location="elsewhere", directory=Path("/elsewhere"))


# A whole build, with a compiler that only writes headers.


class Machine:
    """What a build finds; tests break one thing each."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.compiles: Callable[[Path, Path], None] = self.write
        self.verifies: Callable[[], None] = lambda: None
        self.info: dict[str, str] = {}

    def write(self, output: Path, scratch: Path) -> None:
        (scratch / "go-build").mkdir()
        for command in dist.COMMANDS:
            (output / command).write_bytes(making.elf("riscv64") + command.encode())
            (output / command).chmod(0o755)

    def compile(self, _source: object, _go: object, output: Path, scratch: Path, _extra: object, *, profile: str) -> None:  # fmt: skip
        assert not profile
        self.done.append("compile")
        self.compiles(output, scratch)

    def verify(self, *_args: object) -> None:
        self.done.append("verify")
        self.verifies()


@pytest.fixture
def machine(checkout: Path, on: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, commands: Commands) -> Machine:  # fmt: skip
    made = Machine()
    on("riscv64")

    def ensure(_pins: object) -> Any:
        made.done.append("go")
        return GO

    monkeypatch.setattr(toolchain, "ensure", ensure)
    monkeypatch.setattr(source, "prepare", lambda *_args: made.done.append("prepare"))
    monkeypatch.setattr(source, "verify_modules", made.verify)
    monkeypatch.setattr(compiler, "compile_commands", made.compile)
    for module in (elf, check):
        monkeypatch.setattr(
            module, "read_build_info", lambda path, _go: making.build_info(path.name, TARGET, **made.info)
        )  # fmt: skip
    for command in dist.COMMANDS:
        said = f"{command} github.com/moby/buildkit v0.32.2 {making.COMMIT}\n"
        binary = str(project.DIST / ".linux-riscv64.staging" / "bin" / command)
        commands.answer(binary, "--version", stdout=said)
        commands.answer(binary, "--help", stdout="USAGE:\n")
    return made


def tree() -> dict[str, str]:
    folder = project.DIST / "linux-riscv64"
    return {str(p.relative_to(folder)): storage.sha256(p) for p in folder.rglob("*") if p.is_file()}


def leftovers() -> list[str]:
    return [path.name for path in project.DIST.glob(".*") if path.suffix != ".lock"]


def test_a_build(machine: Machine) -> None:
    outcome = build.build(Options())
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
    assert schemas.objection(manifest, schemas.BINARIES) == ""
    assert manifest["build"]["environment"] == {"CGO_ENABLED": "0"}
    assert manifest["build"]["flags"] == compiler.flags(source.resolve("module", PINS))
    assert manifest["source"]["time"] == "2026-08-04T12:27:40Z"


def test_a_second_build_starts_nothing(machine: Machine, commands: Commands) -> None:
    build.build(Options())
    before = tree()
    machine.done.clear()
    commands.calls.clear()
    outcome = build.build(Options())
    assert outcome.up_to_date
    assert (machine.done, commands.calls) == ([], [])
    assert tree() == before


def other_source() -> None:
    with (project.UPSTREAM_MODULE / "go.sum").open("a") as file:
        file.write("x v1 h1:y\n")


def remove_sums() -> None:
    (project.DIST / "linux-riscv64" / dist.SUMS).unlink()


def tamper(name: str, data: bytes = b"x") -> Callable[[], None]:
    return lambda: (project.DIST / "linux-riscv64" / name).write_bytes(data)  # type: ignore[return-value]


@pytest.mark.parametrize(
    "change",
    [
        other_source, tamper("bin/buildctl"), tamper("manifest.json", b"{"),
        tamper("manifest.json", b'{"build": []}'), tamper("manifest.json", b'{"build": null}'),
        tamper("manifest.json", b"[" * 100000),
        remove_sums,
    ],
    ids=["source", "binary", "half a manifest", "list", "null", "deep", "no sums"],
)  # fmt: skip
def test_after_any_change_it_builds_again(machine: Machine, change: Callable[[], None]) -> None:
    build.build(Options())
    change()
    outcome = build.build(Options())
    assert not outcome.up_to_date
    assert outcome.artifacts is not None
    assert outcome.artifacts.unchanged()


def test_force(machine: Machine) -> None:
    build.build(Options())
    inode = (project.DIST / "linux-riscv64" / "bin" / "buildctl").stat().st_ino
    assert not build.build(Options(force=True)).up_to_date
    assert (project.DIST / "linux-riscv64" / "bin" / "buildctl").stat().st_ino != inode


def test_the_same_binaries_are_not_packed_again(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    build.build(Options())
    before = tree()
    monkeypatch.setattr(build, "pack", lambda *_args: pytest.fail("packed"))
    build.build(Options(force=True))
    name = "buildkit-v0.32.2.linux-riscv64.tar.gz"
    assert tree()[name] == before[name]


def test_others_are(machine: Machine) -> None:
    build.build(Options())
    before = tree()
    write = machine.write

    def otherwise(output: Path, scratch: Path) -> None:
        write(output, scratch)
        with (output / "buildctl").open("ab") as file:
            file.write(b"more")

    machine.compiles = otherwise
    build.build(Options(force=True))
    name = "buildkit-v0.32.2.linux-riscv64.tar.gz"
    assert tree()[name] != before[name]


def test_dry(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    outcome = build.build(Options(dry=True))
    assert outcome.artifacts is None
    assert machine.done == []
    assert not project.DIST.exists()
    said = capsys.readouterr().err
    assert "would run, with go1.26.10 in" in said
    assert "go build -trimpath -buildvcs=false" in said


def test_dry_with_a_profile(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    build.build(Options(dry=True, goriscv64="rva22u64"))
    said = capsys.readouterr().err
    assert "GORISCV64=rva22u64 go build" in said
    assert "dist/linux-riscv64-rva22u64/" in said


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
def test_a_build_that_fails_leaves_dist_as_it_was(machine: Machine, error: BaseException, expected: type[BaseException]) -> None:  # fmt: skip
    build.build(Options())
    before = tree()

    def half(output: Path, scratch: Path) -> None:
        (output / "buildctl").write_bytes(b"half")
        raise error

    machine.compiles = half
    with pytest.raises(expected):
        build.build(Options(force=True))
    assert tree() == before
    assert leftovers() == []


def test_a_first_build_that_fails_leaves_nothing(machine: Machine) -> None:
    machine.compiles = fails(BuildError("x"))
    with pytest.raises(BuildError):
        build.build(Options())
    assert dist.targets() == []
    assert leftovers() == []


def test_changed_modules_are_the_better_reason(machine: Machine) -> None:
    machine.compiles = fails(BuildError("strange syntax error"))
    machine.verifies = fails(SourceError("the module cache has been changed"))
    with pytest.raises(SourceError, match="the module cache has been changed"):
        build.build(Options())


def test_changed_modules_that_compile_are_refused_all_the_same(machine: Machine) -> None:
    machine.verifies = fails(SourceError("the module cache has been changed"))
    with pytest.raises(SourceError):
        build.build(Options())
    assert dist.targets() == []


@pytest.mark.parametrize(
    ("setting", "value"), [("GOARCH", "amd64"), ("CGO_ENABLED", "1"), ("-tags", "")]
)
def test_what_its_checks_refuse_is_not_published(machine: Machine, setting: str, value: str) -> None:  # fmt: skip
    machine.info[setting] = value
    with pytest.raises(CheckError, match="linux-riscv64: bin/buildctl"):
        build.build(Options())
    assert dist.targets() == []
    assert leftovers() == []


def test_binaries_of_another_architecture_are_not_published(machine: Machine) -> None:
    def cross(output: Path, scratch: Path) -> None:
        machine.write(output, scratch)
        (output / "buildctl").write_bytes(making.elf("amd64"))

    machine.compiles = cross
    with pytest.raises(CheckError, match="machine: EM_X86_64, expected EM_RISCV"):
        build.build(Options())
    assert dist.targets() == []


def test_a_compiler_that_makes_nothing(machine: Machine) -> None:
    machine.compiles = lambda *_args: None
    with pytest.raises(Failure) as caught:
        build.build(Options())
    assert caught.value.code != 1
    assert dist.targets() == []


def test_too_little_space(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "free_bytes", lambda _path: 100 << 20)
    with pytest.raises(
        StorageError, match=r"only 100\.0 MiB free for .*, and a build needs 600\.0 MiB"
    ):
        build.build(Options())
    assert machine.done == []


def test_another_run_at_work(machine: Machine) -> None:
    with dist.lock(TARGET), pytest.raises(BusyError, match=f"pid {os.getpid()}"):
        build.build(Options())
    assert machine.done == []


def test_cross_compilation_is_refused_before_anything(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setenv("GOARCH", "amd64")
    with pytest.raises(NotNativeError):
        build.build(Options())
    assert machine.done == []


def test_a_bad_source_is_refused_before_anything(machine: Machine) -> None:
    with pytest.raises(UsageError, match="no such directory"):
        build.build(Options(source="/no/such/place"))
    assert machine.done == []


# With --bundle.


class Bundled:
    """What C there is, and what is done with the bundle; tests break one thing each."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.lacking: dict[str, str] = {}
        self.c = making.C
        self.provided: list[bool] = []
        self.compiles: Callable[[bundle.Part], None] = lambda _part: None

    def provide(self, *, yes: bool) -> None:
        self.provided.append(yes)
        if self.lacking and not yes:
            raise MissingRequirementError("missing: libseccomp.a")

    def compile(self, part: bundle.Part, _go: object, output: Path, scratch: Path, level: dict[str, str]) -> None:  # fmt: skip
        assert scratch.is_dir()
        self.machine.done.append(part.component.name)
        self.compiles(part)
        for command in part.commands:
            (output / command).write_bytes(making.elf("riscv64") + command.encode())
            (output / command).chmod(0o755)


PARTS = ["runc", "cni-plugins", "rootlesskit"]


@pytest.fixture
def bundled(machine: Machine, monkeypatch: pytest.MonkeyPatch, commands: Commands) -> Bundled:
    made = Bundled(machine)
    monkeypatch.setattr(cc, "missing", lambda: made.lacking)
    monkeypatch.setattr(cc, "provide", made.provide)
    monkeypatch.setattr(cc, "facts", lambda: made.c)
    monkeypatch.setattr(cc, "is_here", lambda recorded: recorded == made.c)
    monkeypatch.setattr(bundle, "prepare", lambda _parts, _go: machine.done.append("prepare"))
    monkeypatch.setattr(bundle, "verify", machine.verify)
    monkeypatch.setattr(bundle, "compile_part", made.compile)
    making.answers(commands, project.DIST / ".linux-riscv64.staging")
    return made


def with_bundle(**options: Any) -> dist.Artifacts:
    artifacts = build.build(Options(bundle=True, **options)).artifacts
    assert artifacts is not None
    return artifacts


def test_a_build_with_a_bundle(bundled: Bundled) -> None:
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
    assert schemas.objection(artifacts.manifest, schemas.BINARIES) == ""
    assert artifacts.programs == tuple(programs)
    with tarfile.open(artifacts.path / "buildkit-v0.32.2.linux-riscv64.tar.gz") as tar:
        assert tar.getnames() == sorted(map(dist.binary, programs))
    made = artifacts.manifest["bundle"]
    assert [one["name"] for one in made["components"]] == PARTS
    assert [one.get("c") for one in made["components"]] == [making.C, None, None]
    assert made["host"] == artifacts.manifest["host"]


def test_a_bundle_changes_nothing_of_the_commands(bundled: Bundled) -> None:
    """Nor what is made without one."""
    build.build(Options())
    plain = tree()
    without = dist.load(project.DIST / "linux-riscv64").manifest
    build.build(Options(bundle=True, force=True))
    manifest = dist.load(project.DIST / "linux-riscv64").manifest
    assert manifest["build"]["inputs"] == without["build"]["inputs"]
    assert {name for name in plain if tree()[name] != plain[name]} == {
        "SHA256SUMS", "manifest.json", "provenance.intoto.json",
        "buildkit-v0.32.2.linux-riscv64.tar.gz",
    }  # fmt: skip
    build.build(Options(force=True))
    again = tree()
    assert "bundle" not in dist.load(project.DIST / "linux-riscv64").manifest
    assert again.keys() == plain.keys()
    assert again["buildkit-v0.32.2.linux-riscv64.tar.gz"] == plain["buildkit-v0.32.2.linux-riscv64.tar.gz"]  # fmt: skip


def test_a_second_build_with_a_bundle_starts_nothing(bundled: Bundled, commands: Commands) -> None:
    with_bundle()
    before = tree()
    bundled.machine.done.clear()
    commands.calls.clear()
    bundled.provided.clear()
    assert build.build(Options(bundle=True)).up_to_date
    # It is not asked for, and it is not in the way.
    assert build.build(Options()).up_to_date
    assert (bundled.machine.done, commands.calls, bundled.provided) == ([], [], [])
    assert tree() == before


@pytest.fixture
def proved(bundled: Bundled) -> Path:
    """The commands alone, with an image and evidence of them."""
    build.build(Options())
    folder = project.DIST / "linux-riscv64"
    for name in ("image/root/layout/index.json", "evidence/index.html"):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text(name)
    bundled.machine.done.clear()
    return folder


def test_a_bundle_that_is_added_leaves_the_rest_as_it_is(bundled: Bundled, proved: Path, capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    before, manifest = tree(), dist.load(proved).manifest
    inode = (proved / "bin" / "buildkitd").stat().st_ino
    after = with_bundle()
    assert set(bundled.machine.done) == {"go", "prepare", "verify", *PARTS}
    assert "buildctl and buildkitd stay as they are" in capsys.readouterr().err
    assert (proved / "bin" / "buildkitd").stat().st_ino == inode
    for name in ("build", "host", "go", "source"):
        assert after.manifest[name] == manifest[name]
    kept = [name for name in before if name.startswith(("bin/", "image/", "evidence/")) or name.endswith(".cdx.json")]  # fmt: skip
    assert len(kept) == 6
    assert {name: tree()[name] for name in kept} == {name: before[name] for name in kept}
    assert after.unchanged()


def test_other_commands_have_no_image_yet(bundled: Bundled, proved: Path) -> None:
    other_source()
    with_bundle()
    assert "compile" in bundled.machine.done
    assert not (proved / "image").exists()
    assert not (proved / "evidence").exists()


def test_commands_that_are_not_those_of_the_manifest_do_not_stay(bundled: Bundled, proved: Path) -> None:  # fmt: skip
    """Not even when size and time are the same."""
    program = proved / "bin" / "buildkitd"
    stat = program.stat()
    program.write_bytes(program.read_bytes()[:-1] + b"x")
    os.utime(program, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert dist.load(proved).unchanged()
    with_bundle()
    assert "compile" in bundled.machine.done
    assert program.read_bytes().endswith(b"buildkitd")


def test_a_bundle_stays_when_the_commands_are_others(bundled: Bundled, capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    before = with_bundle()
    bundled.machine.done.clear()
    bundled.provided.clear()
    other_source()
    after = with_bundle()
    assert "the bundle stays as it is" in capsys.readouterr().err
    assert not set(PARTS) & set(bundled.machine.done)
    assert bundled.provided == []
    assert after.manifest["bundle"] == before.manifest["bundle"]


def test_another_compiler_makes_another_bundle(bundled: Bundled) -> None:
    with_bundle()
    bundled.machine.done.clear()
    bundled.c = {**making.C, "compiler": "gcc 15"}
    manifest = with_bundle().manifest
    assert [name for name in bundled.machine.done if name in PARTS] == PARTS
    assert "compile" not in bundled.machine.done
    assert manifest["bundle"]["components"][0]["c"]["compiler"] == "gcc 15"


def test_what_c_needs_is_installed_only_when_c_is_compiled(bundled: Bundled) -> None:
    bundled.lacking = {"libseccomp.a": "libseccomp-dev"}
    build.build(Options())
    assert bundled.provided == []
    with pytest.raises(MissingRequirementError, match=r"missing: libseccomp\.a"):
        with_bundle()
    assert leftovers() == []
    with_bundle(yes=True)
    assert bundled.provided == [False, True]


def test_dry_with_a_bundle(bundled: Bundled, capsys: pytest.CaptureFixture[str]) -> None:
    build.build(Options())
    before = tree()
    bundled.lacking = {"libseccomp.a": "libseccomp-dev"}
    bundled.machine.done.clear()
    assert build.build(Options(bundle=True, dry=True)).artifacts is None
    assert (bundled.machine.done, bundled.provided) == ([], [])
    assert tree() == before
    said = capsys.readouterr().err
    assert "would install: libseccomp-dev" in said
    assert "buildctl and buildkitd would stay as they are" in said
    assert "CGO_ENABLED=1 go build -trimpath -buildvcs=false -mod=readonly -tags=apparmor," in said
    assert "CGO_ENABLED=0 go build" in said
    assert said.count("would run, with go1.26.10 in") == 3


def test_dry_says_what_goes(bundled: Bundled, capsys: pytest.CaptureFixture[str]) -> None:
    with_bundle()
    other_source()
    build.build(Options(dry=True))
    assert "the bundle that is there is not made anew without --bundle" in capsys.readouterr().err


@pytest.mark.parametrize("error", [BuildError("seccomp.h"), KeyboardInterrupt(), OSError(28, "No space left on device")])  # fmt: skip
def test_a_bundle_that_fails_leaves_dist_as_it_was(bundled: Bundled, proved: Path, error: BaseException) -> None:  # fmt: skip
    before = tree()

    def fail(part: bundle.Part) -> None:
        if part.component.name == "cni-plugins":
            raise error

    bundled.compiles = fail
    with pytest.raises((Failure, KeyboardInterrupt)):
        with_bundle()
    assert tree() == before
    assert leftovers() == []


def test_changed_modules_of_a_bundle_are_refused(bundled: Bundled, proved: Path) -> None:
    before = tree()
    bundled.machine.verifies = fails(SourceError("the module cache has been changed"))
    bundled.compiles = fails(BuildError("strange syntax error"))
    with pytest.raises(SourceError, match="the module cache has been changed"):
        with_bundle()
    bundled.compiles = lambda _part: None
    with pytest.raises(SourceError, match="the module cache has been changed"):
        with_bundle()
    assert tree() == before


def test_a_bundle_that_is_refused_is_not_published(bundled: Bundled, proved: Path, commands: Commands) -> None:  # fmt: skip
    before = tree()
    commands.answer(
        str(project.DIST / ".linux-riscv64.staging" / "bin" / "buildkit-runc"), "--version",
        stdout="runc version 1.4.3\nspec: 1\n",
    )  # fmt: skip
    with pytest.raises(CheckError, match="bin/buildkit-runc: seccomp: not linked in"):
        with_bundle()
    assert tree() == before


def test_a_bundle_takes_more_space(bundled: Bundled, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "free_bytes", lambda _path: 700 << 20)
    build.build(Options())
    with pytest.raises(
        StorageError, match=r"only 700\.0 MiB free for .*, and a build needs 800\.0 MiB"
    ):
        with_bundle()


def test_a_bundle_that_is_not_pinned_is_refused_at_once(bundled: Bundled) -> None:
    project.PINS.write_text(project.PINS.read_text().partition("\n[bundle")[0])
    with pytest.raises(SourceError, match="does not say which runc"):
        with_bundle()
    assert bundled.machine.done == []
    build.build(Options())


def test_make_makes_no_bundle(bundled: Bundled) -> None:
    with pytest.raises(UsageError, match="--via make cannot make the bundle"):
        with_bundle(via=Via.MAKE)
    assert bundled.machine.done == []


# --via make.


def path_source(tmp_path: Path, **changes: Any) -> source.Source:
    return make_source(kind=source.Kind.PATH, directory=tmp_path / "checkout", sum="", **changes)


@pytest.mark.parametrize(
    ("target", "changes", "error", "message"),
    [
        ("linux-riscv64-rva22u64", {}, UsageError, "cannot compile for rva22u64"),
        ("linux-riscv64", {"kind": source.Kind.MODULE}, SourceError, "needs a git checkout"),
        ("linux-riscv64", {"kind": source.Kind.PATH, "dirty": True}, UsageError, "builds commits only"),
    ],
)  # fmt: skip
def test_what_make_cannot_do(commands: Commands, target: str, changes: dict[str, Any], error: type[Failure], message: str) -> None:  # fmt: skip
    with pytest.raises(error, match=message):
        make.refuse_impossible(make_source(**changes), Target.parse(target))
    assert commands.calls == []


def test_make_needs_an_engine(commands: Commands, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:  # fmt: skip
    there = {"make"}
    monkeypatch.setattr(
        process, "which", lambda name: Path("/bin", name) if name in there else None
    )
    with pytest.raises(MissingRequirementError, match="needs docker") as caught:
        make.refuse_impossible(path_source(tmp_path), TARGET)
    assert caught.value.tool == "docker"
    there.add("docker")
    commands.answer("docker", "version", "--format", code=1, stderr="Cannot connect")
    with pytest.raises(MissingRequirementError, match="a running docker engine: Cannot connect"):  # fmt: skip
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
    with pytest.raises(BuildError, match="made no bin/build/buildctl"):
        make.compile_commands(upstream, tmp_path / "bin", tmp_path / "scratch")
    assert commands.args == [
        ["git", "clone", "--quiet", "--shared", "--no-checkout", str(upstream.directory), str(clone)],
        ["git", "-C", str(clone), "checkout", "--quiet", "--detach", making.COMMIT],
        ["git", "-C", str(clone), "tag", "--force", "v0.32.2", making.COMMIT],
        ["make", "-C", str(clone), "binaries"],
    ]  # fmt: skip
    (clone / "bin" / "build").mkdir(parents=True)
    for command in dist.COMMANDS:
        (clone / "bin" / "build" / command).write_text(command)
    monkeypatch.setattr(make, "ensure", lambda _pins: GO)
    monkeypatch.setattr(make, "read_build_info", lambda _path, _go: {"GoVersion": "go1.25.1 X:x"})
    go = make.compile_commands(upstream, tmp_path / "bin", tmp_path / "scratch")
    assert (go.version, go.origin) == ("go1.25.1", "container")
    assert (tmp_path / "bin" / "buildkitd").read_text() == "buildkitd"


def test_a_commit_that_is_not_pinned_gets_no_tag(commands: Commands, tmp_path: Path) -> None:
    with pytest.raises(BuildError):
        make.compile_commands(path_source(tmp_path, pinned=False), tmp_path, tmp_path)
    assert not [args for args in commands.args if "tag" in args]


def test_the_manifest_is_ours_and_nobody_elses(machine: Machine) -> None:
    outcome = build.build(Options())
    assert outcome.artifacts is not None
    text = json.dumps(outcome.artifacts.manifest)
    assert os.environ["HOME"] not in text
    assert str(project.ROOT) not in text
