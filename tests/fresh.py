"""README's commands on a fresh Debian that is built from packages for this run: `nox -s fresh`.

Each Debian is a runc container that resembles a machine: it has its own devices, with the kernel's
default modes (no udev), its own /proc, /sys, control groups and host name. It has git and python3,
a clone of this checkout, and no cache. The run always removes the container and its directory at
its end.

The container uses this machine's kernel with its modules, settings and registered emulators; its
network, with proxy settings, extra CA certificates and the package sources of pip and Go; the
addresses of apt's sources; and its clock.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import os
import secrets
import shutil
import signal
import stat
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, TextIO

from benchmarks.checkout import copy_checkout
from buildkit_riscv64.core import filesystem, pins, process, project
from buildkit_riscv64.core.arch import Architecture
from buildkit_riscv64.core.console import duration, log, step
from buildkit_riscv64.core.errors import (
    CheckError,
    Failure,
    InterruptedByUserError,
    MachineError,
    MissingRequirementError,
)
from buildkit_riscv64.machine import host_settings
from buildkit_riscv64.system import apt, binfmt, debian, host_checks

from .integration.miniature import commit_checkout, isolated
from .pages import BLOCKS

SUITES = {"bookworm": "Debian 12", "trixie": "Debian 13"}
#: Where systemd mounts a tmpfs on /tmp by default.
_TMP_IN_MEMORY = ("trixie",)
#: The value of `run by` in README's blocks.
RUN_BY = "nox -s fresh"
PACKAGES = ("ca-certificates", "git", "python3")
#: Space for one Debian: packages, Go and its cache, machines, images.
NEEDED_BYTES = 25 << 30
#: Devices of a machine, in addition to those of every container. The kernel creates them for root.
DEVICES = ("fuse", "kvm", "loop-control", *(f"loop{number}" for number in range(8)), "net/tun")
#: Settings of the package sources of pip and Go.
PACKAGE_SETTINGS = (
    "GOINSECURE", "GONOPROXY", "GONOSUMDB", "GOPRIVATE", "GOPROXY", "GOSUMDB", "PIP_DEFAULT_TIMEOUT",
    "PIP_EXTRA_INDEX_URL", "PIP_INDEX_URL", "PIP_TRUSTED_HOST",
)  # fmt: skip
PIP_SETTINGS = Path("/etc/pip.conf")
USER, UID = "tester", 1000
#: The container's name, in its own state directory.
_NAME = "fresh"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#: Lines of a command's output that the summary repeats.
_CLOSING_LINES = 12

# The first process, which reaps orphans. As root it acts like an init system: it shares mounts and,
# with control groups version 2, moves to its own group, because a group with processes cannot limit
# its child groups.
_INIT = r"""
top=/sys/fs/cgroup
[ "$(id -u)" -ne 0 ] || mount --make-rshared /
if [ -w $top/cgroup.subtree_control ]; then
    mkdir $top/init
    echo $$ >$top/init/cgroup.procs
    for controller in $(cat $top/cgroup.controllers); do
        echo "+$controller" >$top/cgroup.subtree_control
    done
fi
sleep infinity &
wait
"""

# Arguments: the directory, and the container. Killed processes may need a moment to end.
_REMOVE = r"""
for _ in $(seq 300); do
    [ ! -d "$1/state/$2" ] || runc --root "$1/state" delete --force "$2"
    rm -rf --one-file-system "$1" && exit
    sleep 0.1
