"""Emulated machines: create, start, stop, reset and destroy.

A machine is one directory in the user's cache: configuration, disk (an overlay
over the base), keys, qemu's PID and the console log.
"""

from __future__ import annotations

import contextlib
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

from ..core import (
    documents,
    dry_run,
    filesystem,
    host,
    locks,
    pins,
    process,
    project,
    schemas,
    values,
)
from ..core.console import log, size
from ..core.errors import MachineError, UsageError
from . import base_disk as bases
from . import host_settings
from .ssh import Destination

DEFAULT_NAME = "riscv64"
#: Seconds to wait for ssh while qemu runs. The slowest idle host took 45; a machine that counts
#: instructions takes twice as long, a busy host several times as long.
START_SECONDS = 900.0
#: Seconds to shut down; then qemu is killed and unwritten data is lost.
STOP_SECONDS = 180.0
# Measured: docs/machines.md, "Performance".
ACCELERATOR = "tcg,thread=multi,tb-size=1024"
#: Options to count instructions: each takes a nanosecond of the machine's clock (qemu's
#: docs/devel/tcg-icount.rst). Sscofpmf and Smcntrpmf let Linux count a program's instructions
#: apart from its own. One processor: several would share one host processor, and each would
#: count the instructions of all (target/riscv/pmu.c).
ICOUNT = (
    "-cpu", "rv64,sscofpmf=on,smcntrpmf=on", "-smp", "1",
    "-accel", "tcg,thread=single,tb-size=1024", "-icount", "shift=0",
)  # fmt: skip
#: Three levels of page tables instead of five: fewer to walk in software. Programs get
#: memory in blocks of 16 to 64 KiB: fewer faults. Kernel memory is not zeroed twice.
KERNEL_OPTIONS = "no4lvl thp_anon=16K,32K,64K:always init_on_alloc=0"

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")


def _machines() -> Path:
    return project.cache() / "machines"


@dataclass(frozen=True, kw_only=True)
class MachineSpec:
    """A machine's size.

    Args:
        cpus: processors.
        memory: as in `8G`.
        disk: as in `40G`; the file on the host grows with use.
    """

    cpus: int
    memory: str
    disk: str

    @classmethod
    def parse(cls, cpus: int, memory: str, disk: str) -> MachineSpec:
        """Parse the command line's values; zero and empty mean a default for this host.

        Raises:
            UsageError: a value is invalid, or more than the host has.
        """
        total = host.memory_bytes()
        # Half of the host's memory; a build uses at most 8 GiB.
        fitting = max(2, min(8, total // 2 >> 30))
        spec = cls(cpus=cpus or host.cpus(), memory=memory or f"{fitting}G", disk=disk or "40G")
        values.number("--cpus", spec.cpus, 1, 32, "leave it out")
        wanted = values.size("--memory", spec.memory)
        if not 1 << 30 <= wanted <= total:
            raise UsageError(
                f"--memory {spec.memory}: not between 1G and this host's {total >> 30}G",
                "give at least 4G to compile BuildKit",
            )
        if values.size("--disk", spec.disk) < bases.BASE_BYTES + (2 << 30):
            raise UsageError(f"--disk {spec.disk}: too small", "give at least 20G")
        return spec


def _command(pid: int | None) -> list[bytes]:
    """A process's arguments; empty when no such process runs."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    return []


@dataclass(frozen=True)
class Machine:
    """An emulated machine.

    Args:
        path: the machine's directory.
    """

    path: Path

    @property
    def name(self) -> str:
        """The machine's name."""
        return self.path.name

    @property
    def settings(self) -> dict[str, Any]:
        """The configuration: id, size, base, creation time.

        Raises:
            MachineError: the configuration is missing or damaged.
        """
        hint = f"invoke machine.destroy --name {self.name}, and create it again"
        try:
            settings: dict[str, Any] = documents.load(
                self.path / "machine.json", schemas.MACHINE, error=MachineError, hint=hint
            )
        except FileNotFoundError as error:
            raise MachineError(f"machine {self.name} no longer exists", hint) from error
        return settings

    @property
    def pid(self) -> int | None:
        """The PID of the running qemu, or None; stale PID files are ignored."""
        file = self.path / "qemu.pid"
        try:
            pid = int(file.read_text())
        except (OSError, ValueError):
            return None
        return pid if os.fsencode(file) in _command(pid) else None

    @property
    def icount(self) -> bool:
        """True while the machine runs and counts instructions."""
        return b"-icount" in _command(self.pid)

    @property
    def answered(self) -> bool:
        """True when the running qemu has answered ssh."""
        try:
            return self.pid == int(self.answered_file.read_text())
        except (OSError, ValueError):
            return False

    @property
    def answered_file(self) -> Path:
        """The file with the PID of the qemu that answered ssh."""
        return self.path / "answered.pid"

    @property
    def uptime(self) -> float:
        """Seconds since qemu started; 0 when qemu is not running."""
        if self.pid is None:
            return 0.0
        return time.time() - (self.path / "qemu.pid").stat().st_mtime

    @property
    def disk_bytes(self) -> int:
        """Bytes that the disk takes on the host."""
        with contextlib.suppress(OSError):
            return (self.path / "disk.qcow2").stat().st_blocks * 512
        return 0

    @property
    def destination(self) -> Destination:
        """The machine's ssh destination."""
        return Destination(self.name, self.path / "ssh_config")

    @property
    def log(self) -> Path:
        """The console log: output of the kernel and systemd."""
        return self.path / "console.log"

    def last_console_line(self) -> str:
        """The last line of the console log."""
        with contextlib.suppress(OSError):
            lines = self.log.read_text(errors="replace").strip().splitlines()
            return lines[-1].strip() if lines else "the console log is empty"
        return "no console log"


def _named(name: str) -> Path:
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} is not a machine name",
            "use at most 32 lower-case letters, digits and dashes",
        )
    return _machines() / name


