"""Counting what a daemon executes, where time says nothing: by valgrind, which interprets it.

The count is the daemon's own, from its start to its end: neither that of the programs it
starts nor the kernel's. It does not depend on what else the machine does, but the daemon's
goroutines and its garbage collector are never scheduled twice alike, so it has a spread, too.
"""

from __future__ import annotations

import re
from pathlib import Path

from buildkit_riscv64.errors import BuildError

#: What has to be there.
TOOL = "valgrind"
# "==1==   guest instrs:  577,431,341"
_COUNTED = re.compile(r"guest instrs:\s+([\d,]+)")


def wrap(log: Path) -> list[str]:
    """What is put before a command to have its instructions counted.

    Args:
        log: where the count will be when it has ended.
    """
    return [TOOL, "--tool=lackey", "--basic-counts=yes", f"--log-file={log}"]


def counted(log: Path) -> int:
    """The count.

    Raises:
        BuildError: there is none, as where the command was killed.
    """
    found = _COUNTED.search(log.read_text(errors="replace")) if log.exists() else None
    if found is None:
        raise BuildError(
            "valgrind counted nothing: the daemon did not end by itself", "run it again"
        )
    return int(found[1].replace(",", ""))
