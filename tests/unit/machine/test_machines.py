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

from buildkit_riscv64 import host, process, project
from buildkit_riscv64.errors import BusyError, MachineError, StorageError, UsageError
from buildkit_riscv64.machine import base as bases
from buildkit_riscv64.machine import machines, trust
from buildkit_riscv64.machine.base import Base
from buildkit_riscv64.machine.destination import Destination
from buildkit_riscv64.machine.machines import Machine, Shape

from .conftest import ID, MachineCommands

GIB = 1 << 30
SHAPE = Shape(cpus=2, memory="8G", disk="40G")

# Shapes.


@pytest.fixture
def _large_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "cpus", lambda: 6)
    monkeypatch.setattr(host, "memory_bytes", lambda *_: 24 * GIB)


@pytest.mark.usefixtures("_large_host")
@pytest.mark.parametrize(
    ("words", "shape"),
    [
        ((0, "", ""), (6, "8G", "40G")),
        ((1, "1G", "5G"), (1, "1G", "5G")),
        ((32, "24G", "1000G"), (32, "24G", "1000G")),
        ((2, "1024M", "5120M"), (2, "1024M", "5120M")),
    ],
)
def test_shapes(words: tuple[int, str, str], shape: tuple[int, str, str]) -> None:
    assert Shape.parse(*words) == Shape(cpus=shape[0], memory=shape[1], disk=shape[2])


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
def test_shapes_that_are_refused(words: tuple[int, str, str], names: str) -> None:
    with pytest.raises(UsageError) as caught:
        Shape.parse(*words)
    assert caught.value.brief.startswith(names)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("total", "memory"), [(2, "2G"), (4, "2G"), (7, "3G"), (16, "8G"), (64, "8G")]
)
def test_memory_that_fits(monkeypatch: pytest.MonkeyPatch, total: int, memory: str) -> None:
    monkeypatch.setattr(host, "memory_bytes", lambda *_: total * GIB)
    assert Shape.parse(1, "", "").memory == memory


# Names.


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "-x", "A", "a/b", "../x", "a b", "a_b", "a.b", "a\n", "é", "x" * 33, "/tmp/x", "a,b"],
)  # fmt: skip
def test_names_that_are_refused(name: str, commands: MachineCommands) -> None:
    for refuses in (machines.find, lambda n: machines.create(n, SHAPE)):
        with pytest.raises(UsageError, match="is not a name for a machine"):
            refuses(name)
    assert not machines.exists(name)
    assert commands.calls == []


@pytest.mark.parametrize("name", ["a", "0", "riscv64", "my-machine-2", "x" * 32])
def test_names_that_are_not(name: str) -> None:
    with pytest.raises(MachineError, match=f"there is no machine {name}"):
        machines.find(name)
    assert not machines.exists(name)


def test_what_is_there(machine: Machine) -> None:
    assert machines.find("one") == machine
    assert machines.exists("one")
    assert machines.everyone() == [machine]
    # Half of a machine is none.
    (machine.path.parent / ".two.making").mkdir()
    (machine.path.parent / "three").mkdir()
    assert machines.everyone() == [machine]
    assert not machines.exists("three")


def test_nothing_is_there() -> None:
    assert machines.everyone() == []


# What is known of one.


@pytest.mark.parametrize("content", ["", "{", "[]", "1", "null", "{}", '{"id": "x"}', "\xff"])
def test_damaged_settings(machine: Machine, content: str) -> None:
    (machine.path / "machine.json").write_text(content, encoding="latin-1")
    with pytest.raises(MachineError, match="machine one is damaged") as caught:
        _ = machine.settings
    assert "machine.destroy --name one" in caught.value.hint


@pytest.fixture
def running() -> Iterator[Callable[[str], int]]:
    """Starts a process with this among its arguments; it ends with the test."""
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


def test_the_pid_of_a_running_machine(machine: Machine, running: Callable[[str], int]) -> None:
    assert machine.pid is None
    assert machine.uptime == 0
    pid = running(str(machine.path / "qemu.pid"))
    (machine.path / "qemu.pid").write_text(f"{pid}\n")
    assert machine.pid == pid
    assert machine.uptime >= 0


