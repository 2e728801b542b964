from __future__ import annotations

import pytest

from buildkit_riscv64 import doctor, process
from buildkit_riscv64.apt import PACKAGES
from buildkit_riscv64.automation import needs
from buildkit_riscv64.console import Status
from buildkit_riscv64.doctor import Phase

from ..making import Commands


def needed() -> dict[str, doctor.Check]:
    return {one.name: one for one in doctor.needed([Phase.AUTOMATION])}


def test_what_packages_and_repositories_are_made_with() -> None:
    assert needed().keys() >= {*needs._CALLED, "go"}
    assert PACKAGES.keys() >= needs._CALLED.keys()


def test_what_is_missing_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "which", lambda _name: None)
    seen = needed()["createrepo_c"].look()
    assert (seen.status, seen.package) == (Status.WARN, "createrepo-c")


def test_what_is_there_says_its_version(installed: set[str], commands: Commands) -> None:
    installed.add("createrepo_c")
    commands.answer("createrepo_c", "--version", stdout="Version: 1.2.0\nmore\n")
    seen = needed()["createrepo_c"].look()
    assert (seen.status, seen.detail) == (Status.OK, "Version: 1.2.0")
