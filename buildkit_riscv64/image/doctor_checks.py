"""Checks of `invoke doctor --phase image`; most are requirements of BuildKit itself."""

from __future__ import annotations

import os
from pathlib import Path

from ..binaries.elf import read_elf
from ..core import process, project
from ..core.console import Status
from ..core.errors import CheckError, MissingRequirementError
from ..system import host_checks
from ..system.checks import CheckResult, Phase, check, ok, tool
from . import buildx_builder

#: Directory for the state of scenarios and test engines; /tmp may be in memory.
STATE = Path("/var/tmp")  # noqa: S108 - each run creates its own directory in it


@check("docker", "`--engine docker`, buildx and `--method make` need it.", Phase.IMAGE, Phase.VALIDATION)  # fmt: skip
def _docker() -> CheckResult:
    without = (
        "apt-get install docker.io, and since Debian 13 docker-cli docker-buildx too;"
        " or use `--engine buildkit`"
    )
    seen = tool("docker", Status.WARN, without)
    if seen.status is not Status.OK:
        return seen
    try:
        engine = buildx_builder.engine()
    except MissingRequirementError as error:
        return CheckResult(Status.WARN, error.brief, error.hint)
    if engine.podman:
        return CheckResult(
            Status.WARN, f"{engine}, which has no BuildKit", buildx_builder.PODMAN_HINT
        )
    if not process.probe(["docker", "buildx", "version"]).ok:
        return CheckResult(
            Status.WARN, f"{engine}, without buildx",
            "apt-get install docker-buildx; for Debian 12 only Docker's own packages have it",
            "docker-buildx",
        )  # fmt: skip
    return ok(str(engine))


@check("docker-init", "docker adds it to containers as their first process, and buildx uses this.", Phase.IMAGE, Phase.VALIDATION)  # fmt: skip
def _docker_init() -> CheckResult:
    # Debian installs it in a directory of PATH, docker's own packages in libexec.
    found = process.which("docker-init") or Path("/usr/libexec/docker/docker-init")
    if not found.exists():
        return ok("none here")
    fix = (
        'apt-get install tini, and in /etc/docker/daemon.json: "init-path": "/usr/bin/tini-static"'
    )
    try:
        interpreter = read_elf(found.resolve()).interpreter
    except CheckError as error:
        with found.open("rb") as file:
            first = file.readline(80)
        if not first.startswith(b"#!"):
            return CheckResult(Status.WARN, error.brief, fix)
        interpreter = first[2:].decode(errors="replace").strip()
        return CheckResult(
            Status.WARN, f"{found} is a script: it needs {interpreter}, which some images lack", fix,
        )  # fmt: skip
    if not interpreter:
        return ok(f"{found}, static")
    return CheckResult(
        Status.WARN, f"{found} needs {interpreter}, which images of another C library lack", fix
    )  # fmt: skip


@check("runc", "BuildKit runs containers with it; without it there is no OCI worker.", Phase.IMAGE, Phase.VALIDATION)  # fmt: skip
def _runc() -> CheckResult:
    return tool("runc", Status.WARN)


@check("umoci", "Unpacks the image to test it.", Phase.IMAGE)
def _umoci() -> CheckResult:
    return tool("umoci", Status.WARN)


@check("skopeo", "`push-image --registry` and `--base registry` need it.", Phase.IMAGE)
def _skopeo() -> CheckResult:
    return tool("skopeo", Status.WARN)


@check("mounts", "BuildKit mounts snapshots: as root, or as root of a user namespace.", Phase.IMAGE, Phase.VALIDATION, Phase.MACHINE)  # fmt: skip
def _mounts() -> CheckResult:
    reason = host_checks.mount_error()
    if not reason:
        return ok("namespaces and mounts work")
    if os.geteuid() == 0:
        return CheckResult(
            Status.FAIL, f"root cannot mount here: {reason}",
            "start the container with --privileged, or use a machine or the emulated one",
        )  # fmt: skip
    return CheckResult(
        Status.FAIL, f"this user cannot mount in a user namespace: {reason}",
        "see the check `user namespaces`, or run it as root", "" if process.which("newuidmap") else "uidmap",
    )  # fmt: skip