done 2>/dev/null
exit 1
"""

#: As in Docker's default profile, no mounts and no new namespaces. The last rule is CLONE_NEWUSER;
#: other namespaces need a capability. clone3 hides its flags, so it returns "not implemented", and
#: glibc uses clone.
_SECCOMP = {
    "defaultAction": "SCMP_ACT_ALLOW",
    "syscalls": [
        {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38},
        {"names": ["bpf", "fsopen", "mount", "move_mount", "open_tree", "pivot_root", "setns",
                   "umount", "umount2", "unshare"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1},
        {"names": ["clone"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1,
         "args": [{"index": 0, "value": 0x10000000, "valueTwo": 0x10000000,
                   "op": "SCMP_CMP_MASKED_EQ"}]},
    ],
}  # fmt: skip


class As(StrEnum):
    """The user who runs the commands."""

    ROOT = "root"
    USER = "user"
    UNPRIVILEGED = "unprivileged"

    @property
    def words(self) -> str:
        """The user in words."""
        return {
            As.ROOT: "as root",
            As.USER: "as a user with sudo",
            As.UNPRIVILEGED: "as a user without sudo or capabilities, who cannot mount or unshare",
        }[self]

    @property
    def packages(self) -> Sequence[str]:
        """The installed packages; an unprivileged user cannot install python3-venv later."""
        more = {As.USER: ["sudo"], As.UNPRIVILEGED: ["python3-venv"]}
        return sorted([*PACKAGES, *more.get(self, [])])

    @property
    def home(self) -> str:
        """The home directory."""
        return "/root" if self is As.ROOT else f"/home/{USER}"


@dataclass(frozen=True)
class Ended:
    """The result of a command.

    Args:
        command: the command.
        code: its exit code.
        seconds: its duration.
        closing: the last lines of its output.
    """

    command: str
    code: int
    seconds: float
    closing: Sequence[str] = ()

    @property
    def words(self) -> str:
        """The line in the summary."""
        result = "passed" if self.code == 0 else process.describe_exit(self.code)
        return f"{self.command}  {duration(self.seconds)}  {result}"


def readme() -> list[str]:
    """README's two commands."""
    found = [
        line
        for block in BLOCKS
        if (block.page, block.where) == ("README.md", RUN_BY)
        for line in block.commands
    ]
    assert len(found) == 2, found
    return found


def network_settings() -> dict[str, str]:
    """The variables with proxies and package sources of this machine."""
    known = dict(os.environ)
    go = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "go/env"
    if go.is_file():
        known = dict(line.split("=", 1) for line in go.read_text().splitlines() if "=" in line) | known  # fmt: skip
    return {
        name: value
        for name, value in known.items()
        if name in PACKAGE_SETTINGS or name.lower() in host_settings.PROXIES
    }


def make_root(root: Path, suite: str, who: As) -> None:
    """Build a Debian from packages, with a user and this machine's extra CA certificates.

    Raises:
        MachineError: mmdebstrap failed.
    """
    archive, updates = debian.mirror(), debian.security()
    setup = [f'chroot "$1" useradd --create-home --uid={UID} --shell=/bin/bash {USER}']
    if who is As.USER:
        setup.append(f'echo "{USER} ALL=(ALL) NOPASSWD: ALL" >"$1/etc/sudoers.d/{USER}"')
    if certificates := host_settings.certificates():
        setup += [
            f"copy-in {process.show(certificates)} {host_settings.CERTIFICATES}",
            'chroot "$1" update-ca-certificates',
        ]
    process.run(
        [
            *debian.mmdebstrap(
                "--quiet", "--variant=minbase", f"--include={','.join(who.packages)}",
                *(f"--customize-hook={command}" for command in setup),
            ),
            suite, root, debian.source(archive, suite), debian.source(archive, f"{suite}-updates"),
            debian.source(updates, f"{suite}-security"),
        ],
        title="mmdebstrap", error=MachineError, hint="check the network and apt's sources",
    )  # fmt: skip


def configure(root: Path) -> None:
    """Write the host name, and copy this machine's network settings."""
    (root / "etc/hostname").write_text(f"{_NAME}\n")
    (root / "etc/hosts").write_text(f"127.0.0.1 localhost\n127.0.1.1 {_NAME}\n::1 localhost\n")
    for file in (Path("/etc/resolv.conf"), PIP_SETTINGS):
        if file.is_file():
            shutil.copyfile(file, root / file.relative_to("/"))


