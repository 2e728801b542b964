from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from buildkit_riscv64 import dist, doctor, host, process
from buildkit_riscv64.arch import Target
from buildkit_riscv64.console import Status
from buildkit_riscv64.doctor import Phase
from buildkit_riscv64.errors import BuildError
from buildkit_riscv64.image import daemon
from buildkit_riscv64.validation import needs, suites

from ..making import fake_file


def test_every_tool_is_looked_at() -> None:
    names = {one.name for one in doctor.needed([Phase.VALIDATION])}
    assert names >= set(suites.tools(suites.SUITES.values()))


@pytest.mark.parametrize(
    ("uid", "sudo", "status", "fix"),
    [
        (0, None, Status.OK, ""),
        (1000, Path("/usr/bin/sudo"), Status.WARN, "`sudo .venv/bin/invoke validate`"),
        (1000, None, Status.FAIL, "be root, or use the emulated machine"),
    ],
)
def test_root(monkeypatch: pytest.MonkeyPatch, uid: int, sudo: Path | None, status: Status, fix: str) -> None:  # fmt: skip
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    monkeypatch.setattr(process, "which", {"sudo": sudo}.get)
    seen = needs._root()
    assert (seen.status, seen.fix) == (status, fix)


@pytest.mark.parametrize(("free", "status"), [(20, Status.OK), (11, Status.WARN)])
def test_space(monkeypatch: pytest.MonkeyPatch, free: int, status: Status) -> None:
    monkeypatch.setattr(host, "free_bytes", lambda _path: free << 30)
    seen = needs._space()
    assert (seen.status, bool(seen.fix)) == (status, status is Status.WARN)


DELEGATED = "/sys/fs/cgroup/user.slice/user-1000.slice/user@1000.service/cgroup.controllers"


@pytest.mark.parametrize(
    ("user", "files", "status", "detail"),
    [
        (0, {}, "OK", "root needs none"),
        (1000, {}, "WARN", "no control groups of yours"),
        (1000, {DELEGATED: "memory pids\n"}, "WARN", "not delegated: cpu"),
        (1000, {DELEGATED: "\n"}, "WARN", "not delegated: cpu memory pids"),
        (1000, {DELEGATED: "cpu memory pids\n"}, "OK", "cpu memory pids"),
    ],
)
def test_delegation(monkeypatch: pytest.MonkeyPatch, user: int, files: dict[str, str], status: str, detail: str) -> None:  # fmt: skip
    fake_file(monkeypatch, files)
    monkeypatch.setattr(os, "geteuid", lambda: user)
    seen = needs._delegation()
    assert (seen.status, seen.detail) == (status, detail)


# What buildx waits for.


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """What is on PATH, and where; we are root."""
    found = {name: Path("/usr/bin", name) for name in ("docker", "runc")}
    monkeypatch.setattr(process, "which", found.get)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return found


@pytest.fixture
def starting(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A daemon that takes as long as is told, and tells what was started."""
    told = SimpleNamespace(seconds=0.5, fails="", binaries=[], states=[])
    clock = iter(range(1000))

    @contextlib.contextmanager
    def started(binaries: Path, state: Path) -> Iterator[None]:
        told.binaries.append(binaries)
        told.states.append(state)
        assert state.is_dir()
        if told.fails:
            raise BuildError(told.fails, "what it said is above")
        yield

    monkeypatch.setattr(daemon, "started", started)
    later = SimpleNamespace(monotonic=lambda: next(clock) * told.seconds)
    monkeypatch.setattr(needs, "time", later)
    return told


def commands_in(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name in dist.COMMANDS:
        (folder / name).touch()
    return folder


@pytest.mark.parametrize(
    ("seconds", "status"),
    [(0.5, Status.OK), (7.0, Status.OK), (7.5, Status.WARN), (60, Status.WARN)],
)
def test_how_long_the_daemon_takes(
    checkout: Path,
    there: dict[str, Path],
    starting: SimpleNamespace,
    seconds: float,
    status: Status,
) -> None:
    binaries = commands_in(dist.folder(Target.here()) / "bin")
    starting.seconds = seconds
    seen = needs._bootstrap()
    assert seen.status is status
    assert seen.detail.startswith("buildkitd answers after ")
    assert ("docker buildx inspect --bootstrap" in seen.fix) is (status is Status.WARN)
    assert starting.binaries == [binaries]
    assert not starting.states[0].exists(), "nothing of it is left"


def test_what_is_installed_does_where_nothing_is_built(
    checkout: Path, there: dict[str, Path], starting: SimpleNamespace, tmp_path: Path
) -> None:
    assert needs._bootstrap().detail == "not tried: there is no buildkitd yet"
    there["buildkitd"] = tmp_path / "bin" / "buildkitd"
    assert needs._bootstrap().detail == "not tried: there is no buildkitd yet", "and no buildctl"
    folder = commands_in(tmp_path / "bin")
    assert needs._bootstrap().status is Status.OK
    assert starting.binaries == [folder]


@pytest.mark.parametrize(("uid", "missing"), [(0, "docker"), (0, "runc"), (1000, "newuidmap")])
def test_what_cannot_be_tried(
    checkout: Path, there: dict[str, Path], starting: SimpleNamespace,
    monkeypatch: pytest.MonkeyPatch, uid: int, missing: str,
) -> None:  # fmt: skip
    commands_in(dist.folder(Target.here()) / "bin")
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    there.pop(missing, None)
    seen = needs._bootstrap()
    assert (seen.status, seen.detail) == (Status.OK, f"not tried: there is no {missing}")
    assert starting.binaries == []


def test_a_daemon_that_does_not_start(
    checkout: Path, there: dict[str, Path], starting: SimpleNamespace
) -> None:
    commands_in(dist.folder(Target.here()) / "bin")
    starting.fails = "buildkitd does not answer: no worker found"
    seen = needs._bootstrap()
    assert (seen.status, seen.detail) == (Status.WARN, starting.fails)
    assert seen.fix == "what it said is above"


def test_buildx_waits_as_long_as_we_say() -> None:
    pauses = [number * 0.12 for number in range(1, 16)]
    assert round(sum(pauses), 1) == needs.BOOT_SECONDS
