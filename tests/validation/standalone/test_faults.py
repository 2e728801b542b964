"""What goes wrong around the daemon, and what it makes of it."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from hypothesis import strategies

from buildkit_riscv64 import host, process
from buildkit_riscv64.host import Execution
from buildkit_riscv64.image import layout

from ...integration.registry import Accident, Registry, road_to
from ...processes import eventually
from .. import wire
from ..bases import BaseImage
from ..cgroups import VERSION, Cgroup, cgroup
from ..conftest import NewContext
from ..daemon import BOUND, Daemon, NewDaemon
from ..gate import gate
from ..scenario import not_proven

MIB = 1 << 20
#: Seconds for what may be no whole request, so that the daemon waits for the rest.
PATIENCE = 0.2 if host.execution() is Execution.NATIVE else 1.0
#: Makes what does not compress, and says what it was.
RANDOM = "dd if=/dev/urandom of=/data bs=1M count={} && sha256sum /data >/sum"


@contextlib.contextmanager
def started(command: list[str], stdout: int = subprocess.DEVNULL) -> Iterator[subprocess.Popen[bytes]]:  # fmt: skip
    """A command that runs, and is gone when the block ends."""
    with (
        process.guarded(command, stdout=stdout, stderr=subprocess.DEVNULL) as child,
        child.stdout or contextlib.nullcontext(),
    ):
        yield child


def ended(daemon: Daemon) -> None:
    """End it as a crash would."""
    daemon.kill()


def consistent(daemon: Daemon, since: int) -> None:
    """Nothing that its cache says is there is missing; it can be listed, and emptied."""
    daemon.du()
    # What is kept of builds that are over is written when it comes to that: it may be of one
    # that had no space for it.
    lines = daemon.log[since:].splitlines()
    said = "\n".join(line for line in lines if 'span="create history record"' not in line)
    for word in ("level=error", "not found", "panic"):
        assert word not in said, said
    daemon.buildctl("prune", "--all").good()
    assert daemon.du() == []


def whole(image: Path) -> None:
    """Every blob of a layout is what it is called, and the file in it is what RUN has made."""
    exported = layout.load(image)
    assert not layout.damaged(exported)
    found: dict[str, bytes] = {}
    for path in exported.layers:
        with tarfile.open(path) as tar:
            found |= {entry.name: file.read() for entry in tar if (file := tar.extractfile(entry))}
    assert hashlib.sha256(found["data"]).hexdigest() == found["sum"].decode().split()[0]


def test_killed_in_a_solve(
    new_daemon: NewDaemon, base: BaseImage, new_context: NewContext, tmp_path: Path
) -> None:
    """Daemon killed with SIGKILL in a solve: it restarts, the cache is consistent, the same build succeeds"""
    daemon = new_daemon().start()
    with gate() as held:
        context = new_context(
            f"FROM base\nRUN {RANDOM.format(4)}\nRUN echo half >/half && {held.command}\n"
        )
        with started(daemon.build_command(context, *base.flags())) as client:
            held.wait()
            daemon.kill()
            assert client.wait(BOUND) != 0
        assert held.deserted()
        since = len(daemon.log)
        daemon.start()
        daemon.du()
        held.open()
        output = tmp_path / "layout"
        to_layout = f"--output=type=oci,tar=false,dest={output}"
        again = daemon.build(context, *base.flags(), to_layout).good()
    # What was finished when it was killed is not made again.
    assert again.cached == [True, False]
    whole(output)
    consistent(daemon, since)
    daemon.build(context, *base.flags()).good()


@pytest.fixture
def big(base: BaseImage, new_daemon: NewDaemon, new_context: NewContext) -> tuple[Daemon, Path]:
    """A daemon, and the context of what it has built: more than fits into any pipe."""
    daemon = new_daemon().start()
    context = new_context(f"FROM base\nRUN {RANDOM.format(16)}\n")
    daemon.build(context, *base.flags()).good()
    return daemon, context


def test_killed_in_an_export(big: tuple[Daemon, Path], base: BaseImage, tmp_path: Path) -> None:
    """Daemon killed with SIGKILL in the export of an OCI archive: the next export is whole"""
    daemon, context = big
    output = [*base.flags(), "--output=type=oci"]
    with started(daemon.build_command(context, *output), subprocess.PIPE) as client:
        assert client.stdout is not None
        # Whoever reads no further holds the export in the middle.
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
    # Python's own way to do it safely is not there in Debian 12.
    subprocess.run(
        ["tar", "--extract", f"--file={archive}", f"--directory={extracted}"], check=True
    )
    whole(extracted)
    consistent(daemon, since)


def _pull(daemon: Daemon, context: Path, place: Path) -> None:
    """Build a context that uses an image of a registry, and look at what comes out."""
    daemon.build(context, f"--output=type=local,dest={place}").good()
    data = (place / "data").read_bytes()
    assert hashlib.sha256(data).hexdigest() == (place / "sum").read_text().split()[0]


def test_killed_in_a_push(
    big: tuple[Daemon, Path], base: BaseImage, local_registry: Registry,
    new_context: NewContext, tmp_path: Path,
) -> None:  # fmt: skip
    """Daemon killed with SIGKILL in a push: the next push is whole, and can be pulled"""
    daemon, context = big
    with road_to(local_registry) as road:
        road.accidents.append(
            Accident("(PATCH|PUT) .*/blobs/", after=2 * MIB, then=lambda: ended(daemon))
        )
        name = f"{road.host}/image:latest"
        push = [*base.flags(), f"--output=type=image,name={name},push=true"]
        daemon.build(context, *push).bad()
        assert not daemon.running
        since = len(daemon.log)
        daemon.start()
        assert daemon.build(context, *push).good().cached == [True]
        consistent(daemon, since)
        _pull(daemon, new_context(f"FROM {name}\n"), tmp_path / "pulled")


#: Longest that a registry that has vanished may be waited for: upstream tries for a quarter of a minute.
VANISHED = 60.0 if host.execution() is Execution.NATIVE else 300.0


def test_registry_vanishes_in_a_push(
    big: tuple[Daemon, Path], base: BaseImage, local_registry: Registry,
    new_context: NewContext, tmp_path: Path,
) -> None:  # fmt: skip
    """Registry gone in a push: an error in bounded time that names it; the next push succeeds"""
    daemon, context = big
    pid = daemon.pid
    with road_to(local_registry) as road:
        road.accidents.append(
            Accident("(PATCH|PUT) .*/blobs/", after=2 * MIB, then=local_registry.kill)
        )
        name = f"{road.host}/image:latest"
        push = [*base.flags(), f"--output=type=image,name={name},push=true"]
        daemon.build(context, *push, timeout=VANISHED).bad(road.host)
        assert daemon.pid == pid
        local_registry.start()
        daemon.build(context, *push).good()
        daemon.buildctl("prune", "--all").good()
        _pull(daemon, new_context(f"FROM {name}\n"), tmp_path / "pulled")
    assert daemon.pid == pid


def test_registry_vanishes_in_a_pull(
    big: tuple[Daemon, Path], base: BaseImage, local_registry: Registry,
    new_context: NewContext, tmp_path: Path,
) -> None:  # fmt: skip
    """Registry gone in a pull: an error in bounded time that names it; the next pull succeeds"""
    daemon, context = big
    pid = daemon.pid
    with road_to(local_registry) as road:
        name = f"{road.host}/image:latest"
        daemon.build(context, *base.flags(), f"--output=type=image,name={name},push=true").good()
        daemon.buildctl("prune", "--all").good()
        # The large one: what is smaller comes back whole.
        road.accidents.append(
            Accident("GET .*/blobs/", times=9, answered=4 * MIB, then=local_registry.kill)
        )
        pull = new_context(f"FROM {name}\n")
        output = f"--output=type=local,dest={tmp_path / 'none'}"
        daemon.build(pull, output, timeout=VANISHED).bad(road.host)
        assert daemon.pid == pid
        road.accidents.clear()
        local_registry.start()
        _pull(daemon, pull, tmp_path / "pulled")
    assert daemon.pid == pid


def test_client_gone(new_daemon: NewDaemon, base: BaseImage, new_context: NewContext) -> None:
    """Client killed with SIGKILL: its solve is cancelled, its container is gone, the daemon goes on"""
    daemon = new_daemon().start()
    pid = daemon.pid
    with gate() as held:
        context = new_context(f"FROM base\nRUN {held.command}\n")
        with started(daemon.build_command(context, *base.flags())) as client:
            held.wait()
            client.kill()
            client.wait()
        assert held.deserted()
        held.open()
        # Nobody takes a step that was cancelled for one that was finished.
        assert daemon.build(context, *base.flags()).good().cached == [False]
    assert daemon.pid == pid


# Before the daemon: a disk of its own for its state, with which it ends.
_DISK = r"""
for word; do case $word in --root=*) root=${word#--root=};; esac; done
mkdir "$root"
mount -t tmpfs -o size=96m tmpfs "$root"
exec "$@"
"""


@pytest.fixture
def small(new_daemon: NewDaemon) -> tuple[Daemon, Path]:
    """A daemon whose state is on a disk of 96 MiB, and where that is seen from outside."""
    daemon = new_daemon(wrap=["unshare", "--mount", "sh", "-euc", _DISK, "sh"]).start()
    return daemon, Path(f"/proc/{daemon.pid}/root{daemon.root}")


def fill(file: Path, leave: int) -> None:
    """Take all space that there is, but so much."""
    import shutil

    # Never this machine's own disk, whatever went wrong before.
    assert shutil.disk_usage(file.parent).total < 1 << 30, f"{file.parent} is no small disk"
    chunk = bytes(64 << 10)
    with file.open("wb", buffering=0) as ballast, contextlib.suppress(OSError):
        while shutil.disk_usage(file.parent).free > leave:
            ballast.write(chunk)


@pytest.mark.parametrize("instruction", ["RUN", "COPY"])
def test_disk_full(
    small: tuple[Daemon, Path], base: BaseImage, new_context: NewContext, instruction: str
) -> None:
    """Disk full below the state folder: the error says so; with space again the same build succeeds"""
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


def test_not_a_byte_left(
    small: tuple[Daemon, Path], base: BaseImage, new_context: NewContext
) -> None:
    """Not a byte left below the state folder: the error says so, and the daemon outlives it"""
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
def secluded(new_daemon: NewDaemon) -> Daemon:
    """A daemon without a network: what generated names stand for is nobody's business."""
    return new_daemon(wrap=["unshare", "--net"]).start()


#: The same ones in each run, and the first that is wrong is told.
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
    wire.field, strategies.integers(1, 20),
    strategies.integers(-(1 << 63), 1 << 63) | _TEXT | strategies.binary(max_size=60),
)  # fmt: skip
_FIELDS = strategies.lists(_FIELD, max_size=8).map(b"".join)
_OPERATION = _FIELDS | strategies.builds(wire.file, _TEXT, strategies.binary(max_size=60))
#: Each build needs a name of its own, and generated ones come again.
_REF = strategies.builds(next, strategies.just(f"example-{number}" for number in itertools.count()))
_SOLVE = strategies.builds(
    wire.solve, _REF,
    frontend=strategies.sampled_from(["dockerfile.v0", "dockerfile.v0", "gateway.v0", "other.v0"]),
    attributes=_MAP,
    inputs=strategies.dictionaries(
        strategies.sampled_from(["context", "dockerfile"]), _OPERATION.map(wire.definition), min_size=1,
    ),
) | strategies.builds(
    lambda ref, operation: wire.field(1, ref) + wire.field(2, wire.definition(operation)),
    _REF, _OPERATION,
)  # fmt: skip
_METHOD = strategies.sampled_from([
    *(f"/moby.buildkit.v1.Control/{name}" for name in (
        "DiskUsage", "Info", "ListWorkers", "Prune", "Session", "Solve", "Solve", "Solve", "Status",
        "UpdateBuildHistory", "Nothing")),
    "/grpc.health.v1.Health/Check", "/moby.buildkit.v1.frontend.LLBBridge/Solve", "Solve", "",
])  # fmt: skip
_BODY = strategies.one_of(
    _SOLVE.map(wire.message), _FIELDS.map(wire.message),
    strategies.binary(max_size=200).map(wire.message), strategies.binary(max_size=200),
)  # fmt: skip
#: A request to build that can be read as one, and means nothing.
_BUILD = strategies.builds(wire.call, strategies.just(wire.SOLVE), _SOLVE.map(wire.message))
_CALL = strategies.builds(wire.call, _METHOD, _BODY)
#: A client's request, cut off anywhere, or with something else in its place from there on.
_TORN = strategies.builds(
    lambda whole, at, rest: whole[: int(len(whole) * at)] + rest,
    _CALL, strategies.floats(0, 1), strategies.binary(max_size=60),
)  # fmt: skip


