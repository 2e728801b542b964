from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from buildkit_riscv64.core import host, process, project
from buildkit_riscv64.core.errors import BusyError, MachineError, StorageError, UsageError
from buildkit_riscv64.machine import base_disk as bases
from buildkit_riscv64.machine import host_settings, machines
from buildkit_riscv64.machine.base_disk import BaseDisk
from buildkit_riscv64.machine.machines import Machine, MachineSpec
from buildkit_riscv64.machine.ssh import Destination

from .conftest import ID, MachineCommands

GIB = 1 << 30
SPEC = MachineSpec(cpus=2, memory="8G", disk="40G")

# Sizes.


@pytest.fixture
def _large_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "cpus", lambda: 6)
    monkeypatch.setattr(host, "memory_bytes", lambda *_: 24 * GIB)


@pytest.mark.usefixtures("_large_host")
@pytest.mark.parametrize(
    ("words", "spec"),
    [
        ((0, "", ""), (6, "8G", "40G")),
        ((1, "1G", "5G"), (1, "1G", "5G")),
        ((32, "24G", "1000G"), (32, "24G", "1000G")),
        ((2, "1024M", "5120M"), (2, "1024M", "5120M")),
    ],
)
def test_sizes(words: tuple[int, str, str], spec: tuple[int, str, str]) -> None:
    assert MachineSpec.parse(*words) == MachineSpec(cpus=spec[0], memory=spec[1], disk=spec[2])


@pytest.mark.usefixtures("_large_host")
@pytest.mark.parametrize(
    ("words", "names"),
    [
        ((-1, "", ""), "--cpus -1"), ((33, "", ""), "--cpus 33"),
        ((0, "1023M", ""), "--memory 1023M"), ((0, "25G", ""), "--memory 25G"),
        ((0, "0G", ""), "--memory 0G"), ((0, "8", ""), "--memory 8"),
        ((0, "8g", ""), "--memory 8g"), ((0, "8 G", ""), "--memory 8 G"),
        ((0, "-8G", ""), "--memory -8G"), ((0, "8G,share=on", ""), "--memory 8G,share=on"),
        ((0, "8G\n", ""), "--memory 8G"), ((0, "1.5G", ""), "--memory 1.5G"),
        ((0, "", "4G"), "--disk 4G"), ((0, "", "4T"), "--disk 4T"), ((0, "", "x"), "--disk x"),
    ],
)  # fmt: skip
def test_invalid_sizes(words: tuple[int, str, str], names: str) -> None:
    with pytest.raises(UsageError) as caught:
        MachineSpec.parse(*words)
    assert caught.value.brief.startswith(names.split(maxsplit=1)[0])
    assert caught.value.hint


@pytest.mark.parametrize(
    ("total", "memory"), [(2, "2G"), (4, "2G"), (7, "3G"), (16, "8G"), (64, "8G")]
)
def test_default_memory(monkeypatch: pytest.MonkeyPatch, total: int, memory: str) -> None:
    monkeypatch.setattr(host, "memory_bytes", lambda *_: total * GIB)
    assert MachineSpec.parse(1, "", "").memory == memory


# Names.


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "-x", "A", "a/b", "../x", "a b", "a_b", "a.b", "a\n", "é", "x" * 33, "/tmp/x", "a,b"],
)  # fmt: skip
def test_invalid_names(name: str, commands: MachineCommands) -> None:
    for refuses in (machines.find, lambda n: machines.create(n, SPEC)):
        with pytest.raises(UsageError, match="not a machine name"):
            refuses(name)
    assert not machines.exists(name)
    assert commands.calls == []


@pytest.mark.parametrize("name", ["a", "0", "riscv64", "my-machine-2", "x" * 32])
def test_valid_names(name: str) -> None:
    with pytest.raises(MachineError, match=f"machine {name} "):
        machines.find(name)
    assert not machines.exists(name)


def test_find_and_list(machine: Machine) -> None:
    assert machines.find("one") == machine
    assert machines.exists("one")
    assert machines.list_machines() == [machine]
    # Partial machines are ignored.
    (machine.path.parent / ".two.making").mkdir()
    (machine.path.parent / "three").mkdir()
    assert machines.list_machines() == [machine]
    assert not machines.exists("three")


def test_list_without_machines() -> None:
    assert machines.list_machines() == []


# State.


