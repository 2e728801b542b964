from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from buildkit_riscv64.buildkitd import daemon
from buildkit_riscv64.core import dist, dry_run, host, process
from buildkit_riscv64.core.arch import Target
from buildkit_riscv64.core.console import Status
from buildkit_riscv64.core.errors import BuildError
from buildkit_riscv64.system import checks, host_checks
from buildkit_riscv64.system.checks import CheckResult, Phase
from buildkit_riscv64.validation import doctor_checks, suites

from ..factories import Commands, fake_file


def test_every_tool_is_checked() -> None:
    names = {one.name for one in checks.needed([Phase.VALIDATION])}
    assert names >= set(suites.tools(suites.SUITES.values()))


@pytest.mark.parametrize(
    ("uid", "sudo", "status", "fix"),
    [
        (0, None, Status.OK, ""),
        (1000, Path("/usr/bin/sudo"), Status.WARN, "sudo ./invoke validate"),
        (1000, None, Status.FAIL, "emulated machine"),
    ],
)
def test_root(
    monkeypatch: pytest.MonkeyPatch, uid: int, sudo: Path | None, status: Status, fix: str
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    monkeypatch.setattr(process, "which", {"sudo": sudo}.get)
    result = doctor_checks._root()
    assert result.status is status
    assert fix in result.fix


@pytest.mark.parametrize(("free", "status"), [(20, Status.OK), (11, Status.WARN)])
def test_space(monkeypatch: pytest.MonkeyPatch, free: int, status: Status) -> None:
    monkeypatch.setattr(host, "free_bytes", lambda _path: free << 30)
    result = doctor_checks._space()
    assert (result.status, bool(result.fix)) == (status, status is Status.WARN)


def test_space_is_executable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_checks, "mount_flags", lambda _path: {"noexec", "nodev"})
    result = doctor_checks._space()
    assert (result.status, "remount,exec" in result.fix) == (Status.FAIL, True)


# Devices and networks.


@pytest.mark.parametrize("device_check", [doctor_checks._tun, doctor_checks._fuse])
def test_inaccessible_device(
    monkeypatch: pytest.MonkeyPatch, device_check: Callable[[], CheckResult]
) -> None:
    reasons = iter(["", "its mode is 600: only root can open it"])
    monkeypatch.setattr(host_checks, "device_error", lambda _device: next(reasons))
    monkeypatch.setattr(Path, "exists", lambda _self: True)
    assert device_check().status is Status.OK
    result = device_check()
    assert result.status is Status.WARN
    ((command, mode, device),) = result.commands
    assert (command, mode) == ("chmod", "666")
    assert f"{device}: its mode is 600" in result.detail
    assert f"chmod 666 {device}" in result.fix


def test_device_without_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_checks, "device_error", lambda _device: "No such file or directory")
    monkeypatch.setattr(Path, "exists", lambda _self: False)
    assert doctor_checks._tun().commands == (("modprobe", "tun"),)


@pytest.mark.parametrize(
    ("root_check", "attempt", "status"),
    [
        (doctor_checks._nodes, "node_error", Status.FAIL),
        (doctor_checks._bridge, "bridge_error", Status.WARN),
    ],
)
def test_checks_of_root(
    installed: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    root_check: Callable[[], CheckResult],
    attempt: str,
    status: Status,
) -> None:
    installed |= {"ip": Path("/sbin/ip"), "iptables": Path("/sbin/iptables")}
    monkeypatch.setattr(host_checks, "mount_error", lambda: "")
    monkeypatch.setattr(host_checks, attempt, lambda: "Operation not permitted")
    result = root_check()
    assert result.status is status
    assert "Operation not permitted" in result.detail
    assert result.fix
    # Without mounts they fail too; the check `mounts` reports it.
    monkeypatch.setattr(host_checks, "mount_error", lambda: "Operation not permitted")
    assert root_check().status is Status.OK
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert root_check().status is Status.OK


def test_bridge_needs_programs(installed: dict[str, Path]) -> None:
    assert doctor_checks._bridge().package == "iproute2"
    installed["ip"] = Path("/sbin/ip")
    assert doctor_checks._bridge().package == "iptables"


