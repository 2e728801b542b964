"""Faults: crashes, lost connections, full disks, malformed requests, resource limits, clock jumps."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import shutil
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from hypothesis import strategies

from buildkit_riscv64.core import host, process
from buildkit_riscv64.core.host import Execution
from buildkit_riscv64.image import layout
from buildkit_riscv64.validation.environment.registry import Fault, Registry, proxy_to
from buildkit_riscv64.validation.environment.waiting import BOUND, eventually

from .. import raw_grpc
from ..barrier import barrier
from ..bases import BaseImage
from ..cgroups import VERSION, Cgroup, cgroup
from ..conftest import NewContext
from ..daemon import Daemon, NewDaemon
from ..scenario import not_proven

MIB = 1 << 20
#: Seconds to wait after a request that may be incomplete.
PATIENCE = 0.2 if host.execution() is Execution.NATIVE else 1.0
#: Creates a file that does not compress, and its checksum.
RANDOM = "dd if=/dev/urandom of=/data bs=1M count={} && sha256sum /data >/sum"


@contextlib.contextmanager
def started(
    command: list[str], stdout: int = subprocess.DEVNULL
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a command; kill it at the end of the block."""
    with (
        process.child_process(command, stdout=stdout, stderr=subprocess.DEVNULL) as child,
        child.stdout or contextlib.nullcontext(),
    ):
        yield child


def consistent(daemon: Daemon, since: int) -> None:
    """Check that the log reports no missing content, and that the cache can be pruned."""
    daemon.du()
    # The daemon writes the history of earlier builds later: such a build may have had no disk
    # space.
    lines = daemon.log[since:].splitlines()
    reported = "\n".join(line for line in lines if 'span="create history record"' not in line)
    for word in ("level=error", "not found", "panic"):
        assert word not in reported, reported
    daemon.buildctl("prune", "--all").good()
    assert daemon.du() == []


def whole(image: Path) -> None:
    """Check the digests of a layout, and the checksum of the file that RUN created."""
    exported = layout.load(image)
    assert not layout.damaged(exported)
    found: dict[str, bytes] = {}
    for path in exported.layers:
        with tarfile.open(path) as tar:
            found |= {entry.name: file.read() for entry in tar if (file := tar.extractfile(entry))}
    assert hashlib.sha256(found["data"]).hexdigest() == found["sum"].decode().split()[0]


def test_daemon_killed_in_solve(
    new_daemon: NewDaemon, base: BaseImage, new_context: NewContext, tmp_path: Path
) -> None:
    """Daemon killed with SIGKILL during a solve: after a restart the cache is consistent, and the build succeeds"""
    daemon = new_daemon().start()
    with barrier() as held:
        context = new_context(
            f"FROM base\nRUN {RANDOM.format(4)}\nRUN echo half >/half && {held.command}\n"
        )
        with started(daemon.build_command(context, *base.flags())) as client:
            held.wait()
            daemon.kill()
            assert client.wait(BOUND) != 0
        assert held.no_waiters()
        since = len(daemon.log)
        daemon.start()
        daemon.du()
        held.open()
        output = tmp_path / "layout"
        to_layout = f"--output=type=oci,tar=false,dest={output}"
        again = daemon.build(context, *base.flags(), to_layout).good()
    # The finished step is cached.
    assert again.cached == [True, False]
    whole(output)
    consistent(daemon, since)
    daemon.build(context, *base.flags()).good()


@pytest.fixture
def large(base: BaseImage, new_daemon: NewDaemon, new_context: NewContext) -> tuple[Daemon, Path]:
    """A daemon, and a context that it has built: the result is larger than a pipe."""
    daemon = new_daemon().start()
    context = new_context(f"FROM base\nRUN {RANDOM.format(16)}\n")
    daemon.build(context, *base.flags()).good()
    return daemon, context


def test_daemon_killed_in_export(
    large: tuple[Daemon, Path], base: BaseImage, tmp_path: Path
) -> None:
    """Daemon killed with SIGKILL during the export of an OCI archive: the next export is complete"""
    daemon, context = large
    output = [*base.flags(), "--output=type=oci"]
    with started(daemon.build_command(context, *output), subprocess.PIPE) as client:
        assert client.stdout is not None
        # A client that stops reading blocks the export.
        assert len(client.stdout.read(MIB)) == MIB
        daemon.kill()
        assert client.wait(BOUND) != 0 or len(client.stdout.read()) < 16 * MIB
    since = len(daemon.log)
    daemon.start()
    archive = tmp_path / "whole.tar"
    again = daemon.build(context, *base.flags(), f"--output=type=oci,dest={archive}").good()
    assert again.cached == [True]
    extracted = tmp_path / "layout"
    extracted.mkdir()
    # tarfile of Debian 12 has no safe extraction.
    subprocess.run(
        ["tar", "--extract", f"--file={archive}", f"--directory={extracted}"], check=True
    )
    whole(extracted)
    consistent(daemon, since)


