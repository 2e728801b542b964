from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from buildkit_riscv64.binaries import elf
from buildkit_riscv64.binaries.elf import Elf, read_build_info, read_elf
from buildkit_riscv64.core.errors import CheckError

from .. import factories
from ..factories import GO, Commands


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "program"


@pytest.mark.parametrize(
    ("arch", "machine"), [("amd64", "EM_X86_64"), ("arm64", "EM_AARCH64"), ("riscv64", "EM_RISCV")]
)
def test_static_program(path: Path, arch: str, machine: str) -> None:
    path.write_bytes(factories.elf(arch))
    assert read_elf(path) == Elf(64, True, machine, "", ())


def test_dynamic_program(path: Path) -> None:
    path.write_bytes(factories.elf(interpreter="/lib/ld.so.1", needed="libc.so.6"))
    assert read_elf(path) == Elf(64, True, "EM_RISCV", "/lib/ld.so.1", ("libc.so.6",))


def test_library_without_a_loader(path: Path) -> None:
    path.write_bytes(factories.elf(needed="libc.so.6"))
    assert read_elf(path).needed == ("libc.so.6",)


def test_32_bits(path: Path) -> None:
    path.write_bytes(factories.elf(bits=32))
    assert read_elf(path).bits == 32


def test_program_of_this_system_is_dynamic() -> None:
    assert read_elf(Path("/bin/sh").resolve()).interpreter.startswith("/lib")


@pytest.mark.parametrize(
    "content",
    [b"", b"\x7fELF", b"#!/bin/sh\n", b"MZ" + bytes(100), factories.elf()[:40], bytes(64)],
)
def test_not_an_elf_file(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(CheckError, match="program is not an ELF program"):
        read_elf(path)


def test_missing_program(path: Path) -> None:
    with pytest.raises(CheckError, match="No such file"):
        read_elf(path)


def test_damaged_headers_are_refused_or_read_but_never_crash(path: Path) -> None:
    whole = factories.elf(interpreter="/lib/ld.so.1", needed="libc.so.6")
    chance = random.Random(2)
    refused = 0
    for _ in range(100):
        content = bytearray(whole)
        for _ in range(chance.choice((1, 3))):
            content[chance.randrange(4, len(content))] = chance.choice((0, 1, 127, 255))
        path.write_bytes(content[: chance.choice((len(whole), len(whole), 150))])
        try:
            read_elf(path)
        except CheckError:
            refused += 1
    assert 0 < refused < 100


@pytest.fixture(autouse=True)
def _go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elf, "environment", lambda _go, _extra: {"GOENV": "off"})


def test_build_info(path: Path, commands: Commands) -> None:
    commands.answer("version", stdout=json.dumps({"Path": "p", "Settings": [{"Key": "GOARCH", "Value": "riscv64"}, {"Key": "-race"}]}))  # fmt: skip
    assert read_build_info(path, GO) == {
        "Path": "p", "Settings": {"GOARCH": "riscv64", "-race": ""},
    }  # fmt: skip
    assert commands.args == [["/go/bin/go", "version", "-m", "-json", str(path)]]


def test_build_info_without_settings(path: Path, commands: Commands) -> None:
    commands.answer("version", stdout='{"Path": "p", "Settings": null}')
    assert read_build_info(path, GO)["Settings"] == {}


def test_no_build_info(path: Path, commands: Commands) -> None:
    commands.answer("version", code=1, stderr="program: could not read Go build info")
    with pytest.raises(CheckError, match="has no Go build information: program: could not read"):
        read_build_info(path, GO)
