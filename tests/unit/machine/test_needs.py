from __future__ import annotations

import pytest

from buildkit_riscv64 import binfmt, doctor, host
from buildkit_riscv64.apt import PACKAGES
from buildkit_riscv64.arch import Platform
from buildkit_riscv64.console import Status
from buildkit_riscv64.doctor import Phase
from buildkit_riscv64.machine import base, needs

GIB = 1 << 30


def test_no_emulator_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binfmt, "runs", lambda platform: platform is not Platform.RISCV64)
    assert needs._riscv64_programs().status is Status.FAIL
    monkeypatch.setattr(binfmt, "runs", lambda platform: platform is Platform.RISCV64)
    assert needs._riscv64_programs().status is Status.OK


@pytest.mark.parametrize(("free", "status"), [(6 * GIB, "OK"), (6 * GIB - 1, "FAIL")])
def test_disk(monkeypatch: pytest.MonkeyPatch, free: int, status: str) -> None:
    monkeypatch.setattr(host, "free_bytes", lambda _path: free)
    assert needs._disk().status == status


@pytest.mark.parametrize(("available", "status"), [(5 * GIB, "OK"), (5 * GIB - 1, "WARN")])
def test_memory(monkeypatch: pytest.MonkeyPatch, available: int, status: str) -> None:
    monkeypatch.setattr(host, "memory_bytes", lambda _field: available)
    assert needs._memory().status == status


def test_what_the_machine_needs_is_asked_for_alone() -> None:
    for one in doctor.needed([Phase.MACHINE]):
        if one.name not in {"architecture", "clock", "python"}:
            assert one.phases == {Phase.MACHINE}
    assert {*base.TOOLS} <= PACKAGES.keys()
