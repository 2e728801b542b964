from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from buildkit_riscv64 import apt, binfmt, doctor
from buildkit_riscv64.arch import Platform
from buildkit_riscv64.console import Status
from buildkit_riscv64.doctor import Seen

from .making import Commands

ARM64, RISCV64 = Platform.ARM64, Platform.RISCV64


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, on: Callable[[str], None]) -> Path:
    """A register, mounted, and empty."""
    monkeypatch.setattr(binfmt, "REGISTRY", tmp_path / "registry")
    monkeypatch.setattr(binfmt, "FORMATS", tmp_path)
    on("x86_64")
    (tmp_path / "registry").mkdir()
    (tmp_path / "registry" / "status").write_text("enabled\n")
    return tmp_path / "registry"


def enter(kernel: Path, platform: Platform, flags: str, state: str = "enabled") -> None:
    (kernel / platform.binfmt).write_text(
        f"{state}\ninterpreter /usr/bin/qemu-F\nflags: {flags}\noffset 0\nmagic 7F\n"
    )


def install(kernel: Path, platform: Platform, flags: str = "OPF") -> None:
    line = f":{platform.binfmt}:M::x:y:/emulator-{platform.qemu}:{flags}\n"
    (kernel.parent / f"{platform.binfmt}.conf").write_text(line)


@pytest.mark.parametrize(
    ("flags", "good"), [("POCF", True), ("F", True), ("OFC", True), ("OC", False), ("", False)]
)
def test_the_emulator_is_held_open(kernel: Path, flags: str, good: bool) -> None:
    enter(kernel, RISCV64, flags)
    assert binfmt.runs(RISCV64) is good


def test_one_that_is_turned_off(kernel: Path) -> None:
    enter(kernel, RISCV64, "F", state="disabled")
    assert not binfmt.runs(RISCV64)


def test_no_emulator(kernel: Path) -> None:
    assert not binfmt.runs(RISCV64)


def test_its_own_programs_need_none(kernel: Path, on: Callable[[str], None]) -> None:
    assert binfmt.runs(Platform.AMD64)
    on("riscv64")
    assert binfmt.runs(RISCV64)
    assert not binfmt.runs(Platform.AMD64)


def test_whether_the_register_is_mounted(kernel: Path) -> None:
    assert binfmt.is_mounted()
    (kernel / "status").unlink()
    assert not binfmt.is_mounted()


# What doctor says of it.


def test_all_run(kernel: Path) -> None:
    enter(kernel, RISCV64, "F")
    seen = doctor.emulators([Platform.AMD64, RISCV64], Status.FAIL)
    assert seen == Seen(Status.OK, "programs run for linux/amd64, linux/riscv64")


# Debian 12 also has an emulator that works in its own root directory only.
@pytest.mark.parametrize("flags", [None, "OP", ""])
def test_no_emulator_is_installed(kernel: Path, flags: str | None) -> None:
    if flags is not None:
        install(kernel, RISCV64, flags)
    seen = doctor.emulators([RISCV64], Status.FAIL)
    assert (seen.status, seen.package, seen.commands) == (Status.FAIL, "qemu-user-static", ())
    assert apt.OTHER_NAMES[seen.package] == "qemu-user-binfmt"


@pytest.mark.parametrize("mounted", [True, False])
@pytest.mark.parametrize("registered", [True, False])
def test_an_emulator_is_not_registered(kernel: Path, mounted: bool, registered: bool) -> None:
    install(kernel, RISCV64)
    if registered:
        enter(kernel, RISCV64, "OP")
    if not mounted:
        (kernel / "status").unlink()
    seen = doctor.emulators([RISCV64], Status.WARN)
    assert (seen.status, seen.package) == (Status.WARN, "")
    *mount, register = seen.commands
    assert mount == (
        [] if mounted else [("mount", "-t", "binfmt_misc", "binfmt_misc", str(kernel))]
    )
    subprocess.run(register, check=True)
    assert (kernel / "register").read_text() == ":qemu-riscv64:M::x:y:/emulator-riscv64:OPF\n"
    assert not registered or (kernel / "qemu-riscv64").read_text() == "-1\n"


def test_those_that_are_missing_are_registered(kernel: Path) -> None:
    """And none that runs, or that this machine's Debian does not have."""
    enter(kernel, RISCV64, "F")
    for platform in (RISCV64, ARM64, Platform.ARM):
        install(kernel, platform)
    seen = doctor.emulators([RISCV64, ARM64, Platform.ARM, Platform.S390X], Status.WARN)
    assert seen.detail.endswith("for linux/arm64, linux/arm/v7, linux/s390x")
    assert seen.commands == (binfmt.register(ARM64), binfmt.register(Platform.ARM))


# What `invoke validate` does about it.


@pytest.fixture
def one_missing(kernel: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """All are installed, and one is not registered."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    for platform in Platform:
        install(kernel, platform)
        if platform is not ARM64:
            enter(kernel, platform, "F")
    return kernel


def test_it_is_registered(one_missing: Path, commands: Commands) -> None:
    doctor.provide_emulators(yes=True)
    assert commands.args == [list(binfmt.register(ARM64))]


def test_nobody_says_yes(
    one_missing: Path, commands: Commands, capsys: pytest.CaptureFixture[str]
) -> None:
    doctor.provide_emulators(yes=False)
    assert commands.args == []
    assert "linux/arm64" in capsys.readouterr().err


def test_all_are_registered(one_missing: Path, commands: Commands) -> None:
    enter(one_missing, ARM64, "F")
    doctor.provide_emulators(yes=True)
    assert commands.args == []