@pytest.mark.parametrize("word", ["guest=one", "qemu.pid", "/other/qemu.pid", ""])
def test_the_pid_of_another_process_is_not_believed(machine: Machine, running: Callable[[str], int], word: str) -> None:  # fmt: skip
    (machine.path / "qemu.pid").write_text(str(running(word)))
    assert machine.pid is None
    assert machine.uptime == 0


@pytest.mark.parametrize("content", ["", "x", "-1", "0", "4194305", "999999999999", "\xff"])
def test_a_stale_pid_file_is_not_believed(machine: Machine, content: str) -> None:
    (machine.path / "qemu.pid").write_text(content, encoding="latin-1")
    assert machine.pid is None


def test_it_is_found_whatever_its_configuration_is(machine: Machine, running: Callable[[str], int]) -> None:  # fmt: skip
    (machine.path / "machine.json").write_text("damaged")
    pid = running(str(machine.path / "qemu.pid"))
    (machine.path / "qemu.pid").write_text(f"{pid}\n")
    assert machine.pid == pid


def test_whether_this_qemu_has_answered(machine: Machine, running: Callable[[str], int]) -> None:
    assert not machine.answered
    pid = running(str(machine.path / "qemu.pid"))
    (machine.path / "qemu.pid").write_text(f"{pid}\n")
    assert not machine.answered
    for content, answered in ((f"{pid}\n", True), (f"{pid + 1}\n", False), ("x", False)):
        machine.answered_file.write_text(content)
        assert machine.answered is answered


def test_last_words(machine: Machine) -> None:
    assert machine.last_words() == "no console"
    machine.log.write_bytes(b"")
    assert machine.last_words() == "nothing on its console"
    machine.log.write_bytes(b"booting\r\n\xff panic \r\n\n")
    assert machine.last_words() == "� panic"


def test_its_disk(machine: Machine) -> None:
    assert machine.disk_bytes == 0
    (machine.path / "disk.qcow2").write_bytes(b"x" * 8192)
    assert machine.disk_bytes >= 8192


# The command and the files.


def test_the_qemu_command(machine: Machine, base: Base) -> None:
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


def test_the_qemu_command_that_counts_instructions(machine: Machine, base: Base) -> None:
    usual = machines.qemu(machine, base, 2222)
    counting = machines.qemu(machine, base, 2222, icount=True)
    assert [one for one in usual if one not in counting] == [
        "rv64", "2", "tcg,thread=multi,tb-size=1024",
    ]  # fmt: skip
    assert [one for one in counting if one not in usual] == [
        "rv64,sscofpmf=on,smcntrpmf=on", "1", "tcg,thread=single,tb-size=1024", "-icount", "shift=0",
    ]  # fmt: skip


def test_the_ssh_configuration(machine: Machine) -> None:
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
    """Mode and content of everything below a folder."""
    return {
        str(p.relative_to(root)): (p.stat().st_mode & 0o7777, b"" if p.is_dir() else p.read_bytes())
        for p in root.rglob("*")
    }


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o000])
def test_the_identity(machine: Machine, base: Base, commands: MachineCommands, monkeypatch: pytest.MonkeyPatch, umask: int) -> None:  # fmt: skip
    monkeypatch.setattr(trust, "certificates", list)
    monkeypatch.setattr(trust, "proxies", lambda: {"http_proxy": "http://p"})
    (machine.path / "host_key").chmod(0o600)
    (machine.path / "work").mkdir()  # a killed run's
    taken: list[tuple[dict[str, tuple[int, bytes]], list[str]]] = []

    def cpio(args: process.Arguments, data: bytes, **options: Any) -> bytes:
        assert args == ["cpio", "--quiet", "-o", "-H", "newc", "-R", "0:0"]
        taken.append((snapshot(options["cwd"]), data.decode().splitlines()))
        return b"ARCHIVE"

    monkeypatch.setattr(process, "filtered", cpio)
    before = os.umask(umask)
    try:
        machines._identity(machine, base)
    finally:
        os.umask(before)
    assert (machine.path / "initrd").read_bytes() == b"content of initrd\nARCHIVE"
    assert not (machine.path / "work").exists()
    ((files, names),) = taken
    assert names == sorted(files)
    # Each folder before what is in it.
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
    # They replace the modes of the machine's own folders: sshd refuses what others can write,
    # and nobody but root could do anything if /etc were closed.
    for folder in ("root", "root/.ssh"):
        assert content[folder][0] == 0o700
    for folder in (
        "etc",
        "etc/ssh",
        "etc/ssl",
        "etc/ssl/certs",
        "usr",
        "usr/local",
        "usr/local/share",
    ):
        assert content[folder][0] == 0o755, folder
    # Programs of other users read these.
    for name in ("etc/environment", "etc/ssl/certs/ca-certificates.crt", "etc/hosts"):
        assert content[name][0] == 0o644, name
    assert not any(b"user private" in data for _, data in content.values())