def _pull(daemon: Daemon, context: Path, place: Path) -> None:
    """Build a context that uses an image of a registry, and check the output."""
    daemon.build(context, f"--output=type=local,dest={place}").good()
    data = (place / "data").read_bytes()
    assert hashlib.sha256(data).hexdigest() == (place / "sum").read_text().split()[0]


def test_daemon_killed_in_push(
    large: tuple[Daemon, Path],
    base: BaseImage,
    local_registry: Registry,
    new_context: NewContext,
    tmp_path: Path,
) -> None:
    """Daemon killed with SIGKILL during a push: the next push is complete and can be pulled"""
    daemon, context = large
    with proxy_to(local_registry) as proxy:
        proxy.faults.append(Fault("(PATCH|PUT) .*/blobs/", after=2 * MIB, then=daemon.kill))
        name = f"{proxy.host}/image:latest"
        push = [*base.flags(), f"--output=type=image,name={name},push=true"]
        daemon.build(context, *push).bad()
        assert not daemon.running
        since = len(daemon.log)
        daemon.start()
        assert daemon.build(context, *push).good().cached == [True]
        consistent(daemon, since)
        _pull(daemon, new_context(f"FROM {name}\n"), tmp_path / "pulled")


def test_registry_lost_in_push(
    large: tuple[Daemon, Path],
    base: BaseImage,
    local_registry: Registry,
    new_context: NewContext,
    tmp_path: Path,
) -> None:
    """Registry lost during a push: a timely error with its name; the next push succeeds"""
    daemon, context = large
    pid = daemon.pid
    with proxy_to(local_registry) as proxy:
        proxy.faults.append(Fault("(PATCH|PUT) .*/blobs/", after=2 * MIB, then=local_registry.kill))
        name = f"{proxy.host}/image:latest"
        push = [*base.flags(), f"--output=type=image,name={name},push=true"]
        daemon.build(context, *push).bad(proxy.host)
        assert daemon.pid == pid
        local_registry.start()
        daemon.build(context, *push).good()
        daemon.buildctl("prune", "--all").good()
        _pull(daemon, new_context(f"FROM {name}\n"), tmp_path / "pulled")
    assert daemon.pid == pid


def test_registry_lost_in_pull(
    large: tuple[Daemon, Path],
    base: BaseImage,
    local_registry: Registry,
    new_context: NewContext,
    tmp_path: Path,
) -> None:
    """Registry lost during a pull: a timely error with its name; the next pull succeeds"""
    daemon, context = large
    pid = daemon.pid
    with proxy_to(local_registry) as proxy:
        name = f"{proxy.host}/image:latest"
        daemon.build(context, *base.flags(), f"--output=type=image,name={name},push=true").good()
        daemon.buildctl("prune", "--all").good()
        # Only the large blob is cut off.
        proxy.faults.append(
            Fault("GET .*/blobs/", times=9, answered=4 * MIB, then=local_registry.kill)
        )
        pull = new_context(f"FROM {name}\n")
        output = f"--output=type=local,dest={tmp_path / 'none'}"
        daemon.build(pull, output).bad(proxy.host)
        assert daemon.pid == pid
        proxy.faults.clear()
        local_registry.start()
        _pull(daemon, pull, tmp_path / "pulled")
    assert daemon.pid == pid


def test_client_killed(new_daemon: NewDaemon, base: BaseImage, new_context: NewContext) -> None:
    """Client killed with SIGKILL: its solve is cancelled, its container ends, the daemon continues"""
    daemon = new_daemon().start()
    pid = daemon.pid
    with barrier() as held:
        context = new_context(f"FROM base\nRUN {held.command}\n")
        with started(daemon.build_command(context, *base.flags())) as client:
            held.wait()
            client.kill()
            client.wait()
        assert held.no_waiters()
        held.open()
        # A cancelled step is not in the cache.
        assert daemon.build(context, *base.flags()).good().cached == [False]
    assert daemon.pid == pid


