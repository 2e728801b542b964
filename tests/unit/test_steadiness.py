"""Timeouts of tests: `waiting.BOUND` is the only one, so that slow machines pass."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from buildkit_riscv64.core import project

#: Directories with tests, including the scenarios.
DIRECTORIES = ("tests/integration", "tests/unit", "tests/walkthrough", "buildkit_riscv64/validation/scenarios")  # fmt: skip
FILES = [path for name in DIRECTORIES for path in sorted((project.ROOT / name).rglob("*.py"))]
#: Calls with a timeout.
WAITING = {"communicate", "create_connection", "join", "run", "urlopen", "wait"}  # fmt: skip
CLOCKS = {"monotonic", "perf_counter", "time"}


def name(call: ast.expr) -> str:
    return call.attr if isinstance(call, ast.Attribute) else getattr(call, "id", "")


def limits(text: str) -> list[int]:
    """Lines with a fixed timeout."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and name(node.func) in WAITING:
            named = [keyword.value for keyword in node.keywords if keyword.arg == "timeout"]
            alone = node.args[:1] if name(node.func) in {"join", "wait"} else []
            fixed = [value.value for value in (*named, *alone) if isinstance(value, ast.Constant)]
            # A short wait is for an event that must not happen.
            if any(isinstance(value, (int, float)) and value > 1 for value in fixed):
                found.append(node.lineno)
        if isinstance(node, ast.Assert):
            for compared in ast.walk(node.test):
                if isinstance(compared, ast.Compare) and any(isinstance(op, (ast.Lt, ast.LtE)) for op in compared.ops):  # fmt: skip
                    calls = [one for one in ast.walk(compared) if isinstance(one, ast.Call)]
                    if any(name(one.func) in CLOCKS and not one.args for one in calls):
                        found.append(node.lineno)
    return found


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("subprocess.run(command, timeout=300)", [1]),
        ("child.wait(60)", [1]),
        ("done = thread.join(timeout=30.0)", [1]),
        ("assert time.monotonic() - started < 20", [1]),
        ("assert ok and 3 <= time.perf_counter() - started <= 4", [1]),
        ("child.wait(BOUND)\nsubprocess.run(command, timeout=2 * BOUND)", []),
        ("assert not event.wait(0.2)\nassert eventually(child.poll)\nassert number < 20", []),
    ],
)
def test_limits(text: str, lines: list[int]) -> None:
    assert limits(text) == lines


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(project.ROOT)))
def test_no_fixed_timeouts(path: Path) -> None:
    assert limits(path.read_text()) == [], "use `waiting.BOUND`, or wait for a condition"
