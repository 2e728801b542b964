"""Pages that the code knows best: commands and configuration."""

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

Made from the code, and the same as `invoke TASK --help`. `invoke` without arguments shows the
tasks by phase, and `nox` its sessions.

- `-y` is `--yes` and `-h` is `--help`; no other flag has a short form.
- `--json` prints one JSON document on stdout, also when the task fails before it has a result:
  `{"error": …, "fix": …, "code": …}`. Everything else is on stderr.
- A wrong task, flag or value ends with [exit code 2](../exit-codes.md).
- Long tasks say beforehand how long they usually take on this machine, and meanwhile what is
  left. The durations of the last runs are in `durations.json` in the cache directory; until a
  task has run here, the estimate is a recorded duration, scaled to this machine.

`invoke --dry TASK` prints what a task would do, and changes nothing: the commands that it would
run, the files that it would write or delete, the packages that it would install. It reads files,
asks programs for their versions, and sends GET requests. It writes in temporary directories
alone, which it removes; it starts no build, container or machine. Each task says below what it
changes. Where the rest depends on a change, as on Go that is not here yet, a dry run says so and
ends. It ends with exit code 0, or with the error that the task itself would end with before it
changes anything.

With the environment of `.venv` active, `source <(invoke --print-completion-script bash)` has
names and flags completed.
"""

CONFIGURATION = """\
# Configuration

Flags beat environment variables, those beat `invoke.yaml` in the checkout, that beats the
defaults. A wrong key or type is reported before anything starts. Each key in `invoke.yaml`, with
its variable:

"""


def _text(said: str) -> str:
    """What is meant to be read as it is: NAME <ADDRESS> is no HTML."""
    return re.sub(r"(`[^`]*`)|<", lambda found: found[1] or "&lt;", said)


def _task(name: str, task: Any) -> Iterator[str]:
    yield f"## {name}\n"
    yield _text(textwrap.dedent(inspect.getdoc(task.body) or "")) + "\n"
    arguments = task.get_arguments()
    yield f"```text\n{program.usage(name, arguments)}\n```\n"
    if arguments:
        yield "| flag | what |\n| --- | --- |"
        for one in arguments:
            typed = one.name.upper() if one.positional else program.flag_names(one)
            what = _text(program.flag_help(one)).replace("|", "\\|")
            yield f"| `{typed}` | {what} |"
        yield ""
    yield "```sh\n" + "\n".join(EXAMPLES[name]) + "\n```\n"


def commands() -> str:
    """Every task with its flags, from the same place as `--help`."""
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
    """Write the pages, only where they differ: sphinx reads unchanged pages from its cache."""
    folder.mkdir(exist_ok=True)
    for name, text in {"commands": commands(), "configuration": configuration()}.items():
        path = folder / f"{name}.md"
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
