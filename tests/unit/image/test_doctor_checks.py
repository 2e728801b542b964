from __future__ import annotations

import os
from pathlib import Path

import pytest

from buildkit_riscv64.core import process
from buildkit_riscv64.core.console import Status
from buildkit_riscv64.image import buildx_builder, doctor_checks
from buildkit_riscv64.system import host_checks
from buildkit_riscv64.system.checks import CheckResult

from ..factories import Commands, elf, fake_file


def test_docker(installed: set[str], commands: Commands) -> None:
    seen = doctor_checks._docker()
    assert (seen.status, seen.package) == (Status.WARN, "docker.io docker-cli docker-buildx")
    installed.add("docker")
    commands.answer("docker", "version", code=1, stderr="Cannot connect to the Docker daemon")
    seen = doctor_checks._docker()
    assert (seen.status, seen.detail) == (
        Status.WARN, "no engine answers: Cannot connect to the Docker daemon",
    )  # fmt: skip
    commands.answer("docker", "version", stdout='{"Version": "28.0", "Components": []}\n')
    assert doctor_checks._docker() == CheckResult(Status.OK, "engine 28.0")
    commands.answer("docker", "buildx", code=1)
    seen = doctor_checks._docker()
    assert (seen.status, seen.detail, seen.package) == (
        Status.WARN, "engine 28.0, without buildx", "docker-buildx",
    )  # fmt: skip
    # buildah also answers `buildx version`.
    commands.answer("docker", "buildx", stdout="buildah 1.39.3")
    commands.answer("docker", "version", stdout='{"Version": "5", "Components": [{"Name": "Podman Engine"}]}')  # fmt: skip
    seen = doctor_checks._docker()
    assert (seen.status, seen.fix) == (Status.WARN, buildx_builder.PODMAN_HINT)
    assert "podman 5" in seen.detail


