"""`invoke build-binaries`: from upstream's source to a finished folder in `dist/`."""

from __future__ import annotations

import collections
import concurrent.futures
import hashlib
import json
import shutil
import tarfile
import threading
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar, cast

from .. import dist, host, pins, project
from ..arch import Target
from ..console import say, step
from ..errors import BuildError, StorageError, UsageError
from . import source as sources

if TYPE_CHECKING:
    from .pgo import Profile
    from .toolchain import Go

T = TypeVar("T")

#: Changes whenever this code would make something else of the same inputs.
RECIPE = 2
#: What a build writes below `dist/`, at most, and Go's temporary files there.
NEEDED_BYTES = 600 << 20
#: Half the time of the default level, for two percent more bytes.
_GZIP_LEVEL = 4
#: Compressed alone, so that every processor has something to do.
_CHUNK_BYTES = 1 << 20


class Via(StrEnum):
    """Who compiles."""

    GO = "go"
    MAKE = "make"


@dataclass(frozen=True, kw_only=True)
class Options:
    """What `invoke build-binaries` was asked.

    Args:
        source: `auto`, `submodule`, `module` or a path.
        goriscv64: a RISC-V profile above the default; empty for the default.
        allow_dirty: build a checkout that differs from its commit.
        via: who compiles.
        pgo: a profile for the compiler; empty for none.
        force: build even if nothing changed.
        dry: only say what would be done.
    """

    source: str = "auto"
    goriscv64: str = ""
    allow_dirty: bool = False
    via: Via = Via.GO
    pgo: str = ""
    force: bool = False
    dry: bool = False

    @classmethod
    def parse(cls, *, via: str, **others: Any) -> Options:
        """Options as the command line has them.

        Raises:
            UsageError: there is no such way to compile.
        """
        if via not in list(Via):
            raise UsageError(f"--via {via}: no such way to compile", f"one of: {', '.join(Via)}")
        return cls(via=Via(via), **others)


@dataclass(frozen=True)
class Outcome:
    """What became of a build.

    Args:
        artifacts: the finished folder; None when nothing was to be done but said.
        up_to_date: nothing had changed, so nothing was done.
        seconds: how long it took.
    """

    artifacts: dist.Artifacts | None
    up_to_date: bool
    seconds: float


def inputs(
    source: sources.Source,
    target: Target,
    via: Via,
    pinned: pins.Pins,
    profile: Profile | None = None,
) -> str:
    """The digest of everything that decides the output."""
    from . import compile as compiler

    decisive = {
        "recipe": RECIPE,
        "source": [str(source.kind), source.state, source.version, source.revision],
        "target": target.name,
        "via": str(via),
        "go": pinned.go_version,
        "flags": compiler.flags(source),
        **({"pgo": profile.sha256} if profile else {}),
    }
    return "sha256:" + hashlib.sha256(json.dumps(decisive).encode()).hexdigest()


def _in_background(function: Callable[[], T]) -> concurrent.futures.Future[T]:
    """Run beside the compiler, in a thread that cannot keep an interrupted run alive."""
    future: concurrent.futures.Future[T] = concurrent.futures.Future()

    def work() -> None:
        try:
            future.set_result(function())
        except BaseException as error:  # noqa: BLE001 - handed to whoever asks for the result
            future.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return future


class _ParallelGzip:
    """A gzip file written by all processors.

    Each chunk becomes a gzip member of its own, and members that follow each
    other are one file (RFC 1952, 2.2). Neither the number of processors nor
    the time changes a bit of it.
    """

    def __init__(self, file: BinaryIO, pool: concurrent.futures.Executor) -> None:
        self._file, self._pool = file, pool
        self._buffer = bytearray()
        self._pending: collections.deque[concurrent.futures.Future[bytes]] = collections.deque()

    @staticmethod
    def _member(chunk: bytes) -> bytes:
        # 31: a gzip header around the largest window. zlib's has no time in it.
        compressor = zlib.compressobj(_GZIP_LEVEL, wbits=31)
        return compressor.compress(chunk) + compressor.flush()

    def write(self, data: bytes) -> int:
        self._buffer += data
        if len(self._buffer) >= _CHUNK_BYTES:
            self._submit(host.cpus())
        return len(data)

    def _submit(self, waiting: int) -> None:
        self._pending.append(self._pool.submit(self._member, bytes(self._buffer)))
        self._buffer.clear()
        while len(self._pending) > waiting:
            self._file.write(self._pending.popleft().result())

    def finish(self) -> None:
        self._submit(0)