def test_rootless_service(commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert doctor_checks._rootless_service().status is Status.OK
    assert commands.calls == [], "root does not run the check of a user"
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert doctor_checks._rootless_service().status is Status.OK
    stderr = "error: there is no ip\n  fix: install the package iproute2\nerror: more\n  fix: it\n"
    commands.answer("--quiet", code=1, stderr=stderr)
    result = doctor_checks._rootless_service()
    assert (result.status, result.detail, result.fix) == (
        Status.WARN, "there is no ip", "install the package iproute2",
    )  # fmt: skip
    assert os.access(commands.args[0][0], os.X_OK), "the package's script"


DELEGATED = "/sys/fs/cgroup/user.slice/user-1000.slice/user@1000.service/cgroup.controllers"


@pytest.mark.parametrize(
    ("user", "files", "status", "detail"),
    [
        (0, {}, "OK", ""),
        (1000, {}, "WARN", "control groups"),
        (1000, {DELEGATED: "memory pids\n"}, "WARN", "delegated: cpu"),
        (1000, {DELEGATED: "\n"}, "WARN", "delegated: cpu memory pids"),
        (1000, {DELEGATED: "cpu memory pids\n"}, "OK", "cpu memory pids"),
    ],
)
def test_delegation(
    monkeypatch: pytest.MonkeyPatch, user: int, files: dict[str, str], status: str, detail: str
) -> None:
    fake_file(monkeypatch, files)
    monkeypatch.setattr(os, "geteuid", lambda: user)
    result = doctor_checks._delegation()
    assert result.status == status
    assert result.detail.endswith(detail)


# The timeout of buildx.


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """The programs on PATH; the user is root."""
    found = {name: Path("/usr/bin", name) for name in ("docker", "runc")}
    monkeypatch.setattr(process, "which", found.get)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(host_checks, "mount_error", lambda: "")
    return found


@pytest.fixture
def starting(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A daemon that answers after `seconds`, and a record of its starts."""
    record = SimpleNamespace(seconds=0.5, fails="", binaries=[], states=[])
    clock = iter(range(1000))

    @contextlib.contextmanager
    def started(binaries: Path, state: Path) -> Iterator[None]:
        record.binaries.append(binaries)
        record.states.append(state)
        assert state.is_dir()
        if record.fails:
            raise BuildError(record.fails, "read the log")
        yield

    monkeypatch.setattr(daemon, "started", started)
    later = SimpleNamespace(monotonic=lambda: next(clock) * record.seconds)
    monkeypatch.setattr(doctor_checks, "time", later)
    return record


def with_commands(directory: Path) -> Path:
    directory.mkdir(parents=True)
    for name in dist.COMMANDS:
        (directory / name).touch()
    return directory


@pytest.mark.parametrize(
    ("seconds", "status"),
    [(0.5, Status.OK), (7.0, Status.OK), (7.5, Status.WARN), (60, Status.WARN)],
)
def test_startup_time(
    checkout: Path,
    installed: dict[str, Path],
    starting: SimpleNamespace,
    seconds: float,
    status: Status,
) -> None:
    binaries = with_commands(dist.directory(Target.here()) / "bin")
    starting.seconds = seconds
    result = doctor_checks._bootstrap()
    assert result.status is status
    assert result.detail.startswith("buildkitd answers after ")
    assert ("docker buildx inspect --bootstrap" in result.fix) is (status is Status.WARN)
    assert starting.binaries == [binaries]
    assert not starting.states[0].exists(), "left behind"


def test_installed_daemon_without_a_build(
    checkout: Path, installed: dict[str, Path], starting: SimpleNamespace, tmp_path: Path
) -> None:
    for _ in range(2):
        assert "buildkitd is missing" in doctor_checks._bootstrap().detail
        installed["buildkitd"] = tmp_path / "bin" / "buildkitd"  # still without buildctl
    directory = with_commands(tmp_path / "bin")
    assert doctor_checks._bootstrap().status is Status.OK
    assert starting.binaries == [directory]


@pytest.mark.parametrize(("uid", "missing"), [(0, "docker"), (0, "runc"), (1000, "newuidmap")])
def test_missing_tools_skip_the_daemon(
    checkout: Path,
    installed: dict[str, Path],
    starting: SimpleNamespace,
    monkeypatch: pytest.MonkeyPatch,
    uid: int,
    missing: str,
) -> None:
    with_commands(dist.directory(Target.here()) / "bin")
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    installed.pop(missing, None)
    result = doctor_checks._bootstrap()
    assert (result.status, missing in result.detail) == (Status.OK, True)
    assert starting.binaries == []


def test_daemon_does_not_start(
    checkout: Path, installed: dict[str, Path], starting: SimpleNamespace
) -> None:
    with_commands(dist.directory(Target.here()) / "bin")
    starting.fails = "buildkitd does not answer: no worker found"
    result = doctor_checks._bootstrap()
    assert (result.status, result.detail, result.fix) == (
        Status.WARN, starting.fails, "read the log",
    )  # fmt: skip


def test_conditions_that_skip_the_daemon(
    checkout: Path,
    installed: dict[str, Path],
    starting: SimpleNamespace,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with_commands(dist.directory(Target.here()) / "bin")
    monkeypatch.setattr(host_checks, "mount_error", lambda: "Operation not permitted")
    assert doctor_checks._bootstrap().status is Status.OK, "the check `mounts` reports it"
    monkeypatch.setattr(host_checks, "mount_error", lambda: "")
    with dry_run.running(dry=True):
        assert "--dry" in doctor_checks._bootstrap().detail
    assert starting.binaries == []


def test_timeout_of_buildx() -> None:
    pauses = [number * 0.12 for number in range(1, 16)]
    assert round(sum(pauses), 1) == doctor_checks.BOOT_SECONDS