# Command prefix of the daemon: mounts a disk for its state in its namespace.
_DISK = r"""
for word; do case $word in --root=*) root=${word#--root=};; esac; done
mkdir "$root"
mount -t tmpfs -o size=96m tmpfs "$root"
exec "$@"
"""


@pytest.fixture
def small(new_daemon: NewDaemon) -> tuple[Daemon, Path]:
    """A daemon with its state on a disk of 96 MiB, and the path of that disk from outside."""
    daemon = new_daemon(wrap=["unshare", "--mount", "sh", "-euc", _DISK, "sh"]).start()
    return daemon, Path(f"/proc/{daemon.pid}/root{daemon.root}")


def fill(file: Path, leave: int) -> None:
    """Fill a disk, except for `leave` bytes."""
    # Protects this machine's disk.
    assert shutil.disk_usage(file.parent).total < 1 << 30, f"{file.parent} is no small disk"
    chunk = bytes(64 << 10)
    with file.open("wb", buffering=0) as ballast, contextlib.suppress(OSError):
        while shutil.disk_usage(file.parent).free > leave:
            ballast.write(chunk)


@pytest.mark.parametrize("instruction", ["RUN", "COPY"])
def test_disk_full(
    small: tuple[Daemon, Path], base: BaseImage, new_context: NewContext, instruction: str
) -> None:
    """Disk full: the error says so; after space is freed the build succeeds"""
    daemon, disk = small
    context = {
        "RUN": lambda: new_context("FROM base\nRUN dd if=/dev/zero of=/data bs=1M count=16\n"),
        "COPY": lambda: new_context("FROM base\nCOPY data /\n", data=bytes(16 * MIB)),
    }[instruction]()
    daemon.build(new_context("FROM base\nRUN true\n"), *base.flags()).good()
    pid = daemon.pid
    fill(disk / "ballast", 8 * MIB)
    assert "no space left on device" in daemon.build(context, *base.flags()).bad().stderr.lower()
    (disk / "ballast").unlink()
    daemon.build(context, *base.flags()).good()
    assert daemon.pid == pid
    consistent(daemon, len(daemon.log))


def test_no_space_left(
    small: tuple[Daemon, Path], base: BaseImage, new_context: NewContext
) -> None:
    """No byte left on the disk: the error says so, and the daemon continues"""
    daemon, disk = small
    pid = daemon.pid
    context = new_context("FROM base\nRUN echo 1 >/file\n")
    fill(disk / "ballast", 0)
    assert "no space left on device" in daemon.build(context, *base.flags()).bad().stderr.lower()
    (disk / "ballast").unlink()
    daemon.build(context, *base.flags()).good()
    assert daemon.pid == pid
    consistent(daemon, len(daemon.log))


@pytest.fixture
def offline(new_daemon: NewDaemon) -> Daemon:
    """A daemon without a network: generated names must not be resolved."""
    return new_daemon(wrap=["unshare", "--net"]).start()


#: Every run uses the same examples and reports the first failure.
EXAMPLES = hypothesis.settings(
    max_examples=100, derandomize=True, database=None, deadline=None,
    phases=[hypothesis.Phase.generate], suppress_health_check=list(hypothesis.HealthCheck),
)  # fmt: skip