@pytest.mark.parametrize("content", ["", "{", "[]", "1", "null", "{}", '{"id": "x"}', "\xff"])
def test_damaged_settings(machine: Machine, content: str) -> None:
    (machine.path / "machine.json").write_text(content, encoding="latin-1")
    with pytest.raises(MachineError, match=r"machine\.json") as caught:
        _ = machine.settings
    assert "machine.destroy --name one" in caught.value.hint


@pytest.fixture
def running() -> Iterator[Callable[[str], int]]:
    """Start a process with an argument; it ends with the test."""
    children: list[subprocess.Popen[bytes]] = []

    def start(word: str) -> int:
        reads = "import sys; print(flush=True); sys.stdin.read()"
        child = subprocess.Popen(
            [sys.executable, "-c", reads, "-name", word],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        children.append(child)
        assert child.stdout is not None
        child.stdout.readline()
        return child.pid

    yield start
    for child in children:
        child.communicate()


def test_pid_of_a_running_machine(machine: Machine, running: Callable[[str], int]) -> None:
    assert machine.pid is None
    assert machine.uptime == 0
    pid = running(str(machine.path / "qemu.pid"))
    (machine.path / "qemu.pid").write_text(f"{pid}\n")
    assert machine.pid == pid
    assert machine.uptime >= 0


@pytest.mark.parametrize("word", ["guest=one", "qemu.pid", "/other/qemu.pid", ""])
def test_pid_of_another_process_is_ignored(
    machine: Machine, running: Callable[[str], int], word: str
) -> None:
    (machine.path / "qemu.pid").write_text(str(running(word)))
    assert machine.pid is None
    assert machine.uptime == 0


@pytest.mark.parametrize("content", ["", "x", "-1", "0", "4194305", "999999999999", "\xff"])
def test_stale_pid_file_is_ignored(machine: Machine, content: str) -> None:
    (machine.path / "qemu.pid").write_text(content, encoding="latin-1")
    assert machine.pid is None


def test_pid_does_not_need_the_configuration(
    machine: Machine, running: Callable[[str], int]
) -> None:
    (machine.path / "machine.json").write_text("damaged")
    pid = running(str(machine.path / "qemu.pid"))
    (machine.path / "qemu.pid").write_text(f"{pid}\n")
    assert machine.pid == pid


def test_answered_belongs_to_this_qemu(machine: Machine, running: Callable[[str], int]) -> None:
    assert not machine.answered
    pid = running(str(machine.path / "qemu.pid"))
    (machine.path / "qemu.pid").write_text(f"{pid}\n")
    assert not machine.answered
    for content, answered in ((f"{pid}\n", True), (f"{pid + 1}\n", False), ("x", False)):
        machine.answered_file.write_text(content)
        assert machine.answered is answered


def test_last_console_line(machine: Machine) -> None:
    assert machine.last_console_line() == "no console log"
    machine.log.write_bytes(b"")
    assert machine.last_console_line() == "the console log is empty"
    machine.log.write_bytes(b"booting\r\n\xff panic \r\n\n")
    assert machine.last_console_line() == "� panic"


def test_disk_bytes(machine: Machine) -> None:
    assert machine.disk_bytes == 0
    (machine.path / "disk.qcow2").write_bytes(b"x" * 8192)
    assert machine.disk_bytes >= 8192


# qemu's command and a machine's files.


def test_qemu_command(machine: Machine, base: BaseDisk) -> None:
    assert machines.qemu(machine, base, 2222) == [
        f"{base.path}/emulator/qemu-system-riscv64-loader", "--library-path", f"{base.path}/emulator",
        f"{base.path}/emulator/qemu-system-riscv64", "-L", f"{base.path}/emulator",
        "-name", "guest=one",
        "-no-user-config", "-nodefaults", "-display", "none",
        "-machine", "virt", "-m", "8G", "-cpu", "rv64", "-smp", "2",
        "-accel", "tcg,thread=multi,tb-size=1024",
        "-kernel", f"{base.path}/kernel", "-initrd", "initrd",
        "-append", "root=/dev/vda rw console=ttyS0 loglevel=4 systemd.show_status=0"
        f" net.ifnames=0 systemd.machine_id={ID} no4lvl"
        " thp_anon=16K,32K,64K:always init_on_alloc=0",
        "-drive", "file=disk.qcow2,if=none,id=disk,format=qcow2,cache=writeback,discard=unmap",
        "-device", "virtio-blk-pci,drive=disk",
        "-netdev", "user,id=net,ipv6=off,hostfwd=tcp:127.0.0.1:2222-:22",
        "-device", "virtio-net-pci,netdev=net,romfile=",
        "-object", "rng-random,id=rng,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng",
        "-serial", "file:console.log", "-pidfile", str(machine.path / "qemu.pid"), "-daemonize",
    ]  # fmt: skip


def test_qemu_command_that_counts_instructions(machine: Machine, base: BaseDisk) -> None:
    default = machines.qemu(machine, base, 2222)
    counting = machines.qemu(machine, base, 2222, icount=True)
    assert [one for one in default if one not in counting] == [
        "rv64", "2", "tcg,thread=multi,tb-size=1024",
    ]  # fmt: skip
    assert [one for one in counting if one not in default] == [
        "rv64,sscofpmf=on,smcntrpmf=on", "1", "tcg,thread=single,tb-size=1024", "-icount", "shift=0",
    ]  # fmt: skip


def test_ssh_configuration(machine: Machine) -> None:
    machines._ssh_config(machine, 2222)
    config = machine.path / "ssh_config"
    assert config.read_text() == (
        "Host one\n"
        "  HostName 127.0.0.1\n"
        "  Port 2222\n"
        "  User root\n"
        "  HostKeyAlias one\n"
        f'  UserKnownHostsFile "{machine.path}/known_hosts"\n'
        "  GlobalKnownHostsFile /dev/null\n"
        "  StrictHostKeyChecking yes\n"
        f'  IdentityFile "{machine.path}/user_key"\n'
        "  IdentitiesOnly yes\n"
        "  PasswordAuthentication no\n"
        "  LogLevel ERROR\n"
    )
    known = machine.path / "known_hosts"
    assert known.read_text() == "one ssh-ed25519 hostpublic\n"
    for path in (config, known):
        assert path.stat().st_mode & 0o777 == 0o600


def test_free_ports_are_free() -> None:
    port = machines._free_port()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", port))


def snapshot(root: Path) -> dict[str, tuple[int, bytes]]:
    """Mode and content of everything below a directory."""
    return {
        str(p.relative_to(root)): (p.stat().st_mode & 0o7777, b"" if p.is_dir() else p.read_bytes())
        for p in root.rglob("*")
    }


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o000])
def test_identity(
    machine: Machine,
    base: BaseDisk,
    commands: MachineCommands,
    monkeypatch: pytest.MonkeyPatch,
    umask: int,
) -> None:
    monkeypatch.setattr(host_settings, "certificates", list)
    monkeypatch.setattr(host_settings, "proxies", lambda: {"http_proxy": "http://p"})
    (machine.path / "host_key").chmod(0o600)
    (machine.path / "work").mkdir()  # left by a killed run
    taken: list[tuple[dict[str, tuple[int, bytes]], list[str]]] = []

    def cpio(args: process.Arguments, data: bytes, **options: Any) -> bytes:
        assert args == ["cpio", "--quiet", "-o", "-H", "newc", "-R", "0:0"]
        taken.append((snapshot(options["cwd"]), data.decode().splitlines()))
        return b"ARCHIVE"

    monkeypatch.setattr(process, "pipe_through", cpio)
    before = os.umask(umask)
    try:
        machines._identity(machine, base)
    finally:
        os.umask(before)
    assert (machine.path / "initrd").read_bytes() == b"content of initrd\nARCHIVE"
    assert not (machine.path / "work").exists()
    ((files, names),) = taken
    assert names == sorted(files)
    # Each directory comes before its files.
    assert names[:2] == ["identity", "identity/etc"]
    content = {n.removeprefix("identity/"): f for n, f in files.items()}
    assert content["etc/ssh/ssh_host_ed25519_key"] == (0o600, b"host private\n")
    assert content["etc/ssh/ssh_host_ed25519_key.pub"][0] == 0o644
    assert content["root/.ssh/authorized_keys"] == (0o600, b"ssh-ed25519 userpublic user one\n")
    assert content["etc/hostname"] == (0o644, b"one\n")
    assert content["etc/machine-id"] == (0o644, f"{ID}\n".encode())
    assert content["etc/hosts"][1].splitlines() == [
        b"127.0.0.1 localhost one", b"::1 localhost", b"10.0.2.2 host",
    ]  # fmt: skip
    assert content["etc/environment"][1] == b'http_proxy="http://p"\nHTTP_PROXY="http://p"\n'
    assert content["etc/ssl/certs/ca-certificates.crt"][1] == b"content of ca-certificates.crt\n"
    # These modes replace those on the machine: sshd refuses files that others can write, and
    # users other than root need /etc.
    for directory in ("root", "root/.ssh"):
        assert content[directory][0] == 0o700
    for directory in (
        "etc",
        "etc/ssh",
        "etc/ssl",
        "etc/ssl/certs",
        "usr",
        "usr/local",
        "usr/local/share",
    ):
        assert content[directory][0] == 0o755, directory
    # Other users' programs read these files.
    for name in ("etc/environment", "etc/ssl/certs/ca-certificates.crt", "etc/hosts"):
        assert content[name][0] == 0o644, name
    assert not any(b"user private" in data for _, data in content.values())