def test_malformed_requests(secluded: Daemon, base: BaseImage, new_context: NewContext) -> None:
    """100 malformed requests do not crash the daemon, and those to build get their answers"""
    pid = secluded.pid
    seen: list[str] = []

    @EXAMPLES
    @hypothesis.given(
        strategies.tuples(_BUILD, strategies.just(BOUND))
        | strategies.tuples(_CALL | _TORN, strategies.just(PATIENCE))
    )
    def send(example: tuple[bytes, float]) -> None:
        request, patience = example
        seen.append(wire.send(secluded.address, request, patience=patience))
        assert secluded.running, secluded.log[-3000:]
        assert seen[-1] == "answered" or patience == PATIENCE

    send()
    assert len(seen) == 100
    assert {"answered", "closed"} <= set(seen)
    # Many came farther than the door.
    assert secluded.log.count("Control/Solve returned error") >= 20
    _goes_on(secluded, pid, new_context, base)


def _goes_on(daemon: Daemon, pid: int, new_context: NewContext, base: BaseImage) -> None:
    """It is the same process, and builds."""
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


def test_malformed_dockerfiles(secluded: Daemon, base: BaseImage, new_context: NewContext) -> None:
    """100 malformed Dockerfiles do not crash the daemon, and each gets its answer"""
    pid = secluded.pid
    seen: list[str] = []

    @EXAMPLES
    @hypothesis.given(_DOCKERFILE)
    def send(content: bytes) -> None:
        request = wire.dockerfile(f"example-{len(seen)}", content)
        seen.append(wire.send(secluded.address, wire.call(wire.SOLVE, wire.message(request))))
        assert secluded.running, secluded.log[-3000:]

    send()
    assert seen == ["answered"] * 100
    # They came as far as the Dockerfile frontend.
    assert "dockerfile parse error" in secluded.log
    _goes_on(secluded, pid, new_context, base)