@pytest.fixture
def trials(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Failure reasons of host checks, by name; without a reason a check succeeds."""
    reasons: dict[str, str] = {}
    for name in ("mount", "namespace", "cgroup", "overlay"):
        monkeypatch.setattr(
            host_checks, f"{name}_error", lambda *_args, name=name: reasons.get(name, "")
        )
    return reasons


@pytest.mark.parametrize("user", [0, 1000])
def test_mounts(
    installed: set[str], trials: dict[str, str], monkeypatch: pytest.MonkeyPatch, user: int
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: user)
    assert doctor_checks._mounts().status is Status.OK
    trials["mount"] = "unshare failed: Operation not permitted"
    seen = doctor_checks._mounts()
    assert seen.status is Status.FAIL
    assert trials["mount"] in seen.detail
    assert seen.package == ("uidmap" if user else "")
    assert doctor_checks._overlay().status is Status.OK, "one problem is reported once"


def test_archive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_checks, "network_error", lambda: "")
    assert doctor_checks._archive().status is Status.OK
    monkeypatch.setattr(host_checks, "network_error", lambda: "timed out")
    seen = doctor_checks._archive()
    assert (seen.status, seen.detail) == (Status.WARN, "timed out")


def test_overlay(trials: dict[str, str]) -> None:
    assert doctor_checks._overlay().status is Status.OK
    trials["overlay"] = "mount: unknown filesystem type 'overlay'."
    seen = doctor_checks._overlay()
    assert seen.status is Status.WARN
    assert trials["overlay"] in seen.detail


@pytest.mark.parametrize(
    ("files", "status"),
    [
        ({"/proc/self/status": "Seccomp_filters:\t0"}, "OK"),
        ({"/proc/self/status": "", "/proc/sys/kernel/seccomp": ""}, "OK"),
        ({"/proc/self/status": "Name: python"}, "WARN"),
    ],
)
def test_seccomp(monkeypatch: pytest.MonkeyPatch, files: dict[str, str], status: str) -> None:
    fake_file(monkeypatch, files)
    assert doctor_checks._seccomp().status == status


@pytest.mark.parametrize(
    ("files", "reason", "status", "detail"),
    [
        ({"/sys/fs/cgroup/cgroup.controllers": "cpu memory\n"}, "", "OK", "version 2: cpu memory"),
        ({"/sys/fs/cgroup/cgroup.controllers": "\n"}, "", "OK", "version 2: no controllers here"),
        ({"/sys/fs/cgroup/cgroup.controllers": "\n"}, "read-only", "WARN", "version 2, but read-only"),
        ({}, "", "WARN", "version 1, or not mounted"),
    ],
)  # fmt: skip
def test_cgroups(
    installed: set[str],
    trials: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    files: dict[str, str],
    reason: str,
    status: str,
    detail: str,
) -> None:
    trials["cgroup"] = reason
    fake_file(monkeypatch, files)
    seen = doctor_checks._cgroups()
    assert (seen.status, seen.detail) == (status, detail)


MOST = "/proc/sys/user/max_user_namespaces"


@pytest.mark.parametrize(
    ("files", "status", "setting"),
    [
        ({}, "WARN", "CONFIG_USER_NS=y"),
        ({MOST: "15000\n"}, "OK", ""),
        ({MOST: "0\n"}, "WARN", "user.max_user_namespaces=15000"),
        ({MOST: "1\n", "/proc/sys/user/max_net_namespaces": "0\n"}, "WARN", "user.max_net_namespaces=15000"),
        ({MOST: "1\n", "/proc/sys/kernel/unprivileged_userns_clone": "0\n"}, "WARN", "kernel.unprivileged_userns_clone=1"),
        ({MOST: "1\n", "/proc/sys/kernel/unprivileged_userns_clone": "1\n"}, "OK", ""),
        ({MOST: "1\n", "/proc/sys/kernel/apparmor_restrict_unprivileged_userns": "1\n"}, "WARN", "kernel.apparmor_restrict_unprivileged_userns=0"),
        ({MOST: "1\n", "/proc/sys/kernel/apparmor_restrict_unprivileged_userns": "0\n"}, "OK", ""),
    ],
)  # fmt: skip
def test_user_namespaces(
    installed: set[str],
    monkeypatch: pytest.MonkeyPatch,
    files: dict[str, str],
    status: str,
    setting: str,
) -> None:
    fake_file(monkeypatch, files)
    seen = doctor_checks._user_namespaces()
    assert seen.status == status
    assert setting in seen.fix


def test_user_namespaces_of_users(
    installed: set[str], trials: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_file(monkeypatch, {MOST: "15000\n"})
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    seen = doctor_checks._user_namespaces()
    assert (seen.status, seen.package) == (Status.WARN, "uidmap")
    installed.add("newuidmap")
    monkeypatch.setattr(process, "probe", lambda *_args: process.Result(0, "", ""))
    assert doctor_checks._user_namespaces().status is Status.OK
    trials["namespace"] = "newuidmap: uid range not allowed"
    seen = doctor_checks._user_namespaces()
    assert seen.status is Status.WARN
    assert trials["namespace"] in seen.detail


@pytest.mark.parametrize(
    ("interpreter", "status"), [("", "OK"), ("/lib/ld-linux-riscv64-lp64d.so.1", "WARN")]
)
def test_docker_init(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interpreter: str, status: str
) -> None:
    (tmp_path / "tini-static").write_bytes(elf(interpreter=interpreter))
    (tmp_path / "docker-init").symlink_to("tini-static")
    monkeypatch.setattr(process, "which", lambda name: tmp_path / name)
    seen = doctor_checks._docker_init()
    assert (seen.status, interpreter in seen.detail) == (status, True)


def test_no_docker_init(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "which", lambda _name: None)
    fake_file(monkeypatch, {})
    assert doctor_checks._docker_init() == CheckResult(Status.OK, "none here")


@pytest.mark.parametrize(
    ("content", "seen"),
    [
        (b"#!/bin/sh\nexec tini-static\n", "is a script: it needs /bin/sh"),
        (b"\xcf\xfa\xed\xfe", "not an ELF program"), (b"", "not an ELF program"),
    ],
)  # fmt: skip
def test_docker_init_is_a_script(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, seen: str
) -> None:
    (tmp_path / "docker-init").write_bytes(content)
    monkeypatch.setattr(process, "which", lambda name: tmp_path / name)
    found = doctor_checks._docker_init()
    assert found.status is Status.WARN
    assert seen in found.detail
    assert "init-path" in found.fix
