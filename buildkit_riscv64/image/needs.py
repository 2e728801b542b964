"""What `invoke doctor --phase image` looks at; most of it is what BuildKit needs anywhere."""

from __future__ import annotations

import gzip
import os
import platform
from pathlib import Path

from .. import process
from ..binaries.elf import read_elf
from ..console import Status
from ..doctor import Phase, Seen, check, ok, tool


def _kernel_config(option: str) -> str:
    """'y', 'm', or nothing, of the running kernel; '?' when its configuration is not to be had."""
    for path, opener in (
        (Path(f"/boot/config-{platform.release()}"), open),
        (Path("/proc/config.gz"), gzip.open),
    ):
        try:
            with opener(path, "rt") as file:
                lines = list(file)
        except OSError:
            continue
        values = (line.strip().partition("=")[2] for line in lines if line.startswith(f"{option}="))
        return str(next(values, ""))
    return "?"


@check("docker", "The image's `docker` engine, buildx and `--via make` need it.", Phase.IMAGE, Phase.VALIDATION)  # fmt: skip
def _docker() -> Seen:
    without = (
        "apt-get install docker.io, and since Debian 13 docker-cli docker-buildx too;"
        " or do without, with `--engine buildkit`"
    )
    seen = tool("docker", Status.WARN, without)
    if seen.status is not Status.OK:
        return seen
    answer = process.probe(["docker", "version", "--format", "{{.Server.Version}}"])
    if not answer.ok:
        return Seen(
            Status.WARN, f"no engine answers: {answer.last_line}",
            "systemctl start docker; be root, or in group docker:"
            ' usermod --append --groups docker "$USER", then log in again',
        )  # fmt: skip
    engine = f"engine {answer.stdout.strip()}"
    if not process.probe(["docker", "buildx", "version"]).ok:
        return Seen(
            Status.WARN, f"{engine}, without buildx",
            "apt-get install docker-buildx; for Debian 12 only Docker's own packages have it",
            "docker-buildx",
        )  # fmt: skip
    return ok(engine)


@check("docker-init", "docker puts it into containers as their first process; buildx asks for that.", Phase.IMAGE, Phase.VALIDATION)  # fmt: skip
def _docker_init() -> Seen:
    # Debian has it beside the others, and docker's own packages in libexec.
    found = process.which("docker-init") or Path("/usr/libexec/docker/docker-init")
    if not found.exists():
        return ok("none here")
    interpreter = read_elf(found.resolve()).interpreter
    if not interpreter:
        return ok(f"{found}, static")
    return Seen(
        Status.WARN, f"{found} needs {interpreter}, which images of another C library lack",
        "apt-get install tini, and in /etc/docker/daemon.json: \"init-path\": \"/usr/bin/tini-static\"",
    )  # fmt: skip


@check("runc", "BuildKit runs containers with it; without it there is no OCI worker.", Phase.IMAGE, Phase.VALIDATION)  # fmt: skip
def _runc() -> Seen:
    return tool("runc", Status.WARN)


@check("umoci", "The image is unpacked with it, to be run before anybody gets it.", Phase.IMAGE)
def _umoci() -> Seen:
    return tool("umoci", Status.WARN)


@check(
    "skopeo", "`push-image --registry` pushes with it, and `--base registry` pulls.", Phase.IMAGE
)
def _skopeo() -> Seen:
    return tool("skopeo", Status.WARN)


@check("overlayfs", "Snapshots without copying every file.", Phase.IMAGE, Phase.VALIDATION)
def _overlay() -> Seen:
    known = Path("/proc/filesystems").read_text().split()
    if "overlay" in known:
        return ok("known to the kernel")
    match _kernel_config("CONFIG_OVERLAY_FS"):
        case "y" | "m" | "?":
            return ok("a module, or not loaded yet")
    return Seen(Status.WARN, "not in this kernel", "use a kernel with CONFIG_OVERLAY_FS=m")


@check("seccomp", "Containers are confined by system call filters.", Phase.IMAGE, Phase.VALIDATION)
def _seccomp() -> Seen:
    status = Path("/proc/self/status").read_text()
    if "Seccomp_filters:" in status or Path("/proc/sys/kernel/seccomp").exists():
        return ok("in the kernel")
    return Seen(Status.WARN, "not in this kernel", "use a kernel with CONFIG_SECCOMP_FILTER=y")


@check("cgroups", "Limits for builds; rootless needs version 2.", Phase.IMAGE, Phase.VALIDATION)
def _cgroups() -> Seen:
    controllers = Path("/sys/fs/cgroup/cgroup.controllers")
    if controllers.exists():
        return ok(f"version 2: {controllers.read_text().strip() or 'no controllers here'}")
    return Seen(
        Status.WARN, "version 1, or not mounted", "boot with systemd.unified_cgroup_hierarchy=1"
    )


@check("user namespaces", "Rootless BuildKit lives in one; so does what builds the image, without root.", Phase.IMAGE, Phase.VALIDATION)  # fmt: skip
def _user_namespaces() -> Seen:
    try:
        most = int(Path("/proc/sys/user/max_user_namespaces").read_text())
    except (OSError, ValueError):
        most = 0
    if not most:
        return Seen(Status.WARN, "off", "sysctl user.max_user_namespaces=15000")
    restricted = Path("/proc/sys/kernel/apparmor_restrict_unprivileged_userns")
    if restricted.exists() and restricted.read_text().strip() == "1":
        return Seen(
            Status.WARN, "restricted by AppArmor",
            "sysctl kernel.apparmor_restrict_unprivileged_userns=0, or an AppArmor profile",
        )  # fmt: skip
    return tool("newuidmap", Status.WARN) if os.geteuid() else ok(f"up to {most}")
