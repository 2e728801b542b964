"""A daemon without emulators: the error, and the fix."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from buildkit_riscv64.core import project
from buildkit_riscv64.core.arch import Platform
from buildkit_riscv64.system import binfmt

from ..bases import BaseImage
from ..conftest import NewContext
from ..daemon import Daemon, Result, run
from . import foreign

STEP = "FROM base\nRUN uname -m\n"


def build(daemon: Daemon, base: BaseImage, context: Path, platform: Platform) -> Result:
    return daemon.build(context, *base.flags(), f"--opt=platform={platform}")


@pytest.mark.may_be_not_proven
def test_error_message(
    bare: Daemon, every_base: BaseImage, new_context: NewContext, other: Platform
) -> None:
    """Without an emulator, BuildKit reports the step and the exec format error"""
    (worker,) = bare.buildctl("debug", "workers", "--format={{json .}}").good().json
    assert other.architecture not in {one["architecture"] for one in worker["platforms"]}
    build(bare, every_base, new_context(STEP), Platform.here()).good()
    build(bare, every_base, new_context("FROM base\nCOPY Dockerfile /\n"), other).good()
    failed = build(bare, every_base, new_context(STEP), other)
    failed.bad("exec /bin/sh: exec format error", "RUN uname -m", "Dockerfile:2")
    assert f"buildkit-qemu-{other.qemu}" in bare.log


@pytest.mark.may_be_not_proven
def test_doctor_names_the_fix(
    bare: Daemon,
    without: list[str],
    every_base: BaseImage,
    new_context: NewContext,
    other: Platform,
) -> None:
    """doctor finds the missing emulator, and the build succeeds after its fix"""
    foreign.require(other)
    context = new_context(STEP)
    build(bare, every_base, context, other).bad("exec format error")

    def ask() -> dict[str, object]:
        done = run(*without, sys.executable, "-m", "buildkit_riscv64", "doctor", "--phase=validation", "--json", cwd=project.ROOT)  # fmt: skip
        (found,) = [one for one in done.json if one["name"] == "binfmt_misc"]
        return dict(found)

    before = ask()
    assert before["status"] == "WARN"
    assert other in str(before["detail"])
    assert "doctor --fix" in str(before["fix"])
    assert before["commands"]
    for command in before["commands"]:  # type: ignore[attr-defined]
        run(*without, *command).good()
    assert other not in str(ask()["detail"]).partition(" for ")[2] or ask()["status"] == "OK"
    assert other.uname in build(bare, every_base, context, other).good().stderr


@pytest.mark.may_be_not_proven
def test_buildkit_qemu_emulator(
    bare: Daemon, tools: Path, every_base: BaseImage, new_context: NewContext, other: Platform
) -> None:
    """With Debian's emulator as buildkit-qemu, a step runs, but its child processes do not"""
    foreign.require(other)
    # ":qemu-aarch64:M::…:/usr/libexec/qemu-binfmt/aarch64-binfmt-P:OPF": the kernel needs that name.
    line = (binfmt.FORMATS / f"{other.binfmt}.conf").read_text()
    shutil.copy(Path(line.split(":")[-2]).resolve(), tools / f"buildkit-qemu-{other.qemu}")
    alone = new_context('FROM base\nRUN ["/bin/uname", "-m"]\n')
    assert other.uname in build(bare, every_base, alone, other).good().stderr
    with_child = new_context('FROM base\nRUN ["/bin/env", "/bin/uname", "-m"]\n')
    # Upstream's emulators are patched to start child processes.
    build(bare, every_base, with_child, other).bad("xec format error")