# Creating.


@pytest.fixture
def made(base: Base, commands: MachineCommands, monkeypatch: pytest.MonkeyPatch) -> MachineCommands:
    """The base is there; ssh-keygen makes keys."""
    monkeypatch.setattr(bases, "ensure", lambda _pins, yes=False: base)
    probe = commands.probe

    def keys(args: process.Arguments, **options: Any) -> process.Result:
        if args[0] == "ssh-keygen":
            for suffix in ("", ".pub"):
                Path(f"{args[-1]}{suffix}").write_text("ssh-ed25519 key comment\n")
        return probe(args, **options)

    monkeypatch.setattr(process, "probe", keys)
    return commands


def test_creating(made: MachineCommands, base: Base) -> None:
    machine = machines.create("new", SHAPE)
    aside = machine.path.parent / ".new.making"
    assert made.args == [
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "host new", "-f", f"{aside}/host_key"],
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "buildkit-riscv64 new", "-f", f"{aside}/user_key"],
        ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", str(base.disk), f"{aside}/disk.qcow2", "40G"],
    ]  # fmt: skip
    assert not aside.exists()
    assert machine.path.stat().st_mode & 0o777 == 0o700
    settings = machine.settings
    assert (settings["cpus"], settings["memory"], settings["disk"]) == (2, "8G", "40G")
    assert settings["base"] == base.path.name
    assert len(settings["id"]) == 32
    other = machines.create("other", SHAPE)
    assert other.settings["id"] != settings["id"]


def test_one_that_is_there_is_not_created_again(made: MachineCommands, machine: Machine) -> None:
    before = snapshot(machine.path)
    with pytest.raises(MachineError, match="there is a machine one already") as caught:
        machines.create("one", SHAPE)
    assert "machine.destroy --name one" in caught.value.hint
    assert snapshot(machine.path) == before
    assert made.calls == []


@pytest.mark.parametrize("tool", ["ssh-keygen", "qemu-img"])
def test_nothing_half_created_is_left(made: MachineCommands, tool: str) -> None:
    left = project.cache() / "machines" / ".new.making"
    left.mkdir(parents=True)
    (left / "host_key").write_text("of a killed run")
    made.answer(tool, code=1, stderr="no")
    with pytest.raises(MachineError, match=tool):
        machines.create("new", SHAPE)
    assert [p.name for p in left.parent.iterdir() if not p.name.endswith(".lock")] == []
    assert not machines.exists("new")


