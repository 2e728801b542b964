"""`invoke doctor`: what each phase needs of this machine, and whether it is there.

A check looks and tells; it never changes anything. What can be mended names
the Debian packages that mend it, and :func:`main` installs them.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from . import binfmt, host, pins, process, project
from .arch import Architecture, Platform
from .console import Status, confirm, emit_json, say, size, table
from .errors import DoctorError, Failure, MissingRequirementError, UsageError

GIB = 1 << 30

#: Debian's package for each command that we call, or several with spaces between.
PACKAGES = {
    "apt-ftparchive": "apt-utils",
    "arch-test": "arch-test",
    "chromium-headless-shell": "chromium-headless-shell",
    "cpio": "cpio",
    "createrepo_c": "createrepo-c",
    "depmod": "kmod",
    "dnf": "dnf",
    "docker": "docker.io docker-cli docker-buildx",
    "dpkg-deb": "dpkg",
    "fuse-overlayfs": "fuse-overlayfs",
    "gh": "gh",
    "git": "git",
    "go": "golang-go",
    "gpg": "gnupg",
    "iptables": "iptables",
    "lintian": "lintian",
    "make": "make",
    "mke2fs": "e2fsprogs",
    "mmdebstrap": "mmdebstrap",
    "newuidmap": "uidmap",
    "openssl": "openssl",
    "pgrep": "procps",
    "qemu-img": "qemu-utils",
    "rootlesskit": "rootlesskit",
    "rpmlint": "rpmlint",
    "rpmsign": "rpm",
    "rsync": "rsync",
    "runc": "runc",
    "skopeo": "skopeo",
    "slirp4netns": "slirp4netns",
    "ssh": "openssh-client",
    "sshd": "openssh-server",
    "umoci": "umoci",
    "valgrind": "valgrind",
    "xz": "xz-utils",
    "zstd": "zstd",
}

#: What a package is called in another release, where the first name is not known; nothing
#: where that has no such package.
_OTHER_NAMES = {
    "docker-buildx": "",
    "docker-cli": "docker.io",
    "qemu-user-static": "qemu-user-binfmt",
}


class Phase(StrEnum):
    """The phases, as `--phase` takes them; and `machine`, which stands in for a board."""

    BINARIES = "binaries"
    IMAGE = "image"
    VALIDATION = "validation"
    AUTOMATION = "automation"
    MACHINE = "machine"


@dataclass(frozen=True)
class Seen:
    """What a check saw.

    Args:
        status: how bad it is.
        detail: what was seen.
        fix: how to mend it.
        package: the Debian package that mends it, if one does, or several with spaces between.
        commands: what mends it as root, once packages are there.
    """

    status: Status
    detail: str
    fix: str = ""
    package: str = ""
    commands: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True)
class Check:
    """One thing that phases need.

    Args:
        name: what is looked at.
        phases: who needs it.
        why: why it matters.
        look: looks at it.
    """

    name: str
    phases: frozenset[Phase]
    why: str
    look: Callable[[], Seen]


@dataclass(frozen=True)
class Finding:
    """A check and what it saw."""

    check: Check
    seen: Seen

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "name": self.check.name,
            "phases": sorted(self.check.phases),
            "why": self.check.why,
            **asdict(self.seen),
        }


CHECKS: list[Check] = []


def check(
    name: str, why: str, *phases: Phase
) -> Callable[[Callable[[], Seen]], Callable[[], Seen]]:
    """Register a check; later phases add their own with this."""

    def register(look: Callable[[], Seen]) -> Callable[[], Seen]:
        CHECKS.append(Check(name, frozenset(phases), why, look))
        return look

    return register


def share(name: str, phase: Phase) -> bool:
    """Have a phase need what others look at already; False when nobody does.

    What the emulated machine needs is asked for alone.
    """
    for number, one in enumerate(CHECKS):
        if one.name == name and Phase.MACHINE not in one.phases:
            CHECKS[number] = replace(one, phases=one.phases | {phase})
            return True
    return False


def _ok(detail: str) -> Seen:
    return Seen(Status.OK, detail)


def _kernel_config(option: str) -> str:
    """'y', 'm', or nothing, of the running kernel; '?' when its configuration is not to be had."""
    import gzip

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


def tool(
    command: str, severity: Status, version: tuple[str, ...] = ("--version",), otherwise: str = ""
) -> Seen:
    """Look at a command, and at the first line of what it says of its version."""
    if process.which(command) is None:
        package = PACKAGES[command]
        return Seen(severity, "not installed", otherwise or f"apt-get install {package}", package)
    answer = process.probe([command, *version])
    return _ok(answer.stdout.strip().partition("\n")[0] if answer.ok else "installed")


def emulators(platforms: Sequence[Platform], severity: Status) -> Seen:
    """Look whether programs of these platforms run here, in any root directory."""
    missing = [one for one in platforms if not binfmt.runs(one)]
    if not missing:
        return _ok(f"programs run for {', '.join(platforms)}")
    detail = f"no emulator is registered that works in any root directory for {', '.join(missing)}"
    installed = [one for one in missing if binfmt.is_installed(one)]
    if not installed:
        return Seen(severity, detail, f"apt-get install {binfmt.PACKAGE}", binfmt.PACKAGE)
    commands = [binfmt.register(one) for one in installed]
    if not binfmt.is_mounted():
        commands.insert(0, binfmt.mount())
    return Seen(
        severity, detail,
        "`invoke doctor --fix` with this phase registers them; so does: systemctl restart systemd-binfmt",
        commands=tuple(commands),
    )  # fmt: skip


@check("architecture", "Binaries are compiled on the architecture they are for.", *Phase)
def _architecture() -> Seen:
    try:
        arch = Architecture.from_uname(platform.machine())
    except Failure as error:
        return Seen(Status.FAIL, error.brief, error.hint)
    how = f"{arch}, {host.execution()}"
    if host.execution() is host.Execution.QEMU_USER:
        return Seen(
            Status.WARN, how,
            "Go programs may hang under qemu-user (golang/go#70329): use a riscv64 machine",
        )  # fmt: skip
    if arch is not Architecture.RISCV64:
        return Seen(Status.OK, f"{how}: development builds only; riscv64 is what is released")
    return _ok(how)


@check("clock", "Certificates and signatures are refused before their time.", *Phase)
def _clock() -> Seen:
    now, made = datetime.now(UTC), pins.load().time
    if now < made:
        return Seen(
            Status.FAIL, f"it says {now:%Y-%m-%d %H:%M} UTC, and what is pinned was made later",
            "timedatectl set-ntp true; a board without a battery starts in the past",
        )  # fmt: skip
    return _ok(f"{now:%Y-%m-%d %H:%M} UTC")


@check("python", "The tasks are written for it.", *Phase)
def _python() -> Seen:
    return _ok(f"{platform.python_version()} in {sys.prefix}")


@check("git", "Sources are pinned by commit.", Phase.BINARIES)
def _git() -> Seen:
    return tool("git", Status.FAIL, ("--version",))


@check("go", "It compiles BuildKit, or fetches the pinned Go that does.", Phase.BINARIES)
def _go() -> Seen:
    from .binaries import toolchain

    pinned = pins.load()
    found = list(toolchain.candidates(pinned))
    if not found:
        return Seen(Status.FAIL, "not installed", "apt-get install golang-go", PACKAGES["go"])
    for go in found:
        if go.version == pinned.go_version:
            return _ok(f"{go.version}, the pinned one, at {go.command}")
    for go in found:
        if not toolchain.older_than(go.version, pins.OLDEST_BOOTSTRAP_GO):
            return _ok(f"{go.version}; a build fetches the pinned {pinned.go_version} with it")
    return Seen(
        Status.FAIL, f"{found[0].version} is too old to fetch {pinned.go_version}",
        "apt-get install golang-go", PACKAGES["go"],
    )  # fmt: skip


@check("make", "`build-binaries --via make` runs upstream's Makefile.", Phase.BINARIES)
def _make() -> Seen:
    return tool("make", Status.WARN, ("--version",))


@check("C compiler", "`build-binaries --bundle` compiles runc with it, and links libseccomp.", Phase.BINARIES)  # fmt: skip
def _c_compiler() -> Seen:
    from .binaries import cc

    lacking = cc.missing()
    if lacking:
        packages = " ".join(sorted(lacking.values()))
        detail = f"not installed: {', '.join(lacking)}"
        return Seen(Status.WARN, detail, f"apt-get install {packages}", packages)
    return _ok(f"{cc.facts()['compiler']}, with libseccomp")


@check("memory", "The linker of buildkitd alone takes more than 1 GB.", Phase.BINARIES)
def _memory() -> Seen:
    total, available = host.memory_bytes(), host.memory_bytes("MemAvailable")
    detail = f"{size(total)}, {size(available)} of it available, {host.cpus()} processors"
    if available < 3 * GIB // 2:
        return Seen(
            Status.FAIL, detail, "close programs or add swap: fallocate, mkswap, swapon (2 GiB)"
        )
    if available < 3 * GIB:
        return Seen(Status.WARN, detail, "it will do, slowly; close programs or add swap")
    return _ok(detail)


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
    return _ok(detail)


@check("dist/", "The artifacts go there.", Phase.BINARIES)
def _dist() -> Seen:
    place = project.DIST if project.DIST.exists() else project.ROOT
    if os.access(place, os.W_OK):
        return _ok("can be written")
    return Seen(Status.FAIL, f"{place} cannot be written", f"chown it to {os.geteuid()}")


@check("docker", "The image's `docker` engine, buildx and `--via make` need it.", Phase.IMAGE, Phase.VALIDATION)  # fmt: skip
def _docker() -> Seen:
    without = (
        "apt-get install docker.io, and since Debian 13 docker-cli docker-buildx too;"
        " or do without, with `--engine buildkit`"
    )
    seen = tool("docker", Status.WARN, ("--version",), without)
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
    return _ok(engine)


@check("docker-init", "docker puts it into containers as their first process; buildx asks for that.", Phase.IMAGE, Phase.VALIDATION)  # fmt: skip
def _docker_init() -> Seen:
    from .binaries.elf import read_elf

    # Debian has it beside the others, and docker's own packages in libexec.
    found = process.which("docker-init") or Path("/usr/libexec/docker/docker-init")
    if not found.exists():
        return _ok("none here")
    interpreter = read_elf(found.resolve()).interpreter
    if not interpreter:
        return _ok(f"{found}, static")
    return Seen(
        Status.WARN, f"{found} needs {interpreter}, which images of another C library lack",
        "apt-get install tini, and in /etc/docker/daemon.json: \"init-path\": \"/usr/bin/tini-static\"",
    )  # fmt: skip


@check("runc", "BuildKit runs containers with it; without it there is no OCI worker.", Phase.IMAGE, Phase.VALIDATION)  # fmt: skip
def _runc() -> Seen:
    return tool("runc", Status.WARN, ("--version",))


@check("umoci", "The image is unpacked with it, to be run before anybody gets it.", Phase.IMAGE)
def _umoci() -> Seen:
    return tool("umoci", Status.WARN, ("--version",))


@check(
    "skopeo", "`push-image --registry` pushes with it, and `--base registry` pulls.", Phase.IMAGE
)
def _skopeo() -> Seen:
    return tool("skopeo", Status.WARN, ("--version",))


@check("overlayfs", "Snapshots without copying every file.", Phase.IMAGE, Phase.VALIDATION)
def _overlay() -> Seen:
    known = Path("/proc/filesystems").read_text().split()
    if "overlay" in known:
        return _ok("known to the kernel")
    match _kernel_config("CONFIG_OVERLAY_FS"):
        case "y" | "m" | "?":
            return _ok("a module, or not loaded yet")
    return Seen(Status.WARN, "not in this kernel", "use a kernel with CONFIG_OVERLAY_FS=m")


@check("seccomp", "Containers are confined by system call filters.", Phase.IMAGE, Phase.VALIDATION)
def _seccomp() -> Seen:
    status = Path("/proc/self/status").read_text()
    if "Seccomp_filters:" in status or Path("/proc/sys/kernel/seccomp").exists():
        return _ok("in the kernel")
    return Seen(Status.WARN, "not in this kernel", "use a kernel with CONFIG_SECCOMP_FILTER=y")


@check("cgroups", "Limits for builds; rootless needs version 2.", Phase.IMAGE, Phase.VALIDATION)
def _cgroups() -> Seen:
    controllers = Path("/sys/fs/cgroup/cgroup.controllers")
    if controllers.exists():
        return _ok(f"version 2: {controllers.read_text().strip() or 'no controllers here'}")
    return Seen(
        Status.WARN, "version 1, or not mounted", "boot with systemd.unified_cgroup_hierarchy=1"
    )


@check("delegation", "Rootless builds have limits only where systemd gives the user control groups.", Phase.VALIDATION)  # fmt: skip
def _delegation() -> Seen:
    user = os.geteuid()
    if user == 0:
        return _ok("root needs none")
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
    return _ok(" ".join(given))


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
    return tool("newuidmap", Status.WARN, ("--version",)) if os.geteuid() else _ok(f"up to {most}")


@check("binfmt_misc", "Runs build steps of other platforms, each through an emulator.", Phase.VALIDATION)  # fmt: skip
def _binfmt() -> Seen:
    return emulators(list(Platform), Status.WARN)


def examine(phases: Iterable[Phase]) -> Iterator[Finding]:
    """Look at everything that the phases need."""
    # Each registers its own.
    from .automation import checks as _automation  # noqa: F401
    from .machine import checks as _machine  # noqa: F401
    from .validation import checks as _validation  # noqa: F401

    wanted = frozenset(phases)
    for one in CHECKS:
        if one.phases & wanted:
            try:
                yield Finding(one, one.look())
            except Failure as error:
                yield Finding(one, Seen(Status.FAIL, error.brief, error.hint))
            except OSError as error:
                yield Finding(one, Seen(Status.WARN, f"cannot be found out: {error}"))


def install(packages: list[str], *, yes: bool, dry: bool = False) -> bool:
    """Install Debian packages, after a question.

    Returns:
        False when the answer was no.

    Raises:
        MissingRequirementError: not Debian, not root, or apt-get failed.
    """
    names = " ".join(packages)
    if process.which("apt-get") is None:
        raise MissingRequirementError(
            f"missing: {names}, and this is not Debian", "install them with your package manager"
        )
    try:
        as_root = process.as_root()
    except MissingRequirementError as error:
        raise MissingRequirementError(
            f"missing: {names}", f"as root: apt-get install --no-install-recommends {names}"
        ) from error
    if not dry and not confirm(f"Install {names} with apt-get?", yes=yes):
        return False
    if as_root and not dry:
        # Asks for the password here and now: what `run` starts may not read the terminal.
        process.read(["sudo", "true"], timeout=300, error=MissingRequirementError)
    env = process.environment({"DEBIAN_FRONTEND": "noninteractive"})
    hint = "its output is above; check /etc/apt/sources.list and the network"
    process.run(
        [*as_root, "apt-get", "update", "--quiet"],
        env=env, dry=dry, error=MissingRequirementError, hint=hint,
    )  # fmt: skip
    # apt-cache succeeds for a name that other packages only mention.
    known = [
        _OTHER_NAMES[name]
        if name in _OTHER_NAMES and not process.probe(["apt-cache", "show", name]).stdout
        else name
        for name in packages
    ]
    process.run(
        [*as_root, "apt-get", "install", "--yes", "--quiet", "--no-install-recommends",
         *filter(None, known)],
        env=env, dry=dry, error=MissingRequirementError, hint=hint,
    )  # fmt: skip
    return True


def have(what: str, packages: list[str], *, yes: bool) -> None:
    """Install packages, if any, after one question.

    Args:
        what: is missing without them.
        packages: Debian's.
        yes: do not ask.

    Raises:
        MissingRequirementError: the answer was no, or they could not be installed.
    """
    if packages and not install(packages, yes=yes):
        raise MissingRequirementError(
            f"missing: {what}",
            f"run it again with --yes, or: apt-get install {' '.join(packages)}",
        )


def provide(tools: Iterable[str], *, yes: bool) -> None:
    """Have commands, or install what brings them, after one question.

    Raises:
        MissingRequirementError: the answer was no, or they could not be installed.
    """
    missing = [name for name in tools if process.which(name) is None]
    packages = sorted({package for name in missing for package in PACKAGES[name].split()})
    have(", ".join(missing), packages, yes=yes)


def provide_emulators(*, yes: bool) -> None:
    """Have emulators of other platforms installed and registered, each after a question.

    One that is not registered since the answer was no is what the scenarios then tell.

    Raises:
        MissingRequirementError: none is installed and the answer was no, or it failed.
    """
    foreign = [one for one in Platform if one is not Platform.here()]
    if not any(map(binfmt.is_installed, foreign)):
        have("emulators of other platforms", [binfmt.PACKAGE], yes=yes)
    seen = emulators(foreign, Status.WARN)
    if not seen.commands:
        return
    say(seen.detail)
    if confirm("Register them with the kernel?", yes=yes):
        for command in seen.commands:
            process.run([*process.as_root(), *command], error=MissingRequirementError)


def offer(error: MissingRequirementError, *, yes: bool) -> bool:
    """Offer to install what an error says is missing.

    Returns:
        True when it was installed, and another try is worth it.
    """
    package = PACKAGES.get(error.tool)
    if package is None:
        return False
    if not confirm(f"{error.brief}. Install {package} with apt-get?", yes=yes):
        return False
    say(f"{error.brief}: installing {package}")
    return install(package.split(), yes=True) and process.which(error.tool) is not None


def mend(phases: Iterable[Phase], *, yes: bool, dry: bool = False) -> list[Finding]:
    """Install what phases lack, and run what mends the rest.

    Returns:
        What is found afterwards.

    Raises:
        MissingRequirementError: something could not be installed.
    """
    phases = list(phases)
    findings = list(examine(phases))
    packages = sorted({name for f in findings for name in f.seen.package.split()})
    if packages and install(packages, yes=yes, dry=dry):
        findings = list(examine(phases))
    for command in [command for f in findings for command in f.seen.commands]:
        process.run([*process.as_root(), *command], dry=dry, error=MissingRequirementError)
    return list(examine(phases))


def main(phase: str, *, fix: bool, yes: bool, json: bool, dry: bool) -> None:
    """`invoke doctor`.

    Raises:
        UsageError: there is no such phase.
        DoctorError: something is FAIL.
    """
    if phase and phase not in list(Phase):
        raise UsageError(f"--phase {phase}: no such phase", f"one of: {', '.join(Phase)}")
    # The emulated machine is for those who have no board, and asked for.
    phases = [Phase(phase)] if phase else [one for one in Phase if one is not Phase.MACHINE]
    findings = mend(phases, yes=yes, dry=dry) if fix else list(examine(phases))
    if json:
        emit_json([finding.as_json() for finding in findings])
    else:
        rows = [(f.check.name, str(f.seen.status), f.seen.detail) for f in findings]
        table(("what", "", "seen"), rows)
        for finding in findings:
            if finding.seen.status is not Status.OK:
                say(f"{finding.seen.status} {finding.check.name}: {finding.seen.detail}")
                say(f"  why: {finding.check.why}")
                say(f"  fix: {finding.seen.fix}")
    failed = [f.check.name for f in findings if f.seen.status is Status.FAIL]
    if failed:
        raise DoctorError(
            f"this machine is not ready: {', '.join(failed)}",
            "mend it as said above, or run `invoke doctor --fix`",
        )
