"""Tools that Go compiles from our go.mod files, which pin every module.

`python -m buildkit_riscv64.binaries.gotools NAME …` runs a tool of `pins/tools/go.mod`.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from pathlib import Path

from ..core import pins, process, project
from ..core.errors import BuildError, Failure, UsageError
from ..system import host_checks
from . import toolchain

#: The directory of the go.mod for our checks' tools.
TOOLS = project.ROOT / "pins" / "tools"


def compiled(go: toolchain.Go, directory: Path, package: str) -> Path:
    """A tool, compiled once per go.sum and version of Go.

    Args:
        go: the pinned Go.
        directory: of its go.mod and go.sum.
        package: the command's import path.

    Raises:
        NetworkError: a module could not be fetched.
        SourceError: a module does not match go.sum.
        BuildError: compilation failed.
    """
    name = package.rpartition("/")[2]
    lock = b"".join((directory / file).read_bytes() for file in ("go.mod", "go.sum"))
    digest = hashlib.sha256(lock + go.version.encode()).hexdigest()[:16]
    program = project.cache() / "tools" / f"{name}-{digest}"
    if program.exists():
        return program
    host_checks.require_exec(program)
    program.parent.mkdir(parents=True, exist_ok=True)
    aside = program.with_name(f".{program.name}.{time.time_ns()}")
    try:
        answer = process.probe(
            [go.command, "build", "-mod=readonly", "-trimpath", "-buildvcs=false", "-o", aside, package],
            cwd=directory, env=toolchain.environment(go), timeout=None, changes=True,
        )  # fmt: skip
        if not answer.ok:
            # Go fetches first, and names the module in its error.
            if any(word in answer.stderr for word in ("go.mod", "proxy", "checksum")):
                raise toolchain.fetch_error(f"cannot fetch {name}", answer.stderr)
            raise BuildError(
                f"{name} does not compile: {answer.last_line}", "run `go clean -cache`"
            )
        aside.rename(program)
    finally:
        aside.unlink(missing_ok=True)
    return program


def declared(go: toolchain.Go) -> dict[str, str]:
    """Import paths of the tools for our checks, by name."""
    listing = process.read([go.command, "mod", "edit", "-json"], cwd=TOOLS, env=toolchain.environment(go))  # fmt: skip
    paths = [str(tool["Path"]) for tool in json.loads(listing).get("Tool") or []]
    return {path.rpartition("/")[2]: path for path in paths}


def main(name: str, args: list[str]) -> None:
    """Replace this process by a tool.

    Raises:
        UsageError: unknown tool.
        Failure: the tool could not be built.
    """
    go = toolchain.ensure(pins.load())
    tools = declared(go)
    if name not in tools:
        raise UsageError(f"{name!r} is not in pins/tools/go.mod", f"one of: {', '.join(tools)}")
    process.replace([compiled(go, TOOLS, tools[name]), *args])


if __name__ == "__main__":
    try:
        main(sys.argv[1] if len(sys.argv) > 1 else "", sys.argv[2:])
    except Failure as failure:
        print(failure.message, file=sys.stderr)
        sys.exit(failure.code)
