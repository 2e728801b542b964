from __future__ import annotations

import os
from pathlib import Path

import pytest

from buildkit_riscv64 import process
from buildkit_riscv64.console import Status
from buildkit_riscv64.doctor import Seen
from buildkit_riscv64.image import needs

from ..making import Commands, elf, fake_file


def test_docker(installed: set[str], commands: Commands) -> None:
    seen = needs._docker()
    assert (seen.status, seen.package) == (Status.WARN, "docker.io docker-cli docker-buildx")
    installed.add("docker")
    commands.answer("docker", "version", code=1, stderr="Cannot connect to the Docker daemon")
    seen = needs._docker()
    assert (seen.status, seen.detail) == (
        Status.WARN, "no engine answers: Cannot connect to the Docker daemon",
    )  # fmt: skip
    commands.answer("docker", "version", stdout="28.0\n")
    assert needs._docker() == Seen(Status.OK, "engine 28.0")
    assert commands.args[-2:] == [
        ["docker", "version", "--format", "{{.Server.Version}}"], ["docker", "buildx", "version"],
    ]  # fmt: skip
    commands.answer("docker", "buildx", code=1)
    seen = needs._docker()
    assert (seen.status, seen.detail, seen.package) == (
        Status.WARN, "engine 28.0, without buildx", "docker-buildx",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("known", "config", "status"),
    [("nodev overlay", "", "OK"), ("ext4", "m", "OK"), ("ext4", "?", "OK"), ("ext4", "", "WARN")],
)
def test_overlay(monkeypatch: pytest.MonkeyPatch, known: str, config: str, status: str) -> None:
    fake_file(monkeypatch, {"/proc/filesystems": known})
    monkeypatch.setattr(needs, "_kernel_config", lambda _option: config)
    assert needs._overlay().status == status


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
    assert needs._seccomp().status == status


@pytest.mark.parametrize(
    ("files", "status", "detail"),
    [
        ({"/sys/fs/cgroup/cgroup.controllers": "cpu memory\n"}, "OK", "version 2: cpu memory"),
        ({"/sys/fs/cgroup/cgroup.controllers": "\n"}, "OK", "version 2: no controllers here"),
        ({}, "WARN", "version 1, or not mounted"),
    ],
)
def test_cgroups(monkeypatch: pytest.MonkeyPatch, files: dict[str, str], status: str, detail: str) -> None:  # fmt: skip
    fake_file(monkeypatch, files)
    seen = needs._cgroups()
    assert (seen.status, seen.detail) == (status, detail)


MOST = "/proc/sys/user/max_user_namespaces"


APPARMOR = "/proc/sys/kernel/apparmor_restrict_unprivileged_userns"


@pytest.mark.parametrize(
    ("files", "status", "detail"),
    [
        ({}, "WARN", "off"), ({MOST: "0\n"}, "WARN", "off"), ({MOST: "junk"}, "WARN", "off"),
        ({MOST: "15000\n"}, "OK", "up to 15000"),
        ({MOST: "15000\n", APPARMOR: "0\n"}, "OK", "up to 15000"),
        ({MOST: "15000\n", APPARMOR: "1\n"}, "WARN", "restricted by AppArmor"),
    ],
)  # fmt: skip
def test_user_namespaces(installed: set[str], monkeypatch: pytest.MonkeyPatch, files: dict[str, str], status: str, detail: str) -> None:  # fmt: skip
    fake_file(monkeypatch, files)
    seen = needs._user_namespaces()
    assert (seen.status, seen.detail) == (status, detail)


def test_user_namespaces_of_others_need_newuidmap(installed: set[str], monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    fake_file(monkeypatch, {MOST: "15000\n"})
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    seen = needs._user_namespaces()
    assert (seen.status, seen.package) == (Status.WARN, "uidmap")


@pytest.mark.parametrize(
    ("interpreter", "status"), [("", "OK"), ("/lib/ld-linux-riscv64-lp64d.so.1", "WARN")]
)
def test_docker_init(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interpreter: str, status: str) -> None:  # fmt: skip
    (tmp_path / "tini-static").write_bytes(elf(interpreter=interpreter))
    (tmp_path / "docker-init").symlink_to("tini-static")
    monkeypatch.setattr(process, "which", lambda name: tmp_path / name)
    seen = needs._docker_init()
    assert (seen.status, interpreter in seen.detail) == (status, True)


def test_no_docker_init(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "which", lambda _name: None)
    fake_file(monkeypatch, {})
    assert needs._docker_init() == Seen(Status.OK, "none here")


@pytest.mark.parametrize(
    ("option", "value"), [("CONFIG_A", "y"), ("CONFIG_B", "m"), ("CONFIG_C", ""), ("CONFIG", "")]
)
def test_kernel_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str, value: str) -> None:  # fmt: skip
    (tmp_path / "config").write_text("CONFIG_A=y\nCONFIG_B=m\n# CONFIG_C is not set\n")
    monkeypatch.setattr("platform.release", lambda: f"/../..{tmp_path}/config")
    monkeypatch.setattr(needs, "Path", lambda _name: tmp_path / "config")
    assert needs._kernel_config(option) == value


def test_no_kernel_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(needs, "Path", lambda _name: tmp_path / "none")
    assert needs._kernel_config("CONFIG_A") == "?"
