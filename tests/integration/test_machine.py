"""An emulated riscv64 machine: made from nothing, used, killed, rebooted, reset, destroyed.

The tests share one machine and use it in the order in which they stand here.
With BUILDKIT_TEST_CACHE, a cache that has the base already, they take minutes less.
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

from buildkit_riscv64 import pins
from buildkit_riscv64.binaries import elf
from buildkit_riscv64.machine import base as bases

from ..processes import alive, eventually
from .miniature import Done, Project, Started, Upstream, refused, remove, succeeded, with_mounts

pytestmark = [pytest.mark.integration, pytest.mark.machine]

NAME = "riscv64"
#: For a machine that is slow and busy; what passes never waits so long.
BOUND = 300.0


def mounts(below: Path) -> list[str]:
    return [line for line in Path("/proc/mounts").read_text().splitlines() if f" {below}" in line]


class User:
    """Who types the commands, in a checkout, with a cache."""

    def __init__(self, project: Project, cache: Path) -> None:
        self.project = project
        self.cache = cache / "buildkit-riscv64"
        project.env["XDG_CACHE_HOME"] = str(cache)

    def machine(self, verb: str, *words: str, name: str = NAME) -> Done:
        named = () if verb == "list" else ("--name", name)
        return succeeded(self.project.invoke(f"machine.{verb}", *named, *words, timeout=1800))

    def on(self, *words: str) -> Done:
        return self.project.invoke("on", NAME, "--yes", "--", *words, timeout=1800)

    def started(self, *words: str) -> contextlib.AbstractContextManager[Started]:
        return self.project.started("on", NAME, "--", *words)

    def status(self) -> Any:
        return self.machine("status", "--json").json

    @property
    def folder(self) -> Path:
        return self.cache / "machines" / NAME

    def pid(self) -> int:
        return int((self.folder / "qemu.pid").read_text())

    def ssh(self, *words: str) -> str:
        """As one would by hand."""
        done = subprocess.run(
            ["ssh", "-F", self.folder / "ssh_config", NAME, *words],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=BOUND, check=True,
        )  # fmt: skip
        return done.stdout


@pytest.fixture(scope="module")
def user(new_project: Callable[..., Project], upstream: Upstream) -> Iterator[User]:
    """Nothing is left of what this user made: no process, no mount, no file."""
    project = new_project(built=False)
    # Neither a module proxy nor a submodule's origin is in the machine: a clone is.
    upstream.clone(project.root / "mini")
    ready = os.environ.get("BUILDKIT_TEST_CACHE")
    made = User(project, Path(ready) if ready else project.root.parent / "cache")
    yield made
    for machine in (made.cache / "machines").glob("[a-z]*"):
        project.invoke("machine.destroy", "--name", machine.name)
    project.no_strays()
    remove(project.root.parent)


@pytest.fixture(scope="module")
def created(user: User) -> tuple[Done, Done]:
    """Two are created at once, from nothing: how each ended."""
    with (
        user.project.started("machine.create", "--memory", "4G", "--yes") as first,
        user.project.started("machine.create", "--name", "two", "--cpus", "1", "--memory", "1G", "--yes") as second,
    ):  # fmt: skip
        ends = [run.process.wait(1800) for run in (first, second)]
        one, two = (Done(code, "", run.said()) for code, run in zip(ends, (first, second), strict=True))  # fmt: skip
        return one, two


@pytest.fixture(scope="module")
def running(user: User, created: tuple[Done, Done]) -> User:
    user.machine("start")
    return user


# Making the base, where it goes wrong.


@pytest.fixture
def alone(project: Project) -> Project:
    """Somebody with a cache in which nothing is."""
    return project


def bases_of(project: Project) -> Path:
    return Path(project.env["XDG_CACHE_HOME"]) / "buildkit-riscv64" / "bases"


def unpacking(project: Project, run: Started, *, but: set[Path]) -> set[Path]:
    """The folders in which mmdebstrap is at work, once it is."""

    def folders() -> set[Path]:
        return {
            path for path in bases_of(project).glob(".making-*") if (path / "root/etc").exists()
        }

    assert eventually(lambda: folders() - but or run.process.poll() is not None, BOUND)
    assert run.process.poll() is None, run.said()
    return folders()


def test_creating_is_killed(alone: Project) -> None:
    with alone.started("machine.create", "--yes") as run:
        (left,) = unpacking(alone, run, but=set())
        assert run.end(signal.SIGKILL).code == -signal.SIGKILL
    alone.no_strays()
    assert mounts(bases_of(alone)) == []
    assert left.exists()
    with alone.started("machine.create", "--yes") as run:
        # What was left is removed, and it starts again.
        (new,) = unpacking(alone, run, but={left})
        assert new != left
        refused(run.end(signal.SIGTERM), 130, "interrupted")
    alone.no_strays()
    assert mounts(bases_of(alone)) == []
    assert [p.name for p in bases_of(alone).iterdir()] == [".lock"]
    assert not (bases_of(alone).parent / "machines" / NAME).exists()


def full(project: Project, size: str, needed: int | None = None) -> Done:
    """Create with the cache on a small disk, which nobody else sees."""
    cache = bases_of(project).parent
    cache.mkdir(parents=True)
    changed = f"base.NEEDED_BYTES = {needed}\n" if needed is not None else ""
    program = (
        f"import sys\nfrom buildkit_riscv64.machine import base\n{changed}"
        "from invoke.main import program\nsys.argv = ['invoke', 'machine.create', '--yes']\n"
        "program.run()\n"
    )
    then = f"mount -t tmpfs -o size={size} tmpfs {cache}"
    done = subprocess.run(
        [*with_mounts(then), sys.executable, "-c", program], cwd=project.root,
        env=project.env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=900,
        check=False,
    )  # fmt: skip
    return Done(done.returncode, done.stdout, done.stderr)


def test_a_disk_that_is_too_small_is_told_at_once(alone: Project) -> None:
    done = full(alone, "1g")
    refused(done, 9, "only 1.0 GiB free", "takes")
    assert "unpacking" not in done.stderr


@pytest.mark.parametrize("size", ["120m", "400m"])
def test_a_disk_that_gets_full(alone: Project, size: str) -> None:
    refused(full(alone, size, needed=0), 9, "no space left")
    alone.no_strays()


# Creating.


def test_two_at_once_make_one_base(user: User, created: tuple[Done, Done]) -> None:
    for done in created:
        succeeded(done)
        assert "Traceback" not in done.stderr
    (base,) = (p for p in (user.cache / "bases").iterdir() if not p.name.startswith("."))
    assert base.name == bases.recipe_hash(pins.load())
    if "BUILDKIT_TEST_CACHE" not in os.environ:
        made = [done for done in created if "once: takes minutes" in done.stderr]
        waited = [done for done in created if "waiting for it" in done.stderr]
        assert len(made) == len(waited) == 1
        assert made != waited
    assert mounts(user.cache) == []
    listed = user.machine("list", "--json").json
    assert [(one["name"], one["state"], one["cpus"]) for one in listed][1] == ("two", "stopped", 1)
    assert {one["name"] for one in listed} == {NAME, "two"}


def test_one_that_is_there_is_not_created_again(user: User, created: tuple[Done, Done]) -> None:
    refused(user.project.invoke("machine.create"), 13, "already")


def test_a_second_one_takes_seconds(user: User, created: tuple[Done, Done]) -> None:
    done = user.machine("create", "--memory", "1G", name="three")
    assert "once: takes minutes" not in done.stderr
    user.machine("destroy", name="three")
    assert not (user.cache / "machines" / "three").exists()


@pytest.mark.parametrize("name", ["kernel", "initrd", "packages.tsv"])
def test_a_damaged_base_is_noticed(
    user: User, created: tuple[Done, Done], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:  # fmt: skip
    """Whether it is made anew is for the unit tests: it takes minutes."""
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


def test_the_identity_is_what_cpio_says(user: User, running: User, tmp_path: Path) -> None:
    """The machine's own archive behind the base's, as the kernel unpacks it."""
    digest = user.status()["base"]
    skip = (user.cache / "bases" / digest / "initrd").stat().st_size
    archive = (user.folder / "initrd").read_bytes()[skip:]
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


# Using it.


def listening(pid: int) -> set[str]:
    """Where a process listens, as /proc/net/tcp and tcp6 have it."""
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


def test_it_runs_and_listens_on_the_loopback_only(running: User) -> None:
    status = running.status()
    assert (status["state"], status["execution"]) == ("running", "qemu-system")
    address, _, port = status["address"].partition(":")
    assert address == "127.0.0.1"
    assert listening(running.pid()) == {f"0100007F:{int(port):04X}"}
    assert status["uptime_seconds"] > 0
    (one,) = [o for o in running.machine("list", "--json").json if o["name"] == NAME]
    assert one["state"] == "running"
    # Starting it again changes nothing.
    pid = running.pid()
    running.machine("start")
    assert running.pid() == pid
    assert status["icount"] is False
    done = running.project.invoke("machine.start", "--icount")
    refused(done, 13, "runs already, and does not count instructions")
    assert running.pid() == pid


def test_what_is_in_it(running: User) -> None:
    said = running.ssh(
        "uname -m; hostname; stat -c '%a %U' /etc /root /root/.ssh/authorized_keys"
        " /etc/ssh/ssh_host_ed25519_key /etc/ssl/certs/ca-certificates.crt /etc/environment"
    ).splitlines()
    assert said == [
        "riscv64", NAME, "755 root", "700 root", "600 root", "600 root", "644 root", "644 root",
    ]  # fmt: skip
    for command in ("go", "docker", "runc", "tini", "rootlesskit", "newuidmap", "fuse-overlayfs", "apparmor_parser"):  # fmt: skip
        assert f"/{command}" in running.ssh(f"PATH=$PATH:/usr/lib/go-1.26/bin command -v {command}")
    # Its disk is as large as was asked for.
    assert eventually(lambda: int(running.ssh("df -B1 --output=size / | tail -1")) > 35 << 30), (
        running.ssh("df /; journalctl -u grow-root --no-pager")
    )
    assert "machine.start" not in running.machine("logs").stdout


def test_another_host_key_is_not_taken(running: User) -> None:
    known = running.folder / "known_hosts"
    good = known.read_text()
    try:
        known.write_text(good[:-12] + "AAAAAAAAAAA\n")
        refused(running.on("true"), 13)
    finally:
        known.write_text(good)


def test_doctor(running: User) -> None:
    done = succeeded(running.on("doctor", "--phase", "binaries"))
    assert "riscv64, qemu-system" in done.stderr


def test_binaries_are_compiled_there_and_checked_here(running: User) -> None:
    project = running.project
    done = succeeded(running.on("build-binaries", "--source", "./mini"))
    assert "brought back dist/linux-riscv64/ (qemu-system), checksums good" in done.stderr
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
    assert (
        "brought back" not in succeeded(running.on("build-binaries", "--source", "./mini")).stderr
    )


def test_the_exit_code_and_the_output_are_passed_on(running: User) -> None:
    done = running.on("sh", "-c", "echo out; echo err >&2; exit 7")
    assert (done.code, done.stdout) == (7, "out\n")
    assert done.stderr.endswith("err\n")


# Killing it.


def sleeping(user: User, run: Started) -> None:
    """Until what was started there sleeps."""
    assert eventually(
        lambda: (
            run.process.poll() is not None
            or (
                f"on {NAME} (" in run.said()
                and "4321" in user.ssh("pgrep -af '[s]leep 4321' || true")
            )
        )
    )
    assert run.process.poll() is None, run.said()


def test_no_memory_for_the_compiler(running: User) -> None:
    def largest() -> list[str]:
        return running.ssh("ps -eo rss=,comm= --sort=-rss | head -1").split()

    before = running.project.files()
    build = ["./invoke", "build-binaries", "--source", "./mini", "--force", "--yes"]
    with running.started("env", "GOCACHE=/root/empty", *build) as run:
        assert eventually(
            lambda: (
                run.process.poll() is not None
                or (int(largest()[0]) > 100_000 and largest()[1] == "compile")
            ),
            BOUND,
        )
        # The kernel does what it does when memory runs out: it ends the largest process.
        running.ssh("echo f >/proc/sysrq-trigger")
        refused(run.wait(), 3, "the compiler was killed", "memory runs out")
    # ssh lives on, in the same process: systemd might have stopped it for that.
    assert "Out of memory: Killed process" in running.ssh("dmesg")
    assert running.ssh("systemctl show --property NRestarts ssh") == "NRestarts=0\n"
    assert running.project.files() == before
    assert not running.ssh("ls -A .cache/buildkit-riscv64/checkouts/*/dist | grep staging || true")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_what_runs_there_ends_with_us(running: User, number: signal.Signals) -> None:
    with running.started("sleep", "4321") as run:
        sleeping(running, run)
        done = run.end(number)
    assert done.code == (-number if number is signal.SIGKILL else 130)
    assert eventually(lambda: not running.ssh("pgrep -af '[s]leep 4321' || true"), BOUND)
    if number is signal.SIGKILL:
        for left in Path(running.project.env["TMPDIR"]).glob("bk-*"):
            remove(left)


def test_it_restarts_in_the_middle(running: User) -> None:
    boot = running.ssh("cat /proc/sys/kernel/random/boot_id; echo kept >/root/kept; sync")
    with running.started("sleep", "4321") as run:
        sleeping(running, run)
        with contextlib.suppress(subprocess.CalledProcessError):
            running.ssh("reboot")
        refused(run.wait(), 13, f"the connection to machine {NAME} was lost", "restarted")
    running.machine("start")
    # sshd may answer for a moment before it goes.
    assert eventually(lambda: running.project.invoke("on", NAME, "--", "true").code == 0, BOUND)
    assert running.ssh("cat /proc/sys/kernel/random/boot_id") not in boot


def test_qemu_is_killed_in_the_middle(running: User) -> None:
    with running.started("sleep", "4321") as run:
        sleeping(running, run)
        os.kill(running.pid(), signal.SIGKILL)
        refused(run.wait(), 13, f"machine {NAME} is gone", "qemu ended")
    # The pid file is still there, and now it is somebody else's pid.
    assert running.status()["state"] == "stopped"
    (running.folder / "qemu.pid").write_text(f"{os.getpid()}\n")
    assert running.status()["state"] == "stopped"
    # `on` starts it, with the same disk, and goes on.
    done = succeeded(running.on("cat", "/root/kept"))
    assert done.stdout == "kept\n"
    assert f"starting machine {NAME}" in done.stderr
    assert Path(f"/proc/{os.getpid()}").exists()


# Stopping it.


def test_two_live_side_by_side(running: User) -> None:
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


def test_stopping_and_resetting(running: User) -> None:
    running.machine("stop")
    assert running.status()["state"] == "stopped"
    running.project.no_strays()
    running.machine("stop")
    used = running.status()["disk_used_bytes"]
    running.machine("reset")
    assert running.status()["disk_used_bytes"] < min(used, 1 << 20)
    # All that it was asked to keep is gone, and its keys are the same.
    running.machine("start", "--icount")
    assert running.ssh("ls /root/kept 2>&1 || true").strip().endswith("No such file or directory")


def test_the_one_that_was_started_last_counts_instructions(running: User) -> None:
    """The same work takes the same time there, whatever else it and its host do."""
    assert running.status()["icount"] is True
    work = "sum(i * i for i in range(1_000_000))"
    timed = f"import time; {work}; began = time.process_time_ns(); {work}; print(time.process_time_ns() - began)"
    alone = int(running.ssh("python3", "-c", f"'{timed}'"))
    for _ in range(3):
        busy = f"(while :; do :; done) & python3 -c '{timed}'; kill $!"
        assert int(running.ssh(busy)) == pytest.approx(alone, rel=0.05)
    # Without it, perf cannot tell programs from the kernel.
    assert "_sscofpmf" in running.ssh("cat /proc/cpuinfo")


def test_destroying_leaves_nothing_but_bases(running: User) -> None:
    pid = running.pid()
    for name in (NAME, "two"):
        running.machine("destroy", name=name)
    assert eventually(lambda: not alive(pid))
    running.project.no_strays()
    assert mounts(running.cache) == []
    assert not (running.cache / "machines").exists()
    # And what is no machine's: Debian's indexes, and what verify-binaries has there.
    assert {p.name for p in running.cache.iterdir()} - {"apt", "verification"} == {"bases"}
    refused(running.project.invoke("machine.status"), 13, "there is no machine")
