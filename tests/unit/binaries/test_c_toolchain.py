from __future__ import annotations

import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from buildkit_riscv64.binaries import c_toolchain, doctor_checks
from buildkit_riscv64.core import filesystem, process
from buildkit_riscv64.core.console import Status
from buildkit_riscv64.core.errors import MissingRequirementError
from buildkit_riscv64.system import apt

from ..factories import Commands

GCC = "gcc (Debian 14.2.0-19) 14.2.0"
LD = "GNU ld (GNU Binutils for Debian) 2.44"


@pytest.fixture
def compiler(commands: Commands, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A Debian machine with every requirement; the directory of its libraries."""
    monkeypatch.setattr(process, "which", lambda name: Path("/usr/bin", name))
    monkeypatch.setattr(platform, "freedesktop_os_release", lambda: {"ID": "debian"})
    commands.answer("gcc", "--version", stdout=f"{GCC}\nCopyright\n")
    commands.answer("ld", "--version", stdout=f"{LD}\nCopyright\n")
    for name in c_toolchain.LIBRARIES:
        (tmp_path / name).write_text(name)
        commands.answer("gcc", f"-print-file-name={name}", stdout=f"{tmp_path}/gcc/../{name}\n")
        commands.answer("dpkg-query", "--search", str(tmp_path / name), stdout=f"{name}-dev:riscv64: {tmp_path / name}\n")  # fmt: skip
        commands.answer("dpkg-query", "--show", f"{name}-dev:riscv64", stdout=f"{name}-dev 2.41-12+b1 riscv64")  # fmt: skip
    (tmp_path / "gcc").mkdir()
    return tmp_path


def lacks(commands: Commands, library: str) -> None:
    commands.answer("gcc", f"-print-file-name={library}", stdout=f"{library}\n")


def test_library_path_comes_from_the_compiler(compiler: Path, commands: Commands) -> None:
    assert c_toolchain.find("libc.a") == compiler / "libc.a"
    lacks(commands, "libc.a")
    assert c_toolchain.find("libc.a") is None
    commands.answer("gcc", "-print-file-name=libc.a", code=1, stderr="no")
    assert c_toolchain.find("libc.a") is None


def test_nothing_missing(compiler: Path) -> None:
    assert c_toolchain.missing() == {}


def test_missing_requirements_are_named(
    compiler: Path, commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    lacks(commands, "libseccomp.a")
    assert c_toolchain.missing() == {"libseccomp.a": "libseccomp-dev"}
    monkeypatch.setattr(process, "which", lambda name: None if name == "pkg-config" else Path(name))
    assert c_toolchain.missing() == {"pkg-config": "pkg-config", "libseccomp.a": "libseccomp-dev"}


def test_without_gcc_everything_is_missing(
    compiler: Path, commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "which", lambda _name: None)
    assert c_toolchain.missing() == c_toolchain.NEEDED
    assert commands.calls == []


def test_missing_requirements_are_installed_after_one_question(
    compiler: Path, commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    lacks(commands, "libc.a")
    lacks(commands, "libseccomp.a")
    asked: list[Any] = []

    def install(packages: list[str], *, yes: bool) -> bool:
        asked.append((packages, yes))
        return yes

    monkeypatch.setattr(apt, "install", install)
    c_toolchain.ensure_installed(yes=True)
    assert asked == [(["libc6-dev", "libseccomp-dev"], True)]
    with pytest.raises(MissingRequirementError, match=r"missing: libc\.a, libseccomp\.a") as caught:
        c_toolchain.ensure_installed(yes=False)
    assert "apt-get install libc6-dev libseccomp-dev" in caught.value.hint


def test_no_question_if_nothing_is_missing(compiler: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apt, "install", lambda *_args, **_options: pytest.fail("asked"))
    c_toolchain.ensure_installed(yes=False)


def test_facts(compiler: Path) -> None:
    facts = c_toolchain.facts()
    assert (facts["compiler"], facts["linker"]) == (GCC, LD)
    assert [one["file"] for one in facts["libraries"]] == list(c_toolchain.LIBRARIES)
    assert facts["libraries"][0] == {
        "file": "libc.a",
        "sha256": filesystem.sha256(compiler / "libc.a"),
        "package": "pkg:deb/debian/libc.a-dev@2.41-12%2Bb1?arch=riscv64",
    }


@pytest.mark.parametrize(
    "elsewhere",
    [
        lambda c, m: m.setattr(process, "which", lambda n: None if n == "dpkg-query" else Path(n)),
        lambda c, m: c.answer("dpkg-query", "--search", code=1, stderr="no path found"),
    ],
    ids=["no dpkg", "no package"],
)
def test_library_without_a_package(
    compiler: Path,
    commands: Commands,
    monkeypatch: pytest.MonkeyPatch,
    elsewhere: Callable[[Commands, pytest.MonkeyPatch], object],
) -> None:
    elsewhere(commands, monkeypatch)
    assert {one["package"] for one in c_toolchain.facts()["libraries"]} == {""}


def test_broken_compiler(compiler: Path, commands: Commands) -> None:
    commands.answer("gcc", "--version", code=127, stderr="cannot open shared object file")
    with pytest.raises(MissingRequirementError, match="cannot open shared object file"):
        c_toolchain.facts()


def test_same_toolchain(compiler: Path) -> None:
    assert c_toolchain.is_here(c_toolchain.facts())


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
def test_different_toolchain(
    compiler: Path, commands: Commands, change: Callable[[Commands, Path], object]
) -> None:
    recorded = c_toolchain.facts()
    change(commands, compiler)
    assert not c_toolchain.is_here(recorded)


def test_doctor_check(compiler: Path, commands: Commands) -> None:
    seen = doctor_checks._c_compiler()
    assert (seen.status, seen.detail) == (Status.OK, f"{GCC}, with libseccomp")
    lacks(commands, "libc.a")
    lacks(commands, "libseccomp.a")
    seen = doctor_checks._c_compiler()
    assert seen.status is Status.WARN
    assert seen.detail == "not installed: libc.a, libseccomp.a"
    assert seen.fix == "apt-get install libc6-dev libseccomp-dev"
    assert seen.package == "libc6-dev libseccomp-dev"
