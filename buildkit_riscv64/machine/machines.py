"""Emulated machines: created, started, stopped, reset and destroyed.

All of a machine is in one folder of the user's cache: its configuration, its
disk (an overlay over the base), its keys, qemu's pid and its console's log.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import signal
import socket
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .. import host, pins, process, project, storage
from ..console import say
from ..errors import BusyError, MachineError, UsageError
from . import base as bases
from . import trust
from .destination import Destination

DEFAULT_NAME = "riscv64"
#: Seconds that a machine gets to answer ssh; on the slowest host seen it took 45. One that
#: counts instructions takes twice as long.
START_SECONDS = 300.0
STOP_SECONDS = 40.0
# Why these, and what they are worth: docs/machines.md, "How fast it is".
ACCELERATOR = "tcg,thread=multi,tb-size=1024"
#: A machine that counts instructions: each takes a nanosecond of its clock (qemu's
#: docs/devel/tcg-icount.rst). With the extensions (Sscofpmf, Smcntrpmf) Linux can tell those
#: of programs from its own. One processor: several would take turns on one of the host's,
#: and what one executes would be counted on all (target/riscv/pmu.c).
ICOUNT = (
    "-cpu", "rv64,sscofpmf=on,smcntrpmf=on", "-smp", "1",
    "-accel", "tcg,thread=single,tb-size=1024", "-icount", "shift=0",
)  # fmt: skip
#: Three levels of page tables instead of five: fewer to walk in software. Memory for
#: programs 16 to 64 KiB at a time: fewer faults. Kernel memory is not zeroed twice.
KERNEL_OPTIONS = "no4lvl thp_anon=16K,32K,64K:always init_on_alloc=0"

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
_SIZE = re.compile(r"(\d+)([GM])")


def _machines() -> Path:
    return project.cache() / "machines"


def size_bytes(text: str, what: str) -> int:
    """'8G' or '512M' in bytes.

    Raises:
        UsageError: it is neither.
    """
    found = _SIZE.fullmatch(text)
    if not found:
        raise UsageError(f"--{what} {text}: not a size", "give one like 8G or 512M")
    return int(found[1]) << {"G": 30, "M": 20}[found[2]]


@dataclass(frozen=True, kw_only=True)
class Shape:
    """How large a machine is.

    Args:
        cpus: processors.
        memory: as in `8G`.
        disk: as in `40G`; it grows as it is used.
    """

    cpus: int
    memory: str
    disk: str

    @classmethod
    def parse(cls, cpus: int, memory: str, disk: str) -> Shape:
        """A shape as the command line has it; zero and empty mean what fits this host.

        Raises:
            UsageError: nonsense, or more than the host has.
        """
        total = host.memory_bytes()
        # Half of the host's memory, but no more than what a build uses.
        fitting = max(2, min(8, total // 2 >> 30))
        shape = cls(cpus=cpus or host.cpus(), memory=memory or f"{fitting}G", disk=disk or "40G")
        if not 1 <= shape.cpus <= 32:
            raise UsageError(f"--cpus {shape.cpus}: not between 1 and 32", "leave it out")
        wanted = size_bytes(shape.memory, "memory")
        if not 1 << 30 <= wanted <= total:
            raise UsageError(
                f"--memory {shape.memory}: not between 1G and this machine's {total >> 30}G",
                "give at least 4G to compile BuildKit",
            )
        if size_bytes(shape.disk, "disk") < bases.BASE_BYTES + (2 << 30):
            raise UsageError(f"--disk {shape.disk}: too small", "give at least 20G")
        return shape


def _command(pid: int | None) -> list[bytes]:
    """A process's command; nothing when there is no such process."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    return []


