from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from buildkit_riscv64.core import process
from buildkit_riscv64.core.errors import MissingRequirementError
from buildkit_riscv64.system import host_checks

from ..factories import Commands, fake_file

CHECKS: list[Callable[[], str]] = [
    host_checks.namespace_error,
    host_checks.mount_error,
    lambda: host_checks.overlay_error(Path("/var/tmp")),
    host_checks.node_error,
    host_checks.bridge_error,
]


@pytest.mark.parametrize("check", CHECKS)
def test_the_reason_is_the_last_line(commands: Commands, check: Callable[[], str]) -> None:
    assert check() == ""
    commands.answer(code=1, stderr="first\nunshare failed: Operation not permitted\n")
    assert check() == "unshare failed: Operation not permitted"
    commands.answer(code=-9)
    assert check() == "killed by SIGKILL"
    assert all(call.args[: len(process.namespaced())] == process.namespaced() for call in commands.calls)  # fmt: skip


@pytest.mark.parametrize("check", CHECKS)
def test_a_check_without_its_program(
    monkeypatch: pytest.MonkeyPatch, check: Callable[[], str]
) -> None:
    def missing(_args: process.Arguments) -> process.Result:
        raise MissingRequirementError("command not found: unshare")

    monkeypatch.setattr(process, "probe", missing)
    assert check() == "command not found: unshare"


@pytest.mark.parametrize(
    ("mode", "user", "reason"),
    [(0o666, 0, ""), (0o666, 1000, ""), (0o600, 1000, ""), (0o600, 0, "mode is 600"), (0o660, 0, "mode is 660")],
)  # fmt: skip
def test_device_error_by_mode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int, user: int, reason: str
) -> None:
    device = tmp_path / "device"
    device.touch(mode)
    device.chmod(mode)
    monkeypatch.setattr(os, "geteuid", lambda: user)
    assert reason in host_checks.device_error(device)
    assert bool(host_checks.device_error(device)) is bool(reason)


@pytest.mark.parametrize("number", [2, 6, 13, 19])
def test_device_error(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(*_args: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "open", refuse)
    assert host_checks.device_error(Path("/dev/net/tun")) == os.strerror(number)


def test_mount_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "statvfs", lambda _path: SimpleNamespace(f_flag=os.ST_NOEXEC | os.ST_NODEV | os.ST_RDONLY))  # fmt: skip
    assert host_checks.mount_flags(Path("/x")) == {"noexec", "nodev"}


@pytest.mark.parametrize(
    ("effective", "has"), [("0000000000000000", False), ("0000000001000000", True)]
)
def test_capability(monkeypatch: pytest.MonkeyPatch, effective: str, has: bool) -> None:
    fake_file(monkeypatch, {"/proc/self/status": f"CapPrm:\tffff\nCapEff:\t{effective}\n"})
    assert host_checks.has_capability(24) is has


def test_control_groups(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    top = tmp_path / "unified"
    (top / "own").mkdir(parents=True)
    mounts = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\ncgroup /sys/fs/cgroup/cpu cgroup rw 0 0\n"
    files = {"/proc/mounts": mounts, "/proc/self/cgroup": "1:cpu:/x\n0::/own\n"}
    fake_file(monkeypatch, files)
    assert host_checks.cgroup_error().endswith("not mounted")
    files["/proc/mounts"] += f"cgroup2 {top} cgroup2 rw 0 0\n"
    assert host_checks.cgroup_error() == ""
    assert (top / "own").is_dir()
    assert list((top / "own").iterdir()) == []
    files["/proc/self/cgroup"] = "0::/none\n"
    assert "No such file or directory" in host_checks.cgroup_error()


def test_network_error_without_an_archive(commands: Commands) -> None:
    host_checks.network_error.cache_clear()
    assert "no Debian archive" in host_checks.network_error()
    host_checks.network_error.cache_clear()


def test_mount_point_of_a_bind_mount(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bind mount has the device of its source."""
    lines = ["/dev/sda1 / ext4 rw 0 0", r"/dev/sda1 /a\040b ext4 rw,noexec 0 0"]
    fake_file(monkeypatch, {"/proc/self/mounts": "\n".join(lines)})
    assert host_checks.mount_point(Path("/a b/c")) == Path("/a b")
    assert host_checks.mount_point(Path("/a bc")) == Path("/")


def test_nearest_and_mount_point(tmp_path: Path) -> None:
    assert host_checks.nearest(tmp_path / "a" / "b") == tmp_path
    assert host_checks.mount_point(tmp_path).is_mount()
    assert host_checks.mount_point(Path("/proc/self")) == Path("/proc")
