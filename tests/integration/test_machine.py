"""An emulated riscv64 machine: create, use, kill, reboot, reset, destroy.

The tests share one machine and run in the order of this file. With
BUILDKIT_TEST_CACHE, a cache that contains the base, they take minutes less.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from buildkit_riscv64.binaries import elf
from buildkit_riscv64.core import pins
from buildkit_riscv64.machine import base_disk as bases
from buildkit_riscv64.validation.environment.waiting import BOUND, alive, eventually

from .miniature import Done, Project, Started, Upstream, refused, remove, succeeded, with_mounts

pytestmark = [pytest.mark.integration, pytest.mark.machine]

NAME = "riscv64"
#: Creating a machine takes minutes.
LONG = 6 * BOUND


def mounts(below: Path) -> list[str]:
    return [line for line in Path("/proc/mounts").read_text().splitlines() if f" {below}" in line]


class User:
    """A user with a checkout and a cache."""

    def __init__(self, project: Project, cache: Path) -> None:
        self.project = project
        self.cache = cache / "buildkit-riscv64"
        project.env["XDG_CACHE_HOME"] = str(cache)

    def machine(self, verb: str, *words: str, name: str = NAME) -> Done:
        named = () if verb == "list" else ("--name", name)
        return succeeded(self.project.invoke(f"machine.{verb}", *named, *words, timeout=LONG))

    def on(self, *words: str) -> Done:
        return self.project.invoke("on", NAME, "--yes", "--", *words, timeout=LONG)

    def started(self, *words: str) -> contextlib.AbstractContextManager[Started]:
        return self.project.started("on", NAME, "--", *words)

    def status(self) -> Any:
        return self.machine("status", "--json").json

    @property
    def directory(self) -> Path:
        return self.cache / "machines" / NAME

    def pid(self) -> int:
        return int((self.directory / "qemu.pid").read_text())

    def ssh(self, *words: str) -> str:
        """Run a command on the machine by plain ssh."""
        done = subprocess.run(
            ["ssh", "-F", self.directory / "ssh_config", NAME, *words],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=BOUND, check=True,
        )  # fmt: skip
        return done.stdout


@pytest.fixture(scope="module")
def user(new_project: Callable[..., Project], upstream: Upstream) -> Iterator[User]:
    """A user who leaves no process, mount or file."""
    project = new_project(built=False)
    # The machine reaches no module proxy and no submodule origin: use a clone.
    upstream.clone(project.root / "mini")
    ready = os.environ.get("BUILDKIT_TEST_CACHE")
    user = User(project, Path(ready) if ready else project.root.parent / "cache")
    yield user
    for machine in (user.cache / "machines").glob("[a-z]*"):
        project.invoke("machine.destroy", "--name", machine.name, "--yes")
    project.no_strays()
    remove(project.root.parent)


@pytest.fixture(scope="module")
def created(user: User) -> tuple[Done, Done]:
    """Create two machines at once without a base; return both results."""
    with (
        user.project.started("machine.create", "--memory", "4G", "--yes") as first,
        user.project.started("machine.create", "--name", "two", "--cpus", "1", "--memory", "1G", "--yes") as second,
    ):  # fmt: skip
        ends = [run.process.wait(LONG) for run in (first, second)]
        one, two = (Done(code, "", run.output()) for code, run in zip(ends, (first, second), strict=True))  # fmt: skip
        return one, two


@pytest.fixture(scope="module")
def running(user: User, created: tuple[Done, Done]) -> User:
    user.machine("start")
    return user


# Failed base builds.


@pytest.fixture
def alone(project: Project) -> Project:
    """A project with an empty cache."""
    return project


def bases_of(project: Project) -> Path:
    return Path(project.env["XDG_CACHE_HOME"]) / "buildkit-riscv64" / "bases"


def unpacking(project: Project, run: Started, *, but: set[Path]) -> set[Path]:
    """Wait for mmdebstrap; return its working directories."""

    def directories() -> set[Path]:
        return {
            path for path in bases_of(project).glob(".making-*") if (path / "root/etc").exists()
        }

    assert eventually(lambda: directories() - but or run.process.poll() is not None)
    assert run.process.poll() is None, run.output()
    return directories()


def test_killed_create_is_resumed(alone: Project) -> None:
    with alone.started("machine.create", "--yes") as run:
        (left,) = unpacking(alone, run, but=set())
        assert run.end(signal.SIGKILL).code == -signal.SIGKILL
    alone.no_strays()
    assert mounts(bases_of(alone)) == []
    assert left.exists()
    with alone.started("machine.create", "--yes") as run:
        # The next run removes the leftovers.
        (new,) = unpacking(alone, run, but={left})
        assert new != left
        refused(run.end(signal.SIGTERM), 130, "interrupted")
    alone.no_strays()
    assert mounts(bases_of(alone)) == []
    assert [p.name for p in bases_of(alone).iterdir()] == [".lock"]
    assert not (bases_of(alone).parent / "machines" / NAME).exists()


def full(project: Project, size: str, needed: int | None = None) -> Done:
    """Create a machine with the cache on a small private disk."""
    cache = bases_of(project).parent
    cache.mkdir(parents=True)
    changed = f"doctor_checks.NEEDED_BYTES = {needed}\n" if needed is not None else ""
    program = (
        f"import sys\nfrom buildkit_riscv64.machine import doctor_checks\n{changed}"
        "from buildkit_riscv64.program import program\nsys.argv = ['invoke', 'machine.create', '--yes']\n"
        "program.run()\n"
    )
    then = f"mount -t tmpfs -o size={size} tmpfs {cache}"
    done = subprocess.run(
        [*with_mounts(then), sys.executable, "-c", program], cwd=project.root,
        env=project.env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LONG,
        check=False,
    )  # fmt: skip
    return Done(done.returncode, done.stdout, done.stderr)


def test_create_checks_free_space_first(alone: Project) -> None:
    done = full(alone, "1g")
    refused(done, 9, "1.0 GiB")
    assert "unpacking" not in done.stderr


@pytest.mark.parametrize("size", ["120m", "400m"])
def test_create_on_a_full_disk(alone: Project, size: str) -> None:
    refused(full(alone, size, needed=0), 9, "no space left")
    alone.no_strays()


# Create.


def test_two_creates_build_one_base(user: User, created: tuple[Done, Done]) -> None:
    for done in created:
        succeeded(done)
        assert "Traceback" not in done.stderr
    (base,) = (p for p in (user.cache / "bases").iterdir() if not p.name.startswith("."))
    assert base.name == bases.recipe_hash(pins.load())
    if "BUILDKIT_TEST_CACHE" not in os.environ:
        built = [done for done in created if "unpacking qemu" in done.stderr]
        waited = [done for done in created if "waiting for it" in done.stderr]
        assert len(built) == len(waited) == 1
        assert built != waited
    assert mounts(user.cache) == []
    listed = user.machine("list", "--json").json
    assert [(one["name"], one["state"], one["cpus"]) for one in listed][1] == ("two", "stopped", 1)
    assert {one["name"] for one in listed} == {NAME, "two"}


def test_create_refuses_an_existing_machine(user: User, created: tuple[Done, Done]) -> None:
    refused(user.project.invoke("machine.create"), 13, "already")


def test_further_machine_needs_no_build(user: User, created: tuple[Done, Done]) -> None:
    done = user.machine("create", "--memory", "1G", name="three")
    assert "unpacking qemu" not in done.stderr
    refused(user.project.invoke("machine.destroy", "--name", "three"), 2, "not confirmed")
    assert (user.cache / "machines" / "three" / "disk.qcow2").exists()
    user.machine("destroy", "--yes", name="three")
    assert not (user.cache / "machines" / "three").exists()


@pytest.mark.parametrize("name", ["kernel", "initrd", "packages.tsv"])
def test_damaged_base_is_rejected(
    user: User,
    created: tuple[Done, Done],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    """The unit tests cover the rebuild."""
    digest = bases.recipe_hash(pins.load())
    copy = tmp_path / "buildkit-riscv64" / "bases" / digest
    copy.mkdir(parents=True)
    for path in (user.cache / "bases" / digest).iterdir():
        (copy / path.name).symlink_to(path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert bases.find(pins.load()) is not None
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).unlink()
    (copy / name).write_bytes(content)
    assert bases.find(pins.load()) is None


def test_identity_archive(user: User, running: User, tmp_path: Path) -> None:
    """The machine's archive follows the base's archive."""
    digest = user.status()["base"]
    skip = (user.cache / "bases" / digest / "initrd").stat().st_size
    archive = (user.directory / "initrd").read_bytes()[skip:]
    listing = subprocess.run(
        ["cpio", "--quiet", "-tv"],
        input=archive, capture_output=True, check=True,
    ).stdout.decode()  # fmt: skip
    entries = {line.split()[-1]: line.split() for line in listing.splitlines()}
    key = entries["identity/etc/ssh/ssh_host_ed25519_key"]
    assert (key[0], key[2], key[3]) == ("-rw-------", "root", "root")
    assert entries["identity/etc"][0] == "drwxr-xr-x"
    assert entries["identity/root/.ssh"][0] == "drwx------"
    assert all(entry[2:4] == ["root", "root"] for entry in entries.values())


# Use.


def listening(pid: int) -> set[str]:
    """The addresses on which a process listens, as in /proc/net/tcp and tcp6."""
    sockets = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            sockets.add(str(link.readlink()))
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
                found.add(fields[1])
    return found


def test_running_machine_listens_on_the_loopback_only(running: User) -> None:
    status = running.status()
    assert (status["state"], status["execution"]) == ("running", "qemu-system")
    address, _, port = status["address"].partition(":")
    assert address == "127.0.0.1"
    assert listening(running.pid()) == {f"0100007F:{int(port):04X}"}
    assert status["uptime_seconds"] > 0
    (one,) = [o for o in running.machine("list", "--json").json if o["name"] == NAME]
    assert one["state"] == "running"
    # A second start changes nothing.
    pid = running.pid()
    running.machine("start")
    assert running.pid() == pid
    assert status["icount"] is False
    done = running.project.invoke("machine.start", "--icount")
    refused(done, 13, f"machine {NAME}", "counting instructions")
    assert running.pid() == pid


def test_machine_contents(running: User) -> None:
    output = running.ssh(
        "uname -m; hostname; stat -c '%a %U' /etc /root /root/.ssh/authorized_keys"
        " /etc/ssh/ssh_host_ed25519_key /etc/ssl/certs/ca-certificates.crt /etc/environment"
    ).splitlines()
    assert output == [
        "riscv64", NAME, "755 root", "700 root", "600 root", "600 root", "644 root", "644 root",
    ]  # fmt: skip
    for command in ("go", "docker", "runc", "tini", "rootlesskit", "newuidmap", "fuse-overlayfs", "apparmor_parser"):  # fmt: skip
        assert f"/{command}" in running.ssh(f"PATH=$PATH:/usr/lib/go-1.26/bin command -v {command}")
    # The root file system has grown to the disk.
    assert eventually(lambda: int(running.ssh("df -B1 --output=size / | tail -1")) > 35 << 30), (
        running.ssh("df /; journalctl -u grow-root --no-pager")
    )
    assert "machine.start" not in running.machine("logs").stdout


def test_another_host_key_is_refused(running: User) -> None:
    known = running.directory / "known_hosts"
    good = known.read_text()
    try:
        known.write_text(good[:-12] + "AAAAAAAAAAA\n")
        refused(running.on("true"), 13)
    finally:
        known.write_text(good)


def test_doctor(running: User) -> None:
    done = succeeded(running.on("doctor", "--phase", "binaries"))
    assert "riscv64, qemu-system" in done.stderr


def test_build_on_the_machine_and_check_here(running: User) -> None:
    project = running.project
    done = succeeded(running.on("build-binaries", "--source", "./mini"))
    assert "dist/linux-riscv64/ (qemu-system)" in done.stderr
    assert project.manifest()["host"]["execution"] == "qemu-system"
    assert project.manifest()["host"]["arch"] == "riscv64"
    for command in ("buildctl", "buildkitd"):
        program = elf.read_elf(project.target() / "bin" / command)
        assert program.machine == "EM_RISCV"
    checked = succeeded(project.invoke("check-binaries", "--target", "linux-riscv64"))
    assert "WARN" in checked.stderr or "not run" in checked.stderr
    (verdict,) = succeeded(
        project.invoke("verify-binaries", "--cross-check", "--target", "linux-riscv64", "--json")
    ).json
    assert verdict["identical"] is True
    # Nothing has changed.
    again = succeeded(running.on("build-binaries", "--source", "./mini"))
    assert "dist/linux-riscv64/ (qemu-system)" not in again.stderr


def test_exit_code_and_output_are_passed_on(running: User) -> None:
    done = running.on("sh", "-c", "echo out; echo err >&2; exit 7")
    assert (done.code, done.stdout) == (7, "out\n")
    assert done.stderr.endswith("err\n")


# Kill.


def sleeping(user: User, run: Started) -> None:
    """Wait until the remote command sleeps."""
    assert eventually(
        lambda: (
            run.process.poll() is not None
            or (
                f"on {NAME} (" in run.output()
                and "4321" in user.ssh("pgrep -af '[s]leep 4321' || true")
            )
        )
    )
    assert run.process.poll() is None, run.output()


def test_compiler_without_memory(running: User) -> None:
    def largest() -> list[str]:
        return running.ssh("ps -eo rss=,comm= --sort=-rss | head -1").split()

    before = running.project.files()
    build = ["./invoke", "build-binaries", "--source", "./mini", "--force", "--yes"]
    with running.started("env", "GOCACHE=/root/empty", *build) as run:
        assert eventually(
            lambda: (
                run.process.poll() is not None
                or (int(largest()[0]) > 100_000 and largest()[1] == "compile")
            )
        )
        # The kernel kills the largest process, as when memory runs out.
        running.ssh("echo f >/proc/sysrq-trigger")
        refused(run.wait(), 3, "the compiler was killed", "memory runs out")
    # systemd has not restarted ssh.
    assert "Out of memory: Killed process" in running.ssh("dmesg")
    assert running.ssh("systemctl show --property NRestarts ssh") == "NRestarts=0\n"
    assert running.project.files() == before
    assert not running.ssh("ls -A .cache/buildkit-riscv64/checkouts/*/dist | grep staging || true")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_remote_command_ends_with_the_local_one(running: User, number: signal.Signals) -> None:
    with running.started("sleep", "4321") as run:
        sleeping(running, run)
        done = run.end(number)
    assert done.code == (-number if number is signal.SIGKILL else 130)
    assert eventually(lambda: not running.ssh("pgrep -af '[s]leep 4321' || true"))
    if number is signal.SIGKILL:
        for left in Path(running.project.env["TMPDIR"]).glob("bk-*"):
            remove(left)


def test_machine_restarts_during_a_command(running: User) -> None:
    boot = running.ssh("cat /proc/sys/kernel/random/boot_id; echo kept >/root/kept; sync")
    with running.started("sleep", "4321") as run:
        sleeping(running, run)
        with contextlib.suppress(subprocess.CalledProcessError):
            running.ssh("reboot")
        refused(run.wait(), 13, f"machine {NAME}", "restarted")
    running.machine("start")
    # sshd may still answer before it stops.
    assert eventually(lambda: running.project.invoke("on", NAME, "--", "true").code == 0)
    assert running.ssh("cat /proc/sys/kernel/random/boot_id") not in boot


def test_qemu_is_killed_during_a_command(running: User) -> None:
    with running.started("sleep", "4321") as run:
        sleeping(running, run)
        os.kill(running.pid(), signal.SIGKILL)
        refused(run.wait(), 13, f"machine {NAME}", "qemu")
    # The stale PID file now names another process.
    assert running.status()["state"] == "stopped"
    (running.directory / "qemu.pid").write_text(f"{os.getpid()}\n")
    assert running.status()["state"] == "stopped"
    # `on` starts the machine with the same disk.
    done = succeeded(running.on("cat", "/root/kept"))
    assert done.stdout == "kept\n"
    assert f"starting machine {NAME}" in done.stderr
    assert Path(f"/proc/{os.getpid()}").exists()


# Stop, reset, destroy.


def test_two_running_machines(running: User) -> None:
    running.machine("start", name="two")
    listed = running.machine("list", "--json").json
    assert [one["state"] for one in listed] == ["running", "running"]
    config = running.cache / "machines" / "two" / "ssh_config"
    done = subprocess.run(
        ["ssh", "-F", config, "two", "hostname; nproc"],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=BOUND, check=True,
    )  # fmt: skip
    assert done.stdout == "two\n1\n"
    assert running.ssh("hostname") == f"{NAME}\n"
    running.machine("stop", name="two")
    assert running.status()["state"] == "running"


def test_stop_and_reset(running: User) -> None:
    running.machine("stop")
    assert running.status()["state"] == "stopped"
    running.project.no_strays()
    running.machine("stop")
    used = running.status()["disk_used_bytes"]
    running.machine("reset", "--yes")
    assert running.status()["disk_used_bytes"] < min(used, 1 << 20)
    # The files are deleted; the keys are the same.
    running.machine("start", "--icount")
    assert running.ssh("ls /root/kept 2>&1 || true").strip().endswith("No such file or directory")


def test_machine_counts_instructions(running: User) -> None:
    """The same work takes the same time, whatever else the machine and the host run."""
    assert running.status()["icount"] is True
    work = "sum(i * i for i in range(1_000_000))"
    timed = f"import time; {work}; began = time.process_time_ns(); {work}; print(time.process_time_ns() - began)"
    alone = int(running.ssh("python3", "-c", f"'{timed}'"))
    for _ in range(3):
        busy = f"(while :; do :; done) & python3 -c '{timed}'; kill $!"
        assert int(running.ssh(busy)) == pytest.approx(alone, rel=0.05)
    # perf needs it to count programs apart from the kernel.
    assert "_sscofpmf" in running.ssh("cat /proc/cpuinfo")


def test_destroy_leaves_only_bases(running: User) -> None:
    pid = running.pid()
    for name in (NAME, "two"):
        running.machine("destroy", "--yes", name=name)
    assert eventually(lambda: not alive(pid))
    running.project.no_strays()
    assert mounts(running.cache) == []
    assert not (running.cache / "machines").exists()
    # Files of other commands.
    shared = {"apt", "verification", "durations.json"}
    assert {p.name for p in running.cache.iterdir()} - shared == {"bases"}
    refused(running.project.invoke("machine.status"), 13, f"machine {NAME} does not exist")
