from __future__ import annotations

import os
from pathlib import Path

import pytest

from buildkit_riscv64.core.errors import MissingRequirementError
from buildkit_riscv64.system import apt, host_checks

from ..factories import Commands

UPDATE = ["apt-get", "update", "--quiet"]
INSTALL = ["apt-get", "install", "--yes", "--quiet", "--no-install-recommends"]


def test_users_install_with_sudo(
    installed: set[str], commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert apt.install(["git"], yes=True)
    # First ask for the password, while the terminal is readable; see `install`.
    assert commands.args[0] == ["sudo", "true"]
    assert commands.calls[0].verb == "probe"
    assert commands.args[1:] == [
        ["sudo", "--preserve-env", *UPDATE], ["sudo", "--preserve-env", *INSTALL, "git"],
    ]  # fmt: skip


def test_a_wrong_password(
    installed: set[str], commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    commands.answer("sudo", "true", code=1, stderr="3 incorrect password attempts")
    with pytest.raises(MissingRequirementError, match="3 incorrect password attempts"):
        apt.install(["git"], yes=True)
    assert len(commands.calls) == 1


def test_neither_root_nor_sudo(
    installed: set[str], commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    installed.remove("sudo")
    with pytest.raises(MissingRequirementError, match="git make") as caught:
        apt.install(["git", "make"], yes=True)
    assert "apt-get install --no-install-recommends git make" in caught.value.hint
    assert commands.calls == []


def test_not_debian(installed: set[str], commands: Commands) -> None:
    installed.remove("apt-get")
    with pytest.raises(MissingRequirementError, match=r"git.* not Debian"):
        apt.install(["git"], yes=True)
    assert commands.calls == []


def test_the_answer_no(
    installed: set[str], commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apt, "confirm", lambda _question, *, yes: False)
    assert apt.install(["git"], yes=False) is False
    assert commands.calls == []


def test_apt_get_failure(installed: set[str], commands: Commands) -> None:
    commands.answer("apt-get", "install", code=100)
    with pytest.raises(MissingRequirementError, match="apt-get install") as caught:
        apt.install(["git"], yes=True)
    assert "/etc/apt/sources.list" in caught.value.hint


def test_root_without_capabilities(
    installed: set[str], commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_checks, "lacking_capabilities", lambda: ["CAP_SETUID"])
    seen: list[str] = []

    def read(_words: list[str]) -> None:
        settings = Path(commands.calls[-1].options["env"]["APT_CONFIG"])
        assert (settings.parent / "lists/partial").is_dir()
        seen.append(settings.read_text())

    commands.answer("apt-get", does=read)
    assert apt.install(["git"], yes=True)
    first, second = seen
    assert first == second
    assert 'APT::Sandbox::User "root";' in first
    assert not Path(commands.calls[0].options["env"]["APT_CONFIG"]).exists()


@pytest.mark.parametrize(
    ("user", "sudo", "lacking", "package", "reason"),
    [
        (0, "there is no sudo", [], "lintian", ""), (1000, "", [], "lintian", ""),
        (1000, "there is no sudo", [], "", "there is no sudo"),
        (0, "", ["CAP_CHOWN"], "lintian", "CAP_CHOWN"), (0, "", ["CAP_CHOWN"], "git", ""),
    ],
)  # fmt: skip
def test_install_error(
    installed: set[str],
    monkeypatch: pytest.MonkeyPatch,
    user: int,
    sudo: str,
    lacking: list[str],
    package: str,
    reason: str,
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: user)
    monkeypatch.setattr(host_checks, "sudo_error", lambda: sudo)
    monkeypatch.setattr(host_checks, "lacking_capabilities", lambda: lacking)
    monkeypatch.setattr(host_checks, "network_error", lambda: "")
    error = apt.install_error(package)
    assert reason in error
    assert bool(error) is bool(reason)


def test_install_error_without_network(
    installed: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_checks, "network_error", lambda: "no route to host")
    assert apt.install_error("git") == "no route to host"
    # Without apt-get there is no reason in advance: a task reports a missing package later.
    installed.remove("apt-get")
    assert apt.install_error("git") == ""


def test_offer_install(
    installed: set[str], commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = MissingRequirementError("there is no Go", tool="go")
    assert apt.offer_install(error, yes=True) is False, "apt-get ran, and there is still none"
    assert commands.args == [UPDATE, [*INSTALL, "golang-go"]]
    installed.add("go")
    assert apt.offer_install(error, yes=True) is True
    monkeypatch.setattr(apt, "confirm", lambda _question, *, yes: False)
    commands.calls.clear()
    assert apt.offer_install(error, yes=False) is False
    assert commands.calls == []


@pytest.mark.parametrize("tool", ["", "no-such"])
def test_no_package_to_offer(installed: set[str], commands: Commands, tool: str) -> None:
    assert apt.offer_install(MissingRequirementError("no memory", tool=tool), yes=True) is False
    assert commands.calls == []


def test_installed_tools(installed: set[str], commands: Commands) -> None:
    installed.update({"rsync", "ssh"})
    apt.ensure_installed(["rsync", "ssh"], yes=False)
    assert commands.calls == []


def test_missing_tools_are_installed_together(installed: set[str], commands: Commands) -> None:
    installed.add("ssh")
    # A tool that is given twice is installed once.
    apt.ensure_installed(["ssh", "rsync", "qemu-img", "mke2fs", "qemu-img"], yes=True)
    assert commands.args == [
        ["apt-get", "update", "--quiet"],
        [*INSTALL, "e2fsprogs", "qemu-utils", "rsync"],
    ]


def test_other_package_names(
    installed: set[str], commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(apt.PACKAGES, "qemu-riscv64-static", "qemu-user-static")
    commands.answer("apt-cache", "show", "qemu-user-static", code=100)
    apt.ensure_installed(["qemu-riscv64-static"], yes=True)
    assert commands.args[-1] == [*INSTALL, "qemu-user-binfmt"]


@pytest.mark.parametrize(
    ("unknown", "packages"),
    [
        ((), ["docker-buildx", "docker-cli", "docker.io"]),
        (("docker-buildx", "docker-cli"), ["docker.io", "docker.io"]),
    ],
)
def test_docker_is_three_packages_or_one(
    installed: set[str], commands: Commands, unknown: tuple[str, ...], packages: list[str]
) -> None:
    commands.answer("apt-cache", "show", stdout="Package: one\n")
    for name in unknown:
        commands.answer("apt-cache", "show", name, code=100)
    apt.ensure_installed(["docker"], yes=True)
    assert commands.args[-1] == [*INSTALL, *packages]


def test_nothing_is_installed_without_consent(
    installed: set[str], commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apt, "confirm", lambda _question, yes: yes)
    with pytest.raises(MissingRequirementError, match="rsync, cpio") as caught:
        apt.ensure_installed(["rsync", "cpio"], yes=False)
    assert "apt-get install cpio rsync" in caught.value.hint
    assert commands.calls == []