@contextlib.contextmanager
def crashing(daemon: Daemon, base: BaseImage, context: Path, panic: str) -> Iterator[None]:
    """What is done here ends the daemon with these words; it restarts, with its cache."""
    daemon.build(context, *base.flags()).good()
    yield
    assert eventually(lambda: not daemon.running), daemon.log[-3000:]
    assert f"panic: runtime error: {panic}" in daemon.log
    since = len(daemon.log)
    daemon.kill()
    daemon.start()
    assert daemon.build(context, *base.flags()).good().cached == [True]
    consistent(daemon, since)


# Where one of these fails, upstream has mended it: then it can be among what must not crash.


def test_definition_without_inputs(
    secluded: Daemon, base: BaseImage, new_context: NewContext
) -> None:
    """Known fault of upstream: an LLB definition whose last operation has no input ends the daemon; it restarts with its cache"""
    # client/llb/definition.go takes the first of no inputs.
    empty = wire.field(1, b"") + wire.entry(2, "", b"")
    request = wire.solve("", frontend="dockerfile.v0", attributes={}, inputs={"context": empty})
    context = new_context("FROM base\nRUN true\n")
    with crashing(secluded, base, context, "index out of range [0] with length 0"):
        assert wire.send(secluded.address, wire.call(wire.SOLVE, wire.message(request))) == "closed"


