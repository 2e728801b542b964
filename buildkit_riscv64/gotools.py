"""Tools that only Go can compile: each from a go.mod of ours, so that every module is pinned.

`python -m buildkit_riscv64.gotools NAME …` becomes one of those in `tools/go.mod`.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from pathlib import Path

from . import pins, process, project
from .binaries import toolchain
from .errors import BuildError, Failure, UsageError

#: The go.mod of what our own checks run.
TOOLS = project.ROOT / "tools"


def compiled(go: toolchain.Go, folder: Path, package: str) -> Path:
    """A tool, compiled once for each state of its go.sum and each version of Go.

    Args:
        go: the pinned Go.
        folder: where its go.mod and go.sum are.
        package: the command's import path.

    Raises:
        NetworkError: a module could not be fetched.
        SourceError: a module is not what go.sum says.
        BuildError: it does not compile.
    """
    name = package.rpartition("/")[2]
    lock = b"".join((folder / file).read_bytes() for file in ("go.mod", "go.sum"))
    digest = hashlib.sha256(lock + go.version.encode()).hexdigest()[:16]
    program = project.cache() / "tools" / f"{name}-{digest}"
    if program.exists():
        return program
    program.parent.mkdir(parents=True, exist_ok=True)
    aside = program.with_name(f".{program.name}.{time.time_ns()}")
    try:
        answer = process.probe(
            [go.command, "build", "-mod=readonly", "-trimpath", "-buildvcs=false", "-o", aside, package],
            cwd=folder, env=toolchain.environment(go), timeout=None,
        )  # fmt: skip
        if not answer.ok:
            # Fetching comes first, and says which module it was.
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
    """The import paths of our checks' tools, by name."""
    told = process.read([go.command, "mod", "edit", "-json"], cwd=TOOLS, env=toolchain.environment(go))  # fmt: skip
    paths = [str(tool["Path"]) for tool in json.loads(told).get("Tool") or []]
    return {path.rpartition("/")[2]: path for path in paths}


def main(name: str, args: list[str]) -> None:
    """Become a tool.

    Raises:
        UsageError: there is no such tool.
        Failure: it cannot be had.
    """
    go = toolchain.ensure(pins.load())
    tools = declared(go)
    if name not in tools:
        raise UsageError(f"{name!r} is no tool of tools/go.mod", f"one of: {', '.join(tools)}")
    process.replace([compiled(go, TOOLS, tools[name]), *args])


if __name__ == "__main__":
    try:
        main(sys.argv[1] if len(sys.argv) > 1 else "", sys.argv[2:])
    except Failure as failure:
        print(failure.message, file=sys.stderr)
        sys.exit(failure.code)
