from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from buildkit_riscv64.binaries import build, check, elf, make, pgo, source, toolchain, verify
from buildkit_riscv64.binaries import compile as compiler
from buildkit_riscv64.binaries.build import BuildMethod, BuildOptions
from buildkit_riscv64.core import dist, filesystem, project, schemas
from buildkit_riscv64.core.arch import Target
from buildkit_riscv64.core.errors import CheckError, UsageError

from .. import factories
from ..factories import GO, PINS, Commands, edit_manifest, make_source
from ..published import command_answers

TARGET = Target.parse("linux-riscv64-pgo")


def message(
    *kinds: tuple[int, int],
    strings: Sequence[bytes] = (b"", b"cpu", b"nanoseconds", b"alloc_space", b"bytes"),
    samples: int = 1,
) -> bytes:
    """An uncompressed profile."""
    message = pgo._message()()
    message.string_table.extend(strings)
    for kind, unit in kinds:
        message.sample_type.add(type=kind, unit=unit)
    message.sample.extend([b"\x0a\x01\x01"] * samples)
    return bytes(message.SerializeToString())


GOOD = gzip.compress(message((1, 2)), mtime=0)
OTHER = gzip.compress(message((1, 2), samples=2), mtime=0)


def test_profile(tmp_path: Path) -> None:
    path = tmp_path / "cpu.pprof"
    path.write_bytes(GOOD)
    assert pgo.read(path).sha256 == filesystem.sha256(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "CPU time"), (b"text\n", "gzip"), (message((1, 2)), "gzip"), (GOOD[:-9], "gzip"),
        (GOOD[:10] + b"\xff" * 20, "gzip"),
        (gzip.compress(b"mode: atomic\n"), "no protobuf"), (gzip.compress(b""), "CPU time"),
        (gzip.compress(message((3, 4))), "CPU time"), (gzip.compress(message((1, 99))), "no protobuf"),
        (gzip.compress(message((1, 2), strings=[b"", b"\xff", b"x"])), "no protobuf"),
        (gzip.compress(message((1, 2), samples=0)), "no samples"),
        (gzip.compress(bytes(pgo.MOST_BYTES + 1)), "unpacks to more"),
    ],
    ids=["empty", "text", "not compressed", "cut off", "damaged", "other", "nothing", "heap",
         "no such string", "no text", "no samples", "bomb"],
)  # fmt: skip
def test_invalid_profile_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "cpu.pprof"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=reason) as caught:
        pgo.read(path)
    assert "invoke benchmark --profile" in caught.value.hint


def test_missing_profile_is_refused_first(checkout: Path, commands: Commands) -> None:
    for missing in ("none", "", "\0"):
        path = checkout / missing
        with pytest.raises(UsageError, match="--pgo"):
            build.build(BuildOptions(pgo=str(path)))
    assert commands.calls == []
    assert not project.DIST.exists()