def test_unreachable_repository_twice(
    secluded: Daemon, base: BaseImage, new_context: NewContext
) -> None:
    """Known fault of upstream: two git sources of one repository that does not answer end the daemon; it restarts with its cache"""
    # source/git/source.go: the second takes what the first one has found, without its error.
    twice = new_context(
        "FROM scratch\nADD git://127.0.0.1:1/repo#main:a /a\nADD git://127.0.0.1:1/repo#main:b /b\n"
    )
    context = new_context("FROM base\nRUN true\n")
    with crashing(secluded, base, context, "invalid memory address or nil pointer dereference"):
        secluded.build(twice).bad()


# Every step of a build is a control group <parent>/buildkit/<id>, in version 1 and 2. What
# limits its processes is that parent, which only cgroup-parent names: BuildKit itself sets no
# limit. ulimit=nproc counts per user, and the kernel exempts the host's root, which RUN's is.

#: Processes that may be in a group, threads of the daemon and its helpers among them.
PIDS = 256
#: Forks until it may not; what it has forked ends with it, for it is the first of its namespace.
_FORKS = "while :; do sleep 1000 & done"


@contextlib.contextmanager
def confined(new_daemon: NewDaemon, memory: int = 0) -> Iterator[tuple[Daemon, Cgroup, str]]:
    """A daemon in a group with limits, and the option that puts builds into it as well."""
    with (
        cgroup(PIDS, memory) as group,
        contextlib.closing(new_daemon(wrap=group.joining())) as daemon,
    ):
        yield daemon.start(), group, f"--opt=cgroup-parent={group.builds}"


