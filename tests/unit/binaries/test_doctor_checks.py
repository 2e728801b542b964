from __future__ import annotations

import os
from pathlib import Path

import pytest

from buildkit_riscv64.binaries import doctor_checks, toolchain
from buildkit_riscv64.core import host, project
from buildkit_riscv64.core.console import Status
from buildkit_riscv64.system import host_checks
from buildkit_riscv64.system.checks import CheckResult

from ..factories import Commands

GIB = 1 << 30


def test_git(installed: set[str], commands: Commands) -> None:
    assert doctor_checks._git() == CheckResult(
        Status.FAIL, "not installed", "apt-get install git", "git"
    )
    installed.add("git")
    commands.answer("git", "--version", stdout="git version 2.47\nmore\n")
    assert doctor_checks._git() == CheckResult(Status.OK, "git version 2.47")
    assert commands.args == [["git", "--version"]]


def test_missing_make_is_a_warning(installed: set[str]) -> None:
    assert doctor_checks._make() == CheckResult(
        Status.WARN, "not installed", "apt-get install make", "make"
    )


@pytest.mark.parametrize(
    ("versions", "status", "detail"),
    [
        ([], "FAIL", "not installed"),
        (["go1.26.10"], "OK", "go1.26.10, the pinned one, at /go0"),
        (["go1.19", "go1.26.10"], "OK", "go1.26.10, the pinned one, at /go1"),
        (["go1.19"], "OK", "go1.19; a build fetches the pinned go1.26.10 with it"),
        (["go1.27-devel_abc"], "OK", "go1.27-devel_abc; a build fetches the pinned go1.26.10 with it"),
        (["go1.15.15"], "FAIL", "go1.15.15 is too old to fetch go1.26.10"),
        (["go1.15.15", "go1.21.0"], "OK", "go1.21.0; a build fetches the pinned go1.26.10 with it"),
    ],
)  # fmt: skip
def test_go(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, versions: list[str], status: str, detail: str
) -> None:
    found = [toolchain.Go(Path(f"/go{n}"), v, "system") for n, v in enumerate(versions)]
    monkeypatch.setattr(toolchain, "candidates", lambda _pins: iter(found))
    seen = doctor_checks._go()
    assert (seen.status, seen.detail) == (status, detail)
    assert (seen.package == "golang-go") is (status == "FAIL")


@pytest.mark.parametrize(
    ("available", "status"), [(GIB, "FAIL"), (2 * GIB, "WARN"), (3 * GIB, "OK"), (64 * GIB, "OK")]
)
def test_memory(monkeypatch: pytest.MonkeyPatch, available: int, status: str) -> None:
    amounts = {"MemTotal": 64 * GIB, "MemAvailable": available}
    monkeypatch.setattr(host, "memory_bytes", lambda field="MemTotal": amounts[field])
    monkeypatch.setattr(host, "cpus", lambda: 8)
    seen = doctor_checks._memory()
    assert seen.status == status
    assert seen.detail.startswith("64.0 GiB, ")
    assert seen.detail.endswith(" of it available, 8 processors")


@pytest.mark.parametrize(
    ("checkout_free", "home_free", "status"),
    [(GIB // 2, 9 * GIB, "FAIL"), (9 * GIB, GIB // 2, "FAIL"), (9 * GIB, 2 * GIB, "WARN"), (9 * GIB, 9 * GIB, "OK")],
)  # fmt: skip
def test_disk(
    monkeypatch: pytest.MonkeyPatch, checkout_free: int, home_free: int, status: str
) -> None:
    monkeypatch.setattr(host, "free_bytes", lambda path: checkout_free if path == project.DIST else home_free)  # fmt: skip
    assert doctor_checks._disk().status == status


def test_dist(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Path] = []

    def access(path: Path, _mode: int) -> bool:
        asked.append(path)
        return len(asked) < 3

    monkeypatch.setattr(os, "access", access)
    assert doctor_checks._dist().status is Status.OK
    project.DIST.mkdir()
    assert doctor_checks._dist().status is Status.OK
    assert doctor_checks._dist().status is Status.FAIL
    assert asked == [project.ROOT, project.DIST, project.DIST]


def test_noexec(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor_checks._noexec().status is Status.OK
    for place in (project.ROOT, Path.home()):
        monkeypatch.setattr(host_checks, "mount_flags", lambda path, place=place: {"noexec"} if path == place else set())  # fmt: skip
        seen = doctor_checks._noexec()
        assert seen.status is Status.FAIL
        assert str(place) in seen.detail
        assert "mount -o remount,exec /" in seen.fix