# Create.


@pytest.fixture
def with_base(
    base: BaseDisk, commands: MachineCommands, monkeypatch: pytest.MonkeyPatch
) -> MachineCommands:
    """A cached base, and a fake ssh-keygen that writes keys."""
    monkeypatch.setattr(bases, "ensure", lambda _pins, yes=False: base)
    probe = commands.probe

    def keys(args: process.Arguments, **options: Any) -> process.Result:
        if args[0] == "ssh-keygen":
            for suffix in ("", ".pub"):
                Path(f"{args[-1]}{suffix}").write_text("ssh-ed25519 key comment\n")
        return probe(args, **options)

    monkeypatch.setattr(process, "probe", keys)
    return commands


def test_create(with_base: MachineCommands, base: BaseDisk) -> None:
    machine = machines.create("new", SPEC)
    temporary = machine.path.parent / ".new.making"
    assert with_base.args == [
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "host new", "-f", f"{temporary}/host_key"],
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "buildkit-riscv64 new", "-f", f"{temporary}/user_key"],
        ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", str(base.disk), f"{temporary}/disk.qcow2", "40G"],
    ]  # fmt: skip
    assert not temporary.exists()
    assert machine.path.stat().st_mode & 0o777 == 0o700
    settings = machine.settings
    assert (settings["cpus"], settings["memory"], settings["disk"]) == (2, "8G", "40G")
    assert settings["base"] == base.path.name
    assert len(settings["id"]) == 32
    other = machines.create("other", SPEC)
    assert other.settings["id"] != settings["id"]


