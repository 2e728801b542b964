"""Checks of `invoke doctor --phase validation` that the image does not need."""

from __future__ import annotations

import functools
import os
import tempfile
import time
from pathlib import Path

from ..buildkitd import daemon
from ..core import dist, dry_run, host, process, project
from ..core.arch import Platform, Target
from ..core.console import Status, duration, size
from ..core.errors import BuildError
from ..image.doctor_checks import STATE
from ..system import host_checks
from ..system.checks import CheckResult, Phase, check, emulators, ok, tool
from . import suites

#: Bytes: contexts of a gigabyte, a docker engine, and the files of running builds.
NEEDED_BYTES = 12 << 30
#: Seconds that buildx waits for a builder's daemon in 16 attempts; each pause is 0.12 s longer
#: than the last (`wait` of its driver docker-container).
BOOT_SECONDS = 14.4


for _name in suites.tools(suites.SUITES.values()):
    _callers = ", ".join(suite.name for suite in suites.SUITES.values() if _name in suite.tools)
    check(_name, f"Scenarios call it: {_callers}.", Phase.VALIDATION)(
        functools.partial(tool, _name, Status.WARN)
    )


@check("delegation", "Limits of rootless builds need control groups that systemd delegates.", Phase.VALIDATION)  # fmt: skip
def _delegation() -> CheckResult:
    user = os.geteuid()
    if user == 0:
        return ok("root needs none")
    own = Path(
        f"/sys/fs/cgroup/user.slice/user-{user}.slice/user@{user}.service/cgroup.controllers"
    )
    try:
        given = own.read_text().split()
    except OSError:
        return CheckResult(
            Status.WARN, "no delegated control groups", "log in by systemd, with control groups of version 2"
        )  # fmt: skip
    if missing := {"cpu", "memory", "pids"} - set(given):
        return CheckResult(
            Status.WARN, f"not delegated: {' '.join(sorted(missing))}",
            "put [Service] Delegate=cpu cpuset io memory pids into /etc/systemd/system/user@.service.d/delegate.conf",
        )  # fmt: skip
    return ok(" ".join(given))


def _device(device: str, driver: str) -> CheckResult:
    """Check that every user can open a device, as with udev."""
    reason = host_checks.device_error(Path(device))
    if not reason:
        return ok(f"every user can open {device}")
    # A container may neither load drivers nor change the modes of its devices.
    fix = ("chmod", "666", device) if Path(device).exists() else ("modprobe", driver)
    return CheckResult(
        Status.WARN, f"{device}: {reason}",
        f"{process.show(fix)}; in a container, start it with --device {device}", commands=(fix,),
    )  # fmt: skip


@check("tun", "Rootless daemons with their own network open /dev/net/tun.", Phase.VALIDATION)
def _tun() -> CheckResult:
    return _device("/dev/net/tun", "tun")


@check("fuse", "Rootless daemons open /dev/fuse where overlayfs does not work.", Phase.VALIDATION)
def _fuse() -> CheckResult:
    return _device("/dev/fuse", "fuse")


@check("device nodes", "Scenarios create device nodes.", Phase.VALIDATION)  # fmt: skip
def _nodes() -> CheckResult:
    if os.geteuid() != 0:
        return ok("not tested: scenarios run as root")
    if host_checks.mount_error() or not (reason := host_checks.node_error()):
        return ok("can be created")
    return CheckResult(
        Status.FAIL, f"cannot be created: {reason}", "start the container with --privileged"
    )


@check("bridge network", "Connects the containers of docker and CNI.", Phase.VALIDATION)  # fmt: skip
def _bridge() -> CheckResult:
    if os.geteuid() != 0:
        return ok("not tested: needs root")
    lacking = [name for name in ("ip", "iptables") if process.which(name) is None]
    if lacking:
        return tool(lacking[0], Status.WARN)
    if host_checks.mount_error() or not (reason := host_checks.bridge_error()):
        return ok("bridge, veth and address translation")
    return CheckResult(
        Status.WARN,
        reason,
        "modprobe -a bridge veth iptable_nat, or use another kernel",
    )


@check("rootless service", "`buildkit-rootless` runs a daemon per user.", Phase.VALIDATION)  # fmt: skip
def _rootless_service() -> CheckResult:
    script = project.ROOT / "packaging/buildkit-rootless-check"
    if os.geteuid() == 0:
        return ok(f"not tested: run {script} as the user of the service")
    answer = process.probe([script, "--quiet"])
    if answer.ok:
        return ok("can run")
    error, _, fix = answer.stderr.partition("\n  fix: ")
    return CheckResult(Status.WARN, error.removeprefix("error: "), fix.partition("\n")[0])


@check("binfmt_misc", "Runs build steps of other platforms in an emulator.", Phase.VALIDATION)  # fmt: skip
def _binfmt() -> CheckResult:
    return emulators(list(Platform), Status.WARN)


def _binaries() -> Path | None:
    """The directory with both BuildKit commands: in dist/ for this machine, or on PATH."""
    directories = [dist.directory(Target.here()) / "bin"]
    if found := process.which("buildkitd"):
        directories.append(found.parent)
    return next(filter(dist.has_commands, directories), None)


@check("bootstrap", "buildx waits 14 seconds for the daemon in its container.", Phase.VALIDATION)  # fmt: skip
def _bootstrap() -> CheckResult:
    if dry_run.active() or host_checks.mount_error():
        return ok(f"not tested: {'--dry' if dry_run.active() else 'see `mounts`'}")
    binaries = _binaries()
    if binaries is None:
        return ok("not tested: buildkitd is missing")
    if lacking := [name for name in ("docker", *daemon.tools()) if process.which(name) is None]:
        return ok(f"not tested: {lacking[0]} is missing")
    began = time.monotonic()
    try:
        with (
            tempfile.TemporaryDirectory(prefix="doctor-", dir=STATE) as state,
            daemon.started(binaries, Path(state)),
        ):
            took = time.monotonic() - began
    except BuildError as error:
        return CheckResult(Status.WARN, error.brief, error.hint)
    detail = f"buildkitd answers after {duration(took)}"
    if took > BOOT_SECONDS / 2:
        return CheckResult(
            Status.WARN, f"{detail}, and docker must start a container too",
            "after a timeout of buildx the builder still starts: wait a minute, then run"
            " `docker buildx inspect --bootstrap` again; check whether the disk is busy",
        )  # fmt: skip
    return ok(detail)


@check("root", "Scenarios start daemons as root and as other users.", Phase.VALIDATION)
def _root() -> CheckResult:
    user = os.geteuid()
    if user == 0:
        return ok("root")
    # The machine is ready: only the command differs.
    if process.which("sudo"):
        return CheckResult(Status.WARN, f"user {user} with sudo", f"run `{suites.AS_ROOT}`")
    return CheckResult(Status.FAIL, f"user {user}", "log in as root, or use the emulated machine")


@check("space for scenarios", "Scenarios copy large files and unpack an engine.", Phase.VALIDATION)
def _space() -> CheckResult:
    free = host.free_bytes(STATE)
    detail = f"{size(free)} free for {STATE}"
    if reason := host_checks.noexec_error(STATE):
        return CheckResult(
            Status.FAIL, reason, f"mount -o remount,exec {host_checks.mount_point(STATE)}"
        )
    if free < NEEDED_BYTES:
        return CheckResult(
            Status.WARN, detail, f"free {size(NEEDED_BYTES)}, otherwise some scenarios fail"
        )
    return ok(detail)
