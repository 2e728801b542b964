"""Rules of the code that no type checker enforces."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from buildkit_riscv64.core import project

PACKAGE = project.ROOT / "buildkit_riscv64"
MODULES = {
    str(path.relative_to(project.ROOT)): ast.parse(path.read_text())
    for path in [*PACKAGE.rglob("*.py"), project.ROOT / "tasks.py"]
    # Scenarios and their environment start processes as tests do.
    if not {"scenarios", "environment"} & set(path.parts)
}

# Names in `subprocess` that start no process.
HARMLESS = {"PIPE", "DEVNULL", "STDOUT", "Popen", "TimeoutExpired", "CalledProcessError"}
STARTS = ("system", "popen", "fork", "exec", "spawn", "posix_spawn")
STARTERS = {"asyncio", "multiprocessing", "pty", "sh", "pexpect"}


def starts_processes(tree: ast.AST) -> Iterator[str]:
    """The expressions in a module that start a process."""
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Name(id="subprocess"), attr=name)):
                yield f"subprocess.{name}()"
            case ast.Attribute(value=ast.Name(id="subprocess"), attr=name) if name not in HARMLESS:
                yield f"subprocess.{name}"
            case ast.Attribute(value=ast.Name(id="os"), attr=name) if name.startswith(STARTS):
                yield f"os.{name}"
            case ast.Attribute(attr="run" | "sudo", value=ast.Name(id="context" | "ctx" | "c")):
                yield "Invoke's context.run"
            case ast.Import(names=aliases):
                for alias in aliases:
                    if alias.name.partition(".")[0] in STARTERS or (
                        alias.name in {"subprocess", "os"} and alias.asname
                    ):
                        yield f"import {alias.name}"
            case ast.ImportFrom(module="subprocess" | "os" as origin, names=aliases):
                for alias in aliases:
                    if alias.name not in HARMLESS - {"Popen"} and (
                        origin == "subprocess" or alias.name.startswith((*STARTS, "*"))
                    ):
                        yield f"from {origin} import {alias.name}"
            case ast.ImportFrom(module=str(module)) if module.partition(".")[0] in STARTERS:
                yield f"from {module}"
            case ast.keyword(arg="shell"):
                yield "shell="


@pytest.mark.parametrize("name", MODULES)
def test_only_process_starts_processes(name: str) -> None:
    found = list(starts_processes(MODULES[name]))
    assert bool(found) is (name == "buildkit_riscv64/core/process.py"), found


@pytest.mark.parametrize(
    "code",
    [
        "import subprocess\nsubprocess.run(['x'])", "import subprocess\nsubprocess.Popen('x')",
        "import subprocess\nrun = subprocess.run", "from subprocess import run",
        "from subprocess import Popen", "from subprocess import *", "import subprocess as s",
        "import os\nos.system('x')", "import os\nos.execvp('x', [])", "from os import execv",
        "import os\nos.posix_spawn('x', [], {})", "import os as o", "import pty",
        "import asyncio.subprocess", "from multiprocessing import Process",
        "def f(context):\n    context.run('x')", "f(shell=True)",
    ],
)  # fmt: skip
def test_starts_processes(code: str) -> None:
    assert list(starts_processes(ast.parse(code)))


def sets_variable(tree: ast.AST, variable: str) -> Iterator[str]:
    """The functions that set a variable, in a mapping or a command."""

    def is_it(node: ast.AST | None) -> bool:
        return isinstance(node, ast.Constant) and node.value == variable

    functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)] or []
    inside = {id(n): f.name for f in functions for n in ast.walk(f)}
    for node in ast.walk(tree):
        match node:
            case ast.Dict(keys=keys) if any(map(is_it, keys)):
                pass
            case ast.Subscript(slice=key, ctx=ast.Store()) if is_it(key):
                pass
            case ast.keyword(arg=name) if name == variable:
                pass
            case ast.Call(args=[key, _, *_]) if is_it(key):  # putenv, setdefault, setenv
                pass
            case ast.Tuple(elts=[key, _]) if is_it(key):  # dict([("GOARCH", …)])
                pass
            case ast.Constant(value=str(text)) if text.startswith(f"{variable}="):
                pass
            case _:
                continue
        yield inside.get(id(node), "module")


@pytest.mark.parametrize("variable", ["GOARCH", "GOOS"])
def test_only_the_cross_check_sets_goarch(variable: str) -> None:
    setting = {
        (name, function) for name, tree in MODULES.items() for function in sets_variable(tree, variable)
    }  # fmt: skip
    # This function compares the native values with the user's environment.
    allowed = {("buildkit_riscv64/binaries/toolchain.py", "refuse_cross_compilation")}
    if variable == "GOARCH":
        allowed.add(("buildkit_riscv64/binaries/verify.py", "_compile_again"))
    assert setting == allowed


@pytest.mark.parametrize(
    "code",
    [
        'env = {"GOARCH": "x"}', 'env["GOARCH"] = "x"', 'dict(GOARCH="x")', 'f(GOARCH=x)',
        'os.environ.setdefault("GOARCH", "x")', 'os.putenv("GOARCH", "x")', '[f"GOARCH={arch}"]',
        '["env", "GOARCH=x", "go"]', 'dict([("GOARCH", "x")])',
    ],
)  # fmt: skip
def test_sets_variable(code: str) -> None:
    assert list(sets_variable(ast.parse(code), "GOARCH"))


def test_reading_goarch_is_allowed() -> None:
    code = 'settings.get("GOARCH")\nsettings["GOARCH"]\nNAMES = ("GOOS", "GOARCH", "GOARM")'
    assert not list(sets_variable(ast.parse(code), "GOARCH"))


def test_only_verify_uses_the_cross_check() -> None:
    for path in PACKAGE.rglob("*.py"):
        uses = "_cross_check(" in path.read_text()
        assert uses is (path.name == "verify.py"), path


def test_verify_publishes_nothing() -> None:
    tree = MODULES["buildkit_riscv64/binaries/verify.py"]
    names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    names |= {
        alias.name for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) for alias in n.names
    }
    assert "load" in names
    assert not names & {"publish", "build", "_describe"}
    # Its directory is never below dist/.
    staged = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in {"lock", "staging"}
    ]
    assert [ast.unparse(node) for node in staged] == [
        "dist.lock(target, place)", "dist.staging(target, place)",
    ]  # fmt: skip


def imports(path: Path) -> set[str]:
    """The top-level imports of a module."""
    tree = ast.parse(path.read_text())
    found: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.Import):
            found |= {name.name.partition(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(str(node.module).partition(".")[0])
    return found


def test_listing_the_tasks_imports_nothing_slow() -> None:
    slow = {
        "rich", "cyclonedx", "docker", "in_toto_attestation", "google", "elftools",
        "fastjsonschema", "packaging", "jinja2", "pytest",
    }  # fmt: skip
    modules = [PACKAGE / "cli.py", *PACKAGE.rglob("tasks.py")]
    modules += [PACKAGE / f"core/{name}.py" for name in ("config", "errors", "console", "process")]
    for path in modules:
        assert not imports(path) & slow, path


def test_host_keys_are_always_checked() -> None:
    """No file of the package disables a check of ssh."""
    found = [
        path
        for path in PACKAGE.rglob("*")
        if path.is_file()
        and "__pycache__" not in path.parts
        and re.search(
            r"StrictHostKeyChecking\W+(no|off|ask|accept-new)\b|CheckHostIP|NoHostAuthentication",
            path.read_text(errors="replace"), re.IGNORECASE,
        )
    ]  # fmt: skip
    assert not found