def test_create_refuses_an_existing_machine(with_base: MachineCommands, machine: Machine) -> None:
    before = snapshot(machine.path)
    with pytest.raises(MachineError, match="machine one already exists") as caught:
        machines.create("one", SPEC)
    assert "machine.destroy --name one" in caught.value.hint
    assert snapshot(machine.path) == before
    assert with_base.calls == []


@pytest.mark.parametrize("tool", ["ssh-keygen", "qemu-img"])
def test_failed_create_leaves_no_files(with_base: MachineCommands, tool: str) -> None:
    left = project.cache() / "machines" / ".new.making"
    left.mkdir(parents=True)
    (left / "host_key").write_text("of a killed run")
    with_base.answer(tool, code=1, stderr="no")
    with pytest.raises(MachineError, match=tool):
        machines.create("new", SPEC)
    assert [p.name for p in left.parent.iterdir() if not p.name.endswith(".lock")] == []
    assert not machines.exists("new")


def test_create_without_space(with_base: MachineCommands, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, _value: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr("buildkit_riscv64.core.filesystem.write_json", full)
    with pytest.raises(StorageError, match="no space left"):
        machines.create("new", SPEC)
    assert machines.list_machines() == []


# Start.


@pytest.fixture
def ready(
    machine: Machine, commands: MachineCommands, monkeypatch: pytest.MonkeyPatch
) -> MachineCommands:
    """A machine whose qemu is only recorded."""
    monkeypatch.setattr(host_settings, "certificates", list)
    monkeypatch.setattr(host_settings, "proxies", dict)
    monkeypatch.setattr("time.sleep", lambda _seconds: None)
    return commands


@pytest.fixture
def pid(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """qemu's PID, or empty."""
    pids: list[int] = []
    monkeypatch.setattr(Machine, "pid", property(lambda _self: pids[0] if pids else None))
    return pids


def verbs(commands: MachineCommands) -> list[str]:
    return [Path(call.args[0]).name for call in commands.calls]


def test_start(ready: MachineCommands, machine: Machine, base: BaseDisk, pid: list[int]) -> None:
    machines.start(machine)
    assert verbs(ready) == ["cpio", bases.LOADER, "ssh"]
    _, started, ssh = ready.calls
    assert started.options["cwd"] == machine.path
    config = (machine.path / "ssh_config").read_text()
    (port,) = [line.split()[1] for line in config.splitlines() if line.startswith("  Port ")]
    assert started.args == machines.qemu(machine, base, int(port))
    assert ssh.args == [
        "ssh", "-F", f"{machine.path}/ssh_config", "-o", "ConnectTimeout=20", "-T", "one", "--",
        "true",
    ]  # fmt: skip


def test_start_leaves_a_running_machine_alone(
    ready: MachineCommands, machine: Machine, pid: list[int]
) -> None:
    pid.append(1)
    machines.start(machine)
    assert verbs(ready) == ["ssh"]


def test_start_with_icount_refuses_a_running_machine(
    ready: MachineCommands, machine: Machine, pid: list[int]
) -> None:
    pid.append(os.getpid())
    with pytest.raises(MachineError, match="without counting instructions") as caught:
        machines.start(machine, icount=True)
    assert "machine.stop --name one" in caught.value.hint
    assert ready.calls == []


def test_start_tries_another_port(ready: MachineCommands, machine: Machine, pid: list[int]) -> None:
    ready.answer(
        "-netdev", code=1,
        stderr="qemu: -netdev user: Could not set up host forwarding rule 'tcp:127.0.0.1:1-:22'\n",
    )  # fmt: skip
    with pytest.raises(MachineError, match="host forwarding"):
        machines.start(machine)
    assert verbs(ready) == ["cpio", *[bases.LOADER] * 3]
    ports = {call.args[call.args.index("-netdev") + 1] for call in ready.calls[1:]}
    assert len(ports) > 1


def test_qemu_does_not_start(ready: MachineCommands, machine: Machine, pid: list[int]) -> None:
    ready.answer("-netdev", code=1, stderr="cannot set up guest memory 'ram'\n")
    with pytest.raises(MachineError, match="cannot set up guest memory"):
        machines.start(machine)
    assert verbs(ready) == ["cpio", bases.LOADER]


def test_qemu_ends_during_start(ready: MachineCommands, machine: Machine, pid: list[int]) -> None:
    ready.answer("ssh", code=255, stderr="refused")
    machine.log.write_text("initrd: no root file system on /dev/vda\n")
    with pytest.raises(MachineError, match=r"machine one .*: initrd: no root"):
        machines.start(machine)


def test_start_with_another_ssh_server(
    ready: MachineCommands, machine: Machine, pid: list[int]
) -> None:
    pid.append(1)
    ready.answer("ssh", code=255, stderr="No ED25519 host key\nHost key verification failed.\n")
    with pytest.raises(MachineError, match=r"another ssh server .* one"):
        machines.start(machine)


def test_start_waits_longer_for_a_slow_machine(
    ready: MachineCommands, machine: Machine, pid: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = iter(range(0, 1 << 20, 60))
    monkeypatch.setattr("time.monotonic", lambda: next(ticks))
    monkeypatch.setattr("time.sleep", lambda _seconds: None)
    pid.append(1)
    ready.answer("ssh", code=255, stderr="Connection timed out during banner exchange")
    with pytest.raises(MachineError, match="does not answer ssh after"):
        machines.start(machine)
    options = [call for call in ready.calls if call.args[0] == "ssh"]
    waits = [int(call.args[4].partition("=")[2]) for call in options]
    assert waits == sorted(waits)
    assert (waits[0], waits[-1]) == (60, 120)
    assert all(call.options["timeout"] > wait for call, wait in zip(options, waits, strict=True))


def test_start_without_an_answer(
    ready: MachineCommands, machine: Machine, pid: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machines, "START_SECONDS", -1.0)
    pid.append(1)
    ready.answer("ssh", code=255, stderr="Connection refused")
    machine.log.write_text("kernel panic\n")
    with pytest.raises(MachineError, match=r"does not answer ssh after .*: kernel panic") as caught:
        machines.start(machine)
    assert "machine.logs --name one" in caught.value.hint


@pytest.mark.parametrize("gone", ["", bases.EMULATOR_DIRECTORY])
def test_start_without_the_base(
    ready: MachineCommands, machine: Machine, base: BaseDisk, gone: str
) -> None:
    shutil.rmtree(base.path / gone)
    with pytest.raises(MachineError, match="base of machine one") as caught:
        machines.start(machine)
    assert "machine.destroy --name one" in caught.value.hint
    assert ready.calls == []


# Stop, reset, destroy.


@pytest.fixture
def kills(monkeypatch: pytest.MonkeyPatch, pid: list[int]) -> list[tuple[int, int]]:
    """Recorded signals; the fake qemu ends by SIGKILL only."""
    sent: list[tuple[int, int]] = []

    def kill(number: int, which: int) -> None:
        sent.append((number, which))
        if which == signal.SIGKILL:
            pid.clear()

    monkeypatch.setattr(os, "kill", kill)
    return sent


def test_stop_without_a_running_qemu(
    ready: MachineCommands, machine: Machine, kills: list[tuple[int, int]]
) -> None:
    (machine.path / "qemu.pid").write_text("1")
    machines.stop(machine)
    assert ready.calls == []
    assert kills == []
    assert not (machine.path / "qemu.pid").exists()


def test_stop_shuts_down(
    ready: MachineCommands,
    machine: Machine,
    pid: list[int],
    kills: list[tuple[int, int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pid.append(7)
    probe = process.probe

    def off(args: process.Arguments, **options: Any) -> process.Result:
        pid.clear()
        return probe(args, **options)

    monkeypatch.setattr(process, "probe", off)
    machines.stop(machine)
    assert ready.last.args[-1] == "systemctl poweroff"
    assert kills == []


def test_stop_kills_qemu_after_a_timeout(
    ready: MachineCommands,
    machine: Machine,
    pid: list[int],
    kills: list[tuple[int, int]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ticks = iter(range(0, 1 << 20, 5))
    monkeypatch.setattr("time.monotonic", lambda: next(ticks))
    pid.append(7)
    machines.stop(machine)
    assert kills == [(7, signal.SIGTERM), (7, signal.SIGKILL)]
    assert "machine one" in capsys.readouterr().err


def test_reset(
    with_base: MachineCommands,
    machine: Machine,
    pid: list[int],
    kills: list[tuple[int, int]],
    base: BaseDisk,
) -> None:
    pid.append(7)
    (machine.path / "disk.qcow2").write_text("old")
    before = machine.settings
    machines.reset(machine)
    assert kills == [(7, signal.SIGKILL)]
    assert with_base.args == [
        ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", str(base.disk), f"{machine.path}/disk.qcow2", "40G"]
    ]  # fmt: skip
    assert machine.settings == before
    assert not (machine.path / "disk.qcow2").exists()


def test_reset_to_another_base(
    with_base: MachineCommands,
    machine: Machine,
    pid: list[int],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(bases, "ensure", lambda _pins, yes=False: BaseDisk(tmp_path / "newer"))
    machines.reset(machine)
    assert machine.settings["base"] == "newer"
    assert machine.settings["id"] == ID


@pytest.mark.parametrize("running", [True, False])
@pytest.mark.parametrize("damaged", [False, True])
def test_destroy_leaves_the_bases(
    machine: Machine,
    base: BaseDisk,
    pid: list[int],
    kills: list[tuple[int, int]],
    running: bool,
    damaged: bool,
) -> None:
    if running:
        pid.append(7)
    if damaged:
        (machine.path / "machine.json").write_text("{")
    machines.destroy(machine)
    assert kills == ([(7, signal.SIGKILL)] if running else [])
    assert sorted(p.name for p in project.cache().iterdir()) == ["bases"]
    assert base.disk.exists()


def test_destroy_leaves_other_machines(machine: Machine) -> None:
    other = Path(shutil.copytree(machine.path, machine.path.with_name("two")))
    machines.destroy(machine)
    assert machines.list_machines() == [Machine(other)]
    assert [p.name for p in other.parent.iterdir()] == ["two"]


@pytest.mark.parametrize("change", ["start", "stop", "reset", "destroy", "create"])
def test_one_change_at_a_time(machine: Machine, commands: MachineCommands, change: str) -> None:
    changes: dict[str, Callable[[], object]] = {
        "create": lambda: machines.create("one", SPEC),
        **{n: lambda n=n: getattr(machines, n)(machine) for n in ("start", "stop", "reset", "destroy")},  # type: ignore[misc]
    }  # fmt: skip
    with (machine.path.parent / ".one.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(BusyError, match="machine one"):
            changes[change]()
    assert commands.calls == []


def test_destination(machine: Machine) -> None:
    assert machine.destination == Destination("one", machine.path / "ssh_config")
    assert json.loads((machine.path / "machine.json").read_text()) == machine.settings