@dataclass(frozen=True)
class Machine:
    """An emulated machine, by its folder."""

    path: Path

    @property
    def name(self) -> str:
        """Its name."""
        return self.path.name

    @property
    def settings(self) -> dict[str, Any]:
        """Its configuration: shape, base, port, when it was created.

        Raises:
            MachineError: it is damaged.
        """
        try:
            settings: dict[str, Any] = json.loads((self.path / "machine.json").read_text())
            if missing := {"id", "base", "cpus", "memory", "disk"} - set(settings):
                raise ValueError(f"machine.json lacks {', '.join(sorted(missing))}")
        except (OSError, TypeError, ValueError) as error:
            raise MachineError(
                f"machine {self.name} is damaged: {error}",
                f"invoke machine.destroy --name {self.name}, and create it again",
            ) from error
        return settings

    @property
    def pid(self) -> int | None:
        """The pid of qemu while it runs; what a stale file says is not believed."""
        file = self.path / "qemu.pid"
        try:
            pid = int(file.read_text())
        except (OSError, ValueError):
            return None
        return pid if os.fsencode(file) in _command(pid) else None

    @property
    def icount(self) -> bool:
        """True while it runs so that it counts instructions."""
        return b"-icount" in _command(self.pid)

    @property
    def answered(self) -> bool:
        """True when this very qemu has answered ssh: there is nothing to wait for."""
        try:
            return self.pid == int(self.answered_file.read_text())
        except (OSError, ValueError):
            return False

    @property
    def answered_file(self) -> Path:
        """Holds the pid of the qemu that answered."""
        return self.path / "answered.pid"

    @property
    def uptime(self) -> float:
        """Seconds since qemu was started; 0 when it is not running."""
        if self.pid is None:
            return 0.0
        return time.time() - (self.path / "qemu.pid").stat().st_mtime

    @property
    def disk_bytes(self) -> int:
        """What its disk takes on the host."""
        with contextlib.suppress(OSError):
            return (self.path / "disk.qcow2").stat().st_blocks * 512
        return 0

    @property
    def destination(self) -> Destination:
        """How ssh reaches it."""
        return Destination(self.name, self.path / "ssh_config")

    @property
    def log(self) -> Path:
        """What its kernel and systemd print."""
        return self.path / "console.log"

    def last_words(self) -> str:
        """The last line on its console."""
        with contextlib.suppress(OSError):
            lines = self.log.read_text(errors="replace").strip().splitlines()
            return lines[-1].strip() if lines else "nothing on its console"
        return "no console"


def _named(name: str) -> Path:
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} is not a name for a machine",
            "use small letters, digits and dashes, at most 32",
        )
    return _machines() / name


def find(name: str) -> Machine:
    """A machine.

    Raises:
        UsageError: no such name.
        MachineError: there is none of that name.
    """
    machine = Machine(_named(name))
    if not (machine.path / "machine.json").exists():
        raise MachineError(
            f"there is no machine {name}",
            f"invoke machine.create --name {name}, or see machine.list",
        )
    return machine


def exists(name: str) -> bool:
    """True when there is a machine of that name."""
    return bool(_NAME.fullmatch(name)) and (_machines() / name / "machine.json").exists()


def everyone() -> list[Machine]:
    """All machines, by name."""
    return [Machine(p.parent) for p in sorted(_machines().glob("[a-z0-9]*/machine.json"))]


@contextlib.contextmanager
def _hold(name: str) -> Iterator[None]:
    """Change a machine alone."""
    _machines().mkdir(parents=True, exist_ok=True)
    path = _machines() / f".{name}.lock"
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BusyError(
                f"another run is changing machine {name}", "wait for it, or end it"
            ) from error
        yield


def create(name: str, shape: Shape, *, yes: bool = False) -> Machine:
    """Make a machine: an overlay over the base, keys, configuration.

    Raises:
        MachineError: it is there already, or could not be made.
        BusyError: another run is changing it.
    """
    path = _named(name)
    with _hold(name):
        if path.exists():
            raise MachineError(
                f"there is a machine {name} already",
                f"invoke machine.start --name {name}, or machine.destroy --name {name} first",
            )
        base = bases.ensure(pins.load(), yes=yes)
        aside = path.with_name(f".{name}.making")
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(mode=0o700, parents=True)
        try:
            _key(aside / "host_key", f"host {name}")
            _key(aside / "user_key", f"buildkit-riscv64 {name}")
            _overlay(base, aside, shape)
            settings = {
                "id": uuid.uuid4().hex,
                "base": base.path.name,
                "created": int(time.time()),
                **asdict(shape),
            }
            storage.write_json(aside / "machine.json", settings)
            aside.rename(path)
        except OSError as error:
            raise storage.failure(error, aside) from error
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    return Machine(path)


def _key(path: Path, comment: str) -> None:
    process.read(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", path],
        error=MachineError,
    )


def _overlay(base: bases.Base, folder: Path, shape: Shape) -> None:
    process.read(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", base.disk,
         folder / "disk.qcow2", shape.disk],
        error=MachineError, hint="is qemu-utils installed? `invoke doctor --phase machine`",
    )  # fmt: skip


