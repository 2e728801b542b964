from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from buildkit_riscv64 import debian
from buildkit_riscv64.arch import Architecture
from buildkit_riscv64.errors import MissingRequirementError, NetworkError

from .making import Commands

MIRROR = "http://mirror.invalid/debian"
RISCV64 = Architecture.RISCV64


@pytest.mark.parametrize(
    "lines",
    [
        f"{MIRROR}/ Debian\n",
        f"{MIRROR} Debian\n{MIRROR} Debian\nhttp://other Debian\n",
        f"http://security Debian-Security\nhttp://docker Docker CE\n\nhttp://none \n{MIRROR}/ Debian\n",
        f"http://backports/debian Debian Backports\n{MIRROR}/ Debian\n",
        f"cdrom:[Debian GNU/Linux 12 - amd64]/ Debian\n{MIRROR}/ Debian\n",
    ],
)
def test_the_mirror_is_this_machines(commands: Commands, lines: str) -> None:
    commands.answer("apt-get", "indextargets", stdout=lines)
    assert debian.mirror() == MIRROR
    wanted = ["--format", "$(REPO_URI) $(LABEL)"]
    assert commands.args == [
        ["apt-get", "indextargets", *wanted],
        ["apt-get", "indextargets", "--no-release-info", *wanted],
    ]


@pytest.mark.parametrize("lines", ["", "http://security Debian-Security\n", "Debian\n", "\n"])
def test_no_mirror(commands: Commands, lines: str) -> None:
    commands.answer("apt-get", stdout=lines)
    with pytest.raises(MissingRequirementError, match="no Debian archive") as caught:
        debian.mirror()
    assert caught.value.hint == "add one and run apt-get update"


def test_before_apt_has_fetched_anything_the_address_tells(commands: Commands) -> None:
    commands.answer("apt-get", "indextargets", "--format", stdout="")
    commands.answer(
        "apt-get", "indextargets", "--no-release-info",
        stdout=f"{MIRROR}/ $(LABEL)\n{MIRROR}-security $(LABEL)\nhttp://docker/linux $(LABEL)\n",
    )  # fmt: skip
    assert debian.mirror() == MIRROR
    assert debian.security() == f"{MIRROR}-security"


def test_security_updates_come_from_where_this_machine_has_them(commands: Commands) -> None:
    commands.answer("apt-get", stdout=f"{MIRROR} Debian\nhttp://other/security/ Debian-Security\n")
    assert debian.security() == "http://other/security"


def test_security_updates_are_asked_for_where_nobody_said(commands: Commands) -> None:
    commands.answer("apt-get", stdout=f"{MIRROR} Debian\n")
    assert debian.security() == f"{MIRROR}-security"


def test_a_source() -> None:
    keys = "/usr/share/keyrings/debian-archive-keyring.gpg"
    assert debian.source(MIRROR, "trixie") == f"deb [signed-by={keys}] {MIRROR} trixie main"
    assert debian.source(MIRROR, "sid", " a=b") == f"deb [signed-by={keys} a=b] {MIRROR} sid main"


def test_lists_have_comments(tmp_path: Path) -> None:
    (tmp_path / "list").write_text("# why\n\n one\ntwo /usr/bin/two\n")
    assert debian.listed(tmp_path / "list") == ["one", "two /usr/bin/two"]


# What the mirror has whole.


@pytest.fixture
def mirrored(commands: Commands) -> Callable[..., None]:
    """A mirror that has a whole state of riscv64 under some names only."""

    def have(*suites: str, codename: str = "trixie") -> None:
        commands.answer("apt-get", "indextargets", stdout=f"{MIRROR} Debian\n")

        def update(_words: list[str]) -> None:
            (line,) = (debian.Apt(RISCV64).folder / "sources.list").read_text().splitlines()
            if line.split()[-2] not in suites:
                raise NetworkError("apt-get update failed: File has unexpected size")

        commands.answer("apt-get", "update", does=update)
        commands.answer("indextargets", "$(CODENAME)", stdout=f"{codename}\n")

    return have


def test_a_release_is_asked_for_by_its_name(mirrored: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    mirrored("trixie", "stable")
    assert debian.release(RISCV64) == debian.Release(MIRROR, "trixie")
    assert capsys.readouterr().err == ""


def test_a_mirror_in_the_middle_of_an_update_has_the_state_before(mirrored: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    mirrored("stable")
    found = debian.release(RISCV64)
    assert found.source() == debian.source(MIRROR, "stable")
    assert capsys.readouterr().err == (
        "warning: trixie for riscv64 as stable, maybe an older state:"
        " apt-get update failed: File has unexpected size\n"
    )


@pytest.mark.parametrize("codename", ["forky", "", "trixie\nforky"])
def test_another_release_is_not_taken_for_it(mirrored: Callable[..., None], codename: str) -> None:
    mirrored("stable", codename=codename)
    with pytest.raises(NetworkError, match="unexpected size"):
        debian.release(RISCV64)


def test_a_mirror_that_has_nothing_whole(mirrored: Callable[..., None]) -> None:
    mirrored()
    with pytest.raises(NetworkError, match="unexpected size"):
        debian.release(RISCV64)