def clone(root: Path, who: As) -> Path:
    """Clone this checkout into the home directory, and return the path in the container."""
    inside = Path(who.home) / "buildkit-riscv64"
    directory = root / inside.relative_to("/")
    copy_checkout(directory)
    commit_checkout(directory, pins.load().commit, isolated(root.parent / "git"))
    if who is not As.ROOT:
        process.run(["chown", "--recursive", f"{UID}:{UID}", directory])
    return inside


def _capabilities() -> list[str]:
    """The capabilities that this process can pass on; a sandbox lacks some."""
    for line in process.read(["setpriv", "--dump"]).splitlines():
        name, _, value = line.partition(": ")
        if name == "Capability bounding set":
            return [f"CAP_{one.upper()}" for one in value.split(",")]
    raise AssertionError("setpriv does not show the capabilities")


def _device(name: str) -> dict[str, Any] | None:
    """A device of this machine with the kernel's default mode; None if it is missing."""
    try:
        found = (Path("/dev") / name).stat()
    except OSError:
        return None
    kind = "b" if stat.S_ISBLK(found.st_mode) else "c"
    number = {"major": os.major(found.st_rdev), "minor": os.minor(found.st_rdev)}
    return {"path": f"/dev/{name}", "type": kind, **number, "fileMode": 0o600, "uid": 0, "gid": 0}


def devices() -> list[dict[str, Any]]:
    """The devices of :data:`DEVICES` that this machine has."""
    return list(filter(None, map(_device, DEVICES)))


@dataclass(frozen=True)
class FreshHost:
    """A running Debian.

    Args:
        place: its directory, with the root directory and runc's state.
        suite: a key of :data:`SUITES`.
        who: the user who runs commands.
        log: a second destination of their output, in addition to the terminal.
    """

    place: Path
    suite: str
    who: As
    log: TextIO
    env: Mapping[str, str] = field(default_factory=network_settings)

    @property
    def root(self) -> Path:
        """Its root directory."""
        return self.place / "root"

    @property
    def _runc(self) -> list[str]:
        return ["runc", "--root", str(self.place / "state")]

    def _process(self, args: Sequence[str], who: As, cwd: str = "/") -> dict[str, Any]:
        """A process in runc's configuration."""
        name, number = ("root", 0) if who is As.ROOT else (USER, UID)
        env = {"HOME": who.home, "LOGNAME": name, "SHELL": "/bin/bash", "USER": name}
        # A login shell of a user sets PATH again, without /usr/sbin and /sbin.
        env |= {"PATH": _PATH, "TERM": "dumb", **self.env}
        bounding = [] if self.who is As.UNPRIVILEGED else _capabilities()
        effective = bounding if who is As.ROOT else []
        return {
            "terminal": False,
            "user": {"uid": number, "gid": number, "umask": 0o22},
            "args": list(args),
            "env": [f"{key}={value}" for key, value in env.items()],
            "cwd": cwd,
            "capabilities": {"bounding": bounding, "effective": effective, "permitted": effective},
            "noNewPrivileges": self.who is As.UNPRIVILEGED,
        }

    def _configuration(self) -> dict[str, Any]:
        """runc's default configuration, changed to a machine with or without privileges."""
        process.run([*self._runc, "spec", "--bundle", self.place])
        file = self.place / "config.json"
        spec: dict[str, Any] = json.loads(file.read_text())
        file.unlink()
        confined = self.who is As.UNPRIVILEGED
        init = ["sh", "-euc", _INIT]
        spec["process"] = self._process(init, self.who if confined else As.ROOT)
        spec["root"] = {"path": str(self.root)}
        spec["hostname"] = _NAME
        linux = spec["linux"]
        linux["cgroupsPath"] = f"/{self.place.name}"
        # Without a network namespace, the container uses this machine's network.
        linux["namespaces"] = [{"type": kind} for kind in ("cgroup", "ipc", "mount", "pid", "uts")]
        mounts = {mount["destination"]: mount for mount in spec["mounts"]}
        mounts["/dev/shm"]["options"].remove("size=65536k")
        mounts["/run"] = {"destination": "/run", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "nodev", "mode=755"]}  # fmt: skip
        if self.suite in _TMP_IN_MEMORY:
            mounts["/tmp"] = {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "nodev", "mode=1777", "size=50%"]}  # fmt: skip
        if confined:
            linux["seccomp"] = _SECCOMP
        else:
            linux |= {"devices": devices(), "maskedPaths": [], "readonlyPaths": []}
            linux["resources"] = {"devices": [{"allow": True, "access": "rwm"}]}
            for name in ("/sys", "/sys/fs/cgroup"):
                mounts[name]["options"].remove("ro")
            # On a hybrid host, runc mounts only version 1.
            second = host_checks.cgroup2_mount()
            if second and second != Path("/sys/fs/cgroup"):
                mounts[str(second)] = {"destination": str(second), "type": "cgroup2", "source": "cgroup2"}  # fmt: skip
        spec["mounts"] = list(mounts.values())
        return spec

    def start(self) -> None:
        """Start the container's first process.

        Raises:
            MachineError: runc failed.
        """
        (self.place / "config.json").write_text(json.dumps(self._configuration()))
        process.run(
            # In another container, the kernel may refuse a session keyring.
            [*self._runc, "run", "--no-new-keyring", "--detach", "--bundle", self.place, _NAME],
            title="runc run", error=MachineError,
        )  # fmt: skip

    def type(self, command: str, cwd: Path) -> Ended:
        """Run a command in a login shell, and print and log its output."""
        file = self.place / "process.json"
        shell = ["bash", "-leuo", "pipefail", "-c", command]
        file.write_text(json.dumps(self._process(shell, self.who, str(cwd))))
        closing: collections.deque[str] = collections.deque(maxlen=_CLOSING_LINES)

        def on_line(line: str) -> None:
            closing.append(line)
            for stream in (sys.stdout, self.log):
                print(line, file=stream, flush=True)

        on_line(f"$ {command}")
        began = time.monotonic()
        code = process.stream([*self._runc, "exec", "--process", file, _NAME], on_line)
        return Ended(command, code, time.monotonic() - began, tuple(closing))