_TEXT = strategies.text(max_size=40)
_MAP = strategies.dictionaries(
    strategies.sampled_from(["", "context", "dockerfile", "filename", "source", "target", "platform",
                             "build-arg:A", "context:base", "no-cache", "ulimit", "attest:sbom"])
    | _TEXT, _TEXT, max_size=4,
)  # fmt: skip
_FIELD = strategies.builds(
    raw_grpc.field, strategies.integers(1, 20),
    strategies.integers(-(1 << 63), 1 << 63) | _TEXT | strategies.binary(max_size=60),
)  # fmt: skip
_FIELDS = strategies.lists(_FIELD, max_size=8).map(b"".join)
_OPERATION = _FIELDS | strategies.builds(raw_grpc.file, _TEXT, strategies.binary(max_size=60))
#: Each build needs a unique name; generated names may repeat.
_REF = strategies.builds(next, strategies.just(f"example-{number}" for number in itertools.count()))
_SOLVE = strategies.builds(
    raw_grpc.solve, _REF,
    frontend=strategies.sampled_from(["dockerfile.v0", "dockerfile.v0", "gateway.v0", "other.v0"]),
    attributes=_MAP,
    inputs=strategies.dictionaries(
        strategies.sampled_from(["context", "dockerfile"]), _OPERATION.map(raw_grpc.definition), min_size=1,
    ),
) | strategies.builds(
    lambda ref, operation: raw_grpc.field(1, ref) + raw_grpc.field(2, raw_grpc.definition(operation)),
    _REF, _OPERATION,
)  # fmt: skip
_METHOD = strategies.sampled_from([
    *(f"/moby.buildkit.v1.Control/{name}" for name in (
        "DiskUsage", "Info", "ListWorkers", "Prune", "Session", "Solve", "Solve", "Solve", "Status",
        "UpdateBuildHistory", "Nothing")),
    "/grpc.health.v1.Health/Check", "/moby.buildkit.v1.frontend.LLBBridge/Solve", "Solve", "",
])  # fmt: skip
_BODY = strategies.one_of(
    _SOLVE.map(raw_grpc.message), _FIELDS.map(raw_grpc.message),
    strategies.binary(max_size=200).map(raw_grpc.message), strategies.binary(max_size=200),
)  # fmt: skip
#: A well-formed build request without a meaning.
_BUILD = strategies.builds(
    raw_grpc.call, strategies.just(raw_grpc.SOLVE), _SOLVE.map(raw_grpc.message)
)
_CALL = strategies.builds(raw_grpc.call, _METHOD, _BODY)
#: A request that is cut off or continues with random bytes.
_TORN = strategies.builds(
    lambda whole, at, rest: whole[: int(len(whole) * at)] + rest,
    _CALL, strategies.floats(0, 1), strategies.binary(max_size=60),
)  # fmt: skip


def test_malformed_requests(offline: Daemon, base: BaseImage, new_context: NewContext) -> None:
    """100 malformed requests do not crash the daemon; build requests are answered"""
    pid = offline.pid
    answers: list[str] = []

    @EXAMPLES
    @hypothesis.given(
        strategies.tuples(_BUILD, strategies.just(BOUND))
        | strategies.tuples(_CALL | _TORN, strategies.just(PATIENCE))
    )
    def send(example: tuple[bytes, float]) -> None:
        request, patience = example
        answers.append(raw_grpc.send(offline.address, request, patience=patience))
        assert offline.running, offline.log[-3000:]
        assert answers[-1] == "answered" or patience == PATIENCE

    send()
    assert len(answers) == 100
    assert {"answered", "closed"} <= set(answers)
    # Enough requests passed the gRPC layer.
    assert offline.log.count("Control/Solve returned error") >= 20
    _goes_on(offline, pid, new_context, base)


def _goes_on(daemon: Daemon, pid: int, new_context: NewContext, base: BaseImage) -> None:
    """Check that the daemon is the same process and builds."""
    assert daemon.pid == pid
    assert "panic" not in daemon.log
    daemon.build(new_context("FROM base\nRUN true\n"), *base.flags()).good()


_INSTRUCTION = strategies.sampled_from([
    "ADD", "ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK", "LABEL",
    "MAINTAINER", "ONBUILD", "RUN", "SHELL", "STOPSIGNAL", "USER", "VOLUME", "WORKDIR", "FRUM", "run", "#",
    "# syntax=", "# escape=", "# check=",
])  # fmt: skip
_ARGUMENT = _TEXT | strategies.sampled_from([
    "scratch", "scratch AS a", "--from=a", "--from=", "--mount=type=", "--mount=type=bind,from=a,target=/",
    "--mount=type=secret,id=", "--network=none", "--security=insecure", "--platform=a/b/c/d",
    "--chmod=999", "--chown=:", "--link", "--interval=1", "Dockerfile /", "$", "${", "${A:-", "${A%%*}",
    "A=", "A=$A", "=", "<<", "<<EOF", "<<-'EOF'", "EOF", "[", '["a",', '["/no"]', "\\", "`", "'", '"',
    "..", "/", "a" * 4096, "99999999999", "-1", "\0", "\ufeff", "\r",
])  # fmt: skip
_LINE = strategies.builds(
    lambda instruction, arguments: " ".join([instruction, *arguments]),
    _INSTRUCTION, strategies.lists(_ARGUMENT, max_size=4),
)  # fmt: skip
_DOCKERFILE = strategies.builds(
    lambda first, lines: "\n".join([first, *lines]).encode(errors="replace"),
    strategies.sampled_from(["FROM scratch", "FROM scratch AS a", "ARG A=b\nFROM scratch", ""]),
    strategies.lists(_LINE, max_size=8),
) | strategies.binary(max_size=200)  # fmt: skip


