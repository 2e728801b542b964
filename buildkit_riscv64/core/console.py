"""Console output: log lines and tables on stderr, JSON results on stdout."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

from .booleans import in_actions, in_ci
from .errors import UsageError


class Status(StrEnum):
    """The status of a check."""

    OK = "OK"
    WARN = "WARN"
    FAIL = "FAIL"


def log(text: str = "") -> None:
    """Print a log line on stderr; stdout is for data."""
    print(text, file=sys.stderr, flush=True)


def _workflow_command(command: str, text: str) -> None:
    """Send a workflow command to GitHub Actions, with the text escaped to one line.

    https://docs.github.com/en/actions/reference/workflows-and-actions/workflow-commands
    """
    for character, escape in (("%", "%25"), ("\r", "%0D"), ("\n", "%0A")):
        text = text.replace(character, escape)
    log(f"::{command}::{text}")


def warn(text: str) -> None:
    """Print a warning."""
    if in_actions():
        _workflow_command("warning", text)
    else:
        log(f"warning: {text}")


def annotate_failure(brief: str, hint: str) -> None:
    """In GitHub Actions, also show a failure on the page of the run."""
    if in_actions():
        _workflow_command("error", f"{brief}\nfix: {hint}" if hint else brief)


# True after the running task has printed its JSON document.
_emitted = False


def emit_json(value: Any) -> None:
    """Print the task's JSON document on stdout."""
    global _emitted  # noqa: PLW0603 - stdout is global, too
    _emitted = True
    print(json.dumps(value, indent=2, ensure_ascii=False), flush=True)


def emitted(*, reset: bool = False) -> bool:
    """True when JSON was printed.

    Args:
        reset: a new task begins.
    """
    global _emitted  # noqa: PLW0603 - as above
    _emitted = _emitted and not reset
    return _emitted


def size(number: int) -> str:
    """A number of bytes in binary units, as ls -h prints it."""
    amount = float(number)
    for unit in ("B", "KiB", "MiB"):
        # Rounded first: 1023.96 MiB are 1.0 GiB, not 1024.0 MiB.
        if round(amount, 1) < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} GiB"


def duration(seconds: float) -> str:
    """A duration, as in '2.4 s', '1 min 49 s' or '1 h 02 min'."""
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    return f"{minutes // 60} h {minutes % 60:02} min"


@contextlib.contextmanager
def step(title: str) -> Iterator[None]:
    """Log a step and its duration; GitHub Actions folds the lines in between."""
    if in_actions():
        _workflow_command("group", title)
    else:
        log(f"{title} …")
    started = time.monotonic()
    try:
        yield
    finally:
        if in_actions():
            _workflow_command("endgroup", "")
    log(f"{title}: {duration(time.monotonic() - started)}")


def confirm(question: str, *, yes: bool) -> bool:
    """Ask on the terminal. `--yes` and CI answer yes; without a terminal the answer is no."""
    if yes or in_ci():
        return True
    if not sys.stdin.isatty():
        return False
    log(f"{question} [Y/n] ")
    # Enter means yes. The end of the input (Ctrl-D) has no line end and means no.
    return sys.stdin.readline().lower() in {"\n", "y\n", "yes\n"}


def require_confirmation(question: str, *, yes: bool) -> None:
    """Ask before a change that loses data: only a typed yes, `--yes` or CI allows it.

    Args:
        question: the change.
        yes: do not ask.

    Raises:
        UsageError: the answer is no, or there is no terminal.
    """
    if yes or in_ci():
        return
    if not sys.stdin.isatty():
        raise UsageError(
            f"{question}: not confirmed, and there is no terminal for a question", "add --yes"
        )
    log(f"{question}? [y/N] ")
    if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
        raise UsageError(f"{question}: not confirmed", "answer y or add --yes")


def count(number: int, noun: str) -> str:
    """A number with its noun, as in '1 check' or '2 checks'."""
    return f"{number} {noun}" + ("" if number == 1 else "s")


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, title: str = "") -> None:
    """Print a table on stderr; without a terminal, no cell is cut off.

    Args:
        header: titles of the columns.
        rows: cells.
        title: title of the table on the page of a GitHub Actions run; empty to leave it out there.
    """
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(stderr=True)
    if not console.is_terminal:
        console.width = 200
    colours: dict[str, str] = {Status.OK: "green", Status.WARN: "yellow", Status.FAIL: "red"}
    # Two spaces between columns and none around them, so that tables fit 80 columns.
    shown = Table(*header, box=SIMPLE, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for row in rows:
        shown.add_row(*(Text(cell, style=colours.get(cell, ""), overflow="fold") for cell in row))
    console.print(shown)
    console.print()
    if title:
        step_summary(title, header, rows)


_MARKUP = re.compile(r"[\\`*\[\]<>|&]")


def step_summary(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Add a table to the page of a GitHub Actions run."""
    page = os.environ.get("GITHUB_STEP_SUMMARY")
    if not page:
        return
    # Escape the characters that end a cell or a row, or begin markup.
    cells = [[" ".join(_MARKUP.sub(r"\\\g<0>", c).split()) for c in row] for row in (header, *rows)]
    lines = [cells[0], ["---"] * len(header), *cells[1:]]
    with Path(page).open("a", encoding="utf-8") as file:
        file.write(f"### {title}\n\n")
        file.writelines(f"| {' | '.join(line)} |\n" for line in lines)
        file.write("\n")
