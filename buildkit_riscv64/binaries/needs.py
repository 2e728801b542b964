"""What `invoke doctor --phase binaries` looks at."""

from __future__ import annotations

import os
from pathlib import Path

from .. import host, pins, project
from ..apt import PACKAGES
from ..console import Status, size
from ..doctor import Phase, Seen, check, ok, tool
from . import cc, toolchain

GIB = 1 << 30


@check("git", "Sources are pinned by commit.", Phase.BINARIES, Phase.VALIDATION)
def _git() -> Seen:
    return tool("git", Status.FAIL)


# Scenarios are compiled by it too, and nfpm, which makes the packages.
@check("go", "It compiles BuildKit, or fetches the pinned Go that does.", Phase.BINARIES, Phase.VALIDATION, Phase.AUTOMATION)  # fmt: skip
def _go() -> Seen:
    pinned = pins.load()
    found = list(toolchain.candidates(pinned))
    if not found:
        return Seen(Status.FAIL, "not installed", "apt-get install golang-go", PACKAGES["go"])
    for go in found:
        if go.version == pinned.go_version:
            return ok(f"{go.version}, the pinned one, at {go.command}")
    for go in found:
        if not toolchain.older_than(go.version, pins.OLDEST_BOOTSTRAP_GO):
            return ok(f"{go.version}; a build fetches the pinned {pinned.go_version} with it")
    return Seen(
        Status.FAIL, f"{found[0].version} is too old to fetch {pinned.go_version}",
        "apt-get install golang-go", PACKAGES["go"],
    )  # fmt: skip


@check("make", "`build-binaries --via make` runs upstream's Makefile.", Phase.BINARIES)
def _make() -> Seen:
    return tool("make", Status.WARN)


@check("C compiler", "`build-binaries --bundle` compiles runc with it, and links libseccomp.", Phase.BINARIES)  # fmt: skip
def _c_compiler() -> Seen:
    lacking = cc.missing()
    if lacking:
        packages = " ".join(sorted(lacking.values()))
        detail = f"not installed: {', '.join(lacking)}"
        return Seen(Status.WARN, detail, f"apt-get install {packages}", packages)
    return ok(f"{cc.facts()['compiler']}, with libseccomp")


@check("memory", "The linker of buildkitd alone takes more than 1 GB.", Phase.BINARIES)
def _memory() -> Seen:
    total, available = host.memory_bytes(), host.memory_bytes("MemAvailable")
    detail = f"{size(total)}, {size(available)} of it available, {host.cpus()} processors"
    if available < 3 * GIB // 2:
        return Seen(
            Status.FAIL, detail, "close programs or add swap: fallocate, mkswap, swapon (4 GiB)"
        )
    if available < 3 * GIB:
        return Seen(Status.WARN, detail, "it will do, slowly; close programs or add swap")
    return ok(detail)


@check("disk", "Go's caches take 3 GiB, the artifacts and their making 0.8 GiB.", Phase.BINARIES)
def _disk() -> Seen:
    places = {"the checkout": project.DIST, "Go's caches": Path.home()}
    free = {name: host.free_bytes(path) for name, path in places.items()}
    detail = ", ".join(f"{size(amount)} free for {name}" for name, amount in free.items())
    least = min(free.values())
    if least < GIB:
        return Seen(Status.FAIL, detail, "free at least 4 GiB; `go clean -cache` empties Go's")
    if least < 4 * GIB:
        return Seen(Status.WARN, detail, "enough only if Go's caches are filled; free 4 GiB")
    return ok(detail)


@check("dist/", "The artifacts go there.", Phase.BINARIES)
def _dist() -> Seen:
    place = project.DIST if project.DIST.exists() else project.ROOT
    if os.access(place, os.W_OK):
        return ok("can be written")
    return Seen(Status.FAIL, f"{place} cannot be written", f"chown it to {os.geteuid()}")