def test_malformed_dockerfiles(offline: Daemon, base: BaseImage, new_context: NewContext) -> None:
    """100 malformed Dockerfiles do not crash the daemon; each is answered"""
    pid = offline.pid
    answers: list[str] = []

    @EXAMPLES
    @hypothesis.given(_DOCKERFILE)
    def send(content: bytes) -> None:
        request = raw_grpc.dockerfile(f"example-{len(answers)}", content)
        answers.append(raw_grpc.send_solve(offline.address, request))
        assert offline.running, offline.log[-3000:]

    send()
    assert answers == ["answered"] * 100
    # Some requests reached the Dockerfile frontend.
    assert "dockerfile parse error" in offline.log
    _goes_on(offline, pid, new_context, base)


@contextlib.contextmanager
def crashing(daemon: Daemon, base: BaseImage, context: Path, panic: str) -> Iterator[None]:
    """Check that the block ends the daemon with a panic, and that it restarts with its cache."""
    daemon.build(context, *base.flags()).good()
    yield
    assert eventually(lambda: not daemon.running), daemon.log[-3000:]
    assert f"panic: runtime error: {panic}" in daemon.log
    since = len(daemon.log)
    daemon.kill()
    daemon.start()
    assert daemon.build(context, *base.flags()).good().cached == [True]
    consistent(daemon, since)


# If one of these fails, upstream fixed the fault: move it to the malformed requests.


def test_definition_without_inputs(
    offline: Daemon, base: BaseImage, new_context: NewContext
) -> None:
    """Known fault of upstream: an LLB definition without inputs crashes the daemon; it restarts with its cache"""
    # client/llb/definition.go uses the first input without a check.
    empty = raw_grpc.field(1, b"") + raw_grpc.entry(2, "", b"")
    request = raw_grpc.solve("", frontend="dockerfile.v0", attributes={}, inputs={"context": empty})
    context = new_context("FROM base\nRUN true\n")
    with crashing(offline, base, context, "index out of range [0] with length 0"):
        assert raw_grpc.send_solve(offline.address, request) == "closed"


def test_unreachable_repository_twice(
    offline: Daemon, base: BaseImage, new_context: NewContext
) -> None:
    """Known fault of upstream: two git sources of an unreachable repository crash the daemon; it restarts with its cache"""
    # source/git/source.go: the second source uses the result of the first, but not its error.
    twice = new_context(
        "FROM scratch\nADD git://127.0.0.1:1/repo#main:a /a\nADD git://127.0.0.1:1/repo#main:b /b\n"
    )
    context = new_context("FROM base\nRUN true\n")
    with crashing(offline, base, context, "invalid memory address or nil pointer dereference"):
        offline.build(twice).bad()


# Each build step has a control group <parent>/buildkit/<id>, in versions 1 and 2. Only the
# parent limits its processes, and only cgroup-parent sets the parent. ulimit=nproc counts per
# user, and the kernel exempts the host's root, which is RUN's root.

#: Maximum of processes in a group, including threads of the daemon and its helpers.
PIDS = 256
#: Forks without end; its processes end with it, because it is the first of its namespace.
_FORKS = "while :; do sleep 1000 & done"


@contextlib.contextmanager
def confined(new_daemon: NewDaemon, memory: int = 0) -> Iterator[tuple[Daemon, Cgroup, str]]:
    """A daemon in a group with limits, and the option that puts builds into the group."""
    with (
        cgroup(PIDS, memory) as group,
        contextlib.closing(new_daemon(wrap=group.joining())) as daemon,
    ):
        yield daemon.start(), group, f"--opt=cgroup-parent={group.builds}"


