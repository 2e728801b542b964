from __future__ import annotations

import os

import pytest

from buildkit_riscv64 import apt
from buildkit_riscv64.errors import MissingRequirementError

from .making import Commands

UPDATE = ["apt-get", "update", "--quiet"]
INSTALL = ["apt-get", "install", "--yes", "--quiet", "--no-install-recommends"]


def test_others_than_root_use_sudo(installed: set[str], commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert apt.install(["git"], yes=True)
    # First the password, where it can be asked for; see `install`.
    assert commands.args[0] == ["sudo", "true"]
    assert commands.calls[0].verb == "probe"
    assert commands.args[1:] == [
        ["sudo", "--preserve-env", *UPDATE], ["sudo", "--preserve-env", *INSTALL, "git"],
    ]  # fmt: skip


def test_a_wrong_password(installed: set[str], commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    commands.answer("sudo", "true", code=1, stderr="3 incorrect password attempts")
    with pytest.raises(MissingRequirementError, match="3 incorrect password attempts"):
        apt.install(["git"], yes=True)
    assert len(commands.calls) == 1


def test_neither_root_nor_sudo(installed: set[str], commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    installed.remove("sudo")
    with pytest.raises(MissingRequirementError, match="missing: git make") as caught:
        apt.install(["git", "make"], yes=True)
    assert caught.value.hint == "as root: apt-get install --no-install-recommends git make"
    assert commands.calls == []


def test_not_debian(installed: set[str], commands: Commands) -> None:
    installed.remove("apt-get")
    with pytest.raises(MissingRequirementError, match="missing: git, and this is not Debian"):
        apt.install(["git"], yes=True)
    assert commands.calls == []


def test_no_means_no(installed: set[str], commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setattr(apt, "confirm", lambda _question, *, yes: False)
    assert apt.install(["git"], yes=False) is False
    assert commands.calls == []


def test_apt_get_fails(installed: set[str], commands: Commands) -> None:
    commands.answer("apt-get", "install", code=100)
    with pytest.raises(MissingRequirementError, match="apt-get install") as caught:
        apt.install(["git"], yes=True)
    assert "its output is above" in caught.value.hint


def test_offer(installed: set[str], commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    error = MissingRequirementError("there is no Go", tool="go")
    assert apt.offer(error, yes=True) is False, "apt-get ran, and there is still none"
    assert commands.args == [UPDATE, [*INSTALL, "golang-go"]]
    installed.add("go")
    assert apt.offer(error, yes=True) is True
    monkeypatch.setattr(apt, "confirm", lambda _question, *, yes: False)
    commands.calls.clear()
    assert apt.offer(error, yes=False) is False
    assert commands.calls == []


@pytest.mark.parametrize("tool", ["", "no-such"])
def test_nothing_to_offer(installed: set[str], commands: Commands, tool: str) -> None:
    assert apt.offer(MissingRequirementError("no memory", tool=tool), yes=True) is False
    assert commands.calls == []


def test_what_is_there_is_not_provided(installed: set[str], commands: Commands) -> None:
    installed.update({"rsync", "ssh"})
    apt.provide(["rsync", "ssh"], yes=False)
    assert commands.calls == []


def test_what_is_missing_is_provided_at_once(installed: set[str], commands: Commands) -> None:
    installed.add("ssh")
    # mke2fs and qemu-img twice: one question, each package once.
    apt.provide(["ssh", "rsync", "qemu-img", "mke2fs", "qemu-img"], yes=True)
    assert commands.args == [
        ["apt-get", "update", "--quiet"],
        [*INSTALL, "e2fsprogs", "qemu-utils", "rsync"],
    ]


def test_another_release_calls_it_something_else(installed: set[str], commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setitem(apt.PACKAGES, "qemu-riscv64-static", "qemu-user-static")
    commands.answer("apt-cache", "show", "qemu-user-static", code=100)
    apt.provide(["qemu-riscv64-static"], yes=True)
    assert commands.args[-1] == [*INSTALL, "qemu-user-binfmt"]


@pytest.mark.parametrize(
    ("unknown", "packages"),
    [
        ((), ["docker-buildx", "docker-cli", "docker.io"]),
        (("docker-buildx", "docker-cli"), ["docker.io", "docker.io"]),
    ],
)
def test_docker_is_three_packages_or_one(installed: set[str], commands: Commands, unknown: tuple[str, ...], packages: list[str]) -> None:  # fmt: skip
    commands.answer("apt-cache", "show", stdout="Package: one\n")
    for name in unknown:
        commands.answer("apt-cache", "show", name, code=100)
    apt.provide(["docker"], yes=True)
    assert commands.args[-1] == [*INSTALL, *packages]


def test_nothing_is_provided_unasked(installed: set[str], commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setattr(apt, "confirm", lambda _question, yes: yes)
    with pytest.raises(MissingRequirementError, match="missing: rsync, cpio") as caught:
        apt.provide(["rsync", "cpio"], yes=False)
    assert "apt-get install cpio rsync" in caught.value.hint
    assert commands.calls == []
