"""The pages, and what they tell people to type.

Above each shell block a comment, which readers do not see, says who types it:

- `<!-- run in: PLACE -->`: `nox -s walkthrough` does, in one of its places;
- `<!-- run by: COMMAND or FILE -->`: another session or test does the same;
- `<!-- not run: WHY -->`: nobody does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

from buildkit_riscv64 import project

PAGES = sorted([
    project.ROOT / "README.md", project.ROOT / "CONTRIBUTING.md",
    *(page for page in (project.ROOT / "docs").rglob("*.md") if page.parent.name != "reference"),
])  # fmt: skip
_MARK = re.compile(r"<!-- (run in|run by|not run): (.+) -->\n?")


@dataclass(frozen=True)
class Block:
    """A shell block of a page.

    Args:
        page: its name, from the checkout's root.
        line: where it begins there, from 1.
        script: what people type.
        how: 'run in', 'run by' or 'not run'; empty where the page does not say.
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
        """Its lines, each whole and without its comment."""
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
                said = mark.groups() if mark else ("", "")
                yield Block(page, token.map[0] + 1, token.content, *said)
            mark = None
        elif token.level == 0 or token.type == "inline":
            mark = None


def blocks(page: Path) -> list[Block]:
    """The shell blocks of a page."""
    return list(blocks_of(page.read_text(), str(page.relative_to(project.ROOT))))


BLOCKS = [block for page in PAGES for block in blocks(page)]
