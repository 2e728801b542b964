"""Checks of `invoke doctor --phase test`: tools that only our own tests call."""

from __future__ import annotations

import functools

from ..core.arch import Architecture
from ..core.console import Status
from ..system.checks import CheckResult, Phase, check, ok, tool
from . import capabilities

for _name in capabilities.TOOLS:
    check(_name, "Tests call it.", Phase.TEST)(functools.partial(tool, _name, Status.WARN))


@check("browser", "Tests open the published pages in a browser.", Phase.TEST)
def _browser() -> CheckResult:
    if Architecture.here() is Architecture.RISCV64:
        return ok("none: Debian has no browser for tests on riscv64; the tests open no page")
    return tool(capabilities.BROWSER, Status.WARN)
