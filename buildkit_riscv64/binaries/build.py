"""`invoke build-binaries`: build and publish the binaries in `dist/`."""

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
from typing import Any, TypeVar

from ..core import (
    cache_keys,
    dist,
    dry_run,
    durations,
    filesystem,
    host,
    pins,
    process,
    project,
    timestamps,
    values,
)
from ..core.arch import Target
from ..core.console import log, step
from ..core.errors import BuildError, UsageError
from ..system import host_checks
from . import bundle as bundles
from . import c_toolchain, pgo, toolchain
from . import compile as compiler
from . import source as sources
from .pgo import Profile
from .tarball import pack
from .toolchain import Go

T = TypeVar("T")

#: Increase when the same inputs would give different output.
RECIPE = 2
#: Upper bound of what a build writes below `dist/`, with Go's temporary files.
NEEDED_BYTES = 600 << 20


class BuildMethod(StrEnum):
    """The compiler that runs: the pinned Go, or upstream's `make binaries` in docker."""

    GO = "go"
    MAKE = "make"


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """Options of `invoke build-binaries`.

    Args:
        source: `auto`, `submodule`, `module` or a path.
        goriscv64: a RISC-V profile above the default; empty for the default.
        allow_dirty: build a checkout that differs from its commit.
        method: how to compile.
        pgo: a profile for the compiler; empty for none.
        bundle: also build the programs that the commands run.
        force: build even if nothing changed.
        yes: install missing packages without asking.
    """

    source: str = "auto"
    goriscv64: str = ""
    allow_dirty: bool = False
    method: BuildMethod = BuildMethod.GO
    pgo: str = ""
    bundle: bool = False
    force: bool = False
    yes: bool = False

    @classmethod
    def parse(cls, *, method: str, **others: Any) -> BuildOptions:
        """Options from the command line.

        Raises:
            UsageError: unknown build method.
        """
        if method not in list(BuildMethod):
            raise UsageError(
                f"--method {method}: no such build method", f"one of: {', '.join(BuildMethod)}"
            )
        return cls(method=BuildMethod(method), **others)


def inputs(
    source: sources.Source,
    target: Target,
    method: BuildMethod,
    pinned: pins.Pins,
    profile: Profile | None = None,
) -> str:
    """Cache key: a digest of everything that decides the output."""
    decisive = {
        "recipe": RECIPE,
        "source": [str(source.kind), source.state, source.version, source.revision],
        "target": target.name,
        "via": str(method),
        "go": pinned.go_version,
        "flags": compiler.flags(source),
        **({"pgo": profile.sha256} if profile else {}),
    }
    return cache_keys.inputs(decisive)


def _in_background(function: Callable[[], T]) -> concurrent.futures.Future[T]:
    """Run in a daemon thread, which does not keep an interrupted run alive."""
    future: concurrent.futures.Future[T] = concurrent.futures.Future()

    def work() -> None:
        try:
            future.set_result(function())
        except BaseException as error:  # noqa: BLE001 - raised again where the result is read
            future.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return future


