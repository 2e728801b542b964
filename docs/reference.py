"""Reference pages that are generated from the code: commands and configuration."""

from __future__ import annotations

import inspect
import json
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tasks
from buildkit_riscv64 import program
from buildkit_riscv64.core import config
from buildkit_riscv64.examples import EXAMPLES

COMMANDS = """\
# Command reference

This page is generated from the code; `invoke TASK --help` prints the same. `invoke` without
arguments lists the tasks by phase, and `nox` lists its sessions.

- `-y` is `--yes` and `-h` is `--help`; no other flag has a short form.
- `--json` prints one JSON document on stdout, also when the task fails before it has a result:
  `{"error": …, "fix": …, "code": …}`. All other output goes to stderr.
- A wrong task, flag or value ends with [exit code 2](../exit-codes.md).
- Long tasks print how long they usually take on this machine, and then the time left. The file
  `durations.json` in the cache directory has the durations of the last runs. Until a task has run
  here, the estimate is a recorded duration, scaled to this machine.

`invoke --dry TASK` prints what the task would do, and changes nothing: the commands to run, the
files to write or delete, the packages to install. A dry run reads files, asks programs for their
versions, and sends GET requests. It writes only to temporary directories, which it removes. It
starts no build, container or machine. Each task below lists its changes. If the next steps depend
on a change, such as a missing Go, the dry run prints that and ends. Its exit code is 0, or that of
the error with which the task itself would end before it changes anything.

When the environment `.venv` is active, `source <(invoke --print-completion-script bash)` completes
names and flags.
"""

CONFIGURATION = """\
# Configuration

Flags override environment variables, variables override `invoke.yaml` in the checkout, and
`invoke.yaml` overrides the defaults. A task reports a wrong key or type before it starts anything.
Each key in `invoke.yaml`, with its variable:

"""


def _text(text: str) -> str:
    """Escape `<` outside code: NAME <ADDRESS> is not HTML."""
    return re.sub(r"(`[^`]*`)|<", lambda found: found[1] or "&lt;", text)


def _task(name: str, task: Any) -> Iterator[str]:
    yield f"## {name}\n"
    yield _text(textwrap.dedent(inspect.getdoc(task.body) or "")) + "\n"
    arguments = task.get_arguments()
    yield f"```text\n{program.usage(name, arguments)}\n```\n"
    if arguments:
        yield "| flag | meaning |\n| --- | --- |"
        for one in arguments:
            typed = one.name.upper() if one.positional else program.flag_names(one)
            what = _text(program.flag_help(one)).replace("|", "\\|")
            yield f"| `{typed}` | {what} |"
        yield ""
    yield "```sh\n" + "\n".join(EXAMPLES[name]) + "\n```\n"


def commands() -> str:
    """Every task with its flags, from the source of `--help`."""
    lines = [COMMANDS]
    for name in sorted(tasks.ns.task_names):
        lines += _task(name, tasks.ns[name])
    return "\n".join(lines)


def _keys(
    values: dict[str, Any], prefix: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from _keys(value, (*prefix, key))
        else:
            yield (*prefix, key), value


def _comments() -> dict[str, str]:
    """The comment above each key in the code."""
    found: dict[str, str] = {}
    lines: list[str] = []
    for line in inspect.getsource(config).splitlines():
        text = line.strip()
        if text.startswith("# "):
            lines.append(text.removeprefix("# "))
        elif text.startswith('"') and '":' in text:
            found.setdefault(text.split('"')[1], " ".join(lines))
            lines = []
        else:
            lines = []
    return found


def configuration() -> str:
    """Every key, with its variable and its default."""
    comments = _comments()
    entries = []
    for path, default in _keys(config.DEFAULTS):
        what = _text(comments.get(path[-1], ""))
        if default not in ("", {}):
            shown = default if isinstance(default, str) else json.dumps(default)
            what += f" Default: `{shown}`."
        variable = "_".join(["INVOKE", *path]).upper()
        # Invoke reads no variable for a table.
        name = "" if default == {} else f", `{variable}`"
        entries.append(f"`{'.'.join(path)}`{name}\n: {what}\n")
    return CONFIGURATION + "\n".join(entries)


def write(directory: Path) -> None:
    """Write the pages that changed: sphinx reads unchanged pages from its cache."""
    directory.mkdir(exist_ok=True)
    for name, text in {"commands": commands(), "configuration": configuration()}.items():
        path = directory / f"{name}.md"
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