def pack(folder: Path, names: list[str], archive: Path, when: datetime) -> None:
    """Write a tarball: sorted, owned by root, all of the same time.

    Args:
        folder: where the files are.
        names: which, relative to it.
        archive: the tarball.
        when: the time that all of them get.
    """

    def plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = "root"
        entry.mode = 0o755
        entry.mtime = int(when.timestamp())
        return entry

    with archive.open("wb") as file, concurrent.futures.ThreadPoolExecutor(host.cpus()) as pool:
        compressed = _ParallelGzip(file, pool)
        with tarfile.open(
            fileobj=cast(BinaryIO, compressed), mode="w|", format=tarfile.USTAR_FORMAT
        ) as tar:
            for name in sorted(names):
                tar.add(folder / name, name, filter=plain)
        compressed.finish()


def _tarball(stage: Path, name: str, binaries: list[dict[str, Any]], when: datetime,
             previous: dist.Artifacts | None) -> None:  # fmt: skip
    """Pack the binaries, or take over the tarball of the same binaries."""
    if previous is not None and previous.unchanged():
        files = previous.files
        if name in files and all(files.get(b["name"]) == b for b in binaries):
            (stage / name).hardlink_to(previous.path / name)
            return
    pack(stage, [b["name"] for b in binaries], stage / name, when)