def test_make_cannot_use_a_profile(
    checkout: Path, commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(make, "refuse_impossible", lambda *_args: pytest.fail("asked"))
    with pytest.raises(UsageError, match="--method make"):
        build.build(BuildOptions(pgo="none", method=BuildMethod.MAKE))


def test_profile_is_in_the_digest() -> None:
    digests = [
        build.inputs(make_source(), target, BuildMethod.GO, PINS, profile)
        for target, profile in (
            (Target.parse("linux-riscv64"), None),
            (TARGET, None), (TARGET, pgo.Profile(GOOD)), (TARGET, pgo.Profile(OTHER)),
        )
    ]  # fmt: skip
    assert len(set(digests)) == 4


def test_profile_is_a_compiler_flag() -> None:
    assert "-pgo=/x/default.pgo" in compiler.flags(make_source(), "/x/default.pgo")
    assert not any("-pgo" in flag for flag in compiler.flags(make_source()))


@pytest.fixture
def profile(checkout: Path) -> Path:
    path = checkout / "cpu.pprof"
    path.write_bytes(GOOD)
    return path


@pytest.fixture
def given(
    checkout: Path, on: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, commands: Commands
) -> list[str]:
    """The profiles passed to the compiler, which writes only headers."""
    on("riscv64")
    seen: list[str] = []

    def compile_(_source: object, _go: object, output: Path, *_args: object, profile: str) -> None:
        seen.append(profile)
        assert Path(profile).read_bytes() == GOOD
        for command in dist.COMMANDS:
            (output / command).write_bytes(factories.elf("riscv64") + command.encode())
            (output / command).chmod(0o755)

    monkeypatch.setattr(compiler, "compile_commands", compile_)
    monkeypatch.setattr(toolchain, "ensure", lambda _pins: GO)
    monkeypatch.setattr(source, "prepare", lambda *_args: None)
    monkeypatch.setattr(source, "verify_modules", lambda *_args: None)
    for module in (elf, check):
        monkeypatch.setattr(
            module, "read_build_info",
            lambda path, _go: factories.build_info(path.name, TARGET, **{"-pgo": "default.pgo"}),
        )  # fmt: skip
    for directory in (".linux-riscv64-pgo.staging", TARGET.name):
        command_answers(commands, project.DIST / directory)
    return seen


def test_build_with_a_profile(given: list[str], profile: Path) -> None:
    outcome = build.build(BuildOptions(pgo=str(profile)))
    assert outcome.artifacts is not None
    directory = outcome.artifacts.path
    assert directory == project.DIST / "linux-riscv64-pgo"
    assert given == [str(project.DIST / ".linux-riscv64-pgo.staging" / dist.PROFILE)]
    assert (directory / dist.PROFILE).read_bytes() == GOOD
    assert (directory / "buildkit-v0.32.2.linux-riscv64-pgo.tar.gz").is_file()
    manifest = outcome.artifacts.manifest
    assert schemas.validation_error(manifest, schemas.BINARIES) == ""
    assert manifest["build"]["pgo"] == filesystem.sha256(profile)
    assert "-pgo=default.pgo" in manifest["build"]["flags"]
    assert str(project.ROOT) not in (directory / dist.MANIFEST).read_text()
    statement = json.loads((directory / dist.PROVENANCE).read_text())
    definition = statement["predicate"]["buildDefinition"]
    assert definition["externalParameters"]["pgo"] == f"sha256:{filesystem.sha256(profile)}"
    assert {"name": "default.pgo", "digest": {"sha256": filesystem.sha256(profile)}} in definition["resolvedDependencies"]  # fmt: skip
    assert build.build(BuildOptions(pgo=str(profile))).up_to_date
    profile.write_bytes(OTHER)
    with pytest.raises(AssertionError):  # from the compiler above, which started
        build.build(BuildOptions(pgo=str(profile)))


def forget_the_profile(directory: Path) -> None:
    (directory / dist.PROFILE).unlink()

    def edit(manifest: dict[str, object]) -> None:
        manifest["files"] = [f for f in manifest["files"] if f["name"] != dist.PROFILE]  # type: ignore[attr-defined]
        del manifest["build"]["pgo"]  # type: ignore[attr-defined]

    edit_manifest(directory, edit)


def test_profile_build_never_passes_as_default(given: list[str], profile: Path) -> None:
    """Neither under the other name, nor with the profile missing in the manifest."""
    build.build(BuildOptions(pgo=str(profile)))
    directory = project.DIST / TARGET.name
    assert all(f.status == "OK" for f in check.examine(directory, TARGET, GO))
    renamed = directory.rename(project.DIST / "linux-riscv64")

    def refused(target: str) -> set[str]:
        with pytest.raises(CheckError):
            check.require_good(renamed, Target.parse(target), GO)
        findings = check.examine(renamed, Target.parse(target), GO)
        return {f"{f.subject} {f.check}" for f in findings if f.status == "FAIL"}

    assert {"bin/buildkitd profile", "bin/buildctl profile", "manifest.json target"} <= refused("linux-riscv64")  # fmt: skip
    forget_the_profile(renamed)
    edit_manifest(renamed, lambda manifest: manifest.update(target="linux-riscv64"))
    assert {"bin/buildkitd profile", "bin/buildctl profile"} <= refused("linux-riscv64")


def test_verification_uses_the_recorded_profile(given: list[str], profile: Path) -> None:
    build.build(BuildOptions(pgo=str(profile)))
    profile.unlink()
    (verdict,) = verify.main(TARGET.name, rebuild=True, cross_check=False)
    assert verdict["identical"] is True
    recorded = project.DIST / TARGET.name / dist.PROFILE
    assert given[-1] == str(recorded)
    recorded.write_bytes(b"no profile")
    with pytest.raises(UsageError, match=f"{dist.PROFILE}.*gzip"):
        verify.main(TARGET.name, rebuild=True, cross_check=False)
