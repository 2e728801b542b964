"""What `invoke doctor --phase validation` looks at, besides what phase 2 needs too."""

from __future__ import annotations

import functools
import os
from pathlib import Path

from .. import host
from ..console import Status, size
from ..doctor import CHECKS, Phase, Seen, check, share, tool
from ..machine import checks as _machine  # noqa: F401 - what machines need is registered first
from . import suites

#: Bytes: contexts of a gigabyte, a docker engine, and what builds leave until they end.
NEEDED_BYTES = 12 << 30
#: Where scenarios write: not in memory, as /tmp may be, and not on an overlay.
PLACE = Path("/var/tmp")  # noqa: S108 - each run has a folder of its own there


for _name in suites.tools(suites.SUITES.values()):
    if not share(_name, Phase.VALIDATION):
        _callers = [suite.name for suite in suites.SUITES.values() if _name in suite.tools]
        _taken = any(one.name == _name for one in CHECKS)
        _title = f"{_name} for scenarios" if _taken else _name
        check(_title, f"Scenarios call it: {', '.join(_callers)}.", Phase.VALIDATION)(
            functools.partial(tool, _name, Status.WARN)
        )


@check("root", "Scenarios start daemons as root, and as other users.", Phase.VALIDATION)
def _root() -> Seen:
    if os.geteuid() == 0:
        return Seen(Status.OK, "root")
    return Seen(Status.FAIL, f"user {os.geteuid()}", "run it as root, or in the emulated machine")


@check(
    "space for scenarios", "They copy large files, and unpack a docker engine.", Phase.VALIDATION
)
def _space() -> Seen:
    free = host.free_bytes(PLACE)
    detail = f"{size(free)} free for {PLACE}"
    if free < NEEDED_BYTES:
        return Seen(Status.WARN, detail, f"free {size(NEEDED_BYTES)}, or some scenarios fail")
    return Seen(Status.OK, detail)
