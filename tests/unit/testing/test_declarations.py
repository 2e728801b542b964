"""Tests declare the needs of their helpers; otherwise they fail only on hosts with limits."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from buildkit_riscv64.core import project
from buildkit_riscv64.testing import capabilities

from ...integration import debianroot

#: The needs of helpers, by name.
HELPERS = {
    "with_mounts": ("mounts",), "as_root": ("owners",), "debian_root": debianroot.NEEDS,
    "booted": ("systemd",), "running": ("loopback",), "board": ("loopback", "sshd"),
    "Keyring": ("gpg",), "serving": ("loopback",),
}  # fmt: skip
MODULES = sorted(
    path
    for directory in ("integration", "walkthrough")
    for path in (project.ROOT / "tests" / directory).glob("*.py")
    if path.name.startswith(("test_", "conftest"))
)

Function = ast.FunctionDef


def name_of(node: ast.expr) -> str:
    """`needs` of `needs(…)`, of `pytest.mark.needs` and of `pytest.mark.needs(…)`."""
    match node:
        case ast.Call(func=function):
            return name_of(function)
        case ast.Attribute(attr=name) | ast.Name(id=name):
            return name
    return ""


def declared(marks: list[ast.expr]) -> Iterator[str]:
    """The needs that decorators or the marks of a module declare."""
    for mark in marks:
        yield from capabilities.MARKS.get(name_of(mark), ())
        if isinstance(mark, ast.Call) and name_of(mark) == "needs":
            for argument in mark.args:
                if isinstance(argument, ast.Starred):
                    yield from debianroot.NEEDS
                elif isinstance(argument, ast.Constant):
                    yield str(argument.value)


class Module:
    """The functions of a test module, with their calls and declarations."""

    def __init__(self, text: str) -> None:
        tree = ast.parse(text)
        self.functions = {node.name: node for node in tree.body if isinstance(node, Function)}
        self.marks: list[ast.expr] = []
        for node in tree.body:
            if isinstance(node, ast.Assign) and name_of(node.targets[0]) == "pytestmark":
                marks = node.value
                self.marks = marks.elts if isinstance(marks, ast.List) else [marks]

    def is_fixture(self, name: str) -> bool:
        return any(name_of(one) == "fixture" for one in self.functions[name].decorator_list)

    def calls(self, name: str, seen: frozenset[str] = frozenset()) -> Iterator[str]:
        """The helpers that a function calls, directly or through functions of the module."""
        for node in ast.walk(self.functions[name]):
            if isinstance(node, ast.Call) and (called := name_of(node.func)) in HELPERS:
                yield called
            # A function of the module, called or passed on; fixtures declare their own needs.
            if isinstance(node, ast.Name) and node.id in self.functions.keys() - seen - {name} and not self.is_fixture(node.id):  # fmt: skip
                yield from self.calls(node.id, seen | {name})

    def decorators(self, name: str) -> Iterator[ast.expr]:
        """The decorators of a function and of the module's fixtures that it uses."""
        yield from self.functions[name].decorator_list
        for argument in self.functions[name].args.args:
            if argument.arg in self.functions.keys() - {name} and self.is_fixture(argument.arg):
                yield from self.decorators(argument.arg)

    def undeclared(self) -> Iterator[str]:
        """Each test and fixture with missing declarations."""
        for name in self.functions:
            if not name.startswith("test_") and not self.is_fixture(name):
                continue
            marks = [*self.marks, *self.decorators(name)]
            provided = {one for need in declared(marks) for one in capabilities.all_needs(need)}
            for helper in sorted(set(self.calls(name))):
                if lacking := set(HELPERS[helper]) - provided:
                    yield f"{name} calls {helper}: needs {', '.join(sorted(lacking))}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.name)
def test_each_test_declares_the_needs_of_its_helpers(path: Path) -> None:
    assert list(Module(path.read_text()).undeclared()) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("def test_a():\n    with_mounts('x')", ["test_a calls with_mounts: needs mounts"]),
        ("@pytest.mark.needs('mounts')\ndef test_a():\n    with_mounts('x')", []),
        ("@pytest.mark.needs('daemons')\ndef test_a():\n    with_mounts('x')", []),
        ("pytestmark = [pytest.mark.machine]\ndef test_a():\n    with_mounts('x')", []),
        ("pytestmark = pytest.mark.integration\ndef test_a():\n    root.booted()", ["test_a calls booted: needs systemd"]),
        ("def helper():\n    as_root()\ndef test_a():\n    helper()", ["test_a calls as_root: needs owners"]),
        ("@pytest.fixture(scope='module')\n@needs('gpg')\ndef ring():\n    Keyring()\ndef test_a(ring):\n    ring", []),
        ("@pytest.fixture\ndef ring():\n    Keyring()", ["ring calls Keyring: needs gpg"]),
        ("def helper():\n    with_mounts('x')", []),
        ("@pytest.fixture\n@needs('loopback')\ndef server():\n    pass\ndef test_a(server):\n    serving()", []),
    ],
)  # fmt: skip
def test_that_rule_sees_violations(text: str, expected: list[str]) -> None:
    assert list(Module(text).undeclared()) == expected
