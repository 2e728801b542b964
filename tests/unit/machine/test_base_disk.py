from __future__ import annotations

import dataclasses
import errno
import fcntl
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from buildkit_riscv64.core import dist, host, process
from buildkit_riscv64.core.errors import (
    Failure,
    MachineError,
    MissingRequirementError,
    StorageError,
)
from buildkit_riscv64.machine import base_disk as bases
from buildkit_riscv64.machine import doctor_checks
from buildkit_riscv64.machine.base_disk import BaseDisk
from buildkit_riscv64.system import apt, binfmt, checks, debian
from buildkit_riscv64.validation.environment.waiting import BOUND, eventually

from ..factories import PINS
from .conftest import IN_EMULATOR, MachineCommands, make_base

MIRROR = "http://mirror.invalid/debian"
RELEASE = debian.DebianRelease(MIRROR, "trixie")


# Recipe.


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    copy = Path(shutil.copytree(bases.RECIPE, tmp_path / "recipe"))
    monkeypatch.setattr(bases, "RECIPE", copy)
    return copy


def names_of_recipe() -> list[str]:
    return sorted(str(p.relative_to(bases.RECIPE)) for p in bases.RECIPE.rglob("*") if p.is_file())


def test_recipe_hash_ignores_times_and_empty_directories(recipe: Path) -> None:
    first = bases.recipe_hash(PINS)
    assert len(first) == 16
    os.utime(recipe / "packages", (1, 1))
    (recipe / "empty").mkdir()
    assert bases.recipe_hash(PINS) == first


@pytest.mark.parametrize("name", names_of_recipe())
def test_recipe_hash_changes_with_each_file(recipe: Path, name: str) -> None:
    first = bases.recipe_hash(PINS)
    path = recipe / name
    content = path.read_bytes()
    path.write_bytes(content + b"\n")
    changed = bases.recipe_hash(PINS)
    path.rename(path.with_name("renamed"))
    renamed = bases.recipe_hash(PINS)
    (path.with_name("renamed")).unlink()
    removed = bases.recipe_hash(PINS)
    assert len({first, changed, renamed, removed}) == 4
    path.write_bytes(content)
    assert bases.recipe_hash(PINS) == first


def test_recipe_hash_separates_files(recipe: Path) -> None:
    for name, content in (("a", "xy"), ("b", "z")):
        (recipe / name).write_text(content)
    first = bases.recipe_hash(PINS)
    (recipe / "a").write_text("x")
    (recipe / "b").write_text("yz")
    assert bases.recipe_hash(PINS) != first


@pytest.mark.parametrize(
    ("module", "constant"), [(debian, "SUITE"), (bases, "GO_SUITE"), (bases, "BASE_BYTES")]
)
def test_recipe_hash_includes_constants(
    monkeypatch: pytest.MonkeyPatch, module: ModuleType, constant: str
) -> None:
    first = bases.recipe_hash(PINS)
    monkeypatch.setattr(module, constant, "another")
    assert bases.recipe_hash(PINS) != first


def test_recipe_hash_includes_only_go_of_the_pins() -> None:
    first = bases.recipe_hash(PINS)
    assert bases.recipe_hash(dataclasses.replace(PINS, go="1.26.11")) != first
    assert bases.recipe_hash(dataclasses.replace(PINS, version="v1", commit="0" * 40)) == first


def test_lists_are_parsed_without_comments() -> None:
    for name in ("packages", "excluded", "emulator"):
        lines = debian.listed(bases.RECIPE / name)
        assert lines
        assert len(set(lines)) == len(lines)
        assert not [line for line in lines if "#" in line or line != line.strip()]


# Cached base.


def test_find_returns_an_intact_base(base: BaseDisk, capsys: pytest.CaptureFixture[str]) -> None:
    assert bases.find(PINS) == base
    assert capsys.readouterr().err == ""
    assert [p.name for p in (base.disk, base.kernel, base.initrd, base.certificates)] == list(
        bases.FILES[:4]
    )


