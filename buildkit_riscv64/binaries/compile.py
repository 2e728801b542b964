"""Running the Go compiler: flags, environment, memory, progress."""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from .. import host, process
from ..console import duration, say
from ..errors import BuildError, MissingRequirementError, StorageError
from ..pins import MODULE
from .source import Source
from .toolchain import Go, environment

#: Upstream's tags for buildkitd (its Dockerfile, stage `buildkitd`). buildctl
#: has none there; without cgo, they select the same code in it.
TAGS = ("osusergo", "netgo", "static_build", "seccomp")

#: What the largest process of a build, the linker of buildkitd, was seen to
#: use with its garbage collector off (1.4 GB, amd64), and some air.
LINKER_BYTES = 1536 << 20

#: Seconds between lines of progress where there is no terminal.
PLAIN_INTERVAL = 15.0


def ldflags(source: Source) -> str:
    """Upstream's linker flags: the version stamps, and a static program."""
    stamps = {"Version": source.version, "Revision": source.revision, "Package": MODULE}
    named = " ".join(f"-X {MODULE}/version.{name}={value}" for name, value in stamps.items())
    return f"{named} -extldflags '-static'"


#: Neither the place of a source shows, nor the state of its git: a submodule and a
#: tarball of the same commit must give the same program.
ANYWHERE = ("-trimpath", "-buildvcs=false")


def flags(source: Source, profile: str = "") -> list[str]:
    """Everything that decides the output, as arguments of go build.

    Args:
        source: upstream.
        profile: the file for `-pgo`; with `-trimpath` only its content decides.
    """
    return [
        *ANYWHERE,
        source.mod_flag,
        f"-tags={','.join(TAGS)}",
        f"-ldflags={ldflags(source)}",
        *([f"-pgo={profile}"] if profile else []),
    ]


@dataclass(frozen=True, kw_only=True)
class Job:
    """What one go invocation compiles.

    Args:
        directory: where to run go.
        packages: the programs, by import path.
        flags: everything that decides the output, as arguments of go build.
    """

    directory: Path
    packages: Sequence[str]
    flags: Sequence[str]

    @property
    def selecting(self) -> list[str]:
        """Those of the flags that decide which packages it is made of."""
        return [flag for flag in self.flags if flag.startswith(("-mod=", "-tags="))]


def collector(available: int, jobs: int) -> dict[str, str]:
    """How lazy the compiler's garbage collector may be.

    A compiler that never collects is up to a third faster, and takes up to
    three times the memory. Each of the `jobs` processes gets an equal share of
    three quarters of what is available, as GOMEMLIMIT: a collector that is
    relaxed or off wakes up when its process comes near that, so a share that
    turns out too small costs time and not the build.

    Args:
        available: memory, in bytes.
        jobs: compilers at the same time.
    """
    share = available * 3 // 4 // jobs
    if share >= LINKER_BYTES:
        return {"GOGC": "off", "GOMEMLIMIT": str(share)}
    if share >= LINKER_BYTES // 2:
        return {"GOGC": "200", "GOMEMLIMIT": str(share)}
    return {}


def threads(cpus: int, execution: host.Execution) -> dict[str, str]:
    """How many threads each compiler gets, besides `-p` compilers at the same time.

    With as many compilers as processors at work, more threads in each only get
    in each other's way: on two processors, one thread took 3 to 8 % off the
    processor time of a part of the tree. With more processors there are times
    when fewer compilers run than there are processors, and the threads pay. So
    they do in an emulated machine, by up to a tenth; where many packages compile
    at once, one thread gained nothing there.

    Args:
        cpus: processors.
        execution: how this machine executes.
    """
    return {"GOMAXPROCS": "1"} if cpus <= 2 and execution is host.Execution.NATIVE else {}


class Progress(Protocol):
    """What a build tells about itself."""

    def update(self, done: int, total: int, current: str) -> None:
        """`done` of `total` packages are compiled (0: not known yet); `current` is being."""


class _Packages:
    """Which packages a build is made of, and how far it has come.

    `go build -v` names each package when its compiler starts, and cached ones
    not at all. A package starts when all that it imports is there, so what has
    started tells what is done.
    """

    def __init__(self, listing: Callable[[], str]) -> None:
        self._listing = listing
        self._needs: dict[str, int] = {}
        self._bit: dict[str, int] = {}
        self._done = 0
        self._started: dict[str, None] = {}
        self._thread: threading.Thread | None = None

    def _learn(self) -> None:
        # One line a package, dependencies first: its path, then what it imports.
        needs: dict[str, int] = {}
        bit: dict[str, int] = {}
        for line in self._listing().splitlines():
            path, *imports = line.split()
            bit[path] = 1 << len(bit)
            needs[path] = functools.reduce(
                lambda all_, name: all_ | needs.get(name, 0) | bit.get(name, 0), imports, 0
            )
        self._bit, self._needs = bit, needs

    def start(self, package: str) -> None:
        """The compiler of `package` has started."""
        if self._thread is None:
            # Only now: where all is cached nothing starts, and nobody waits for this.
            self._thread = threading.Thread(target=self._learn, daemon=True)
            self._thread.start()
        self._started[package] = None

    @property
    def state(self) -> tuple[int, int, str]:
        """Done, total, and what is being compiled."""
        if not self._bit:
            return len(self._started), 0, next(reversed(self._started), "")
        for package in self._started:
            self._done |= self._needs.get(package, 0)
        self._started = {p: None for p in self._started if not self._bit.get(p, 0) & self._done}
        current = next(reversed(self._started), "")
        return self._done.bit_count(), len(self._bit), current