def find(name: str) -> Machine:
    """Find a machine by name.

    Raises:
        UsageError: the name is invalid.
        MachineError: no such machine exists.
    """
    machine = Machine(_named(name))
    if not (machine.path / "machine.json").exists():
        raise MachineError(
            f"machine {name} does not exist",
            f"invoke machine.create --name {name}, or see machine.list",
        )
    return machine


def exists(name: str) -> bool:
    """True when a machine with this name exists."""
    return bool(_NAME.fullmatch(name)) and (_machines() / name / "machine.json").exists()


def list_machines() -> list[Machine]:
    """All machines, by name."""
    return [Machine(p.parent) for p in sorted(_machines().glob("[a-z0-9]*/machine.json"))]


@contextlib.contextmanager
def _hold(name: str) -> Iterator[None]:
    """Lock a machine while it is changed; a dry run needs no lock."""
    if dry_run.active():
        yield
        return
    with locks.exclusive(_machines() / f".{name}.lock", f"machine {name}"):
        yield


def create(name: str, spec: MachineSpec, *, yes: bool = False) -> Machine:
    """Create a machine: an overlay over the base, keys, configuration.

    Raises:
        MachineError: the machine exists, or a step failed.
        BusyError: another run is changing the machine.
    """
    path = _named(name)
    with _hold(name):
        if path.exists():
            raise MachineError(
                f"machine {name} already exists",
                f"invoke machine.start --name {name}, or machine.destroy --name {name} first",
            )
        base = bases.ensure(pins.load(), yes=yes)
        if dry_run.active():
            _secure_and_overlay(path, name, base, spec)
            log(f"would write {path / 'machine.json'}")
            return Machine(path)
        temporary = path.with_name(f".{name}.making")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(mode=0o700, parents=True)
        try:
            _secure_and_overlay(temporary, name, base, spec)
            settings = {
                "id": uuid.uuid4().hex,
                "base": base.path.name,
                "created": int(time.time()),
                **asdict(spec),
            }
            filesystem.write_json(temporary / "machine.json", settings)
            temporary.rename(path)
        except OSError as error:
            raise filesystem.failure(error, temporary) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return Machine(path)


