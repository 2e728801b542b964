"""What `invoke doctor --phase validation` looks at, besides what phase 2 needs too."""

from __future__ import annotations

import functools
import os
import tempfile
import time
from pathlib import Path

from .. import dist, host, process
from ..arch import Platform, Target
from ..console import Status, duration, size
from ..doctor import Phase, Seen, check, emulators, ok, tool
from ..errors import BuildError
from ..image import daemon
from . import suites

#: Bytes: contexts of a gigabyte, a docker engine, and what builds leave until they end.
NEEDED_BYTES = 12 << 30
#: Seconds that buildx waits in all, while it asks a builder's daemon sixteen times whether it
#: answers, each time 0.12 s longer than before (`wait` of its driver docker-container).
BOOT_SECONDS = 14.4
#: Where scenarios write: not in memory, as /tmp may be, and not on an overlay.
PLACE = Path("/var/tmp")  # noqa: S108 - each run has a folder of its own there


for _name in suites.tools(suites.SUITES.values()):
    _callers = ", ".join(suite.name for suite in suites.SUITES.values() if _name in suite.tools)
    check(_name, f"Scenarios call it: {_callers}.", Phase.VALIDATION)(
        functools.partial(tool, _name, Status.WARN)
    )


@check("delegation", "Rootless builds have limits only where systemd gives the user control groups.", Phase.VALIDATION)  # fmt: skip
def _delegation() -> Seen:
    user = os.geteuid()
    if user == 0:
        return ok("root needs none")
    own = Path(
        f"/sys/fs/cgroup/user.slice/user-{user}.slice/user@{user}.service/cgroup.controllers"
    )
    try:
        given = own.read_text().split()
    except OSError:
        return Seen(
            Status.WARN, "no control groups of yours", "log in by systemd, with control groups of version 2"
        )  # fmt: skip
    if missing := {"cpu", "memory", "pids"} - set(given):
        return Seen(
            Status.WARN, f"not delegated: {' '.join(sorted(missing))}",
            "put [Service] Delegate=cpu cpuset io memory pids into /etc/systemd/system/user@.service.d/delegate.conf",
        )  # fmt: skip
    return ok(" ".join(given))


@check("binfmt_misc", "Runs build steps of other platforms, each through an emulator.", Phase.VALIDATION)  # fmt: skip
def _binfmt() -> Seen:
    return emulators(list(Platform), Status.WARN)


def _binaries() -> Path | None:
    """The folder with both of BuildKit's commands: of this machine's target, or on PATH."""
    folders = [dist.folder(Target.here()) / "bin"]
    if found := process.which("buildkitd"):
        folders.append(found.parent)
    return next(filter(dist.has_commands, folders), None)


@check("bootstrap", "buildx waits 14 seconds for the daemon of its container, and gives up.", Phase.VALIDATION)  # fmt: skip
def _bootstrap() -> Seen:
    binaries = _binaries()
    if binaries is None:
        return ok("not tried: there is no buildkitd yet")
    if lacking := [name for name in ("docker", *daemon.tools()) if process.which(name) is None]:
        return ok(f"not tried: there is no {lacking[0]}")
    began = time.monotonic()
    try:
        with (
            tempfile.TemporaryDirectory(prefix="doctor-", dir=PLACE) as state,
            daemon.started(binaries, Path(state)),
        ):
            took = time.monotonic() - began
    except BuildError as error:
        return Seen(Status.WARN, error.brief, error.hint)
    detail = f"buildkitd answers after {duration(took)}"
    if took > BOOT_SECONDS / 2:
        return Seen(
            Status.WARN, f"{detail}, and docker has a container to start besides",
            "when buildx has given up, the builder goes on starting: wait a minute, then"
            " `docker buildx inspect --bootstrap` again; and see whether the disk is busy",
        )  # fmt: skip
    return ok(detail)


@check("root", "Scenarios start daemons as root, and as other users.", Phase.VALIDATION)
def _root() -> Seen:
    user = os.geteuid()
    if user == 0:
        return ok("root")
    # Not a reason to call a machine unready: one only has to say so.
    if process.which("sudo"):
        return Seen(Status.WARN, f"user {user}, who has sudo", f"`{suites.AS_ROOT}`")
    return Seen(Status.FAIL, f"user {user}", "be root, or use the emulated machine")


@check(
    "space for scenarios", "They copy large files, and unpack a docker engine.", Phase.VALIDATION
)
def _space() -> Seen:
    free = host.free_bytes(PLACE)
    detail = f"{size(free)} free for {PLACE}"
    if free < NEEDED_BYTES:
        return Seen(Status.WARN, detail, f"free {size(NEEDED_BYTES)}, or some scenarios fail")
    return ok(detail)
