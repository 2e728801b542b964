from __future__ import annotations

import platform
from pathlib import Path

import pytest

from buildkit_riscv64.core import process
from buildkit_riscv64.validation import versions

from ..factories import Commands


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The installed commands."""
    names: set[str] = set()
    monkeypatch.setattr(process, "which", lambda name: Path("/usr/bin", name) if name in names else None)  # fmt: skip
    return names


@pytest.mark.parametrize(
    ("tool", "output", "version"),
    [
        ("runc", "runc version 1.1.5+ds1\ncommit: 1.1.5+ds1-1+b1\nspec: 1.0.2-dev\n", "1.1.5+ds1"),
        ("rootlesskit", "rootlesskit version 2.0.2\n", "2.0.2"),
        ("slirp4netns", "slirp4netns version 1.2.1\ncommit: 09e31e92fa\nlibslirp: 4.8.0\n", "1.2.1"),
        ("fuse-overlayfs", "fusermount3 version: 3.17.2\nfuse-overlayfs: version 1.14\nFUSE library version 3.17.2\n", "1.14"),
        ("qemu-riscv64", "qemu-riscv64 version 10.0.2 (Debian 1:10.0.2+ds-2)\nCopyright (c) 2003\n", "10.0.2"),
        ("runc", "", ""), ("runc", "no number\n", ""),
    ],
)  # fmt: skip
def test_reported_versions(
    installed: set[str], commands: Commands, tool: str, output: str, version: str
) -> None:
    installed.add(tool)
    commands.answer(tool, "--version", stdout=output)
    assert versions.of(tool) == version


def test_missing_command_is_not_run(installed: set[str], commands: Commands) -> None:
    assert versions.of("runc") == ""
    assert commands.calls == []


def test_here(installed: set[str], commands: Commands) -> None:
    installed |= {"runc", "rootlesskit", "qemu-x86_64"}
    commands.answer("runc", stdout="runc version 1.1.5\n")
    commands.answer("qemu-x86_64", stdout="qemu-x86_64 version 10.0.2\n")
    none = dict.fromkeys(versions.NAMES)
    kernel = platform.release()
    reported = versions.here(["runc", "slirp4netns", "git"], emulators=False)
    assert reported == {**none, "kernel": kernel, "runc": "1.1.5"}
    assert versions.here([], emulators=True) == {**none, "kernel": kernel, "qemu-user": "10.0.2"}