@contextlib.contextmanager
def removed_afterwards(place: Path) -> Iterator[None]:
    """Remove a container and its directory when the block ends, or when this process is killed.

    Raises:
        MachineError: the directory cannot be removed.
    """
    remove = ["sh", "-c", _REMOVE, "sh", str(place), _NAME]
    with process.run_if_killed([remove]):
        try:
            yield
        finally:
            process.run(
                remove, title="removing the container", error=MachineError, hint=f"see {place}"
            )


@contextlib.contextmanager
def fresh_host(suite: str, who: As, log: TextIO) -> Iterator[FreshHost]:
    """A running fresh Debian, which is removed when the block ends.

    Args:
        suite: a key of :data:`SUITES`.
        who: the user who runs commands.
        log: a second destination of their output, in addition to the terminal.

    Raises:
        MachineError: the Debian could not be built or started.
    """
    # Not below /tmp, which may be in memory.
    host = FreshHost(Path(f"/var/tmp/fresh-{secrets.token_hex(4)}"), suite, who, log)
    with removed_afterwards(host.place):
        host.place.mkdir(mode=0o755)
        with step(f"building {SUITES[suite]} ({suite}) from packages"):
            make_root(host.root, suite, who)
            configure(host.root)
        host.start()
        yield host


def shared() -> Iterator[str]:
    """Lines about the parts of this machine that a fresh Debian uses."""
    yield f"kernel {os.uname().release}, and its modules and settings"
    # Mount the register, which may be unmounted.
    script = f"{process.show(binfmt.mount())} 2>/dev/null; ls {binfmt.REGISTRY}"
    known = process.probe(["unshare", "--mount", "sh", "-c", script]).stdout.split()
    if formats := sorted(set(known) - {"register", "status"}):
        yield f"registered in binfmt_misc already: {', '.join(formats)}"
    yield f"devices of the kernel: {', '.join(device['path'] for device in devices())}"
    # Print no values: an address may have a password.
    for kind, names in (
        ("settings", sorted(network_settings())),
        ("CA certificates", [one.name for one in host_settings.certificates()]),
        ("files", [str(PIP_SETTINGS)] if PIP_SETTINGS.is_file() else []),
    ):
        if names:
            yield f"{kind}: {', '.join(names)}"


