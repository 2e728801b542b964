"""Pages that the code knows best: commands and configuration."""

from __future__ import annotations

import inspect
import json
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from invoke.parser import Argument

import tasks
from buildkit_riscv64 import config

COMMANDS = """\
# Command reference

Made from the code, and the same as `invoke TASK --help`. `invoke --list` names all
tasks; `invoke --dry TASK` says what a task would do, and does nothing.

With the environment of `.venv` active, `source <(invoke --print-completion-script bash)` has
names and flags completed.
"""

CONFIGURATION = """\
# Configuration

Flags beat environment variables, those beat `invoke.yaml` in the checkout, that beats the
defaults. A wrong key or type is told before anything starts. Each key in `invoke.yaml`, with
its variable:

"""


def _flag(argument: Argument) -> str:
    """As it is typed."""
    names = sorted((f"--{n}" if len(n) > 1 else f"-{n}" for n in argument.names), key=len)
    value = "" if argument.kind is bool else f" {argument.kind.__name__.upper()}"
    return ", ".join(f"`{name}{value if name.startswith('--') else ''}`" for name in names)


def _text(said: str) -> str:
    """What is meant to be read as it is: NAME <ADDRESS> is no HTML."""
    return re.sub(r"(`[^`]*`)|<", lambda found: found[1] or "&lt;", said)


def _task(name: str, task: Any) -> Iterator[str]:
    yield f"## {name}\n"
    yield _text(textwrap.dedent(inspect.getdoc(task.body) or "")) + "\n"
    arguments = task.get_arguments()
    if arguments:
        yield "| flag | what |\n| --- | --- |"
        for one in arguments:
            what = _text(one.help or "").replace("|", "\\|")
            yield f"| {_flag(one)} | {what} |"
        yield ""


def commands() -> str:
    """Every task with its flags, from the same place as `--help`."""
    lines = [COMMANDS]
    for name in sorted(tasks.ns.task_names):
        lines += _task(name, tasks.ns[name])
    return "\n".join(lines)


def _keys(values: dict[str, Any], prefix: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:  # fmt: skip
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from _keys(value, (*prefix, key))
        else:
            yield (*prefix, key), value


def _comments() -> dict[str, str]:
    """What stands above each key in the code."""
    found: dict[str, str] = {}
    said: list[str] = []
    for line in inspect.getsource(config).splitlines():
        text = line.strip()
        if text.startswith("# "):
            said.append(text.removeprefix("# "))
        elif text.startswith('"') and '":' in text:
            found.setdefault(text.split('"')[1], " ".join(said))
            said = []
        else:
            said = []
    return found


def configuration() -> str:
    """Every key, with its variable and its default."""
    comments = _comments()
    entries = []
    for path, default in _keys(config.DEFAULTS):
        said = _text(comments.get(path[-1], ""))
        if default not in ("", {}):
            shown = default if isinstance(default, str) else json.dumps(default)
            said += f" Default: `{shown}`."
        variable = "_".join(["INVOKE", *path]).upper()
        # A table of names has no variable: Invoke takes none for what has no type.
        name = "" if default == {} else f", `{variable}`"
        entries.append(f"`{'.'.join(path)}`{name}\n: {said}\n")
    return CONFIGURATION + "\n".join(entries)


def write(folder: Path) -> None:
    """Write the pages, where they differ from what is there: then nothing is read anew."""
    folder.mkdir(exist_ok=True)
    for name, text in {"commands": commands(), "configuration": configuration()}.items():
        path = folder / f"{name}.md"
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