def test_no_space_for_a_machine(made: MachineCommands, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, _value: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr("buildkit_riscv64.storage.write_json", full)
    with pytest.raises(StorageError, match="no space left"):
        machines.create("new", SHAPE)
    assert machines.everyone() == []


# Starting.


@pytest.fixture
def ready(machine: Machine, commands: MachineCommands, monkeypatch: pytest.MonkeyPatch) -> MachineCommands:  # fmt: skip
    """The machine could be started: qemu is only recorded, and pids are as told."""
    monkeypatch.setattr(trust, "certificates", list)
    monkeypatch.setattr(trust, "proxies", dict)
    monkeypatch.setattr("time.sleep", lambda _seconds: None)
    return commands


@pytest.fixture
def pid(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The pid of qemu, or none."""
    pids: list[int] = []
    monkeypatch.setattr(Machine, "pid", property(lambda _self: pids[0] if pids else None))
    return pids


def verbs(commands: MachineCommands) -> list[str]:
    return [Path(call.args[0]).name for call in commands.calls]


def test_starting(ready: MachineCommands, machine: Machine, base: Base, pid: list[int]) -> None:
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


def test_one_that_runs_is_left_alone(ready: MachineCommands, machine: Machine, pid: list[int]) -> None:  # fmt: skip
    pid.append(1)
    machines.start(machine)
    assert verbs(ready) == ["ssh"]


def test_one_that_runs_does_not_begin_to_count(ready: MachineCommands, machine: Machine, pid: list[int]) -> None:  # fmt: skip
    pid.append(os.getpid())
    with pytest.raises(MachineError, match="runs already, and does not count") as caught:
        machines.start(machine, icount=True)
    assert "machine.stop --name one" in caught.value.hint
    assert ready.calls == []


def test_a_port_that_is_taken_is_given_up(ready: MachineCommands, machine: Machine, pid: list[int]) -> None:  # fmt: skip
    ready.answer(
        "-netdev", code=1,
        stderr="qemu: -netdev user: Could not set up host forwarding rule 'tcp:127.0.0.1:1-:22'\n",
    )  # fmt: skip
    with pytest.raises(MachineError, match=r"qemu does not start: .*host forwarding"):
        machines.start(machine)
    assert verbs(ready) == ["cpio", *[bases.LOADER] * 3]
    ports = {call.args[call.args.index("-netdev") + 1] for call in ready.calls[1:]}
    assert len(ports) > 1


def test_qemu_does_not_start(ready: MachineCommands, machine: Machine, pid: list[int]) -> None:
    ready.answer("-netdev", code=1, stderr="cannot set up guest memory 'ram'\n")
    with pytest.raises(MachineError, match="qemu does not start: cannot set up guest memory"):
        machines.start(machine)
    assert verbs(ready) == ["cpio", bases.LOADER]


def test_qemu_ends_while_it_starts(ready: MachineCommands, machine: Machine, pid: list[int]) -> None:  # fmt: skip
    ready.answer("ssh", code=255, stderr="refused")
    machine.log.write_text("initrd: no root file system on /dev/vda\n")
    with pytest.raises(MachineError, match="qemu ended while one started: initrd: no root"):
        machines.start(machine)


def test_something_else_answers(ready: MachineCommands, machine: Machine, pid: list[int]) -> None:
    pid.append(1)
    ready.answer("ssh", code=255, stderr="No ED25519 host key\nHost key verification failed.\n")
    with pytest.raises(MachineError, match="something else answers at the port of one"):
        machines.start(machine)


def test_it_never_answers(ready: MachineCommands, machine: Machine, pid: list[int], monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setattr(machines, "START_SECONDS", -1.0)
    pid.append(1)
    ready.answer("ssh", code=255, stderr="Connection refused")
    machine.log.write_text("kernel panic\n")
    with pytest.raises(MachineError, match=r"does not answer ssh after .*: kernel panic") as caught:
        machines.start(machine)
    assert "machine.logs --name one" in caught.value.hint


@pytest.mark.parametrize("gone", ["", bases.EMULATOR_FOLDER])
def test_the_base_has_been_deleted(ready: MachineCommands, machine: Machine, base: Base, gone: str) -> None:  # fmt: skip
    shutil.rmtree(base.path / gone)
    with pytest.raises(MachineError, match="is not in the cache any more") as caught:
        machines.start(machine)
    assert "machine.destroy --name one" in caught.value.hint
    assert ready.calls == []


# Stopping, resetting, destroying.


@pytest.fixture
def kills(monkeypatch: pytest.MonkeyPatch, pid: list[int]) -> list[tuple[int, int]]:
    """Signals that would have been sent; qemu ends by SIGKILL only."""
    sent: list[tuple[int, int]] = []

    def kill(number: int, which: int) -> None:
        sent.append((number, which))
        if which == signal.SIGKILL:
            pid.clear()

    monkeypatch.setattr(os, "kill", kill)
    return sent


def test_stopping_what_does_not_run(ready: MachineCommands, machine: Machine, kills: list[tuple[int, int]]) -> None:  # fmt: skip
    (machine.path / "qemu.pid").write_text("1")
    machines.stop(machine)
    assert ready.calls == []
    assert kills == []
    assert not (machine.path / "qemu.pid").exists()


def test_stopping_politely(ready: MachineCommands, machine: Machine, pid: list[int], kills: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    pid.append(7)
    probe = process.probe

    def off(args: process.Arguments, **options: Any) -> process.Result:
        pid.clear()
        return probe(args, **options)

    monkeypatch.setattr(process, "probe", off)
    machines.stop(machine)
    assert ready.last.args[-1] == "systemctl poweroff"
    assert kills == []


def test_one_that_does_not_listen_is_ended(ready: MachineCommands, machine: Machine, pid: list[int], kills: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    ticks = iter(range(0, 1 << 20, 5))
    monkeypatch.setattr("time.monotonic", lambda: next(ticks))
    pid.append(7)
    machines.stop(machine)
    assert kills == [(7, signal.SIGTERM), (7, signal.SIGKILL)]
    assert "one does not shut down: ending qemu" in capsys.readouterr().err


def test_resetting(made: MachineCommands, machine: Machine, pid: list[int], kills: list[tuple[int, int]], base: Base) -> None:  # fmt: skip
    pid.append(7)
    (machine.path / "disk.qcow2").write_text("old")
    before = machine.settings
    machines.reset(machine)
    assert kills == [(7, signal.SIGKILL)]
    assert made.args == [
        ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", str(base.disk), f"{machine.path}/disk.qcow2", "40G"]
    ]  # fmt: skip
    assert machine.settings == before
    assert not (machine.path / "disk.qcow2").exists()


def test_resetting_to_another_base(made: MachineCommands, machine: Machine, pid: list[int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:  # fmt: skip
    monkeypatch.setattr(bases, "ensure", lambda _pins, yes=False: Base(tmp_path / "newer"))
    machines.reset(machine)
    assert machine.settings["base"] == "newer"
    assert machine.settings["id"] == ID


@pytest.mark.parametrize("running", [True, False])
@pytest.mark.parametrize("damaged", [False, True])
def test_destroying_leaves_the_bases(machine: Machine, base: Base, pid: list[int], kills: list[tuple[int, int]], running: bool, damaged: bool) -> None:  # fmt: skip
    if running:
        pid.append(7)
    if damaged:
        (machine.path / "machine.json").write_text("{")
    machines.destroy(machine)
    assert kills == ([(7, signal.SIGKILL)] if running else [])
    assert sorted(p.name for p in project.cache().iterdir()) == ["bases"]
    assert base.disk.exists()


def test_destroying_leaves_other_machines(machine: Machine) -> None:
    other = Path(shutil.copytree(machine.path, machine.path.with_name("two")))
    machines.destroy(machine)
    assert machines.everyone() == [Machine(other)]
    assert [p.name for p in other.parent.iterdir()] == ["two"]


@pytest.mark.parametrize("change", ["start", "stop", "reset", "destroy", "create"])
def test_one_change_at_a_time(machine: Machine, commands: MachineCommands, change: str) -> None:
    changes: dict[str, Callable[[], object]] = {
        "create": lambda: machines.create("one", SHAPE),
        **{n: lambda n=n: getattr(machines, n)(machine) for n in ("start", "stop", "reset", "destroy")},  # type: ignore[misc]
    }  # fmt: skip
    with (machine.path.parent / ".one.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(BusyError, match="another run is changing machine one"):
            changes[change]()
    assert commands.calls == []


def test_how_ssh_reaches_it(machine: Machine) -> None:
    assert machine.destination == Destination("one", machine.path / "ssh_config")
    assert json.loads((machine.path / "machine.json").read_text()) == machine.settings
