from __future__ import annotations

from pathlib import Path

import pytest

from buildkit_riscv64.core import process
from buildkit_riscv64.core.console import Status
from buildkit_riscv64.release import doctor_checks
from buildkit_riscv64.system import checks
from buildkit_riscv64.system.apt import PACKAGES
from buildkit_riscv64.system.checks import Phase

from ..factories import Commands


def needed() -> dict[str, checks.Check]:
    return {one.name: one for one in checks.needed([Phase.AUTOMATION])}


def test_checks_cover_every_tool() -> None:
    assert needed().keys() >= {*doctor_checks._CALLED, "go"}
    assert PACKAGES.keys() >= doctor_checks._CALLED.keys()


def test_missing_tool_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "which", lambda _name: None)
    found = needed()["createrepo_c"].look()
    assert (found.status, found.package) == (Status.WARN, "createrepo-c")


def test_installed_tool_shows_its_version(installed: set[str], commands: Commands) -> None:
    installed.add("createrepo_c")
    commands.answer("createrepo_c", "--version", stdout="Version: 1.2.0\nmore\n")
    found = needed()["createrepo_c"].look()
    assert (found.status, found.detail) == (Status.OK, "Version: 1.2.0")


def test_memory_for_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor_checks._shm().status is Status.OK
    monkeypatch.setattr(Path, "is_dir", lambda _self: False)
    assert doctor_checks._shm().status is Status.FAIL
