"""Helpers for tests of published artifacts."""

from __future__ import annotations

from pathlib import Path

from buildkit_riscv64.core import dist, filesystem, project
from buildkit_riscv64.core.pins import MODULE

from .factories import COMMIT, Commands


def command_answers(commands: Commands, directory: Path) -> None:
    """Let the commands in a target's directory answer like good ones."""
    for command in dist.COMMANDS:
        program = str(directory / dist.binary(command))
        commands.answer(program, "--version", stdout=f"{command} {MODULE} v0.32.2 {COMMIT}\n")
        commands.answer(program, "--help", stdout="USAGE:\n")


def tree() -> dict[str, str]:
    """The checksums of the target's files."""
    directory = project.DIST / "linux-riscv64"
    files = (path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): filesystem.sha256(path) for path in files}


def leftovers() -> list[str]:
    """Hidden files in `dist/`, except locks."""
    return [path.name for path in project.DIST.glob(".*") if path.suffix != ".lock"]