def _secure_and_overlay(
    directory: Path, name: str, base: bases.BaseDisk, spec: MachineSpec
) -> None:
    """Create a machine's keys and disk."""
    for file, comment in (("host_key", f"host {name}"), ("user_key", f"buildkit-riscv64 {name}")):
        process.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", directory / file],
            error=MachineError,
        )
    _overlay(base, directory, spec)


def _overlay(base: bases.BaseDisk, directory: Path, spec: MachineSpec) -> None:
    process.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", base.disk,
         directory / "disk.qcow2", spec.disk],
        error=MachineError, hint="run `invoke doctor --phase machine`",
    )  # fmt: skip


def _identity(machine: Machine, base: bases.BaseDisk) -> None:
    """Write the initrd: the base's initrd, followed by an archive with the machine's identity.

    The kernel unpacks both cpio archives in order
    (Documentation/driver-api/early-userspace/buffer-format.rst). init copies
    /identity to the disk, so the host never mounts the disk.
    """
    with_identity = machine.path / "initrd"
    work = machine.path / "work"
    shutil.rmtree(work, ignore_errors=True)
    root = work / "identity"
    try:
        for directory in ("etc/ssh", "root/.ssh"):
            (root / directory).mkdir(parents=True)
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
            f"127.0.0.1 localhost {machine.name}\n::1 localhost\n{host_settings.HOST_ADDRESS} host\n",
        )
        host_settings.write(root, base.certificates)
        # These modes replace the modes on the machine's disk, so the umask must not matter.
        for path in (root, *root.rglob("*")):
            if path.is_dir():
                path.chmod(0o700 if path.is_relative_to(root / "root") else 0o755)
            else:
                path.chmod(0o600 if str(path.relative_to(root)) in private else 0o644)
        names = sorted(str(p.relative_to(work)) for p in work.rglob("*"))
        archive = process.pipe_through(
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


def qemu(machine: Machine, base: bases.BaseDisk, port: int, *, icount: bool = False) -> list[str]:
    """The command that starts qemu."""
    settings = machine.settings
    default = ("-cpu", "rv64", "-smp", str(settings["cpus"]), "-accel", ACCELERATOR)
    return [
        *base.emulator, "-name", f"guest={machine.name}",
        "-no-user-config", "-nodefaults", "-display", "none",
        "-machine", "virt", "-m", settings["memory"], *(ICOUNT if icount else default),
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
    # The key belongs to the name: the port changes at each start.
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
    """Start a machine unless it runs, and wait until it answers ssh.

    Args:
        machine: the machine.
        icount: count instructions.

    Raises:
        MachineError: qemu does not start, the machine does not answer, or it runs without
            counting instructions.
        BusyError: another run is changing the machine.
    """
    with _hold(machine.name):
        if machine.pid is None:
            _launch(machine, icount=icount)
        elif icount and not machine.icount:
            raise MachineError(
                f"machine {machine.name} is running without counting instructions",
                f"invoke machine.stop --name {machine.name}, and start it again",
            )
        if dry_run.active():
            return
        _wait(machine)
        machine.answered_file.write_text(f"{machine.pid}\n")


def _launch(machine: Machine, *, icount: bool) -> None:
    base = bases.BaseDisk(bases.bases() / machine.settings["base"])
    # Early bases had no emulator.
    if not (base.disk.exists() and Path(base.emulator[0]).exists()):
        raise MachineError(
            f"the base of machine {machine.name} is no longer in the cache",
            f"invoke machine.destroy --name {machine.name}, and create it again",
        )
    if dry_run.active():
        command = qemu(machine, base, _free_port(), icount=icount)
        log(f"would write initrd, known_hosts and ssh_config in {machine.path}/")
        log(f"would run: {process.show(command)}")
        return
    (machine.path / "qemu.pid").unlink(missing_ok=True)
    _identity(machine, base)
    reason = ""
    for _ in range(3):
        # Another process may take the port before qemu does.
        port = _free_port()
        _ssh_config(machine, port)
        answer = process.probe(
            qemu(machine, base, port, icount=icount), cwd=machine.path, timeout=120, changes=True
        )
        if answer.ok:
            return
        reason = answer.last_line
        if "host forwarding" not in reason:
            break
    raise MachineError(f"qemu does not start: {reason}", "run `invoke doctor --phase machine`")


def _wait(machine: Machine) -> None:
    """Wait until a machine answers ssh."""
    started = time.monotonic()
    logged = started
    while True:
        # On a slow host, logging in takes longer too.
        seconds = round(min(max(20.0, time.monotonic() - started), 120.0))
        options = ("-o", f"ConnectTimeout={seconds}")
        destination = Destination(machine.name, machine.path / "ssh_config", options)
        answer = destination.probe(["true"], timeout=1.5 * seconds)
        if answer.ok:
            return
        if machine.pid is None:
            raise MachineError(
                f"qemu ended while machine {machine.name} started: {machine.last_console_line()}",
                f"see `invoke machine.logs --name {machine.name}`",
            )
        if "Host key verification failed" in answer.stderr:
            raise MachineError(
                f"another ssh server answers at the port of machine {machine.name}",
                f"invoke machine.stop --name {machine.name}, and start it again",
            )
        now = time.monotonic()
        if now - started > START_SECONDS:
            raise MachineError(
                f"machine {machine.name} does not answer ssh after {START_SECONDS:.0f} s:"
                f" {machine.last_console_line()}",
                f"see `invoke machine.logs --name {machine.name}`",
            )
        if now - logged > 15:
            logged = now
            log(f"  {now - started:.0f} s: {machine.name} is starting")
        time.sleep(0.3)


def stop(machine: Machine) -> None:
    """Shut a machine down; kill qemu when the machine does not stop.

    Raises:
        BusyError: another run is changing the machine.
    """
    with _hold(machine.name):
        _stop(machine)


def _stop(machine: Machine) -> None:
    pid = machine.pid
    poweroff = machine.destination.command(["systemctl", "poweroff"])
    if dry_run.active():
        running = pid is not None
        log(f"would run: {process.show(poweroff)}" if running else f"{machine.name} is not running")
        return
    if pid is not None:
        process.probe(poweroff, timeout=60, changes=True)
        if not _gone(machine, STOP_SECONDS):
            log(f"machine {machine.name} does not shut down: killing qemu")
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
    """Kill qemu at once: the disk is about to be deleted."""
    pid = machine.pid
    if pid is not None:
        os.kill(pid, signal.SIGKILL)
        _gone(machine, 10)


def _log_deletion(machine: Machine, path: Path) -> None:
    if machine.pid is not None:
        log(f"would kill qemu (PID {machine.pid})")
    log(f"would delete {path} ({size(machine.disk_bytes)} of disk)")


def reset(machine: Machine) -> None:
    """Replace a machine's disk with an empty overlay over the base.

    Raises:
        BusyError: another run is changing the machine.
        MachineError: the base could not be built.
    """
    with _hold(machine.name):
        settings = machine.settings
        base = bases.ensure(pins.load())
        spec = MachineSpec(**{key: settings[key] for key in ("cpus", "memory", "disk")})
        disk = machine.path / "disk.qcow2"
        if dry_run.active():
            _log_deletion(machine, disk)
            _overlay(base, machine.path, spec)
            return
        _kill(machine)
        disk.unlink(missing_ok=True)
        _overlay(base, machine.path, spec)
        filesystem.write_json(machine.path / "machine.json", {**settings, "base": base.path.name})
        (machine.path / "qemu.pid").unlink(missing_ok=True)


def destroy(machine: Machine) -> None:
    """Delete a machine; the base stays in the cache.

    Raises:
        BusyError: another run is changing the machine.
    """
    with _hold(machine.name):
        if dry_run.active():
            _log_deletion(machine, machine.path)
            return
        _kill(machine)
        shutil.rmtree(machine.path)
        (_machines() / f".{machine.name}.lock").unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        _machines().rmdir()
