"""What the pages tell people to type is there, with those flags, and so is every file they name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from buildkit_riscv64 import project

from ..pages import BLOCKS, PAGES, Block, blocks_of
from .test_workflows import objections, sessions  # noqa: F401 - a fixture

#: What stands for something, or is Invoke's and nox's own.
FREE = re.compile(r"invoke (TASK|--list|--debug TASK|--print-completion|--dry TASK)|nox (--list|…)|invoke …")  # fmt: skip
#: Where `nox -s walkthrough` types what a page says.
PLACES = {"checkout", "debian", "docker"}


def ours(line: str) -> str:
    """A line's own command of ours as a workflow would have it; nothing where there is none."""
    line = re.sub(r"^(sudo )?((\w+=\S* )*)(\./|\.venv/bin/)?(?=(invoke|nox)\b)", "./", line)
    return line if line.startswith(("./invoke", "./nox")) else ""


LINES = sorted({
    (block.page, line)
    for block in BLOCKS
    for line in map(ours, block.commands)
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


PAGE = """x
<!-- run in: docker -->
```sh
a \\
    b   # c
# alone
d#e
```
```toml
f
```
1. g

   <!-- not run: because -->
   ```sh
   h
   ```
<!-- run by: nox -s unit -->

Something else.
```sh
i
```
"""


def test_blocks_of_a_page() -> None:
    one, two, three = blocks_of(PAGE, "page.md")
    assert list(one.commands) == ["a b", "d#e"]
    assert (str(one), one.how, one.where) == ("page.md:3", "run in", "docker")
    assert (two.script, two.how, two.where) == ("h\n", "not run", "because")
    assert (three.how, three.where) == ("", "")


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_each_block_is_run_or_the_page_says_why_not(block: Block, sessions: set[str]) -> None:  # noqa: F811 # fmt: skip
    match block.how, block.where.split():
        case "run in", [place]:
            assert place in PLACES
        case "run by", ["nox", "-s", session]:
            assert session in sessions
        case "run by", [path]:
            assert (project.ROOT / path).exists()
        case "not run", [_, *_]:
            pass
        case _:
            pytest.fail(f"{block}: who types this, or why does nobody?")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_file(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
        # Two up from a page of the main branch are GitHub's own pages of the repository.
        if target.startswith("../../actions/workflows/"):
            workflow = target.split("/")[4]
            assert (project.ROOT / ".github" / "workflows" / workflow).exists(), target
        elif not target.startswith(("http:", "https:", "../../releases")):
            assert (page.parent / target).exists() or "reference/" in target, target


def test_every_page_is_in_the_site() -> None:
    index = (project.ROOT / "docs" / "index.md").read_text()
    for page in PAGES:
        name = page.relative_to(project.ROOT)
        if name.parts[0] == "docs" and name.name != "index.md":
            place = re.escape(str(name.relative_to("docs").with_suffix("")))
            assert re.search(rf"^({place}|[^\n]+ <{place}>)$", index, re.MULTILINE), name
