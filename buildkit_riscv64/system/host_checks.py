"""Host checks: what this user can do on this machine.

Each `…_error` function tries one operation and returns why it fails, or an empty string. It
leaves nothing behind: mounts are in namespaces that end with the command.
"""

from __future__ import annotations

import functools
import os
import re
import sys
from pathlib import Path

from ..core import process
from ..core.errors import MissingRequirementError, StorageError
from . import debian

#: The mount flags that restrict programs and devices, by their names in mount(8).
_MOUNT_FLAGS = {"nodev": os.ST_NODEV, "noexec": os.ST_NOEXEC, "nosuid": os.ST_NOSUID}


# Argument: a directory.
_OVERLAY = """
temporary=$(mktemp -d --tmpdir="$1") || exit
trap 'cd / && umount "$temporary/all" 2>/dev/null; rm -rf "$temporary"' EXIT
cd "$temporary" && mkdir lower upper work all &&
mount -t overlay overlay -o lowerdir=lower,upperdir=upper,workdir=work all && touch all/file
"""


def command_error(*args: str | os.PathLike[str]) -> str:
    """Why a command fails, or an empty string."""
    try:
        answer = process.probe(args)
    except MissingRequirementError as error:
        return error.brief
    return "" if answer.ok else answer.last_line or process.describe_exit(answer.code)


def namespace_error() -> str:
    """Why this user cannot create the namespaces of :func:`.process.namespaced`."""
    return command_error(*process.namespaced(), "true")


def mount_error() -> str:
    """Why this user cannot mount in namespaces of their own."""
    return command_error(*process.namespaced(), "mount", "-t", "tmpfs", "tmpfs", "/tmp")  # noqa: S108


def private_mount_error() -> str:
    """Why this user cannot mount in a mount namespace alone."""
    user = [] if os.geteuid() == 0 else ["--map-root-user"]
    return command_error("unshare", *user, "--mount", "mount", "-t", "tmpfs", "tmpfs", "/tmp")  # noqa: S108


def owner_error() -> str:
    """Why this user cannot give files to other users, as root or in a user namespace."""
    user = [] if os.geteuid() == 0 else process.namespaced()
    script = 'file=$(mktemp) && chown 1 "$file"; code=$?; rm -f "$file"; exit $code'
    return command_error(*user, "sh", "-c", script)


def node_error() -> str:
    """Why this user cannot create a device node and open it."""
    script = "mount -t tmpfs tmpfs /tmp && mknod /tmp/null c 1 3 && : >/tmp/null"
    return command_error(*process.namespaced(), "sh", "-c", script)


def overlay_error(directory: Path) -> str:
    """Why a directory cannot have overlayfs snapshots.

    Args:
        directory: an existing, writable directory.
    """
    # The script removes its own files, so --dry can allow it.
    return command_error(*process.namespaced(), "sh", "-c", _OVERLAY, "sh", directory)


def bridge_error() -> str:
    """Why containers cannot have a bridge network, which needs veth, bridge and NAT."""
    script = "ip link add type bridge && ip link add type veth && iptables -t nat -L -n"
    return command_error(*process.namespaced(), "--net", "sh", "-ec", script)


def cgroup2_mount() -> Path | None:
    """The mount point of control groups version 2, which differs on hybrid hosts."""
    for line in Path("/proc/mounts").read_text().splitlines():
        _, point, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(point)
    return None


def cgroup_error() -> str:
    """Why this user cannot create control groups version 2 below its own."""
    top = cgroup2_mount()
    if top is None:
        return "control groups version 2 are not mounted"
    own = Path("/proc/self/cgroup").read_text().rpartition("0::/")[2].strip()
    # Only rmdir removes a control group; its files cannot be removed.
    script = 'group=$(mktemp -d --tmpdir="$1") && rmdir "$group"'
    return command_error("sh", "-c", script, "sh", top / own)