def test_fork_bomb(new_daemon: NewDaemon, base: BaseImage, new_context: NewContext) -> None:
    """pids.max of cgroup-parent stops a fork bomb in RUN; the daemon continues"""
    with confined(new_daemon) as (daemon, group, option), barrier() as held:
        pid = daemon.pid
        context = new_context(f"FROM base\nRUN {held.command}\n")
        with started(daemon.build_command(context, *base.flags(), option)) as client:
            # Check the limits before the fork bomb starts.
            assert all(map(group.has, held.wait()))
            held.open()
            assert client.wait(BOUND) == 0
        done = daemon.build(new_context(f"FROM base\nRUN {_FORKS}\n"), *base.flags(), option).bad()
        assert "can't fork" in done.stderr
        # The limit also applied to the daemon; now it can fork again.
        assert eventually(lambda: group.count() < PIDS // 2)
        assert daemon.pid == pid
        daemon.build(new_context("FROM base\nRUN true\n"), *base.flags(), option).good()


@pytest.mark.parametrize("user", ["root", "1000"])
def test_ulimit_nproc(
    new_daemon: NewDaemon, base: BaseImage, new_context: NewContext, user: str
) -> None:
    """ulimit=nproc limits the processes of an ordinary user in RUN, but not those of root"""
    with confined(new_daemon) as (daemon, group, option):
        few = f"USER {user}\nRUN for _ in $(seq 48); do sleep 1000 & done\n"
        reported = daemon.build(
            new_context(f"FROM base\n{few}"), *base.flags(), option, "--opt=ulimit=nproc=24:24"
        )
        if user == "root":
            reported.good()
        else:
            reported.bad("can't fork")
        assert eventually(lambda: group.count() < PIDS // 2)


@pytest.mark.may_be_not_proven
@pytest.mark.parametrize("version", [1, 2])
def test_cgroups(
    new_daemon: NewDaemon, base: BaseImage, new_context: NewContext, version: int
) -> None:
    """RUN has its own cgroup below cgroup-parent, and the limits apply"""
    if version != VERSION:
        not_proven(f"this host sets limits with cgroup version {VERSION}")
    with (
        confined(new_daemon, memory=64 * MIB) as (daemon, group, option),
        barrier() as held,
    ):
        context = new_context(f"FROM base\nRUN cat /proc/self/cgroup; {held.command}\n")
        log = daemon.directory / "progress"
        with (
            log.open("wb") as file,
            process.child_process(
                daemon.build_command(context, *base.flags(), option), stderr=file.fileno()
            ) as client,
        ):
            waiting = held.wait()
            (directory,) = group.steps()
            assert set(waiting) <= set(map(int, (directory / "cgroup.procs").read_text().split()))
            held.open()
            assert client.wait(BOUND) == 0
        reported = log.read_text()
        # Version 2 has cgroup namespaces: RUN sees only its own group.
        assert (
            ("0::/\n" in reported)
            if version == 2
            else (f"pids:/{group.builds}/buildkit/{directory.name}\n" in reported)
        )
        assert group.steps() == []
        hungry = new_context("FROM base\nRUN dd if=/dev/zero of=/dev/null bs=256M count=1\n")
        killed = {1: "exit code: 137", 2: "cannot allocate memory"}[version]
        daemon.build(hungry, *base.flags(), option).bad(killed)
        daemon.build(new_context("FROM base\nRUN true\n"), *base.flags(), option).good()


DAY = 24 * 3600.0


@contextlib.contextmanager
def other_time(seconds: float) -> Iterator[None]:
    """Move the system clock by some seconds, and restore it afterwards."""
    ahead = time.clock_gettime(time.CLOCK_REALTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)
    try:
        _set_clock(ahead + seconds)
        yield
    finally:
        _set_clock(ahead)


def _set_clock(ahead: float) -> None:
    """Set the system clock, relative to the time since boot."""
    time.clock_settime(time.CLOCK_REALTIME, time.clock_gettime(time.CLOCK_MONOTONIC) + ahead)


@pytest.mark.may_be_not_proven
@pytest.mark.parametrize("jump", [DAY, -DAY], ids=["forward", "back"])
def test_clock_jump(
    new_daemon: NewDaemon, base: BaseImage, new_context: NewContext, jump: float
) -> None:
    """Clock moved by a day during a solve: the solve succeeds, and the cache stays valid"""
    if host.execution() is not Execution.QEMU_SYSTEM:
        not_proven(
            "the clock is changed only on an emulated machine; time namespaces do not change the date"
        )
    daemon = new_daemon().start()
    pid = daemon.pid
    before = new_context("FROM base\nRUN echo before >/when\n")
    daemon.build(before, *base.flags()).good()
    with barrier() as held:
        context = new_context(f"FROM base\nRUN date +%s >/when; {held.command}\n")
        with started(daemon.build_command(context, *base.flags())) as client:
            held.wait()
            with other_time(jump):
                held.open()
                assert client.wait(BOUND) == 0
                for known in (context, before):
                    assert daemon.build(known, *base.flags()).good().cached == [True]
                during = new_context("FROM base\nRUN echo during >/when\n")
                daemon.build(during, *base.flags()).good()
    for known in (context, before, during):
        assert daemon.build(known, *base.flags()).good().cached == [True]
    assert daemon.pid == pid
    consistent(daemon, 0)
