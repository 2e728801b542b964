"""What the pages tell people to type is there, with those flags, and so is every file they name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from buildkit_riscv64 import project

from .test_workflows import objections, sessions  # noqa: F401 - a fixture

PAGES = sorted([project.ROOT / "README.md", *(project.ROOT / "docs").rglob("*.md")])
WRITTEN = [page for page in PAGES if page.parent.name != "reference"]
#: What stands for something, or is Invoke's and nox's own.
FREE = re.compile(r"invoke (TASK|--list|--debug TASK|--print-completion|--dry TASK)|nox (--list|…)|invoke …")  # fmt: skip


def commands(text: str) -> Iterator[str]:
    """The lines of a page's shell blocks, each whole and without its comment."""
    for block in re.findall(r"^ *```sh\n(.*?)^ *```", text, re.M | re.S):
        for line in re.sub(r"\\\n\s*", "", block).splitlines():
            if words := re.sub(r"\s#\s.*$", "", line).strip():
                yield words


def ours(line: str) -> str:
    """A line's own command of ours as a workflow would have it; nothing where there is none."""
    line = re.sub(r"^(sudo )?((\w+=\S* )*)(\./|\.venv/bin/)?(?=(invoke|nox)\b)", "./", line)
    return line if line.startswith(("./invoke", "./nox")) else ""


LINES = sorted({
    (page.name, line)
    for page in WRITTEN
    for line in map(ours, commands(page.read_text()))
    if line and not FREE.search(line)
})  # fmt: skip


def test_there_are_commands() -> None:
    assert len(LINES) > 60


@pytest.mark.parametrize(("page", "line"), LINES)
def test_each_command_is_there_with_its_flags(page: str, line: str, sessions: set[str]) -> None:  # noqa: F811 # fmt: skip
    assert list(objections(line, sessions)) == []


@pytest.mark.parametrize(
    ("line", "command"),
    [
        ("invoke status", "./invoke status"), ("sudo .venv/bin/invoke validate", "./invoke validate"),
        ("A=1 B= nox -s unit", "./nox -s unit"), ("./invoke doctor", "./invoke doctor"),
        ("docker run invoke", ""), ("ssh board invoke status", ""),
    ],
)  # fmt: skip
def test_what_is_ours(line: str, command: str) -> None:
    assert ours(line) == command


def test_lines_of_a_page() -> None:
    page = "x\n```sh\na \\\n    b   # c\n# alone\n```\n```toml\nd\n```\n1. e\n\n   ```sh\n   f\n   ```\n"
    assert list(commands(page)) == ["a b", "# alone", "f"]


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: page.name)
def test_every_link_leads_to_a_file(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
        if not target.startswith(("http:", "https:")):
            assert (page.parent / target).exists() or "reference/" in target, target


def test_every_page_is_in_the_site() -> None:
    index = (project.ROOT / "docs" / "index.md").read_text()
    for page in WRITTEN:
        name = page.relative_to(project.ROOT)
        if name.parts[0] == "docs" and name.name != "index.md":
            assert f"\n{name.relative_to('docs').with_suffix('')}\n" in index, name
