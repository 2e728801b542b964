from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from buildkit_riscv64.core.arch import Architecture
from buildkit_riscv64.core.errors import MissingRequirementError, NetworkError
from buildkit_riscv64.system import debian

from ..factories import Commands

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
def test_mirror(commands: Commands, lines: str) -> None:
    commands.answer("apt-get", "indextargets", stdout=lines)
    assert debian.mirror() == MIRROR
    format_ = ["--format", "$(REPO_URI) $(LABEL)"]
    expected = [
        ["apt-get", "indextargets", *format_],
        ["apt-get", "indextargets", "--no-release-info", *format_],
    ]
    # The second answer is for machines on which apt has not fetched all indexes yet.
    assert commands.args == expected[: 1 if "Debian-Security" in lines else 2]
    debian.mirror()
    assert len(commands.args) < 3


@pytest.mark.parametrize("lines", ["", "http://security Debian-Security\n", "Debian\n", "\n"])
def test_no_mirror(commands: Commands, lines: str) -> None:
    commands.answer("apt-get", stdout=lines)
    with pytest.raises(MissingRequirementError, match="Debian archive") as caught:
        debian.mirror()
    assert "apt-get update" in caught.value.hint


def test_mirror_before_the_first_fetch(commands: Commands) -> None:
    commands.answer("apt-get", "indextargets", "--format", stdout="")
    commands.answer(
        "apt-get", "indextargets", "--no-release-info",
        stdout=f"{MIRROR}/ $(LABEL)\n{MIRROR}-security $(LABEL)\nhttp://docker/linux $(LABEL)\n",
    )  # fmt: skip
    assert debian.mirror() == MIRROR
    assert debian.security() == f"{MIRROR}-security"


def test_security_archive_of_this_machine(commands: Commands) -> None:
    commands.answer("apt-get", stdout=f"{MIRROR} Debian\nhttp://other/security/ Debian-Security\n")
    assert debian.security() == "http://other/security"


def test_security_archive_by_default(commands: Commands) -> None:
    commands.answer("apt-get", stdout=f"{MIRROR} Debian\n")
    assert debian.security() == f"{MIRROR}-security"


def test_a_source() -> None:
    keys = "/usr/share/keyrings/debian-archive-keyring.gpg"
    assert debian.source(MIRROR, "trixie") == f"deb [signed-by={keys}] {MIRROR} trixie main"
    assert debian.source(MIRROR, "sid", " a=b") == f"deb [signed-by={keys} a=b] {MIRROR} sid main"


def test_listed_ignores_comments(tmp_path: Path) -> None:
    (tmp_path / "list").write_text("# why\n\n one\ntwo /usr/bin/two\n")
    assert debian.listed(tmp_path / "list") == ["one", "two /usr/bin/two"]


# Consistent copies on the mirror.


@pytest.fixture
def mirrored(commands: Commands) -> Callable[..., None]:
    """A mirror with a consistent copy for riscv64 under some names only."""

    def have(*suites: str, codename: str = "trixie") -> None:
        commands.answer("apt-get", "indextargets", stdout=f"{MIRROR} Debian\n")

        def update(_words: list[str]) -> None:
            (line,) = (debian.Apt(RISCV64).directory / "sources.list").read_text().splitlines()
            if line.split()[-2] not in suites:
                raise NetworkError("apt-get update failed: File has unexpected size")

        commands.answer("apt-get", "update", does=update)
        commands.answer("indextargets", "$(CODENAME)", stdout=f"{codename}\n")

    return have


def test_release(mirrored: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    mirrored("trixie", "stable")
    assert debian.release(RISCV64) == debian.DebianRelease(MIRROR, "trixie")
    assert capsys.readouterr().err == ""


def test_fallback_to_the_alias(
    mirrored: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    mirrored("stable")
    found = debian.release(RISCV64)
    assert found.source() == debian.source(MIRROR, "stable")
    (warning,) = capsys.readouterr().err.splitlines()
    assert warning.startswith("warning: ")
    assert {"trixie", "riscv64", "stable"} <= set(re.findall(r"\w+", warning))
    assert warning.endswith("File has unexpected size")


@pytest.mark.parametrize("codename", ["forky", "", "trixie\nforky"])
def test_an_alias_of_another_release_is_refused(
    mirrored: Callable[..., None], codename: str
) -> None:
    mirrored("stable", codename=codename)
    with pytest.raises(NetworkError, match="unexpected size"):
        debian.release(RISCV64)


def test_no_consistent_copy(mirrored: Callable[..., None]) -> None:
    mirrored()
    with pytest.raises(NetworkError, match="unexpected size"):
        debian.release(RISCV64)
