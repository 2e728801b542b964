from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from buildkit_riscv64.binaries import gotools, toolchain
from buildkit_riscv64.core import process, project
from buildkit_riscv64.core.errors import BuildError, NetworkError, SourceError, UsageError

from ..factories import GO, Commands

PACKAGE = "example.org/lint/cmd/lint"


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, commands: Commands) -> Path:
    """A go.mod with one tool; compiling it writes a file."""
    directory = tmp_path / "tools"
    directory.mkdir()
    (directory / "go.mod").write_text("module x\n")
    (directory / "go.sum").write_text("sums\n")
    monkeypatch.setattr(gotools, "TOOLS", directory)
    monkeypatch.setattr(toolchain, "ensure", lambda _pins: GO)
    monkeypatch.setattr(toolchain, "_settings", lambda _command: {})
    listing = json.dumps({"Tool": [{"Path": PACKAGE}]})
    monkeypatch.setattr(process, "read", lambda *_args, **_options: listing)
    commands.answer("build", does=lambda words: Path(words[words.index("-o") + 1]).write_text("it"))
    return directory


def left() -> list[str]:
    return [path.name for path in (project.cache() / "tools").iterdir()]


def test_tool_is_compiled_once(tools: Path, commands: Commands) -> None:
    program = gotools.compiled(GO, tools, PACKAGE)
    assert program.read_text() == "it"
    assert gotools.compiled(GO, tools, PACKAGE) == program
    [call] = commands.calls
    assert call.args[:5] == ["/go/bin/go", "build", "-mod=readonly", "-trimpath", "-buildvcs=false"]
    assert call.args[-1] == PACKAGE
    assert call.options["cwd"] == tools
    assert left() == [program.name]


def test_changed_pin_or_go_recompiles(tools: Path) -> None:
    first = gotools.compiled(GO, tools, PACKAGE)
    other = gotools.compiled(toolchain.Go(GO.command, "go1.99.0", "system"), tools, PACKAGE)
    (tools / "go.sum").write_text("others\n")
    third = gotools.compiled(GO, tools, PACKAGE)
    assert len({first, other, third}) == 3


@pytest.mark.parametrize(
    ("output", "failure"),
    [
        ("go: example.org/lint@v1: Get proxy: dial tcp: no such host", NetworkError),
        ("verifying go.mod: checksum mismatch\nSECURITY ERROR", SourceError),
        ("lint.go:1: undefined: x", BuildError),
    ],
)
def test_tool_cannot_be_built(
    tools: Path, commands: Commands, output: str, failure: type[Exception]
) -> None:
    commands.answer("build", code=1, stderr=output)
    with pytest.raises(failure, match="lint"):
        gotools.compiled(GO, tools, PACKAGE)
    assert left() == []


def test_process_is_replaced(tools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    became: list[list[str]] = []
    monkeypatch.setattr(
        process, "replace", lambda args: became.append([os.fspath(a) for a in args])
    )
    gotools.main("lint", ["-version"])
    [[program, *rest]] = became
    assert Path(program).name.startswith("lint-")
    assert rest == ["-version"]


def test_unknown_tool(tools: Path) -> None:
    with pytest.raises(UsageError, match="''") as caught:
        gotools.main("", [])
    assert caught.value.hint == "one of: lint"