def test_fork_bomb(new_daemon: NewDaemon, base: BaseImage, new_context: NewContext) -> None:
    """RUN that forks without end is ended by pids.max of its cgroup-parent; the daemon goes on"""
    with confined(new_daemon) as (daemon, group, option), gate() as held:
        pid = daemon.pid
        context = new_context(f"FROM base\nRUN {held.command}\n")
        with started(daemon.build_command(context, *base.flags(), option)) as client:
            # Before anything forks without end: that its limits would hold.
            assert all(map(group.has, held.wait()))
            held.open()
            assert client.wait(BOUND) == 0
        said = daemon.build(new_context(f"FROM base\nRUN {_FORKS}\n"), *base.flags(), option).bad()
        assert "can't fork" in said.stderr
        # The daemon was among those who could not fork; now it can.
        assert eventually(lambda: group.count() < PIDS // 2)
        assert daemon.pid == pid
        daemon.build(new_context("FROM base\nRUN true\n"), *base.flags(), option).good()


@pytest.mark.parametrize("user", ["root", "1000"])
def test_ulimit_of_processes(
    new_daemon: NewDaemon, base: BaseImage, new_context: NewContext, user: str
) -> None:
    """ulimit=nproc ends a RUN that forks without end as an ordinary user; root's it does not limit"""
    with confined(new_daemon) as (daemon, group, option):
        few = f"USER {user}\nRUN for _ in $(seq 48); do sleep 1000 & done\n"
        said = daemon.build(
            new_context(f"FROM base\n{few}"), *base.flags(), option, "--opt=ulimit=nproc=24:24"
        )
        if user == "root":
            said.good()
        else:
            said.bad("can't fork")
        assert eventually(lambda: group.count() < PIDS // 2)


@pytest.mark.parametrize("version", [1, 2])
def test_cgroups(
    new_daemon: NewDaemon, base: BaseImage, new_context: NewContext, version: int
) -> None:
    """RUN has a cgroup of its own below its cgroup-parent, and its limits hold"""
    if version != VERSION:
        not_proven(f"this host's limits are of cgroup version {VERSION}")
    with (
        confined(new_daemon, memory=64 * MIB) as (daemon, group, option),
        gate() as held,
    ):
        context = new_context(f"FROM base\nRUN cat /proc/self/cgroup; {held.command}\n")
        log = daemon.folder / "progress"
        with (
            log.open("wb") as file,
            process.guarded(
                daemon.build_command(context, *base.flags(), option), stderr=file.fileno()
            ) as client,
        ):
            waiting = held.wait()
            (folder,) = group.steps()
            assert set(waiting) <= set(map(int, (folder / "cgroup.procs").read_text().split()))
            held.open()
            assert client.wait(BOUND) == 0
        said = log.read_text()
        # Version 2 has namespaces of groups: there RUN sees no other than its own.
        assert (
            ("0::/\n" in said)
            if version == 2
            else (f"pids:/{group.builds}/buildkit/{folder.name}\n" in said)
        )
        assert group.steps() == []
        hungry = new_context("FROM base\nRUN dd if=/dev/zero of=/dev/null bs=256M count=1\n")
        killed = {1: "exit code: 137", 2: "cannot allocate memory"}[version]
        daemon.build(hungry, *base.flags(), option).bad(killed)
        daemon.build(new_context("FROM base\nRUN true\n"), *base.flags(), option).good()


DAY = 24 * 3600.0


@contextlib.contextmanager
def other_time(seconds: float) -> Iterator[None]:
    """The system clock so much later, and right again afterwards."""
    ahead = time.clock_gettime(time.CLOCK_REALTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)
    try:
        _set_clock(ahead + seconds)
        yield
    finally:
        _set_clock(ahead)


def _set_clock(ahead: float) -> None:
    """Set it, by what it is ahead of the time since the machine's start."""
    time.clock_settime(time.CLOCK_REALTIME, time.clock_gettime(time.CLOCK_MONOTONIC) + ahead)


@pytest.mark.parametrize("jump", [DAY, -DAY], ids=["forward", "back"])
def test_clock_jump(
    new_daemon: NewDaemon, base: BaseImage, new_context: NewContext, jump: float
) -> None:
    """Clock set a day forward or back in a solve: it succeeds; the cache is there before and after"""
    if host.execution() is not Execution.QEMU_SYSTEM:
        not_proven(
            "the clock is set only on an emulated machine, whose it is alone; a time namespace has no other date"
        )
    daemon = new_daemon().start()
    pid = daemon.pid
    before = new_context("FROM base\nRUN echo before >/when\n")
    daemon.build(before, *base.flags()).good()
    with gate() as held:
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
