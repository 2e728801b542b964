"""`invoke build-binaries`: from upstream's source to a finished folder in `dist/`."""

from __future__ import annotations

import concurrent.futures
import contextlib
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from .. import digests, dist, host, pins, project, storage, timestamps
from ..arch import Target
from ..console import say, step
from ..errors import BuildError, UsageError
from . import bundle as bundles
from . import source as sources
from .tarball import pack

if TYPE_CHECKING:
    from .pgo import Profile
    from .toolchain import Go

T = TypeVar("T")

#: Changes whenever this code would make something else of the same inputs.
RECIPE = 2
#: What a build writes below `dist/`, at most, and Go's temporary files there.
NEEDED_BYTES = 600 << 20


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
        bundle: what the commands run too.
        force: build even if nothing changed.
        yes: install what is missing without asking.
        dry: only say what would be done.
    """

    source: str = "auto"
    goriscv64: str = ""
    allow_dirty: bool = False
    via: Via = Via.GO
    pgo: str = ""
    bundle: bool = False
    force: bool = False
    yes: bool = False
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
    return digests.inputs(decisive)


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


def _tarball(stage: Path, name: str, binaries: list[dict[str, Any]], when: datetime,
             previous: dist.Artifacts | None) -> None:  # fmt: skip
    """Pack the binaries, or take over the tarball of the same binaries."""
    if previous is not None and previous.unchanged():
        files = previous.files
        held = [files.get(dist.binary(program)) for program in previous.programs]
        if name in files and held == binaries:
            (stage / name).hardlink_to(previous.path / name)
            return
    pack(stage, [b["name"] for b in binaries], stage / name, when)


def _head(
    source: sources.Source, go: Go, build: Mapping[str, Any], target: Target
) -> dict[str, Any]:
    """What a manifest says of the commands, but for their files."""
    return {
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
            "time": timestamps.utc(source.time),
        },
        "go": _go(go),
        "build": dict(build),
        "host": host.facts().as_json(),
    }


def _go(go: Go) -> dict[str, str]:
    return {"version": go.version, "origin": go.origin, "sum": go.sum}


def _describe(
    stage: Path,
    head: Mapping[str, Any],
    go: Go,
    target: Target,
    previous: dist.Artifacts | None,
) -> None:
    """Write everything that goes with the binaries: tarball, SBOMs, provenance, manifest, sums.

    Args:
        stage: the folder that they are in.
        head: the manifest, but for the files.
        go: to read build information with.
        target: what it is all for.
        previous: what may have the same tarball.
    """
    from . import provenance, sbom
    from .elf import read_build_info

    manifest = dict(head)
    programs = dist.Artifacts(stage, manifest).programs
    binaries = dist.record(stage, map(dist.binary, programs))
    tarball = dist.tarball(manifest["version"], target)
    when = datetime.fromisoformat(manifest["source"]["time"])
    _tarball(stage, tarball, binaries, when, previous)
    for command, file in zip(programs, binaries, strict=True):
        info = read_build_info(stage / file["name"], go)
        if command in dist.COMMANDS:
            text = sbom.bill_of_materials(command, file["sha256"], manifest["version"], info, when)
        else:
            one = bundles.of(manifest, command)
            text = sbom.bill_of_materials(
                command, file["sha256"], one["version"], info,
                datetime.fromisoformat(one["time"]), one.get("c", {}).get("libraries", []),
            )  # fmt: skip
        (stage / dist.sbom(command)).write_text(text)
    profile = [dist.PROFILE] if target.pgo else []
    others = [tarball, *map(dist.sbom, programs), *profile]
    manifest["files"] = binaries + dist.record(stage, others)
    (stage / dist.PROVENANCE).write_text(provenance.statement(manifest))
    manifest["files"] += dist.record(stage, [dist.PROVENANCE])
    dist.write_manifest(stage, manifest)


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """What is asked for, of what it would be made, and what is there already.

    Args:
        options: what was asked.
        source: upstream.
        target: what it is for.
        pinned: what is pinned.
        profile: for the compiler.
        inputs: the digest of what decides the commands.
        parts: of the bundle, if it is asked for.
        bundle_inputs: the digest of what decides them.
        previous: the finished folder, if there is a usable one.
        commands_stay: the commands in it are what would be made.
        bundle_stays: so is its bundle, or none is asked for.
    """

    options: Options
    source: sources.Source
    target: Target
    pinned: pins.Pins
    profile: Profile | None
    inputs: str
    parts: list[bundles.Part]
    bundle_inputs: str
    previous: dist.Artifacts | None
    commands_stay: bool
    bundle_stays: bool

    @property
    def needed_bytes(self) -> int:
        """What it takes below `dist/`, at most."""
        return NEEDED_BYTES + (bundles.NEEDED_BYTES if self.parts else 0)


def _plan(options: Options) -> _Plan:
    """Find out what is to be done, and refuse what cannot be."""
    from .toolchain import refuse_cross_compilation

    refuse_cross_compilation()
    profile = _profile(options)
    target = Target.here(options.goriscv64, pgo=profile is not None)
    pinned = pins.load()
    source = sources.resolve(options.source, pinned, allow_dirty=options.allow_dirty)
    if options.via is Via.MAKE:
        if options.bundle:
            raise UsageError("--via make cannot make the bundle", "leave --bundle or --via out")
        from . import make

        make.refuse_impossible(source, target)
    parts = bundles.parts(pinned) if options.bundle else []
    digest = inputs(source, target, options.via, pinned, profile)
    bundle_digest = bundles.inputs(parts, target, pinned)
    previous = dist.find(project.DIST / target.name)
    usable = None
    if previous is not None and not options.force and previous.unchanged():
        usable = previous
    return _Plan(
        options=options, source=source, target=target, pinned=pinned, profile=profile,
        inputs=digest, parts=parts, bundle_inputs=bundle_digest, previous=previous,
        commands_stay=usable is not None and usable.inputs == digest,
        bundle_stays=not parts
        or (usable is not None and bundles.is_current(usable.manifest, bundle_digest)),
    )  # fmt: skip


def build(options: Options) -> dist.Outcome:
    """Compile, check and publish the binaries for this machine.

    Raises:
        Failure: whatever went wrong, as the class of what it was; `dist/` is
            then as it was before.
    """
    started = time.time()
    plan = _plan(options)
    source, target, previous = plan.source, plan.target, plan.previous
    if plan.commands_stay and plan.bundle_stays:
        if not options.dry:
            dist.sweep(target)
        return dist.Outcome(previous, up_to_date=True, seconds=time.time() - started)

    say(f"BuildKit {source.version} for {target.name} from the {source.kind} {source.location}")
    if previous is not None and "bundle" in previous.manifest and not plan.parts:
        say("note: the bundle that is there is not made anew without --bundle")
    if options.dry:
        _say_what_would_run(plan)
        return dist.Outcome(None, up_to_date=False, seconds=time.time() - started)
    if not plan.bundle_stays:
        from . import cc

        cc.provide(yes=options.yes)
    storage.require_space(project.DIST, plan.needed_bytes, "a build needs")
    with dist.lock(target), dist.staging(target) as stage:
        try:
            (stage / "bin").mkdir()
            head, go = _commands(plan, stage, started)
            if plan.parts:
                head["bundle"] = _bundle(plan, stage, go)
            say("packing and describing")
            # Another recipe may pack the same binaries otherwise.
            same = previous if previous is not None and previous.inputs == plan.inputs else None
            _describe(stage, head, go, target, same)
            from .check import require_good

            require_good(stage, target, go)
            artifacts = dist.publish(stage, target)
        except OSError as error:
            raise storage.failure(error, stage) from error
    return dist.Outcome(artifacts, up_to_date=False, seconds=time.time() - started)


def _take_over(
    previous: dist.Artifacts | None, stage: Path, names: Sequence[str]
) -> Mapping[str, Any] | None:
    """Have files of the finished folder in the stage, if they are what its manifest says.

    Returns:
        That manifest; None where they are not.
    """
    if previous is None:
        return None
    files = previous.files
    if any(storage.sha256(previous.path / name) != files[name]["sha256"] for name in names):
        return None
    for name in names:
        (stage / name).hardlink_to(previous.path / name)
    return previous.manifest


def _commands(plan: _Plan, stage: Path, started: float) -> tuple[dict[str, Any], Go]:
    """Put the commands into the stage: those that are there, or compiled.

    Returns:
        What a manifest says of them, and the Go to read them with.
    """
    from . import toolchain

    profile = plan.profile
    names = [*map(dist.binary, dist.COMMANDS), *([dist.PROFILE] if profile else [])]
    if plan.commands_stay and (manifest := _take_over(plan.previous, stage, names)):
        say(f"{' and '.join(dist.COMMANDS)} stay as they are")
        head = {key: value for key, value in manifest.items() if key not in {"files", "bundle"}}
        return head, toolchain.ensure(plan.pinned)
    if profile:
        (stage / dist.PROFILE).write_bytes(profile.content)
    go, flags, environment = _compile(plan, stage)
    record = {
        "via": str(plan.options.via),
        "flags": flags,
        "environment": environment,
        **({"pgo": profile.sha256} if profile else {}),
        "inputs": plan.inputs,
        **_timed(started),
    }
    return _head(plan.source, go, record, plan.target), go


def _timed(started: float) -> dict[str, Any]:
    """For a manifest: from then until now."""
    finished = time.time()
    return {
        "started": timestamps.utc(started),
        "finished": timestamps.utc(finished),
        "seconds": round(finished - started, 1),
    }


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


def _say_what_would_run(plan: _Plan) -> None:
    from . import cc
    from . import compile as compiler

    options, source, level = plan.options, plan.source, plan.target.go_level()
    if not plan.bundle_stays and (lacking := cc.missing()):
        say(f"would install: {', '.join(sorted(lacking.values()))}")
    if plan.commands_stay:
        say(f"{' and '.join(dist.COMMANDS)} would stay as they are")
    elif options.via is Via.MAKE:
        _say_command(["make", "binaries"], source.directory, plan.pinned)
    else:
        build = [*compiler.flags(source, options.pgo), *source.packages]
        _say_command([*_assigned(level), "go", "build", *build], source.directory, plan.pinned)
    for part in plan.parts if not plan.bundle_stays else ():
        variables = _assigned(part.environment(plan.target))
        build = [*part.flags, *part.job.packages]
        _say_command([*variables, "go", "build", *build], part.directory, plan.pinned)
    say(f"would then check the result and publish it in {storage.shown(dist.folder(plan.target))}/")


def _assigned(variables: Mapping[str, str]) -> list[str]:
    return [f"{name}={value}" for name, value in variables.items()]


def _say_command(command: Sequence[str], directory: Path, pinned: pins.Pins) -> None:
    from .. import process

    say(f"would run, with {pinned.go_version} in {storage.shown(directory)}:")
    say(f"  {process.show(command)}")


def _compile(plan: _Plan, stage: Path) -> tuple[Go, list[str], dict[str, str]]:
    """Put the commands into the stage's `bin/`; say with which Go, flags and environment."""
    from . import toolchain

    source, target = plan.source, plan.target
    with _scratch(stage) as scratch:
        if plan.options.via is Via.MAKE:
            from . import make

            return make.compile_commands(source, stage / "bin", scratch), [], {}

        from . import compile as compiler

        with step("fetching Go and what is compiled, where it is not there yet"):
            go = toolchain.ensure(plan.pinned)
            sources.prepare(source, go)
        with _verified(lambda: sources.verify_modules(source, go)):
            compiler.compile_commands(
                source, go, stage / "bin", scratch, target.go_level(),
                profile=str(stage / dist.PROFILE) if target.pgo else "",
            )  # fmt: skip
    profile = dist.PROFILE if target.pgo else ""
    return go, compiler.flags(source, profile), {"CGO_ENABLED": "0", **target.go_level()}


