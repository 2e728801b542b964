"""The shell blocks of the documentation.

A hidden comment above each block says what runs it:

- `<!-- run in: PLACE -->`: `nox -s walkthrough` runs it, in one of its places;
- `<!-- run by: COMMAND or FILE -->`: another session or test runs the same commands;
- `<!-- not run: WHY -->`: no test runs it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

from buildkit_riscv64.core import project

PAGES = sorted([
    project.ROOT / "README.md", project.ROOT / ".github/CONTRIBUTING.md",
    *(page for page in (project.ROOT / "docs").rglob("*.md") if page.parent.name != "reference"),
])  # fmt: skip
_MARK = re.compile(r"<!-- (run in|run by|not run): (.+) -->\n?")


@dataclass(frozen=True)
class Block:
    """A shell block of a page.

    Args:
        page: the page's path in the checkout.
        line: the number of its first line in the page.
        script: the commands.
        how: 'run in', 'run by' or 'not run'; empty without a comment.
        where: a place, a command or file, or a reason.
    """

    page: str
    line: int
    script: str
    how: str = ""
    where: str = ""

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def commands(self) -> Iterator[str]:
        """The commands, without line continuations and comments."""
        for line in re.sub(r"\\\n\s*", "", self.script).splitlines():
            if words := re.sub(r"(^|\s)#\s.*$", "", line).strip():
                yield words


def blocks_of(text: str, page: str) -> Iterator[Block]:
    """The shell blocks of a page's text."""
    mark = None
    for token in MarkdownIt().parse(text):
        if token.type == "html_block":
            mark = _MARK.fullmatch(token.content)
        elif token.type == "fence":
            if token.info == "sh":
                assert token.map is not None
                runner = mark.groups() if mark else ("", "")
                yield Block(page, token.map[0] + 1, token.content, *runner)
            mark = None
        elif token.level == 0 or token.type == "inline":
            mark = None


def blocks(page: Path) -> list[Block]:
    """The shell blocks of a page."""
    return list(blocks_of(page.read_text(), str(page.relative_to(project.ROOT))))


# Commands that create files of the system with the user's umask.
_WRITES = re.compile(r"(?:\bcurl\b.* -o|\btee(?: -a)?|\bmkdir(?: -p)?|>>?) *(/(?:etc|usr|opt|srv)/\S+)")  # fmt: skip
_OPENS = re.compile(r"\bchmod 644\b|\binstall .*-m 644\b")


def closed_files(commands: Iterable[str]) -> set[str]:
    """The files of the system that only root can read after these commands, under umask 077."""
    lines = list(commands)
    written = {path for line in lines for path in _WRITES.findall(line)}
    opened = {word for line in lines if _OPENS.search(line) for word in line.split()}
    return written - opened


BLOCKS = [block for page in PAGES for block in blocks(page)]
