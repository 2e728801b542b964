"""What a scenario says of itself."""

from __future__ import annotations

from typing import NoReturn

import pytest


def not_proven(reason: str) -> NoReturn:
    """End a scenario that cannot run here: the evidence says why, and never that it passed.

    Only for what another machine would have: another kernel, another control group
    version, an emulator that Debian does not package. A tool that can be installed is
    no reason.
    """
    raise pytest.skip.Exception(reason)