def _bundle(plan: _Plan, stage: Path, go: Go) -> dict[str, Any]:
    """Put the bundle into the stage's `bin/`: the one that is there, or compiled.

    Returns:
        What a manifest says of it.
    """
    from . import cc

    names = [*map(dist.binary, dist.BUNDLE)]
    if plan.bundle_stays and (manifest := _take_over(plan.previous, stage, names)):
        say("the bundle stays as it is")
        return dict(manifest["bundle"])
    started = time.time()
    with step("fetching what the bundle is compiled from, where it is not there yet"):
        bundles.prepare(plan.parts, go)
    with _scratch(stage) as scratch, _verified(lambda: bundles.verify(plan.parts, go)):
        for part in plan.parts:
            say(f"compiling {part.location}")
            bundles.compile_part(part, go, stage / "bin", scratch, plan.target.go_level())
    linked = cc.facts()
    components = [
        {**part.as_json(plan.target), **({"c": linked} if part.component.cgo else {})}
        for part in plan.parts
    ]
    return {
        "components": components,
        "go": _go(go),
        "host": host.facts().as_json(),
        "inputs": plan.bundle_inputs,
        **_timed(started),
    }


@contextlib.contextmanager
def _scratch(stage: Path) -> Iterator[Path]:
    """A folder for what compiling leaves, gone when that has succeeded; else with the stage."""
    folder = stage / "scratch"
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


@contextlib.contextmanager
def _verified(verify: Callable[[], None]) -> Iterator[None]:
    """Verify what is compiled while it is, and fail in the end if it is not what it should be."""
    verification = _in_background(verify)
    try:
        yield
    except BuildError:
        # Changed source is a better reason than what the compiler made of it.
        verification.result()
        raise
    verification.result()
