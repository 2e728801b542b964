"""The layers of the package: imports go to lower layers, without cycles."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from buildkit_riscv64.core import process, project
from buildkit_riscv64.layers import LAYERS

PACKAGES = (project.PACKAGE, "benchmarks")
MODULES = {
    ".".join(path.relative_to(project.ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in PACKAGES
    for path in (project.ROOT / package).rglob("*.py")
}


def imports(name: str) -> Iterator[str]:
    """Our modules that a module imports, also inside functions."""
    path = MODULES[name]
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.ImportFrom):
            continue
        base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
        origin = ".".join([*base, *([node.module] if node.module else [])])
        assert not origin.startswith("tests"), f"{name} imports from the tests"
        for alias in node.names:
            for found in (f"{origin}.{alias.name}", origin):
                if found in MODULES:
                    yield found
                    break


def layer(name: str) -> int:
    """The number of a module's layer; the front, tasks and scenarios have the highest."""
    parts = name.split(".")[1:]
    front = parts[-1:] == ["tasks"] or parts[:2] == ["validation", "scenarios"]
    if name.startswith(project.PACKAGE) and len(parts) > 1 and not front:
        for number, (packages, _) in enumerate(LAYERS):
            if parts[0] in packages:
                return number
    return len(LAYERS)


@pytest.mark.parametrize("name", MODULES)
def test_no_import_from_a_higher_layer(name: str) -> None:
    above = [other for other in imports(name) if layer(other) > layer(name)]
    assert not above


def test_no_import_cycles() -> None:
    graph = {name: {other for other in imports(name) if other != name} for name in MODULES}
    assert list(TopologicalSorter(graph).static_order())


def test_every_package_has_a_layer() -> None:
    directories = {
        path.name for path in (project.ROOT / project.PACKAGE).iterdir() if path.is_dir()
    }
    named = {package for packages, _ in LAYERS for package in packages}
    assert named == directories - {"__pycache__"}


def test_architecture_page() -> None:
    page = (project.ROOT / "docs" / "architecture.md").read_text()
    for packages, _ in LAYERS:
        assert all(f"`{package}/`" in page for package in packages)


def test_number_of_files_at_the_root() -> None:
    """At most 23 entries, so that a reader sees the phases."""
    tracked = process.read(["git", "ls-files"], cwd=project.ROOT).splitlines()
    assert len({Path(name).parts[0] for name in tracked}) <= 23