def _identity(machine: Machine, base: bases.Base) -> None:
    """Write the initrd: the base's, and behind it what is the machine's own.

    The kernel unpacks cpio archives that follow each other one over the other
    (Documentation/driver-api/early-userspace/buffer-format.rst); init copies
    /identity to the disk. So nothing is ever mounted on the host.
    """
    with_identity = machine.path / "initrd"
    work = machine.path / "work"
    shutil.rmtree(work, ignore_errors=True)
    root = work / "identity"
    try:
        for folder in ("etc/ssh", "root/.ssh"):
            (root / folder).mkdir(parents=True)
        private = ("etc/ssh/ssh_host_ed25519_key", "root/.ssh/authorized_keys")
        for source, target in (
            ("host_key", private[0]),
            ("host_key.pub", f"{private[0]}.pub"),
            ("user_key.pub", private[1]),
        ):
            shutil.copy(machine.path / source, root / target)
        _write(root / "etc/hostname", f"{machine.name}\n")
        _write(root / "etc/machine-id", f"{machine.settings['id']}\n")
        _write(
            root / "etc/hosts",
            f"127.0.0.1 localhost {machine.name}\n::1 localhost\n{trust.HOST_ADDRESS} host\n",
        )
        trust.write(root, base.certificates)
        # Their modes replace those of the machine's folders, whatever our umask is.
        for path in (root, *root.rglob("*")):
            if path.is_dir():
                path.chmod(0o700 if path.is_relative_to(root / "root") else 0o755)
            else:
                path.chmod(0o600 if str(path.relative_to(root)) in private else 0o644)
        names = sorted(str(p.relative_to(work)) for p in work.rglob("*"))
        archive = process.filtered(
            ["cpio", "--quiet", "-o", "-H", "newc", "-R", "0:0"],
            "\n".join([*names, ""]).encode(), cwd=work, error=MachineError,
        )  # fmt: skip
        with with_identity.open("wb") as file, base.initrd.open("rb") as first:
            shutil.copyfileobj(first, file)
            file.write(archive)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _write(path: Path, text: str, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


def qemu(machine: Machine, base: bases.Base, port: int, *, icount: bool = False) -> list[str]:
    """The qemu command."""
    settings = machine.settings
    usual = ("-cpu", "rv64", "-smp", str(settings["cpus"]), "-accel", ACCELERATOR)
    return [
        *base.emulator, "-name", f"guest={machine.name}",
        "-no-user-config", "-nodefaults", "-display", "none",
        "-machine", "virt", "-m", settings["memory"], *(ICOUNT if icount else usual),
        "-kernel", str(base.kernel), "-initrd", "initrd",
        "-append", "root=/dev/vda rw console=ttyS0 loglevel=4 systemd.show_status=0 net.ifnames=0"
        f" systemd.machine_id={settings['id']} {KERNEL_OPTIONS}",
        "-drive", "file=disk.qcow2,if=none,id=disk,format=qcow2,cache=writeback,discard=unmap",
        "-device", "virtio-blk-pci,drive=disk",
        "-netdev", f"user,id=net,ipv6=off,hostfwd=tcp:127.0.0.1:{port}-:22",
        "-device", "virtio-net-pci,netdev=net,romfile=",
        "-object", "rng-random,id=rng,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng",
        "-serial", "file:console.log", "-pidfile", str(machine.path / "qemu.pid"), "-daemonize",
    ]  # fmt: skip


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _ssh_config(machine: Machine, port: int) -> None:
    key = (machine.path / "host_key.pub").read_text().split()[:2]
    # Keyed by name, so that another port is not another host.
    _write(machine.path / "known_hosts", f"{machine.name} {' '.join(key)}\n", 0o600)
    options = {
        "HostName": "127.0.0.1",
        "Port": port,
        "User": "root",
        "HostKeyAlias": machine.name,
        "UserKnownHostsFile": f'"{machine.path}/known_hosts"',
        "GlobalKnownHostsFile": "/dev/null",
        "StrictHostKeyChecking": "yes",
        "IdentityFile": f'"{machine.path}/user_key"',
        "IdentitiesOnly": "yes",
        "PasswordAuthentication": "no",
        "LogLevel": "ERROR",
    }
    lines = [f"Host {machine.name}", *(f"  {key} {value}" for key, value in options.items())]
    _write(machine.path / "ssh_config", "\n".join(lines) + "\n", 0o600)


def start(machine: Machine, *, icount: bool = False) -> None:
    """Start a machine and wait until it answers ssh; one that runs already is left alone.

    Args:
        machine: which.
        icount: have it count instructions.

    Raises:
        MachineError: qemu does not start, the machine does not answer, or it runs and does
            not count.
        BusyError: another run is changing it.
    """
    with _hold(machine.name):
        if machine.pid is None:
            _launch(machine, icount=icount)
        elif icount and not machine.icount:
            raise MachineError(
                f"{machine.name} runs already, and does not count instructions",
                f"invoke machine.stop --name {machine.name}, and start it again",
            )
        _wait(machine)
        machine.answered_file.write_text(f"{machine.pid}\n")


def _launch(machine: Machine, *, icount: bool) -> None:
    base = bases.Base(bases.bases() / machine.settings["base"])
    # One that was made before bases had an emulator is of no use either.
    if not (base.disk.exists() and Path(base.emulator[0]).exists()):
        raise MachineError(
            f"the base of machine {machine.name} is not in the cache any more",
            f"invoke machine.destroy --name {machine.name}, and create it again",
        )
    (machine.path / "qemu.pid").unlink(missing_ok=True)
    _identity(machine, base)
    reason = ""
    for _ in range(3):
        # Somebody else may take the port before qemu does.
        port = _free_port()
        _ssh_config(machine, port)
        answer = process.probe(
            qemu(machine, base, port, icount=icount), cwd=machine.path, timeout=30
        )
        if answer.ok:
            return
        reason = answer.last_line
        if "host forwarding" not in reason:
            break
    raise MachineError(
        f"qemu does not start: {reason}", "`invoke doctor --phase machine` checks what it needs"
    )


def _wait(machine: Machine) -> None:
    """Wait until it answers ssh."""
    started = time.monotonic()
    destination = Destination(
        machine.name, machine.path / "ssh_config", ("-o", "ConnectTimeout=20")
    )
    told = started
    while True:
        answer = destination.probe(["true"], timeout=30)
        if answer.ok:
            return
        if machine.pid is None:
            raise MachineError(
                f"qemu ended while {machine.name} started: {machine.last_words()}",
                f"see `invoke machine.logs --name {machine.name}`",
            )
        if "Host key verification failed" in answer.stderr:
            raise MachineError(
                f"something else answers at the port of {machine.name}",
                f"invoke machine.stop --name {machine.name}, and start it again",
            )
        now = time.monotonic()
        if now - started > START_SECONDS:
            raise MachineError(
                f"{machine.name} does not answer ssh after {START_SECONDS:.0f} s:"
                f" {machine.last_words()}",
                f"see `invoke machine.logs --name {machine.name}`",
            )
        if now - told > 15:
            told = now
            say(f"  {now - started:.0f} s: {machine.name} is starting")
        time.sleep(0.3)


def stop(machine: Machine) -> None:
    """Shut a machine down, politely if it can be; one that does not run is left alone.

    Raises:
        BusyError: another run is changing it.
    """
    with _hold(machine.name):
        _stop(machine)


def _stop(machine: Machine) -> None:
    pid = machine.pid
    if pid is not None:
        machine.destination.probe(["systemctl", "poweroff"], timeout=20)
        if not _gone(machine, STOP_SECONDS):
            say(f"{machine.name} does not shut down: ending qemu")
            for number in (signal.SIGTERM, signal.SIGKILL):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
                if _gone(machine, 10):
                    break
    (machine.path / "qemu.pid").unlink(missing_ok=True)


def _gone(machine: Machine, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while machine.pid is not None:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def _kill(machine: Machine) -> None:
    """End qemu at once: its disk is thrown away, there is nothing to shut down for."""
    pid = machine.pid
    if pid is not None:
        os.kill(pid, signal.SIGKILL)
        _gone(machine, 10)


def reset(machine: Machine) -> None:
    """Go back to the base: everything on the disk is lost.

    Raises:
        BusyError: another run is changing it.
        MachineError: the base is not there any more.
    """
    with _hold(machine.name):
        _kill(machine)
        settings = machine.settings
        base = bases.ensure(pins.load())
        shape = Shape(**{key: settings[key] for key in ("cpus", "memory", "disk")})
        (machine.path / "disk.qcow2").unlink(missing_ok=True)
        _overlay(base, machine.path, shape)
        storage.write_json(machine.path / "machine.json", {**settings, "base": base.path.name})
        (machine.path / "qemu.pid").unlink(missing_ok=True)


def destroy(machine: Machine) -> None:
    """Remove a machine and everything of it; the base stays in the cache.

    Raises:
        BusyError: another run is changing it.
    """
    with _hold(machine.name):
        _kill(machine)
        shutil.rmtree(machine.path)
        (_machines() / f".{machine.name}.lock").unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        _machines().rmdir()