def device_error(device: Path) -> str:
    """Why ordinary users cannot open a device for reading and writing.

    Root can open any device, so for root the mode must also allow other users.
    """
    try:
        os.close(os.open(device, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC))
        mode = device.stat().st_mode & 0o777
    except OSError as error:
        return str(error.strerror)
    if os.geteuid() == 0 and mode & 0o006 != 0o006:
        return f"its mode is {mode:o}, so only root can open it"
    return ""


def nearest(path: Path) -> Path:
    """A path, or its nearest parent that exists."""
    while not path.exists():
        path = path.parent
    return path


def mount_point(path: Path) -> Path:
    """The mount point of the filesystem or bind mount at a path."""
    path = path.resolve()
    lines = Path("/proc/self/mounts").read_text().splitlines()
    # Spaces and other separators are octal (proc_mounts(5)).
    points = {Path(re.sub(r"\\(\d{3})", lambda m: chr(int(m[1], 8)), line.split()[1])) for line in lines}  # fmt: skip
    return max((p for p in points if path.is_relative_to(p)), key=lambda p: len(p.parts))


def mount_flags(path: Path) -> set[str]:
    """The mount options nodev, noexec and nosuid of the filesystem at a path."""
    flags = os.statvfs(path).f_flag
    return {name for name, flag in _MOUNT_FLAGS.items() if flags & flag}


def noexec_error(path: Path) -> str:
    """Why programs at a path, which need not exist, cannot be run."""
    existing = nearest(path)
    if "noexec" in mount_flags(existing):
        return f"programs cannot run in {path}: {mount_point(existing)} is mounted noexec"
    return ""


def noexec_fix(path: Path) -> str:
    """The fix for a :func:`noexec_error`."""
    return (
        f"mount -o remount,exec {mount_point(nearest(path))}, or use a checkout, a HOME and an"
        " XDG_CACHE_HOME on another filesystem"
    )


def require_exec(*directories: Path) -> None:
    """Fail early where programs cannot be run.

    Args:
        directories: where programs will be stored and run; they need not exist.

    Raises:
        StorageError: names the filesystem that is mounted noexec.
    """
    for directory in directories:
        if reason := noexec_error(directory):
            raise StorageError(reason, noexec_fix(directory))


def filesystem(path: Path) -> str:
    """The type of the filesystem at a path, as stat(1) names it."""
    return process.probe(["stat", "--file-system", "--format=%T", path]).stdout.strip()


def has_capability(number: int) -> bool:
    """True when this process has a capability of capabilities(7), by its number."""
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "CapEff":
            return bool(int(value, 16) & (1 << number))
    return False


@functools.cache
def sudo_error() -> str:
    """Why this user cannot become root with sudo."""
    if process.which("sudo") is None:
        return "sudo is not installed"
    # With a terminal, sudo can ask for the password.
    if process.probe(["sudo", "-n", "true"]).ok or sys.stdin.isatty():
        return ""
    return "sudo asks for a password, and there is no terminal"


#: Capabilities that apt-get and dpkg use.
_INSTALLING = {"CAP_CHOWN": 0, "CAP_DAC_OVERRIDE": 1, "CAP_FOWNER": 3, "CAP_SETGID": 6, "CAP_SETUID": 7}  # fmt: skip


def lacking_capabilities() -> list[str]:
    """The capabilities of :data:`_INSTALLING` that this process lacks."""
    return [name for name, number in _INSTALLING.items() if not has_capability(number)]


@functools.cache
def network_error() -> str:
    """Why this machine cannot fetch from the Debian archive among its package sources."""
    import urllib.request

    try:
        address = f"{debian.mirror()}/dists/{debian.SUITE}/InRelease"
        request = urllib.request.Request(address, method="HEAD")  # noqa: S310 - of apt's sources
        with urllib.request.urlopen(request, timeout=5):  # noqa: S310
            return ""
    except MissingRequirementError as error:
        return error.brief
    except (OSError, ValueError) as error:
        return f"{address}: {getattr(error, 'reason', error)}"
