from __future__ import annotations

import pytest

from buildkit_riscv64.core import host
from buildkit_riscv64.core.arch import Platform
from buildkit_riscv64.core.console import Status
from buildkit_riscv64.machine import doctor_checks
from buildkit_riscv64.system import binfmt, checks
from buildkit_riscv64.system.apt import PACKAGES
from buildkit_riscv64.system.checks import Phase

GIB = 1 << 30


def test_riscv64_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binfmt, "runs", lambda platform: platform is not Platform.RISCV64)
    assert doctor_checks._riscv64_programs().status is Status.FAIL
    monkeypatch.setattr(binfmt, "runs", lambda platform: platform is Platform.RISCV64)
    assert doctor_checks._riscv64_programs().status is Status.OK


@pytest.mark.parametrize(("free", "status"), [(6 * GIB, "OK"), (6 * GIB - 1, "FAIL")])
def test_disk(monkeypatch: pytest.MonkeyPatch, free: int, status: str) -> None:
    monkeypatch.setattr(host, "free_bytes", lambda _path: free)
    assert doctor_checks._disk().status == status


@pytest.mark.parametrize(("available", "status"), [(5 * GIB, "OK"), (5 * GIB - 1, "WARN")])
def test_memory(monkeypatch: pytest.MonkeyPatch, available: int, status: str) -> None:
    monkeypatch.setattr(host, "memory_bytes", lambda _field: available)
    assert doctor_checks._memory().status == status


def test_machine_checks_belong_to_the_machine_phase_only() -> None:
    for one in checks.needed([Phase.MACHINE]):
        if one.name not in {"architecture", "clock", "python", "mounts", "Debian's archive"}:
            assert one.phases == {Phase.MACHINE}
    assert {*doctor_checks.TOOLS} <= PACKAGES.keys()
