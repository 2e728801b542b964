from __future__ import annotations

from collections.abc import Callable

import pytest

from buildkit_riscv64 import doctor, host, process
from buildkit_riscv64.console import Status
from buildkit_riscv64.doctor import PACKAGES, Phase, Seen
from buildkit_riscv64.machine import base, checks

GIB = 1 << 30


@pytest.fixture
def emulator(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """What there is of emulators here."""

    def there(*, runs: bool, installed: bool = True, mounted: bool = True) -> None:
        monkeypatch.setattr(base, "runs_riscv64", lambda: runs)
        monkeypatch.setattr(base, "binfmt_is_mounted", lambda: mounted)
        monkeypatch.setattr(process, "which", lambda name: name if installed else None)

    return there


ENABLE = ("update-binfmts", "--enable", "qemu-riscv64")
MOUNT = ("mount", "-t", "binfmt_misc", "binfmt_misc", "/proc/sys/fs/binfmt_misc")


def test_riscv64_programs_run(emulator: Callable[..., None]) -> None:
    emulator(runs=True, installed=False, mounted=False)
    assert checks._riscv64_programs() == Seen(Status.OK, "executed")


@pytest.mark.parametrize(
    ("runs", "installed", "expected"),
    [
        (True, False, (Status.OK, "")), (False, True, (Status.OK, "")),
        (False, False, (Status.FAIL, checks.EMULATOR)),
    ],
)  # fmt: skip
def test_an_emulator(emulator: Callable[..., None], runs: bool, installed: bool, expected: tuple[Status, str]) -> None:  # fmt: skip
    emulator(runs=runs, installed=installed)
    seen = checks._emulator()
    assert (seen.status, seen.package) == expected
    # Debian 12 calls it otherwise.
    assert doctor._OLDER_NAMES[checks.EMULATOR] == "qemu-user-static"


def test_nothing_to_register_with(emulator: Callable[..., None]) -> None:
    emulator(runs=False, installed=False)
    seen = checks._riscv64_programs()
    assert (seen.status, seen.package, seen.commands) == (Status.FAIL, "binfmt-support", ())


@pytest.mark.parametrize(("mounted", "commands"), [(True, (ENABLE,)), (False, (MOUNT, ENABLE))])
def test_an_emulator_is_not_registered(emulator: Callable[..., None], mounted: bool, commands: tuple[object, ...]) -> None:  # fmt: skip
    emulator(runs=False, mounted=mounted)
    seen = checks._riscv64_programs()
    assert (seen.status, seen.package, seen.commands) == (Status.FAIL, "", commands)


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
    assert {*base.TOOLS, "update-binfmts"} <= PACKAGES.keys()
