from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from buildkit_riscv64 import dist, project, schemas, storage
from buildkit_riscv64.arch import Target
from buildkit_riscv64.binaries import build, check, elf, make, pgo, source, toolchain, verify
from buildkit_riscv64.binaries import compile as compiler
from buildkit_riscv64.binaries.build import Options, Via
from buildkit_riscv64.errors import CheckError, UsageError

from .. import making
from ..making import GO, PINS, Commands, edit_manifest, make_source

TARGET = Target.parse("linux-riscv64-pgo")


def message(
    *kinds: tuple[int, int],
    strings: Sequence[bytes] = (b"", b"cpu", b"nanoseconds", b"alloc_space", b"bytes"),
    samples: int = 1,
) -> bytes:
    """A profile before it is compressed."""
    made = pgo._message()()
    made.string_table.extend(strings)
    for kind, unit in kinds:
        made.sample_type.add(type=kind, unit=unit)
    made.sample.extend([b"\x0a\x01\x01"] * samples)
    return bytes(made.SerializeToString())


GOOD = gzip.compress(message((1, 2)), mtime=0)
OTHER = gzip.compress(message((1, 2), samples=2), mtime=0)


def test_a_profile(tmp_path: Path) -> None:
    path = tmp_path / "cpu.pprof"
    path.write_bytes(GOOD)
    assert pgo.read(path).sha256 == storage.sha256(path)


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
def test_what_is_no_profile_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "cpu.pprof"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=reason) as caught:
        pgo.read(path)
    assert "invoke benchmark --profile" in caught.value.hint


def test_without_the_file_nothing_starts(checkout: Path, commands: Commands) -> None:
    for missing in ("none", "", "\0"):
        path = checkout / missing
        with pytest.raises(UsageError, match="--pgo"):
            build.build(Options(pgo=str(path)))
    assert commands.calls == []
    assert not project.DIST.exists()


