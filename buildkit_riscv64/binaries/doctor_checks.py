"""Checks of `invoke doctor --phase binaries`."""

from __future__ import annotations

import os
from pathlib import Path

from ..core import host, pins, project
from ..core.console import Status, size
from ..system import host_checks
from ..system.apt import PACKAGES
from ..system.checks import CheckResult, Phase, check, ok, tool
from . import c_toolchain, toolchain

GIB = 1 << 30


@check("git", "Sources are pinned by commit.", Phase.BINARIES, Phase.VALIDATION)
def _git() -> CheckResult:
    return tool("git", Status.FAIL)


# It also compiles scenarios and nfpm, which creates packages.
@check("go", "Compiles BuildKit, or fetches the pinned Go.", Phase.BINARIES, Phase.VALIDATION, Phase.AUTOMATION, Phase.TEST)  # fmt: skip
def _go() -> CheckResult:
    pinned = pins.load()
    found = list(toolchain.candidates(pinned))
    if not found:
        return CheckResult(
            Status.FAIL, "not installed", "apt-get install golang-go", PACKAGES["go"]
        )
    for go in found:
        if go.version == pinned.go_version:
            return ok(f"{go.version}, the pinned one, at {go.command}")
    for go in found:
        if not toolchain.older_than(go.version, pins.OLDEST_BOOTSTRAP_GO):
            return ok(f"{go.version}; a build fetches the pinned {pinned.go_version} with it")
    return CheckResult(
        Status.FAIL, f"{found[0].version} is too old to fetch {pinned.go_version}",
        "apt-get install golang-go", PACKAGES["go"],
    )  # fmt: skip


@check("make", "`build-binaries --method make` runs upstream's Makefile.", Phase.BINARIES)
def _make() -> CheckResult:
    return tool("make", Status.WARN)


@check("C compiler", "`build-binaries --bundle` compiles runc and links libseccomp.", Phase.BINARIES, Phase.TEST)  # fmt: skip
def _c_compiler() -> CheckResult:
    lacking = c_toolchain.missing()
    if lacking:
        packages = " ".join(sorted(lacking.values()))
        detail = f"not installed: {', '.join(lacking)}"
        return CheckResult(Status.WARN, detail, f"apt-get install {packages}", packages)
    return ok(f"{c_toolchain.facts()['compiler']}, with libseccomp")


@check("memory", "The linker of buildkitd alone takes more than 1 GB.", Phase.BINARIES)
def _memory() -> CheckResult:
    total, available = host.memory_bytes(), host.memory_bytes("MemAvailable")
    detail = f"{size(total)}, {size(available)} of it available, {host.cpus()} processors"
    if available < 3 * GIB // 2:
        return CheckResult(
            Status.FAIL, detail, "close programs or add swap: fallocate, mkswap, swapon (4 GiB)"
        )
    if available < 3 * GIB:
        return CheckResult(Status.WARN, detail, "it will do, slowly; close programs or add swap")
    return ok(detail)


@check("disk", "Go's caches take 3 GiB, a build with its artifacts 0.8 GiB.", Phase.BINARIES)
def _disk() -> CheckResult:
    places = {"the checkout": project.DIST, "Go's caches": Path.home()}
    free = {name: host.free_bytes(path) for name, path in places.items()}
    detail = ", ".join(f"{size(amount)} free for {name}" for name, amount in free.items())
    least = min(free.values())
    if least < GIB:
        return CheckResult(
            Status.FAIL, detail, "free at least 4 GiB; `go clean -cache` empties Go's"
        )
    if least < 4 * GIB:
        return CheckResult(Status.WARN, detail, "enough only if Go's caches are filled; free 4 GiB")
    return ok(detail)


@check("dist/", "Artifacts are written to it.", Phase.BINARIES)
def _dist() -> CheckResult:
    place = project.DIST if project.DIST.exists() else project.ROOT
    if os.access(place, os.W_OK):
        return ok("can be written")
    return CheckResult(Status.FAIL, f"{place} cannot be written", f"chown it to {os.geteuid()}")


@check("noexec", "Compiled and fetched programs run in place.", Phase.BINARIES, Phase.IMAGE, Phase.VALIDATION)  # fmt: skip
def _noexec() -> CheckResult:
    for path in (project.DIST, project.cache(), Path.home()):
        if reason := host_checks.noexec_error(path):
            return CheckResult(Status.FAIL, reason, host_checks.noexec_fix(path))
    return ok("programs can be run in dist/ and in the caches")
