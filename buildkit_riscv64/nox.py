"""nox, started by `./nox`; without arguments, an overview of its sessions."""

from __future__ import annotations

import collections
import inspect
import runpy
import sys
from collections.abc import Mapping
from typing import Any

import nox.registry
from nox.__main__ import main as run_nox

from .core import project
from .program import columns

#: Headings of the overview, by a session's first tag.
GROUPS = {
    "check": "Checks of the sources; no build",
    "real": "Tests with the real BuildKit",
    "validate": "Validation of the artifacts in dist/",
    "machine": "On an emulated riscv64 machine",
    "": "Other",
}
#: The first commands in the overview, with their descriptions.
FIRST = (
    ("nox -s unit", "run only the unit tests"),
    ("nox -t check", "run every session that needs no build"),
    ("invoke test --yes", "install missing packages, and run every session of CI"),
)


def sessions() -> Mapping[str, Any]:
    """The sessions of noxfile.py, by name."""
    runpy.run_path(str(project.ROOT / "noxfile.py"))
    return nox.registry.get()


def print_overview() -> None:
    """Print the first commands, and every session by group."""
    print("The test matrix.\n\nStart with:")
    print("\n".join(columns(FIRST)))
    found = collections.defaultdict(list)
    for name, session in sessions().items():
        first = inspect.cleandoc(session.func.__doc__ or "").splitlines()[0]
        found[(session.tags or [""])[0]].append((name, first))
    for tag, title in GROUPS.items():
        print(f"\n{title}{f' (nox -t {tag})' if tag else ''}")
        print("\n".join(columns(found[tag])))
    print(
        "\n`nox -s NAME` runs a session. Arguments after `--` go to it. `nox --help` lists flags."
    )


def main() -> None:
    """Run nox, or print the overview without arguments."""
    if sys.argv[1:]:
        run_nox()
    else:
        print_overview()


if __name__ == "__main__":
    main()
