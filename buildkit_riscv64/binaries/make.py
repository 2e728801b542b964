"""`--method make`: upstream's own `make binaries`, through docker buildx.

Compiles in upstream's build container, on this machine for this machine. The container has
its own Go, so the bytes differ from those of `--method go`.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from ..core import dist, pins, process
from ..core.arch import Target
from ..core.errors import BuildError, MissingRequirementError, SourceError, UsageError
from .elf import read_build_info
from .source import Kind, Source
from .toolchain import Go, ensure


def refuse_impossible(source: Source, target: Target) -> None:
    """Refuse what upstream's Makefile or this machine cannot do.

    Raises:
        UsageError: the options ask for a RISC-V profile or local changes.
        SourceError: the source is the Go module, which has no commit.
        MissingRequirementError: docker, buildx, an engine or make is missing.
    """
    if target.level:
        raise UsageError(
            f"--method make cannot compile for {target.level}", "leave out --goriscv64"
        )
    if source.kind is Kind.MODULE:
        raise SourceError(
            "--method make needs a git checkout of upstream, and the source is the Go module",
            "git submodule update --init buildkit; or build with --method go",
        )
    if source.dirty:
        raise UsageError("--method make builds commits only", "commit first, or use --method go")
    install = "run `invoke doctor --fix`; or build with --method go"
    for tool in ("make", "docker"):
        if process.which(tool) is None:
            raise MissingRequirementError(f"--method make needs {tool}", install, tool)
    for what, command in (
        ("the docker buildx plugin", ["docker", "buildx", "version"]),
        ("a running docker engine", ["docker", "version", "--format", "{{.Server.Version}}"]),
    ):
        answer = process.probe(command)
        if not answer.ok:
            raise MissingRequirementError(f"{what} is needed: {answer.last_line}", install)


def compile_commands(source: Source, output: Path, scratch: Path) -> Go:
    """Run `make binaries` in a clone of the commit, and move the commands to `output`.

    It runs in a clone, because upstream's Dockerfile stamps "dev" into programs when
    `.git` is a file, as in a submodule.

    Args:
        source: upstream.
        output: the directory for the commands.
        scratch: a directory for the clone.

    Returns:
        The Go in the container.

    Raises:
        BuildError: `make binaries` left no commands.
    """
    clone = scratch / "buildkit"
    commit = source.revision
    process.run(
        ["git", "clone", "--quiet", "--shared", "--no-checkout", source.directory, clone],
        error=SourceError,
    )  # fmt: skip
    process.run(["git", "-C", clone, "checkout", "--quiet", "--detach", commit], error=SourceError)
    if source.pinned:
        # Upstream derives the version from tags, and a shallow submodule has none.
        process.run(["git", "-C", clone, "tag", "--force", source.version, commit])
    process.run(
        ["make", "-C", clone, "binaries"],
        hint="docker's output is above; `docker buildx ls` shows the builders",
    )  # fmt: skip
    for command in dist.COMMANDS:
        built = clone / "bin" / "build" / command
        if not built.is_file():
            raise BuildError(
                f"`make binaries` made no bin/build/{command}", "look at its output above"
            )
        shutil.move(built, output / command)
    go = ensure(pins.load())
    info = read_build_info(output / dist.COMMANDS[0], go)
    return Go(go.command, info["GoVersion"], "container")
