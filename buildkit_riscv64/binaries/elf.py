"""ELF headers and Go build information of a program."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from elftools.elf.dynamic import DynamicSegment
from elftools.elf.elffile import ELFFile
from elftools.elf.segments import InterpSegment

from ..core import filesystem, process
from ..core.errors import CheckError
from .toolchain import NO_TELEMETRY, Go, environment


@dataclass(frozen=True)
class Elf:
    """The relevant ELF headers.

    Args:
        bits: 32 or 64.
        little_endian: the byte order.
        machine: such as `EM_RISCV`.
        interpreter: the dynamic loader; empty for a static program.
        needed: the shared libraries.
    """

    bits: int
    little_endian: bool
    machine: str
    interpreter: str
    needed: tuple[str, ...]


def read_elf(path: Path) -> Elf:
    """Read a program's headers.

    Raises:
        CheckError: it is not an ELF program.
    """
    try:
        with filesystem.open_regular(path) as file:
            return read_stream(file, path.name)
    except OSError as error:
        raise CheckError(f"{path.name} is not an ELF program: {error}", "build it again") from error


def read_stream(file: BinaryIO, name: str) -> Elf:
    """Read the headers of an open program.

    Raises:
        CheckError: it is not an ELF program.
    """
    try:
        elf = ELFFile(file)
        interpreter, needed = "", []
        for segment in elf.iter_segments():
            if isinstance(segment, InterpSegment):
                interpreter = segment.get_interp_name()
            if isinstance(segment, DynamicSegment):
                libraries = segment.iter_tags("DT_NEEDED")
                needed += [tag.needed for tag in libraries]  # type: ignore[attr-defined]
        return Elf(elf.elfclass, elf.little_endian, elf["e_machine"], interpreter, tuple(needed))
    except Exception as error:  # the library raises many classes for damaged files
        reason = str(error) or type(error).__name__
        raise CheckError(f"{name} is not an ELF program: {reason}", "build it again") from error


def read_build_info(path: Path, go: Go) -> dict[str, Any]:
    """Build information from Go's linker: Go's version, main module, dependencies, settings.

    The form is that of Go's debug.BuildInfo, with `Settings` as a mapping.

    Raises:
        CheckError: the program has none.
    """
    answer = process.probe(
        [go.command, "version", "-m", "-json", path], env=environment(go, NO_TELEMETRY)
    )
    try:
        info: dict[str, Any] = json.loads(answer.stdout)
    except ValueError as error:
        raise CheckError(
            f"{path.name} has no Go build information: {answer.last_line}", "build it again"
        ) from error
    info["Settings"] = {s["Key"]: s.get("Value", "") for s in info.get("Settings") or []}
    return info