def test_make_takes_no_profile(checkout: Path, commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setattr(make, "refuse_impossible", lambda *_args: pytest.fail("asked"))
    with pytest.raises(UsageError, match="--via make cannot compile with a profile"):
        build.build(Options(pgo="none", via=Via.MAKE))


def test_the_profile_decides() -> None:
    digests = [
        build.inputs(make_source(), target, Via.GO, PINS, profile)
        for target, profile in (
            (Target.parse("linux-riscv64"), None),
            (TARGET, None), (TARGET, pgo.Profile(GOOD)), (TARGET, pgo.Profile(OTHER)),
        )
    ]  # fmt: skip
    assert len(set(digests)) == 4


def test_it_is_an_argument() -> None:
    assert "-pgo=/x/default.pgo" in compiler.flags(make_source(), "/x/default.pgo")
    assert not any("-pgo" in flag for flag in compiler.flags(make_source()))


@pytest.fixture
def profile(checkout: Path) -> Path:
    path = checkout / "cpu.pprof"
    path.write_bytes(GOOD)
    return path


@pytest.fixture
def given(checkout: Path, on: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, commands: Commands) -> list[str]:  # fmt: skip
    """What the compiler is given as its profile; it writes nothing but headers."""
    on("riscv64")
    seen: list[str] = []

    def compile_(_source: object, _go: object, output: Path, *_args: object, profile: str) -> None:
        seen.append(profile)
        assert Path(profile).read_bytes() == GOOD
        for command in dist.COMMANDS:
            (output / command).write_bytes(making.elf("riscv64") + command.encode())
            (output / command).chmod(0o755)

    monkeypatch.setattr(compiler, "compile_commands", compile_)
    monkeypatch.setattr(toolchain, "ensure", lambda _pins: GO)
    monkeypatch.setattr(source, "prepare", lambda *_args: None)
    monkeypatch.setattr(source, "verify_modules", lambda *_args: None)
    for module in (elf, check):
        monkeypatch.setattr(
            module, "read_build_info",
            lambda path, _go: making.build_info(path.name, TARGET, **{"-pgo": "default.pgo"}),
        )  # fmt: skip
    for command in dist.COMMANDS:
        said = f"{command} github.com/moby/buildkit v0.32.2 {making.COMMIT}\n"
        for folder in (".linux-riscv64-pgo.staging", TARGET.name):
            binary = str(project.DIST / folder / "bin" / command)
            commands.answer(binary, "--version", stdout=said)
            commands.answer(binary, "--help", stdout="USAGE:\n")
    return seen


def test_a_build_with_a_profile(given: list[str], profile: Path) -> None:
    outcome = build.build(Options(pgo=str(profile)))
    assert outcome.artifacts is not None
    folder = outcome.artifacts.path
    assert folder == project.DIST / "linux-riscv64-pgo"
    assert given == [str(project.DIST / ".linux-riscv64-pgo.staging" / dist.PROFILE)]
    assert (folder / dist.PROFILE).read_bytes() == GOOD
    assert (folder / "buildkit-v0.32.2.linux-riscv64-pgo.tar.gz").is_file()
    manifest = outcome.artifacts.manifest
    assert schemas.objection(manifest, schemas.BINARIES) == ""
    assert manifest["build"]["pgo"] == storage.sha256(profile)
    assert "-pgo=default.pgo" in manifest["build"]["flags"]
    assert str(project.ROOT) not in (folder / dist.MANIFEST).read_text()
    statement = json.loads((folder / dist.PROVENANCE).read_text())
    definition = statement["predicate"]["buildDefinition"]
    assert definition["externalParameters"]["pgo"] == f"sha256:{storage.sha256(profile)}"
    assert {"name": "default.pgo", "digest": {"sha256": storage.sha256(profile)}} in definition["resolvedDependencies"]  # fmt: skip
    assert build.build(Options(pgo=str(profile))).up_to_date
    profile.write_bytes(OTHER)
    with pytest.raises(AssertionError):  # of the compiler above, which was started
        build.build(Options(pgo=str(profile)))


def forget_the_profile(folder: Path) -> None:
    (folder / dist.PROFILE).unlink()

    def edit(manifest: dict[str, object]) -> None:
        manifest["files"] = [f for f in manifest["files"] if f["name"] != dist.PROFILE]  # type: ignore[attr-defined]
        del manifest["build"]["pgo"]  # type: ignore[attr-defined]

    edit_manifest(folder, edit)


def test_it_never_passes_as_the_default_one(given: list[str], profile: Path) -> None:
    """Not under the other's name, and not with the profile left out of the record."""
    build.build(Options(pgo=str(profile)))
    folder = project.DIST / TARGET.name
    assert all(f.status == "OK" for f in check.examine(folder, TARGET, GO))
    renamed = folder.rename(project.DIST / "linux-riscv64")

    def refused(target: str) -> set[str]:
        with pytest.raises(CheckError):
            check.require_good(renamed, Target.parse(target), GO)
        findings = check.examine(renamed, Target.parse(target), GO)
        return {f"{f.subject} {f.check}" for f in findings if f.status == "FAIL"}

    assert {"bin/buildkitd profile", "bin/buildctl profile", "manifest.json target"} <= refused("linux-riscv64")  # fmt: skip
    forget_the_profile(renamed)
    edit_manifest(renamed, lambda manifest: manifest.update(target="linux-riscv64"))
    assert {"bin/buildkitd profile", "bin/buildctl profile"} <= refused("linux-riscv64")


def test_verified_with_its_own_profile(given: list[str], profile: Path) -> None:
    build.build(Options(pgo=str(profile)))
    profile.unlink()
    (verdict,) = verify.main(TARGET.name, rebuild=True, cross_check=False)
    assert verdict["identical"] is True
    kept = project.DIST / TARGET.name / dist.PROFILE
    assert given[-1] == str(kept)
    kept.write_bytes(b"no profile")
    with pytest.raises(UsageError, match="is no CPU profile"):
        verify.main(TARGET.name, rebuild=True, cross_check=False)