def _tarball(
    stage: Path,
    name: str,
    binaries: list[dict[str, Any]],
    when: datetime,
    previous: dist.Artifacts | None,
) -> None:
    """Pack the binaries, or reuse the previous tarball if the binaries are the same."""
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
    """The manifest's entries for the commands, without the files."""
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
    """Write tarball, SBOMs, provenance, manifest and checksums.

    Args:
        stage: the directory with the binaries.
        head: the manifest without the files.
        go: the toolchain that reads build information.
        target: the target of the binaries.
        previous: artifacts whose tarball may be reused.
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
    """Options, resolved inputs, and the previous artifacts that can stay.

    Args:
        options: of the task.
        source: upstream's source.
        target: of the artifacts.
        pinned: the pins.
        profile: for the compiler, if any.
        inputs: cache key of the commands.
        parts: of the bundle; empty without `--bundle`.
        bundle_inputs: cache key of the bundle.
        previous: the published artifacts, if any.
        commands_stay: the published commands are current.
        bundle_stays: the published bundle is current, or no bundle is requested.
    """

    options: BuildOptions
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
    def step(self) -> str:
        """The name of this step in :mod:`..core.durations`, by what is compiled."""
        if self.commands_stay:
            return "build-binaries: the bundle"
        method = "" if self.options.method is BuildMethod.GO else " --method make"
        return f"build-binaries{method}{'' if self.bundle_stays else ' --bundle'}"

    @property
    def needed_bytes(self) -> int:
        """Upper bound of what this build writes below `dist/`."""
        return NEEDED_BYTES + (bundles.NEEDED_BYTES if self.parts else 0)


def _plan(options: BuildOptions) -> _Plan:
    """Resolve the options, and refuse impossible ones."""
    toolchain.refuse_cross_compilation()
    profile = _profile(options)
    target = Target.here(options.goriscv64, pgo=profile is not None)
    pinned = pins.load()
    source = sources.resolve(options.source, pinned, allow_dirty=options.allow_dirty)
    if options.method is BuildMethod.MAKE:
        if options.bundle:
            raise UsageError("--method make cannot build the bundle", "leave out --bundle")
        from . import make

        make.refuse_impossible(source, target)
    parts = bundles.parts(pinned) if options.bundle else []
    digest = inputs(source, target, options.method, pinned, profile)
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


def build(options: BuildOptions) -> dist.BuildResult:
    """Compile, check and publish the binaries for this machine.

    Raises:
        Failure: the class tells the cause; `dist/` is unchanged.
    """
    started = time.time()
    plan = _plan(options)
    source, target, previous = plan.source, plan.target, plan.previous
    if plan.commands_stay and plan.bundle_stays:
        if not dry_run.active():
            dist.sweep(target)
        return dist.BuildResult(previous, up_to_date=True, seconds=time.time() - started)

    log(f"BuildKit {source.version} for {target.name} from the {source.kind} {source.location}")
    if previous is not None and "bundle" in previous.manifest and not plan.parts:
        log("note: the existing bundle is kept; --bundle rebuilds it")
    if dry_run.active():
        _log_plan(plan)
        return dist.BuildResult(None, up_to_date=False, seconds=time.time() - started)
    if not plan.bundle_stays:
        c_toolchain.ensure_installed(yes=options.yes)
    host_checks.require_exec(project.DIST)
    filesystem.require_space(project.DIST, plan.needed_bytes, "a build needs")
    with (
        dist.lock(target),
        dist.staging(target) as stage,
        durations.announced("the build", plan.step),
    ):
        try:
            (stage / "bin").mkdir()
            head, go = _commands(plan, stage, started)
            if plan.parts:
                head["bundle"] = _bundle(plan, stage, go)
            log("writing tarball, SBOMs, provenance and manifest")
            # Another recipe may pack the same binaries differently.
            same = previous if previous is not None and previous.inputs == plan.inputs else None
            _describe(stage, head, go, target, same)
            from .check import require_good

            require_good(stage, target, go)
            artifacts = dist.publish(stage, target)
        except OSError as error:
            raise filesystem.failure(error, stage) from error
    return dist.BuildResult(artifacts, up_to_date=False, seconds=time.time() - started)


def _reuse(
    previous: dist.Artifacts | None, stage: Path, names: Sequence[str]
) -> Mapping[str, Any] | None:
    """Link published files into the stage if their checksums match the manifest.

    Returns:
        The manifest; None if a file differs.
    """
    if previous is None:
        return None
    files = previous.files
    if any(filesystem.sha256(previous.path / name) != files[name]["sha256"] for name in names):
        return None
    for name in names:
        (stage / name).hardlink_to(previous.path / name)
    return previous.manifest


def _commands(plan: _Plan, stage: Path, started: float) -> tuple[dict[str, Any], Go]:
    """Put the commands into the stage: the published ones if current, else compiled.

    Returns:
        The manifest's entries for them, and the Go that reads them.
    """
    profile = plan.profile
    names = [*map(dist.binary, dist.COMMANDS), *([dist.PROFILE] if profile else [])]
    if plan.commands_stay and (manifest := _reuse(plan.previous, stage, names)):
        log(f"{' and '.join(dist.COMMANDS)} are up to date")
        head = {key: value for key, value in manifest.items() if key not in {"files", "bundle"}}
        return head, toolchain.ensure(plan.pinned)
    if profile:
        (stage / dist.PROFILE).write_bytes(profile.content)
    go, flags, environment = _compile(plan, stage)
    record = {
        "via": str(plan.options.method),
        "flags": flags,
        "environment": environment,
        **({"pgo": profile.sha256} if profile else {}),
        "inputs": plan.inputs,
        **_timed(started),
    }
    return _head(plan.source, go, record, plan.target), go


def _timed(started: float) -> dict[str, Any]:
    """Start, end and duration for a manifest."""
    finished = time.time()
    return {
        "started": timestamps.utc(started),
        "finished": timestamps.utc(finished),
        "seconds": round(finished - started, 1),
    }


def _profile(options: BuildOptions) -> Profile | None:
    """The requested profile.

    Raises:
        UsageError: invalid profile, or `--method make`.
    """
    if not options.pgo:
        return None
    if options.method is BuildMethod.MAKE:
        raise UsageError("--method make cannot use a profile", "leave out --pgo")
    return pgo.read(values.path("--pgo", options.pgo))


def _log_plan(plan: _Plan) -> None:
    options, source = plan.options, plan.source
    if not plan.bundle_stays and (lacking := c_toolchain.missing()):
        log(f"would install: {', '.join(sorted(lacking.values()))}")
    if plan.commands_stay:
        log(f"{' and '.join(dist.COMMANDS)} are up to date")
    elif options.method is BuildMethod.MAKE:
        _log_command(["make", "binaries"], source.directory, plan.pinned)
    else:
        log_compilation(source, plan.target.go_level(), plan.pinned, options.pgo)
    for part in plan.parts if not plan.bundle_stays else ():
        log_part(part, plan.target, plan.pinned)
    log(
        f"would then check the result and publish it in {filesystem.display_path(dist.directory(plan.target))}/"
    )


def log_compilation(
    source: sources.Source, extra: Mapping[str, str], pinned: pins.Pins, profile: str = ""
) -> None:
    """Print the command that compiles the commands.

    Args:
        source: upstream.
        extra: variables of go's environment.
        pinned: what is pinned.
        profile: the file for `-pgo`.
    """
    build = ["go", "build", *compiler.flags(source, profile), *source.packages]
    _log_command([*_assigned(extra), *build], source.directory, pinned)


def log_part(
    part: bundles.Part, target: Target, pinned: pins.Pins, extra: Mapping[str, str] | None = None
) -> None:
    """Print the command that compiles a part of the bundle; arguments as above."""
    variables = _assigned({**part.environment(target), **(extra or {})})
    build = ["go", "build", *part.flags, *part.job.packages]
    _log_command([*variables, *build], part.directory, pinned)


def _assigned(variables: Mapping[str, str]) -> list[str]:
    return [f"{name}={value}" for name, value in variables.items()]


def _log_command(command: Sequence[str], directory: Path, pinned: pins.Pins) -> None:
    log(f"would run, with {pinned.go_version} in {filesystem.display_path(directory)}:")
    log(f"  {process.show(command)}")


def _compile(plan: _Plan, stage: Path) -> tuple[Go, list[str], dict[str, str]]:
    """Compile the commands into the stage's `bin/`; return Go, flags and environment."""
    source, target = plan.source, plan.target
    with _scratch(stage) as scratch:
        if plan.options.method is BuildMethod.MAKE:
            from . import make

            return make.compile_commands(source, stage / "bin", scratch), [], {}

        with step("fetching Go and the modules, unless cached"):
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
    """Put the bundle into the stage's `bin/`: the published one if current, else compiled.

    Returns:
        The manifest's entry for it.
    """
    names = [*map(dist.binary, dist.BUNDLE)]
    if plan.bundle_stays and (manifest := _reuse(plan.previous, stage, names)):
        log("the bundle is up to date")
        return dict(manifest["bundle"])
    started = time.time()
    with step("fetching the bundle's modules, unless cached"):
        bundles.prepare(plan.parts, go)
    with _scratch(stage) as scratch, _verified(lambda: bundles.verify(plan.parts, go)):
        for part in plan.parts:
            log(f"compiling {part.location}")
            bundles.compile_part(part, go, stage / "bin", scratch, plan.target.go_level())
    linked = c_toolchain.facts()
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
    """A directory for temporary files, removed on success, otherwise with the stage."""
    directory = stage / "scratch"
    directory.mkdir()
    yield directory
    shutil.rmtree(directory)


@contextlib.contextmanager
def _verified(verify: Callable[[], None]) -> Iterator[None]:
    """Verify the source during the compilation, and raise if it was changed."""
    verification = _in_background(verify)
    try:
        yield
    except BuildError:
        # Changed source explains a compiler error better.
        verification.result()
        raise
    verification.result()