def test_find_without_a_base_logs_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert bases.find(PINS) is None
    assert capsys.readouterr().err == ""


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def replace_by_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES: dict[str, Callable[[Path], object]] = {
    "a bit": flip,
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "empty": lambda path: path.write_bytes(b""),
    "missing": Path.unlink,
    "a directory": replace_by_directory,
    "not text": lambda path: path.write_bytes(b"\xff\xfe\x00"),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", [*bases.FILES, *IN_EMULATOR, dist.SUMS])
def test_find_rejects_a_damaged_base(
    base: BaseDisk, capsys: pytest.CaptureFixture[str], name: str, damage: str
) -> None:
    DAMAGES[damage](base.path / name)
    assert bases.find(PINS) is None
    assert str(base.path) in capsys.readouterr().err


@pytest.mark.parametrize(
    "change",
    [
        lambda directory: (directory / "libc.so.6").write_text("more\n"),
        lambda directory: (directory / "libz.so.1").rename(directory / "libz.so.2"),
        shutil.rmtree,
    ],
)
def test_find_rejects_changed_emulator_files(
    base: BaseDisk, change: Callable[[Path], object]
) -> None:
    change(base.path / bases.EMULATOR_DIRECTORY)
    assert bases.find(PINS) is None


# Emulation on the host.


def test_require_emulation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binfmt, "runs", lambda _platform: False)
    with pytest.raises(MissingRequirementError, match="riscv64") as caught:
        bases._require_emulation()
    assert "doctor --fix --phase machine" in caught.value.hint


# Build.


SIGNED = "signed-by=/usr/share/keyrings/debian-archive-keyring.gpg"
APT_OPTIONS = [
    '--aptopt=Acquire::Languages "none"', '--aptopt=APT::Install-Recommends "false"',
    '--aptopt=Acquire::Retries "3"',
]  # fmt: skip


