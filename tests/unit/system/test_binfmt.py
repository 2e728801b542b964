from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from buildkit_riscv64.core.arch import Platform
from buildkit_riscv64.core.console import Status
from buildkit_riscv64.system import apt, binfmt, checks

from ..factories import Commands

ARM64, RISCV64 = Platform.ARM64, Platform.RISCV64


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, on: Callable[[str], None]) -> Path:
    """A mounted, empty register."""
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
def test_the_flag_f_is_required(kernel: Path, flags: str, good: bool) -> None:
    enter(kernel, RISCV64, flags)
    assert binfmt.runs(RISCV64) is good


def test_a_disabled_emulator(kernel: Path) -> None:
    enter(kernel, RISCV64, "F", state="disabled")
    assert not binfmt.runs(RISCV64)


def test_no_emulator(kernel: Path) -> None:
    assert not binfmt.runs(RISCV64)


def test_native_programs_need_no_emulator(kernel: Path, on: Callable[[str], None]) -> None:
    assert binfmt.runs(Platform.AMD64)
    on("riscv64")
    assert binfmt.runs(RISCV64)
    assert not binfmt.runs(Platform.AMD64)


def test_is_mounted(kernel: Path) -> None:
    assert binfmt.is_mounted()
    (kernel / "status").unlink()
    assert not binfmt.is_mounted()


# The check of `invoke doctor`.


def test_all_platforms_run(kernel: Path) -> None:
    enter(kernel, RISCV64, "F")
    result = checks.emulators([Platform.AMD64, RISCV64], Status.FAIL)
    assert result.status is Status.OK
    assert "linux/amd64, linux/riscv64" in result.detail


# Debian 12 also has an emulator that works in its own root directory only.
@pytest.mark.parametrize("flags", [None, "OP", ""])
def test_no_emulator_is_installed(kernel: Path, flags: str | None) -> None:
    if flags is not None:
        install(kernel, RISCV64, flags)
    result = checks.emulators([RISCV64], Status.FAIL)
    assert (result.status, result.package, result.commands) == (Status.FAIL, "qemu-user-static", ())
    assert apt.OTHER_NAMES[result.package] == "qemu-user-binfmt"


@pytest.mark.parametrize("mounted", [True, False])
@pytest.mark.parametrize("registered", [True, False])
def test_an_emulator_is_not_registered(kernel: Path, mounted: bool, registered: bool) -> None:
    install(kernel, RISCV64)
    if registered:
        enter(kernel, RISCV64, "OP")
    if not mounted:
        (kernel / "status").unlink()
    result = checks.emulators([RISCV64], Status.WARN)
    assert (result.status, result.package) == (Status.WARN, "")
    *mount, register = result.commands
    assert mount == (
        [] if mounted else [("mount", "-t", "binfmt_misc", "binfmt_misc", str(kernel))]
    )
    subprocess.run(register, check=True)
    assert (kernel / "register").read_text() == ":qemu-riscv64:M::x:y:/emulator-riscv64:OPF\n"
    assert not registered or (kernel / "qemu-riscv64").read_text() == "-1\n"


def test_only_missing_emulators_are_registered(kernel: Path) -> None:
    """Registered emulators and emulators that Debian does not have are left alone."""
    enter(kernel, RISCV64, "F")
    for platform in (RISCV64, ARM64, Platform.ARM):
        install(kernel, platform)
    result = checks.emulators([RISCV64, ARM64, Platform.ARM, Platform.S390X], Status.WARN)
    assert result.detail.endswith("for linux/arm64, linux/arm/v7, linux/s390x")
    assert result.commands == (binfmt.register(ARM64), binfmt.register(Platform.ARM))


# `invoke validate`.


@pytest.fixture
def one_missing(kernel: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """All emulators are installed, and one is not registered."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    for platform in Platform:
        install(kernel, platform)
        if platform is not ARM64:
            enter(kernel, platform, "F")
    return kernel


def test_the_missing_emulator_is_registered(one_missing: Path, commands: Commands) -> None:
    checks.provide_emulators(yes=True)
    assert commands.args == [list(binfmt.register(ARM64))]


def test_the_answer_no(
    one_missing: Path, commands: Commands, capsys: pytest.CaptureFixture[str]
) -> None:
    checks.provide_emulators(yes=False)
    assert commands.args == []
    assert "linux/arm64" in capsys.readouterr().err


def test_all_are_registered(one_missing: Path, commands: Commands) -> None:
    enter(one_missing, ARM64, "F")
    checks.provide_emulators(yes=True)
    assert commands.args == []
