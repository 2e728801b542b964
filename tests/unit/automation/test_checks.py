from __future__ import annotations

from pathlib import Path

import pytest

from buildkit_riscv64 import doctor, process
from buildkit_riscv64.automation import checks
from buildkit_riscv64.console import Status
from buildkit_riscv64.doctor import PACKAGES, Phase


def looked_at() -> dict[str, doctor.Check]:
    return {one.name: one for one in doctor.CHECKS if Phase.AUTOMATION in one.phases}


def test_what_packages_and_repositories_are_made_with() -> None:
    for name in (*checks._CALLED, "go"):
        assert {name, f"{name} for packages"} & looked_at().keys(), name
    assert checks._CALLED.keys() <= PACKAGES.keys()


def test_what_is_missing_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "which", lambda _name: None)
    seen = looked_at()["createrepo_c"].look()
    assert (seen.status, seen.package) == (Status.WARN, "createrepo-c")


def test_what_is_there_says_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "which", lambda name: Path("/usr/bin", name))
    monkeypatch.setattr(
        process, "probe", lambda *_: process.Result(0, "Version: 1.2.0\nmore\n", "")
    )
    seen = looked_at()["createrepo_c"].look()
    assert (seen.status, seen.detail) == (Status.OK, "Version: 1.2.0")
