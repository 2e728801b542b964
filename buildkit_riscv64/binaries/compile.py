"""Running the Go compiler: flags, environment, memory limits, progress."""

from __future__ import annotations

import contextlib
import functools
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ..core import durations, host, process
from ..core.console import duration, log
from ..core.errors import BuildError, MissingRequirementError, StorageError
from ..core.pins import MODULE
from .source import Source
from .toolchain import Go, environment

#: Upstream's tags for buildkitd (its Dockerfile, stage `buildkitd`). Upstream gives
#: buildctl none; without cgo, the tags change nothing there.
TAGS = ("osusergo", "netgo", "static_build", "seccomp")

#: Peak memory of the largest process, the linker of buildkitd, without garbage
#: collection (1.4 GB, measured on amd64), plus a margin.
LINKER_BYTES = 1536 << 20

#: Seconds between progress lines without a terminal.
PLAIN_INTERVAL = 15.0


def ldflags(source: Source) -> str:
    """Upstream's linker flags: version stamps and static linking."""
    stamps = {"Version": source.version, "Revision": source.revision, "Package": MODULE}
    named = " ".join(f"-X {MODULE}/version.{name}={value}" for name, value in stamps.items())
    return f"{named} -extldflags '-static'"


#: Exclude the source's path and git state: a submodule and a tarball of the same
#: commit must give the same program.
ANYWHERE = ("-trimpath", "-buildvcs=false")


