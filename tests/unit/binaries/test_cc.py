from __future__ import annotations

import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from buildkit_riscv64 import apt, process, storage
from buildkit_riscv64.binaries import cc, needs
from buildkit_riscv64.console import Status
from buildkit_riscv64.errors import MissingRequirementError

from ..making import Commands

GCC = "gcc (Debian 14.2.0-19) 14.2.0"
LD = "GNU ld (GNU Binutils for Debian) 2.44"


@pytest.fixture
def compiler(commands: Commands, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine with all that is needed, of Debian; where its libraries are."""
    monkeypatch.setattr(process, "which", lambda name: Path("/usr/bin", name))
    monkeypatch.setattr(platform, "freedesktop_os_release", lambda: {"ID": "debian"})
    commands.answer("gcc", "--version", stdout=f"{GCC}\nCopyright\n")
    commands.answer("ld", "--version", stdout=f"{LD}\nCopyright\n")
    for name in cc.LIBRARIES:
        (tmp_path / name).write_text(name)
        commands.answer("gcc", f"-print-file-name={name}", stdout=f"{tmp_path}/gcc/../{name}\n")
        commands.answer("dpkg-query", "--search", str(tmp_path / name), stdout=f"{name}-dev:riscv64: {tmp_path / name}\n")  # fmt: skip
        commands.answer("dpkg-query", "--show", f"{name}-dev:riscv64", stdout=f"{name}-dev 2.41-12+b1 riscv64")  # fmt: skip
    (tmp_path / "gcc").mkdir()
    return tmp_path


def lacks(commands: Commands, library: str) -> None:
    commands.answer("gcc", f"-print-file-name={library}", stdout=f"{library}\n")


def test_a_library_is_where_the_compiler_takes_it_from(compiler: Path, commands: Commands) -> None:
    assert cc.find("libc.a") == compiler / "libc.a"
    lacks(commands, "libc.a")
    assert cc.find("libc.a") is None
    commands.answer("gcc", "-print-file-name=libc.a", code=1, stderr="no")
    assert cc.find("libc.a") is None


def test_all_is_there(compiler: Path) -> None:
    assert cc.missing() == {}


def test_what_is_missing_is_named(compiler: Path, commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    lacks(commands, "libseccomp.a")
    assert cc.missing() == {"libseccomp.a": "libseccomp-dev"}
    monkeypatch.setattr(process, "which", lambda name: None if name == "pkg-config" else Path(name))
    assert cc.missing() == {"pkg-config": "pkg-config", "libseccomp.a": "libseccomp-dev"}


def test_without_a_compiler_all_is_missing(compiler: Path, commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setattr(process, "which", lambda _name: None)
    assert cc.missing() == cc.NEEDED
    assert commands.calls == []


def test_it_is_provided_with_one_question(compiler: Path, commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    lacks(commands, "libc.a")
    lacks(commands, "libseccomp.a")
    asked: list[Any] = []

    def install(packages: list[str], *, yes: bool) -> bool:
        asked.append((packages, yes))
        return yes

    monkeypatch.setattr(apt, "install", install)
    cc.provide(yes=True)
    assert asked == [(["libc6-dev", "libseccomp-dev"], True)]
    with pytest.raises(MissingRequirementError, match=r"missing: libc\.a, libseccomp\.a") as caught:
        cc.provide(yes=False)
    assert "apt-get install libc6-dev libseccomp-dev" in caught.value.hint


def test_nothing_is_asked_for_nothing(compiler: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apt, "install", lambda *_args, **_options: pytest.fail("asked"))
    cc.provide(yes=False)


def test_facts(compiler: Path) -> None:
    facts = cc.facts()
    assert (facts["compiler"], facts["linker"]) == (GCC, LD)
    assert [one["file"] for one in facts["libraries"]] == list(cc.LIBRARIES)
    assert facts["libraries"][0] == {
        "file": "libc.a",
        "sha256": storage.sha256(compiler / "libc.a"),
        "package": "pkg:deb/debian/libc.a-dev@2.41-12%2Bb1?arch=riscv64",
    }


@pytest.mark.parametrize(
    "elsewhere",
    [
        lambda c, m: m.setattr(process, "which", lambda n: None if n == "dpkg-query" else Path(n)),
        lambda c, m: c.answer("dpkg-query", "--search", code=1, stderr="no path found"),
    ],
    ids=["no dpkg", "nobody's file"],
)
def test_a_library_of_no_package(compiler: Path, commands: Commands, monkeypatch: pytest.MonkeyPatch, elsewhere: Callable[[Commands, pytest.MonkeyPatch], object]) -> None:  # fmt: skip
    elsewhere(commands, monkeypatch)
    assert {one["package"] for one in cc.facts()["libraries"]} == {""}


def test_a_compiler_that_does_not_work(compiler: Path, commands: Commands) -> None:
    commands.answer("gcc", "--version", code=127, stderr="cannot open shared object file")
    with pytest.raises(MissingRequirementError, match="cannot open shared object file"):
        cc.facts()


def test_the_same_is_here(compiler: Path) -> None:
    assert cc.is_here(cc.facts())


@pytest.mark.parametrize(
    "change",
    [
        lambda c, _p: c.answer("gcc", "--version", stdout="gcc (Debian 15) 15\n"),
        lambda c, _p: c.answer("ld", "--version", stdout="GNU ld 2.45\n"),
        lambda _c, p: (p / "libgcc.a").write_text("other"),
        lambda _c, p: (p / "libseccomp.a").unlink(),
        lambda c, _p: lacks(c, "libgcc_eh.a"),
    ],
    ids=["compiler", "linker", "library", "no library", "unknown library"],
)
def test_another_is(compiler: Path, commands: Commands, change: Callable[[Commands, Path], object]) -> None:  # fmt: skip
    recorded = cc.facts()
    change(commands, compiler)
    assert not cc.is_here(recorded)


def test_doctor_looks(compiler: Path, commands: Commands) -> None:
    seen = needs._c_compiler()
    assert (seen.status, seen.detail) == (Status.OK, f"{GCC}, with libseccomp")
    lacks(commands, "libc.a")
    lacks(commands, "libseccomp.a")
    seen = needs._c_compiler()
    assert seen.status is Status.WARN
    assert seen.detail == "not installed: libc.a, libseccomp.a"
    assert seen.fix == "apt-get install libc6-dev libseccomp-dev"
    assert seen.package == "libc6-dev libseccomp-dev"
