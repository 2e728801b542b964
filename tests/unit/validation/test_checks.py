from __future__ import annotations

import os

import pytest

from buildkit_riscv64 import doctor, host
from buildkit_riscv64.console import Status
from buildkit_riscv64.doctor import Phase
from buildkit_riscv64.validation import checks, suites


def test_every_tool_is_looked_at() -> None:
    names = {one.name for one in doctor.CHECKS if Phase.VALIDATION in one.phases}
    for name in suites.tools(suites.SUITES.values()):
        assert {name, f"{name} for scenarios"} & names, name


def test_what_the_emulated_machine_needs_stays_its_own() -> None:
    both = [one.name for one in doctor.CHECKS if {Phase.VALIDATION, Phase.MACHINE} <= one.phases]
    assert set(both) <= {"architecture", "clock", "python"}


@pytest.mark.parametrize(("uid", "status"), [(0, Status.OK), (1000, Status.FAIL)])
def test_root(monkeypatch: pytest.MonkeyPatch, uid: int, status: Status) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    assert checks._root().status is status


@pytest.mark.parametrize(("free", "status"), [(20, Status.OK), (11, Status.WARN)])
def test_space(monkeypatch: pytest.MonkeyPatch, free: int, status: Status) -> None:
    monkeypatch.setattr(host, "free_bytes", lambda _path: free << 30)
    seen = checks._space()
    assert (seen.status, bool(seen.fix)) == (status, status is Status.WARN)