def flags(source: Source, profile: str = "") -> list[str]:
    """The arguments of go build that decide the output.

    Args:
        source: upstream.
        profile: the file for `-pgo`; with `-trimpath` only its content matters.
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
    """One go invocation.

    Args:
        directory: the directory to run go in.
        packages: import paths of the programs.
        flags: the arguments of go build that decide the output.
    """

    directory: Path
    packages: Sequence[str]
    flags: Sequence[str]

    @property
    def selecting(self) -> list[str]:
        """The flags that select packages."""
        return [flag for flag in self.flags if flag.startswith(("-mod=", "-tags="))]


def collector(available: int, jobs: int) -> dict[str, str]:
    """Settings of the compiler's garbage collector.

    Without garbage collection, a compiler is up to a third faster and takes up to
    three times the memory. Each of the `jobs` processes gets an equal share of
    three quarters of the available memory as GOMEMLIMIT. Near its limit, a process
    collects even with GOGC=off, so a share that is too small costs time, not the build.

    Args:
        available: memory in bytes.
        jobs: number of concurrent compilers.
    """
    share = available * 3 // 4 // jobs
    if share >= LINKER_BYTES:
        return {"GOGC": "off", "GOMEMLIMIT": str(share)}
    if share >= LINKER_BYTES // 2:
        return {"GOGC": "200", "GOMEMLIMIT": str(share)}
    return {}


def threads(cpus: int, execution: host.Execution) -> dict[str, str]:
    """Threads per compiler, with `-p` concurrent compilers.

    With as many compilers as processors, further threads compete with each other: on two
    processors, one thread per compiler took 3 to 8 % less processor time for a part of the
    tree. With more processors there are phases with fewer compilers than processors, and
    threads help. They also help in an emulated machine, by up to a tenth; where many
    packages compile at once, one thread gained nothing there.

    Args:
        cpus: number of processors.
        execution: how this machine executes.
    """
    return {"GOMAXPROCS": "1"} if cpus <= 2 and execution is host.Execution.NATIVE else {}


class Progress(Protocol):
    """Progress of a build."""

    def update(self, done: int, total: int, current: str) -> None:
        """`done` of `total` packages are compiled (0: unknown); `current` is being compiled."""


class _Packages:
    """The packages of a build, and how many are compiled.

    `go build -v` names each package when its compiler starts, and no cached package.
    A package starts when all its imports are compiled, so the started packages tell
    which packages are done.
    """

    def __init__(self, listing: Callable[[], str]) -> None:
        self._listing = listing
        self._needs: dict[str, int] = {}
        self._bit: dict[str, int] = {}
        self._done = 0
        self._started: dict[str, None] = {}
        self._thread: threading.Thread | None = None

    def _load_imports(self) -> None:
        # A line per package, dependencies first: its import path, then its imports.
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
        """Record that the compiler of `package` has started."""
        if self._thread is None:
            # Load late: if everything is cached, nothing starts and the list is not needed.
            self._thread = threading.Thread(target=self._load_imports, daemon=True)
            self._thread.start()
        self._started[package] = None

    @property
    def state(self) -> tuple[int, int, str]:
        """Compiled packages, all packages, and the package being compiled."""
        if not self._bit:
            return len(self._started), 0, next(reversed(self._started), "")
        for package in self._started:
            self._done |= self._needs.get(package, 0)
        self._started = {p: None for p in self._started if not self._bit.get(p, 0) & self._done}
        current = next(reversed(self._started), "")
        return self._done.bit_count(), len(self._bit), current


class _PlainProgress:
    """A regular progress line, for logs."""

    def __init__(self) -> None:
        self._start = self._last = time.monotonic()

    def update(self, done: int, total: int, current: str) -> None:
        now = time.monotonic()
        if now - self._last >= PLAIN_INTERVAL and done:
            self._last = now
            of = f"{done} of {total}" if total else f"{done}"
            left = durations.left()
            log(
                f"  {duration(now - self._start)}: {of} packages, compiling {current}"
                f"{f', {left}' if left else ''}"
            )


class _BarProgress:
    """A progress bar for terminals."""

    def __init__(self, bar: object, task: object) -> None:
        self._bar, self._task = bar, task

    def update(self, done: int, total: int, current: str) -> None:
        self._bar.update(  # type: ignore[attr-defined]
            self._task,
            completed=done,
            total=total or None,
            current=current or "linking",
            left=durations.left(),
        )


@contextlib.contextmanager
def progress() -> Iterator[Progress]:
    """A bar on a terminal, plain lines elsewhere."""
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
        TextColumn("{task.fields[left]}"),
        TextColumn("{task.fields[current]}", style="dim"),
        console=Console(stderr=True),
        transient=True,
    ) as bar:
        yield _BarProgress(bar, bar.add_task("compiling", total=None, current="", left=""))


def _failure(
    code: int, output: Sequence[str]
) -> BuildError | StorageError | MissingRequirementError:
    """The failure that a compiler's output indicates."""
    text = "\n".join(output)
    if "no space left on device" in text or "disk quota exceeded" in text:
        return StorageError(
            "no space left while compiling",
            "free some space (`invoke doctor` shows how much is needed), then run it again:"
            " finished compilations are kept",
        )
    if "signal: killed" in text or code == -9:
        return MissingRequirementError(
            "the compiler was killed: the kernel does this when memory runs out",
            "close other programs or add swap, then run it again: finished compilations are kept",
        )
    errors = [line for line in output if line.strip() and not line.startswith("#")]
    reason = errors[0].strip() if errors else "no output"
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

    A single invocation loads the packages once and links one command while it compiles
    the other.

    Args and exceptions are those of :func:`run`; `profile` is the file for `-pgo`.
    """
    job = Job(directory=source.directory, packages=source.packages, flags=flags(source, profile))
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
        job: what to compile.
        go: the pinned toolchain.
        output: the directory for the programs.
        scratch: a directory for Go's temporary files.
        extra_env: variables that select the target.
        show_progress: show the progress.

    Raises:
        BuildError: compilation failed.
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
    messages: list[str] = []

    with progress() if show_progress else contextlib.nullcontext() as meter:

        def on_line(line: str) -> None:
            # -v prints one import path per line; other lines are messages.
            if line and " " not in line and not line.startswith("#"):
                packages.start(line)
            elif line:
                messages.append(line)

        def on_tick() -> None:
            if meter is not None:
                meter.update(*packages.state)

        code = process.stream(build, on_line, cwd=job.directory, env=env, on_tick=on_tick)
    if code:
        for line in messages:
            log(line)
        raise _failure(code, messages)