class _PlainProgress:
    """A line now and then, for logs."""

    def __init__(self) -> None:
        self._start = self._last = time.monotonic()

    def update(self, done: int, total: int, current: str) -> None:
        now = time.monotonic()
        if now - self._last >= PLAIN_INTERVAL and done:
            self._last = now
            of = f"{done} of {total}" if total else f"{done}"
            say(f"  {duration(now - self._start)}: {of} packages, compiling {current}")


class _BarProgress:
    """A bar on a terminal."""

    def __init__(self, bar: object, task: object) -> None:
        self._bar, self._task = bar, task

    def update(self, done: int, total: int, current: str) -> None:
        self._bar.update(  # type: ignore[attr-defined]
            self._task, completed=done, total=total or None, current=current or "linking"
        )


@contextlib.contextmanager
def progress() -> Iterator[Progress]:
    """A bar on a terminal, plain lines elsewhere."""
    import sys

    if not sys.stderr.isatty():
        yield _PlainProgress()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    with Bar(
        TextColumn("compiling"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[current]}", style="dim"),
        console=Console(stderr=True),
        transient=True,
    ) as bar:
        yield _BarProgress(bar, bar.add_task("compiling", total=None, current=""))


def _failure(
    code: int, output: Sequence[str]
) -> BuildError | StorageError | MissingRequirementError:
    """The failure that the end of a compiler's output amounts to."""
    text = "\n".join(output)
    if "no space left on device" in text or "disk quota exceeded" in text:
        return StorageError(
            "no space left while compiling",
            "free some space (`invoke doctor` says how much is needed), then run it again:"
            " what is compiled already is kept",
        )
    if "signal: killed" in text or code == -9:
        return MissingRequirementError(
            "the compiler was killed, which the kernel does when memory runs out",
            "close other programs or add swap, then run it again: what is compiled already is kept",
        )
    said = [line for line in output if line.strip() and not line.startswith("#")]
    reason = said[0].strip() if said else "it said nothing"
    return BuildError(
        f"go build failed ({process.describe_exit(code)}): {reason}",
        "the compiler's output is above; `invoke doctor` checks the machine",
    )


def compile_commands(
    source: Source,
    go: Go,
    output: Path,
    scratch: Path,
    extra_env: Mapping[str, str],
    *,
    profile: str = "",
    show_progress: bool = True,
) -> None:
    """Compile the commands with one go invocation.

    One, because Go then loads the packages once and links one command while it
    compiles for the other.

    Args:
        source: upstream.
        go: the pinned toolchain.
        output: the folder for the commands.
        scratch: a folder for Go's temporary files.
        extra_env: what selects the target.
        profile: what often runs, a file.
        show_progress: tell how far it is.

    Raises:
        BuildError: it did not compile.
        StorageError: no space left.
        MissingRequirementError: the compiler ran out of memory.
    """
    everything = flags(source, profile)
    job = Job(directory=source.directory, packages=source.packages, flags=everything)
    run(job, go, output, scratch, extra_env, show_progress=show_progress)


def run(
    job: Job,
    go: Go,
    output: Path,
    scratch: Path,
    extra_env: Mapping[str, str],
    *,
    show_progress: bool = True,
) -> None:
    """Compile programs with one go invocation.

    Args:
        job: what.
        go: the pinned toolchain.
        output: the folder for them.
        scratch: a folder for Go's temporary files.
        extra_env: what selects the target.
        show_progress: tell how far it is.

    Raises:
        BuildError: it did not compile.
        StorageError: no space left.
        MissingRequirementError: the compiler ran out of memory.
    """
    env = environment(
        go,
        {
            "GOTMPDIR": str(scratch),
            **collector(host.memory_bytes("MemAvailable"), host.cpus()),
            **threads(host.cpus(), host.execution()),
            **extra_env,
        },
    )
    build: process.Arguments = [
        go.command,
        "build",
        "-v",
        # Go's own default is GOMAXPROCS.
        f"-p={host.cpus()}",
        *job.flags,
        "-o",
        f"{output}/",
        *job.packages,
    ]
    listing: process.Arguments = [
        go.command, "list", "-deps", "-f", "{{.ImportPath}}{{range .Imports}} {{.}}{{end}}",
        *job.selecting, *job.packages,
    ]  # fmt: skip
    packages = _Packages(
        lambda: process.probe(listing, cwd=job.directory, env=env, timeout=600).stdout
    )
    said: list[str] = []

    with progress() if show_progress else contextlib.nullcontext() as meter:

        def on_line(line: str) -> None:
            # -v prints import paths, one a line; everything else is the compiler talking.
            if line and " " not in line and not line.startswith("#"):
                packages.start(line)
            elif line:
                said.append(line)

        def on_tick() -> None:
            if meter is not None:
                meter.update(*packages.state)

        code = process.stream(build, on_line, cwd=job.directory, env=env, on_tick=on_tick)
    if code:
        for line in said:
            say(line)
        raise _failure(code, said)