def run(suite: str, who: As, commands: Sequence[str]) -> tuple[Path, list[Ended]]:
    """Run commands on a fresh Debian, up to the first that fails.

    Returns:
        The log, and the results.
    """
    path = project.cache() / "fresh" / f"{suite}-{who}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    ended: list[Ended] = []
    with path.open("w") as log, fresh_host(suite, who, log) as host:
        inside = clone(host.root, who)
        for command in commands:
            ended.append(host.type(command, inside))
            if ended[-1].code:
                break
    return path, ended


def _require_host() -> None:
    """Check the requirements, and install missing tools.

    Raises:
        MissingRequirementError: this user is not root, or a tool is missing.
        StorageError: there is too little space.
    """
    if os.geteuid():
        raise MissingRequirementError("only root can build a fresh Debian", "run it with sudo")
    apt.ensure_installed(["mmdebstrap", "runc"], yes=False)
    filesystem.require_space(Path("/var/tmp"), NEEDED_BYTES, "a fresh Debian takes")


def _arguments(args: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="nox -s fresh --", description="Run README's commands on a fresh Debian.")  # fmt: skip
    parser.add_argument("suites", nargs="*", metavar="SUITE", help=f"{' or '.join(SUITES)}; default: both")  # fmt: skip
    parser.add_argument("--as", dest="who", action="append", type=As, choices=list(As), help="the user who runs the commands; can be repeated; default: root")  # fmt: skip
    parser.add_argument("--command", action="append", default=[], help="run this command instead, in the clone; can be repeated")  # fmt: skip
    chosen = parser.parse_args(args)
    for suite in chosen.suites:
        if suite not in SUITES:
            parser.error(f"no suite {suite}; one of: {', '.join(SUITES)}")
    return chosen


def _summary(results: Mapping[tuple[str, As], tuple[Path, list[Ended]]]) -> bool:
    """Print the results, and return True when every command passed."""
    good = True
    for (suite, who), (path, ended) in results.items():
        log(f"\n{SUITES[suite]} ({suite}), {Architecture.here()}, {who.words}:")
        for one in ended:
            log(f"  {one.words}")
            for line in one.closing:
                log(f"    {line}")
        good &= not any(one.code for one in ended)
        log(f"  log: {path}")
    return good


def main(args: Sequence[str]) -> int:
    """Run the commands of a command line.

    Returns:
        The exit code.
    """
    chosen = _arguments(args)
    results: dict[tuple[str, As], tuple[Path, list[Ended]]] = {}
    # Also SIGINT: a shell ignores it for commands in the background.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    try:
        _require_host()
        for line in shared():
            log(f"from this machine: {line}")
        for suite in chosen.suites or SUITES:
            for who in chosen.who or [As.ROOT]:
                # An unprivileged user cannot install the tools to compile.
                default = readme()[1:] if who is As.UNPRIVILEGED else readme()
                results[suite, who] = run(suite, who, chosen.command or default)
    except KeyboardInterrupt:
        failure: Failure | None = InterruptedByUserError("interrupted; no container is left")
    except Failure as error:
        failure = error
    else:
        failure = None
    good = _summary(results)
    if failure is None and not good:
        failure = CheckError("a command failed on a fresh Debian", "see the logs named above")
    if failure is None:
        return 0
    log(f"{failure.message}")
    return failure.exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