def _utc(timestamp: float) -> str:
    return (
        datetime.fromtimestamp(timestamp, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    )


def _describe(
    stage: Path,
    source: sources.Source,
    go: Go,
    build: Mapping[str, Any],
    target: Target,
    previous: dist.Artifacts | None,
) -> None:
    """Write everything that goes with the binaries: tarball, SBOMs, provenance, manifest, sums."""
    from . import provenance, sbom
    from .elf import read_build_info

    binaries = dist.record(stage, map(dist.binary, dist.COMMANDS))
    tarball = dist.tarball(source.version, target)
    _tarball(stage, tarball, binaries, source.time, previous)
    for command, file in zip(dist.COMMANDS, binaries, strict=True):
        info = read_build_info(stage / file["name"], go)
        text = sbom.bill_of_materials(command, file["sha256"], source.version, info, source.time)
        (stage / dist.sbom(command)).write_text(text)
    profile = [dist.PROFILE] if target.pgo else []
    others = [tarball, *map(dist.sbom, dist.COMMANDS), *profile]
    manifest: dict[str, Any] = {
        "manifest_version": dist.MANIFEST_VERSION,
        "target": target.name,
        "version": source.version,
        "revision": source.revision,
        "source": {
            "kind": str(source.kind),
            "location": source.location,
            "sum": source.sum,
            "dirty": source.dirty,
            "pinned": source.pinned,
            "time": _utc(source.time.timestamp()),
        },
        "go": {"version": go.version, "origin": go.origin, "sum": go.sum},
        "build": dict(build),
        "host": host.facts().as_json(),
        "files": binaries + dist.record(stage, others),
    }
    (stage / dist.PROVENANCE).write_text(provenance.statement(manifest))
    manifest["files"] += dist.record(stage, [dist.PROVENANCE])
    dist.write_json(stage / dist.MANIFEST, manifest)
    files = [*manifest["files"], *dist.record(stage, [dist.MANIFEST])]
    (stage / dist.SUMS).write_text(dist.sums(files))


def _refuse_too_little_space() -> None:
    free = host.free_bytes(project.DIST)
    if free < NEEDED_BYTES:
        raise StorageError(
            f"only {free >> 20} MiB free for {dist.shown(project.DIST)},"
            f" and a build needs {NEEDED_BYTES >> 20}",
            "free some space; df -h .",
        )


def build(options: Options) -> Outcome:
    """Compile, check and publish the binaries for this machine.

    Raises:
        Failure: whatever went wrong, as the class of what it was; `dist/` is
            then as it was before.
    """
    from .toolchain import refuse_cross_compilation

    started = time.time()
    refuse_cross_compilation()
    profile = _profile(options)
    target = Target.here(options.goriscv64, pgo=profile is not None)
    pinned = pins.load()
    source = sources.resolve(options.source, pinned, allow_dirty=options.allow_dirty)
    if options.via is Via.MAKE:
        from . import make

        make.refuse_impossible(source, target)
    digest = inputs(source, target, options.via, pinned, profile)
    previous = dist.find(project.DIST / target.name)
    known = not options.force and previous is not None and previous.inputs == digest
    if previous is not None and known and previous.unchanged():
        if not options.dry:
            dist.sweep(target)
        return Outcome(previous, up_to_date=True, seconds=time.time() - started)

    say(f"BuildKit {source.version} for {target.name} from the {source.kind} {source.location}")
    if options.dry:
        _say_what_would_run(options, source, target, pinned)
        return Outcome(None, up_to_date=False, seconds=time.time() - started)
    _refuse_too_little_space()
    with dist.lock(target), dist.staging(target) as stage:
        try:
            (stage / "bin").mkdir()
            if profile:
                (stage / dist.PROFILE).write_bytes(profile.content)
            compiled = _compile(options, source, target, pinned, stage)
            go, flags, environment = compiled
            finished = time.time()
            record = {
                "via": str(options.via),
                "flags": flags,
                "environment": environment,
                **({"pgo": profile.sha256} if profile else {}),
                "inputs": digest,
                "started": _utc(started),
                "finished": _utc(finished),
                "seconds": round(finished - started, 1),
            }
            say("packing and describing")
            # Another recipe may pack the same binaries otherwise.
            same = previous if previous is not None and previous.inputs == digest else None
            _describe(stage, source, go, record, target, same)
            from .check import require_good

            require_good(stage, target, go)
            artifacts = dist.publish(stage, target)
        except OSError as error:
            raise dist.storage_error(error, stage) from error
    return Outcome(artifacts, up_to_date=False, seconds=time.time() - started)


def _profile(options: Options) -> Profile | None:
    """The profile that was asked for.

    Raises:
        UsageError: it is none, or upstream's Makefile is to compile.
    """
    if not options.pgo:
        return None
    if options.via is Via.MAKE:
        raise UsageError("--via make cannot compile with a profile", "leave --pgo or --via out")
    from . import pgo

    return pgo.read(Path(options.pgo).expanduser())


def _say_what_would_run(
    options: Options, source: sources.Source, target: Target, pinned: pins.Pins
) -> None:
    from .. import process
    from . import compile as compiler

    command = ["make", "binaries"]
    if options.via is Via.GO:
        variables = [f"{name}={value}" for name, value in target.go_level().items()]
        command = [
            *variables,
            "go",
            "build",
            *compiler.flags(source, options.pgo),
            *source.packages,
        ]
    say(f"would run, with {pinned.go_version} in {dist.shown(source.directory)}:")
    say(f"  {process.show(command)}")
    say(f"would then check the result and publish it in {dist.shown(dist.folder(target))}/")


def _compile(
    options: Options, source: sources.Source, target: Target, pinned: pins.Pins, stage: Path
) -> tuple[Go, list[str], dict[str, str]]:
    """Put the commands into the stage's `bin/`; say with which Go, flags and environment."""
    from . import toolchain

    scratch = stage / "scratch"
    scratch.mkdir()
    if options.via is Via.MAKE:
        from . import make

        go = make.compile_commands(source, stage / "bin", scratch)
        shutil.rmtree(scratch)
        return go, [], {}

    from . import compile as compiler

    with step("fetching Go and what is compiled, where it is not there yet"):
        go = toolchain.ensure(pinned)
        sources.prepare(source, go)
    verification = _in_background(lambda: sources.verify_modules(source, go))
    try:
        compiler.compile_commands(
            source, go, stage / "bin", scratch, target.go_level(),
            profile=str(stage / dist.PROFILE) if target.pgo else "",
        )  # fmt: skip
    except BuildError:
        # Changed source is a better reason than what the compiler made of it.
        verification.result()
        raise
    verification.result()
    shutil.rmtree(scratch)
    profile = dist.PROFILE if target.pgo else ""
    return go, compiler.flags(source, profile), {"CGO_ENABLED": "0", **target.go_level()}
