"""`--via make`: upstream's own `make binaries`, through docker buildx.

The compiler then runs in upstream's build container, on this machine and for
this machine. Its Go is the one that upstream's Dockerfile names, so the bytes
differ from those of `--via go`.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from .. import dist, pins, process
from ..arch import Target
from ..errors import BuildError, MissingRequirementError, SourceError, UsageError
from .elf import read_build_info
from .source import Kind, Source
from .toolchain import Go, ensure


def refuse_impossible(source: Source, target: Target) -> None:
    """Say at once what upstream's Makefile cannot do, or this machine cannot do for it.

    Raises:
        UsageError: a profile or local changes are asked for.
        SourceError: the source is a module, which has no commit to stamp.
        MissingRequirementError: docker, buildx, an engine or make is missing.
    """
    if target.level:
        raise UsageError(
            f"--via make cannot compile for {target.level}", "leave --goriscv64 or --via out"
        )
    if source.kind is Kind.MODULE:
        raise SourceError(
            "--via make needs a git checkout of upstream, and the source is the Go module",
            "git submodule update --init buildkit; or build with --via go",
        )
    if source.dirty:
        raise UsageError("--via make builds commits only", "commit your changes, or use --via go")
    install = "run `invoke doctor --fix`; or build with --via go"
    for tool in ("make", "docker"):
        if process.which(tool) is None:
            raise MissingRequirementError(
                f"--via make needs {tool}, and it is missing", install, tool
            )
    for what, command in (
        ("the docker buildx plugin", ["docker", "buildx", "version"]),
        ("a running docker engine", ["docker", "version", "--format", "{{.Server.Version}}"]),
    ):
        answer = process.probe(command)
        if not answer.ok:
            raise MissingRequirementError(f"--via make needs {what}: {answer.last_line}", install)


def compile_commands(source: Source, output: Path, scratch: Path) -> Go:
    """Run `make binaries` on a clone of the commit, and take the commands out of it.

    A clone, because upstream's Dockerfile stamps "dev" into programs when
    `.git` is a file, as it is in a submodule.

    Args:
        source: upstream.
        output: the folder for the commands.
        scratch: a folder for the clone.

    Returns:
        The Go in the container.

    Raises:
        BuildError: it did not compile.
    """
    clone = scratch / "buildkit"
    commit = source.revision
    process.run(
        ["git", "clone", "--quiet", "--shared", "--no-checkout", source.directory, clone],
        error=SourceError,
    )  # fmt: skip
    process.run(["git", "-C", clone, "checkout", "--quiet", "--detach", commit], error=SourceError)
    if source.pinned:
        # A shallow submodule has no tags, and upstream's version comes from them.
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
    return Go(go.command, info["GoVersion"].split()[0], "container")
