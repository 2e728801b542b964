"""Outcomes that a scenario reports itself."""

from __future__ import annotations

from typing import NoReturn

import pytest


def not_proven(reason: str) -> NoReturn:
    """End a scenario that cannot run on this machine, and record the reason.

    Valid reasons: the kernel, the control group version, an emulator that Debian does not
    package. A missing tool is no reason: it can be installed.
    """
    raise pytest.skip.Exception(reason)
