"""What people see: lines on stderr, results on stdout."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any


class Status(StrEnum):
    """How something that was looked at is."""

    OK = "OK"
    WARN = "WARN"
    FAIL = "FAIL"


def say(text: str = "") -> None:
    """A line about what is happening; always on stderr, so that stdout stays data."""
    print(text, file=sys.stderr, flush=True)


def _in_actions() -> bool:
    return os.environ.get("GITHUB_ACTIONS") == "true"


def _tell_actions(command: str, text: str) -> None:
    """Have GitHub Actions do something with a text, which is one line to it.

    https://docs.github.com/en/actions/reference/workflows-and-actions/workflow-commands
    """
    for character, escape in (("%", "%25"), ("\r", "%0D"), ("\n", "%0A")):
        text = text.replace(character, escape)
    say(f"::{command}::{text}")


def warn(text: str) -> None:
    """A line about what is not as it should be."""
    if _in_actions():
        _tell_actions("warning", text)
    else:
        say(f"warning: {text}")


def annotate_failure(brief: str, hint: str) -> None:
    """In GitHub Actions, show a failure on the page of the run as well; Invoke prints it anyway."""
    if _in_actions():
        _tell_actions("error", f"{brief}\nfix: {hint}" if hint else brief)


def emit_json(value: Any) -> None:
    """A result for scripts, on stdout."""
    print(json.dumps(value, indent=2, ensure_ascii=False), flush=True)


def size(number: int) -> str:
    """Bytes for people: binary units, as ls -h has them."""
    amount = float(number)
    for unit in ("B", "KiB", "MiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} GiB"


def duration(seconds: float) -> str:
    """'2.4 s', '1 min 49 s', '1 h 02 min'."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    return f"{minutes // 60} h {minutes % 60:02} min"


@contextlib.contextmanager
def step(title: str) -> Iterator[None]:
    """A named, timed step; folded in GitHub Actions."""
    if _in_actions():
        _tell_actions("group", title)
    else:
        say(f"{title} …")
    started = time.monotonic()
    try:
        yield
    finally:
        if _in_actions():
            _tell_actions("endgroup", "")
    say(f"{title}: {duration(time.monotonic() - started)}")


def confirm(question: str, *, yes: bool) -> bool:
    """Ask on the terminal. `--yes` and CI answer yes; without a terminal the answer is no."""
    if yes or os.environ.get("CI", "").lower() in {"1", "true", "yes"}:
        return True
    if not sys.stdin.isatty():
        return False
    say(f"{question} [Y/n] ")
    # Enter is a yes; the end of the input (Ctrl-D), which has no line end, is a no.
    return sys.stdin.readline().lower() in {"\n", "y\n", "yes\n"}


def count(number: int, noun: str) -> str:
    """'1 check', '2 checks'."""
    return f"{number} {noun}" + ("" if number == 1 else "s")


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, title: str = "") -> None:
    """A table on stderr; nothing in it is cut off where there is no terminal.

    Args:
        header: what the columns are called.
        rows: their cells.
        title: with one, the table is on the page of a GitHub Actions run as well.
    """
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(stderr=True)
    if not console.is_terminal:
        console.width = 200
    colours: dict[str, str] = {Status.OK: "green", Status.WARN: "yellow", Status.FAIL: "red"}
    # Two spaces between columns, and none around them: what is here fits 80 columns.
    shown = Table(*header, box=SIMPLE, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for row in rows:
        shown.add_row(*(Text(cell, style=colours.get(cell, ""), overflow="fold") for cell in row))
    console.print(shown)
    console.print()
    if title:
        step_summary(title, header, rows)


def step_summary(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """The same table on the page of a GitHub Actions run."""
    page = os.environ.get("GITHUB_STEP_SUMMARY")
    if not page:
        return
    # What is in a cell ends neither it nor its row.
    cells = [[" ".join(c.replace("|", r"\|").split()) for c in row] for row in (header, *rows)]
    lines = [cells[0], ["---"] * len(header), *cells[1:]]
    with Path(page).open("a", encoding="utf-8") as file:
        file.write(f"### {title}\n\n")
        file.writelines(f"| {' | '.join(line)} |\n" for line in lines)
        file.write("\n")