@check("Debian's archive", "Source of packages for images, scenarios and the emulated machine.", Phase.IMAGE, Phase.VALIDATION, Phase.MACHINE)  # fmt: skip
def _archive() -> CheckResult:
    if reason := host_checks.network_error():
        return CheckResult(
            Status.WARN, reason,
            "check the network, the proxy variables and /etc/apt/sources.list; without it, only cached"
            " packages can be used",
        )  # fmt: skip
    return ok("answers")


@check("overlayfs", "Snapshots without a copy of every file.", Phase.IMAGE, Phase.VALIDATION)
def _overlay() -> CheckResult:
    if host_checks.mount_error():
        return ok("not tried: see `mounts`")
    for place in {host_checks.nearest(project.cache()), STATE}:
        if reason := host_checks.overlay_error(place):
            return CheckResult(
                Status.WARN, f"does not work in {place} ({host_checks.filesystem(place)}): {reason}",
                "use a kernel with CONFIG_OVERLAY_FS, and a local filesystem such as ext4 that is"
                " not an overlay itself: for the cache, set XDG_CACHE_HOME",
            )  # fmt: skip
    return ok("works for the cache and for scenarios")


@check("seccomp", "Containers are confined by system call filters.", Phase.IMAGE, Phase.VALIDATION)
def _seccomp() -> CheckResult:
    status = Path("/proc/self/status").read_text()
    if "Seccomp_filters:" in status or Path("/proc/sys/kernel/seccomp").exists():
        return ok("in the kernel")
    return CheckResult(
        Status.WARN, "not in this kernel", "use a kernel with CONFIG_SECCOMP_FILTER=y"
    )


@check("cgroups", "Limits for builds; rootless needs version 2.", Phase.IMAGE, Phase.VALIDATION)
def _cgroups() -> CheckResult:
    controllers = Path("/sys/fs/cgroup/cgroup.controllers")
    if not controllers.exists():
        return CheckResult(
            Status.WARN, "version 1, or not mounted", "boot with systemd.unified_cgroup_hierarchy=1"
        )
    # Users get theirs from systemd: see the check `delegation`.
    if os.geteuid() == 0 and (reason := host_checks.cgroup_error()):
        return CheckResult(
            Status.WARN, f"version 2, but {reason}",
            "mount -o remount,rw /sys/fs/cgroup; start a container with --privileged",
        )  # fmt: skip
    return ok(f"version 2: {controllers.read_text().strip() or 'no controllers here'}")


#: Namespaces of a container, by their names in /proc/sys/user.
_NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")
#: Kernel settings that forbid namespaces to users: the forbidding and an allowing value.
_FORBIDDING = {
    **{f"user.max_{name}_namespaces": ("0", "15000") for name in _NAMESPACES},
    "kernel.unprivileged_userns_clone": ("0", "1"),
    "kernel.apparmor_restrict_unprivileged_userns": ("1", "0"),
}


@check("user namespaces", "Rootless BuildKit runs in one; image builds without root too.", Phase.IMAGE, Phase.VALIDATION)  # fmt: skip
def _user_namespaces() -> CheckResult:
    for name, (forbids, allows) in _FORBIDDING.items():
        file = Path("/proc/sys") / name.replace(".", "/")
        if name == "user.max_user_namespaces" and not file.exists():
            return CheckResult(
                Status.WARN, "not in this kernel", "use a kernel with CONFIG_USER_NS=y"
            )
        if file.exists() and file.read_text().strip() == forbids:
            more = ", or install an AppArmor profile" if "apparmor" in name else ""
            fix = f"sysctl {name}={allows}{more}"
            return CheckResult(Status.WARN, f"forbidden by {name}={forbids}", fix)
    if os.geteuid() == 0:
        return ok("allowed")
    if process.which("newuidmap") is None:
        return tool("newuidmap", Status.WARN)
    if reason := host_checks.namespace_error():
        return CheckResult(
            Status.WARN, f"cannot be created: {reason}",
            "packaging/buildkit-rootless-check shows what is missing",
        )  # fmt: skip
    return ok("work, with the user ids that /etc/subuid grants")