@pytest.fixture(params=[(0, []), (1000, ["sudo", "--preserve-env"])])
def prefix(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The prefix that runs a command as root."""
    user, words = request.param
    monkeypatch.setattr(os, "geteuid", lambda: user)
    monkeypatch.setattr(process, "which", lambda name: Path("/usr/bin", name))
    return [*words, "unshare", "--mount", "mmdebstrap", "--mode=root"]


def test_system_command(recipe: Path, prefix: list[str]) -> None:
    (recipe / "packages").write_text("# why\n a\n\nb\n")
    (recipe / "excluded").write_text("/usr/share/doc/*\n")
    assert bases.system_command(RELEASE, "golang-1.26-go", Path("/w/root")) == [
        *prefix, "--arch=riscv64", "--variant=minbase", "--include=a,b,golang-1.26-go",
        "--dpkgopt=force-unsafe-io", "--dpkgopt=path-exclude=/usr/share/doc/*",
        f"--setup-hook={recipe}/setup-hook", f"--essential-hook={recipe}/essential-hook",
        f"--customize-hook={recipe}/customize-hook", *APT_OPTIONS,
        "trixie", "/w/root",
        f"deb [{SIGNED}] {MIRROR} trixie main",
        f"deb [{SIGNED} check-valid-until=no] {MIRROR} forky main",
    ]  # fmt: skip


def test_unpack_command(prefix: list[str]) -> None:
    assert debian.unpack_command(RELEASE, ["qemu", "firmware"], Path("/w/root")) == [
        *prefix, "--variant=extract", "--include=qemu,firmware", *APT_OPTIONS,
        "trixie", "/w/root", f"deb [{SIGNED}] {MIRROR} trixie main",
    ]  # fmt: skip


class Maker:
    """Fake mmdebstrap, mke2fs and qemu-img that succeed."""

    def __init__(self, commands: MachineCommands, monkeypatch: pytest.MonkeyPatch) -> None:
        self.commands = commands
        self.work = Path()
        self.fails: Exception | None = None
        monkeypatch.setattr(host, "free_bytes", lambda _path: doctor_checks.NEEDED_BYTES)
        monkeypatch.setattr(process, "stream", self.stream)
        monkeypatch.setattr(process, "run", self.run)
        monkeypatch.setattr(os, "geteuid", lambda: 0)
        commands.answer("apt-get", "indextargets", stdout=f"{MIRROR}/ Debian\n")
        monkeypatch.setattr(process, "probe", self.probe)

    def unpack_emulator(self, root: Path) -> None:
        """Write the files of Debian's packages: more than the emulator needs."""
        self.libraries = root / "usr/lib/x86_64-linux-gnu"
        for path in (
            *(self.libraries / name for name in ("ld-linux-x86-64.so.2", "libc.so.6", "libz.so.1.3", "libother.so")),
            root / "usr/bin" / bases.PROGRAM, root / "usr/bin/other", root / "usr/lib/fw.bin",
        ):  # fmt: skip
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(path.name)
        (self.libraries / "libz.so.1").symlink_to("libz.so.1.3")
        (root / "usr/share/qemu").mkdir(parents=True)
        (root / "usr/share/qemu" / bases.FIRMWARE).symlink_to("../../lib/fw.bin")

    def probe(self, args: process.Arguments, **options: Any) -> process.Result:
        if "--list" in args:
            linked = "".join(
                f"\t{n} => {self.libraries}/{n} (0x00007f0000000000)\n" for n in ("libc.so.6", "libz.so.1")
            )  # fmt: skip
            self.commands.answer("--list", stdout=f"\tlinux-vdso.so.1 (0x00007ffc)\n{linked}")
            self.commands.answer("--version", stdout="QEMU emulator version 10\nCopyright\n")
        return self.commands.probe(args, **options)

    def stream(self, args: process.Arguments, on_line: Any, **options: Any) -> int:
        code = self.commands.stream(args, on_line, **options)
        if "--variant=extract" in args:
            self.unpack_emulator(Path(args[-2]))
            return code
        self.work = Path(options["env"]["OUTPUT"])
        (self.work / "root/etc").mkdir(parents=True, exist_ok=True)
        for name in bases.FILES[1:]:
            (self.work / name).write_text(name)
        return code

    def run(self, args: process.Arguments, **options: Any) -> None:
        if args[0] == "rm":
            shutil.rmtree(args[-1])
            return
        self.commands.run(args, **options)
        if self.fails:
            raise self.fails
        if args[0] == "qemu-img":
            Path(args[-1]).write_bytes(b"image")


@pytest.fixture
def maker(commands: MachineCommands, monkeypatch: pytest.MonkeyPatch) -> Maker:
    return Maker(commands, monkeypatch)


def in_bases() -> list[str]:
    return sorted(p.name for p in bases.bases().iterdir() if p.name != ".lock")


@pytest.fixture
def _cache() -> None:
    bases.bases().mkdir(parents=True)


@pytest.mark.usefixtures("_cache")
def test_build_base(maker: Maker) -> None:
    base = bases._build(PINS)
    assert base.path == bases.bases() / bases.recipe_hash(PINS)
    assert bases.find(PINS) == base
    assert base.path.stat().st_mode & 0o777 == 0o755
    assert in_bases() == [base.path.name]
    assert sorted(p.name for p in base.path.iterdir()) == sorted(
        [*bases.FILES, bases.EMULATOR_DIRECTORY, dist.SUMS, "mmdebstrap.log"]
    )
    unpack, stream, mke2fs, convert = (c for c in maker.commands.calls if c.verb != "probe")
    work = maker.work
    assert unpack.args == debian.unpack_command(
        RELEASE, ["opensbi", "qemu-system-riscv"], work / "emulator-root"
    )
    assert stream.args == bases.system_command(RELEASE, "golang-1.26-go", work / "root")
    assert mke2fs.args == [
        "mke2fs", "-q", "-F", "-t", "ext4", "-L", "root", "-m", "0",
        "-E", "assume_storage_prezeroed=1,lazy_itable_init=1", "-d", f"{work}/root",
        f"{work}/base.raw",
    ]  # fmt: skip
    assert convert.args == [
        "qemu-img", "convert", "-f", "raw", "-O", "qcow2", f"{work}/base.raw",
        f"{work}/base.qcow2",
    ]  # fmt: skip
    env = stream.options["env"]
    assert env["TMPDIR"] == env["OUTPUT"] == str(work)
    assert env["PATH"].endswith(":/usr/sbin:/sbin")
    assert (env["GO"], env["MIRROR"], env["SUITE"]) == ("1.26.10", MIRROR, "trixie")
    assert env["RECIPE"] == str(bases.RECIPE)


@pytest.mark.usefixtures("_cache")
def test_emulator_contains_only_loaded_files(
    maker: Maker, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = bases._build(PINS).path / bases.EMULATOR_DIRECTORY
    assert {p.name: p.read_text() for p in directory.iterdir()} == {
        bases.LOADER: "ld-linux-x86-64.so.2", bases.PROGRAM: bases.PROGRAM,
        bases.FIRMWARE: "fw.bin", "libc.so.6": "libc.so.6", "libz.so.1": "libz.so.1.3",
    }  # fmt: skip
    assert "  QEMU emulator version 10\n" in capsys.readouterr().err


@pytest.mark.usefixtures("_cache")
@pytest.mark.parametrize("word", ["--list", "--version"])
def test_emulator_that_does_not_run_fails_the_build(
    maker: Maker, monkeypatch: pytest.MonkeyPatch, word: str
) -> None:
    def probe(args: process.Arguments, **options: Any) -> process.Result:
        if word in args:
            return process.Result(127, "", "loader: cannot execute\n")
        return maker.probe(args, **options)

    monkeypatch.setattr(process, "probe", probe)
    with pytest.raises(MachineError, match="cannot execute"):
        bases._build(PINS)
    assert in_bases() == []


@pytest.mark.usefixtures("_cache")
def test_build_falls_back_to_the_default_go(maker: Maker) -> None:
    system = "--arch=riscv64"
    maker.commands.answer(
        system, code=1, stdout="E: Package 'golang-1.26-go' has no installation candidate\n"
    )
    later = f"--include={','.join([*debian.listed(bases.RECIPE / 'packages'), 'golang-go'])}"
    maker.commands.answer(later, stdout="fine\n")
    bases._build(PINS)
    tried = [args[6].rpartition(",")[2] for args in maker.commands.args if system in args]
    assert tried == ["golang-1.26-go", "golang-go"]


@pytest.mark.usefixtures("_cache")
@pytest.mark.parametrize(
    ("output", "kind", "contains"),
    [
        ("I: x\nE: Unable to fetch\nI: cleaning up\n", MachineError,
         "exit code 25): E: Unable to fetch"),
        ("something odd\n", MachineError, "exit code 25): something odd"),
        ("", MachineError, "exit code 25): ?"),
        ("dpkg: cannot write: No space left on device\nE: apt\n", StorageError, "/bases"),
        ("E: You don't have enough free space in /w/.\n", StorageError, "/bases"),
    ],
)  # fmt: skip
def test_failed_mmdebstrap(
    maker: Maker,
    capsys: pytest.CaptureFixture[str],
    output: str,
    kind: type[Failure],
    contains: str,
) -> None:
    maker.commands.answer("mmdebstrap", code=25, stdout=output)
    with pytest.raises(kind) as caught:
        bases._build(PINS)
    assert contains in caught.value.brief
    assert in_bases() == []
    reported = capsys.readouterr().err
    for line in output.splitlines():
        assert f"  {line}\n" in reported


@pytest.mark.usefixtures("_cache")
@pytest.mark.parametrize(
    "fails",
    [MachineError("mke2fs"), OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()],
)
def test_failed_build_leaves_no_output(maker: Maker, fails: Exception) -> None:
    maker.fails = fails
    wanted = StorageError if isinstance(fails, OSError) else type(fails)
    with pytest.raises(wanted):
        bases._build(PINS)
    assert in_bases() == []


@pytest.mark.usefixtures("_cache")
def test_build_checks_free_space_first(maker: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "free_bytes", lambda _path: doctor_checks.NEEDED_BYTES - 1)
    with pytest.raises(StorageError, match=r"6\.0 GiB .*6\.0 GiB"):
        bases._build(PINS)
    assert maker.commands.calls == []
    assert in_bases() == []


@pytest.mark.usefixtures("_cache")
def test_build_removes_leftovers(maker: Maker) -> None:
    left = bases.bases() / ".making-abc" / "root" / "etc"
    left.mkdir(parents=True)
    assert in_bases() == [".making-abc"]
    base = bases._build(PINS)
    assert in_bases() == [base.path.name]


def test_ensure_rebuilds_a_damaged_base(
    maker: Maker, base: BaseDisk, monkeypatch: pytest.MonkeyPatch, steps: list[str]
) -> None:
    flip(base.kernel)
    monkeypatch.setattr(apt, "ensure_installed", lambda _tools, yes: None)
    monkeypatch.setattr(checks, "apply_fixes", lambda _phases, yes: [])
    monkeypatch.setattr(bases, "_require_emulation", lambda: None)
    assert bases.ensure(PINS) == base
    assert bases.ensure(PINS) == base
    assert steps == ["machine.create"]
    assert base.kernel.read_text() == "kernel"
    verbs = [call.verb for call in maker.commands.calls]
    assert [verb for verb in verbs if verb != "probe"] == ["stream", "stream", "run", "run"]


def test_discard_runs_as_root(
    tmp_path: Path, commands: MachineCommands, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(process, "which", lambda name: Path("/usr/bin", name))
    bases._discard(tmp_path)
    assert commands.args == [
        ["sudo", "--preserve-env", "rm", "-rf", "--one-file-system", str(tmp_path)]
    ]


# Locking.


def test_second_run_waits_for_the_lock(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], base: BaseDisk
) -> None:
    monkeypatch.setattr(apt, "ensure_installed", lambda _tools, yes: None)
    found: list[BaseDisk] = []
    with (bases.bases() / ".lock").open("w") as first:
        fcntl.flock(first, fcntl.LOCK_EX)
        second = threading.Thread(target=lambda: found.append(bases.ensure(PINS)))
        second.start()
        logged: list[str] = []

        def waiting() -> bool:
            logged.append(capfd.readouterr().err)
            return "waiting" in "".join(logged)

        assert eventually(waiting), logged
        assert found == []
    second.join(BOUND)
    assert found == [base]


def test_cached_base_needs_no_emulator(monkeypatch: pytest.MonkeyPatch, base: BaseDisk) -> None:
    asked: list[object] = []
    monkeypatch.setattr(apt, "ensure_installed", lambda tools, yes: asked.append((tools, yes)))
    monkeypatch.setattr(checks, "apply_fixes", lambda *_args, **_options: pytest.fail("fixed"))
    assert bases.ensure(PINS, yes=True) == base
    assert asked == [(doctor_checks.TOOLS, True)]


def test_each_tool_has_a_package_and_a_check() -> None:
    found = {finding.check.name for finding in checks.examine([checks.Phase.MACHINE])}
    assert found >= set(doctor_checks.TOOLS)
    assert apt.PACKAGES.keys() >= set(doctor_checks.TOOLS)


def test_find_ignores_a_base_of_another_recipe(
    monkeypatch: pytest.MonkeyPatch, recipe: Path
) -> None:
    make_base(bases.bases() / bases.recipe_hash(PINS))
    (recipe / "packages").write_text("other\n")
    assert bases.find(PINS) is None
