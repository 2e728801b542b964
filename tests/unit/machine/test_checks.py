from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from buildkit_riscv64 import doctor, host
from buildkit_riscv64.console import Status
from buildkit_riscv64.doctor import PACKAGES, Phase, Seen
from buildkit_riscv64.machine import base, checks

GIB = 1 << 30


@pytest.fixture
def emulator(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    """What there is of emulators here."""

    def there(*, runs: bool, flags: str | None = "OPF", mounted: bool = True) -> None:
        monkeypatch.setattr(base, "runs_riscv64", lambda: runs)
        monkeypatch.setattr(base, "binfmt_is_mounted", lambda: mounted)
        monkeypatch.setattr(base, "BINFMT", tmp_path)
        monkeypatch.setattr(checks, "FORMAT", tmp_path / "qemu-riscv64.conf")
        if flags is not None:
            (tmp_path / "qemu-riscv64.conf").write_text(f":qemu-riscv64:M::x:y:/emulator:{flags}\n")

    return there


def test_riscv64_programs_run(emulator: Callable[..., None]) -> None:
    emulator(runs=True, flags=None, mounted=False)
    assert checks._riscv64_programs() == Seen(Status.OK, "executed")


# Debian 12 also has an emulator that works in its own root directory only.
@pytest.mark.parametrize("flags", [None, "OP", ""])
def test_no_emulator_is_installed(emulator: Callable[..., None], flags: str | None) -> None:
    emulator(runs=False, flags=flags)
    seen = checks._riscv64_programs()
    assert (seen.status, seen.package, seen.commands) == (Status.FAIL, "qemu-user-static", ())
    assert doctor._OTHER_NAMES[seen.package] == "qemu-user-binfmt"


@pytest.mark.parametrize("mounted", [True, False])
@pytest.mark.parametrize("registered", [True, False])
def test_an_emulator_is_not_registered(emulator: Callable[..., None], tmp_path: Path, mounted: bool, registered: bool) -> None:  # fmt: skip
    emulator(runs=False, mounted=mounted)
    seen = checks._riscv64_programs()
    assert (seen.status, seen.package) == (Status.FAIL, "")
    *mount, register = seen.commands
    assert mount == (
        [] if mounted else [("mount", "-t", "binfmt_misc", "binfmt_misc", str(tmp_path))]
    )
    if registered:
        (tmp_path / "qemu-riscv64").write_text("flags: OP\n")
    subprocess.run(register, check=True)
    assert (tmp_path / "register").read_text() == ":qemu-riscv64:M::x:y:/emulator:OPF\n"
    assert not registered or (tmp_path / "qemu-riscv64").read_text() == "-1\n"


@pytest.mark.parametrize(("free", "status"), [(6 * GIB, "OK"), (6 * GIB - 1, "FAIL")])
def test_disk(monkeypatch: pytest.MonkeyPatch, free: int, status: str) -> None:
    monkeypatch.setattr(host, "free_bytes", lambda _path: free)
    assert checks._disk().status == status


@pytest.mark.parametrize(("available", "status"), [(5 * GIB, "OK"), (5 * GIB - 1, "WARN")])
def test_memory(monkeypatch: pytest.MonkeyPatch, available: int, status: str) -> None:
    monkeypatch.setattr(host, "memory_bytes", lambda _field: available)
    assert checks._memory().status == status


def test_what_the_machine_needs_is_asked_for_alone() -> None:
    for one in doctor.CHECKS:
        if Phase.MACHINE in one.phases and one.name not in {"architecture", "python"}:
            assert one.phases == {Phase.MACHINE}
    assert {*base.TOOLS} <= PACKAGES.keys()
