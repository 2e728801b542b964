"""`invoke verify-binaries`: compile again, and compare byte for byte.

Only `--cross-check` may set GOARCH. Its output is compared and deleted. It never enters
`dist/`: :func:`buildkit_riscv64.core.dist.publish` refuses binaries that were compiled on
another architecture.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..core import dist, dry_run, durations, filesystem, host, pins, project
from ..core.arch import Architecture, Target
from ..core.console import log
from ..core.errors import MismatchError, SourceError, UsageError
from . import bundle as bundles
from . import c_toolchain, pgo, toolchain
from . import compile as compiler
from . import source as sources
from .build import BuildMethod, inputs, log_compilation, log_part
from .check import chosen
from .elf import read_build_info

_DO_NOT_USE = "do not use these binaries; build them again, and report it if it stays so"


def _same_inputs(artifacts: dist.Artifacts, target: Target, pinned: pins.Pins) -> sources.Source:
    """The source of the artifacts, unless it has changed."""
    manifest = artifacts.manifest
    if manifest["build"]["via"] != BuildMethod.GO:
        raise UsageError(
            "these binaries come from upstream's container build, which is not reproducible here",
            "build them with --method go",
        )
    recorded = manifest["source"]
    where = recorded["location"] if recorded["kind"] == sources.Kind.PATH else recorded["kind"]
    source = sources.resolve(where, pinned, allow_dirty=recorded["dirty"])
    profile = pgo.read(artifacts.path / dist.PROFILE) if target.pgo else None
    if inputs(source, target, BuildMethod.GO, pinned, profile) != manifest["build"]["inputs"]:
        raise SourceError(
            f"{target.name} was built from {manifest['version']} with {manifest['go']['version']},"
            " but the source or the pins have changed",
            "check out the commit of this repository that built it, or rebuild it",
        )
    return source


def _same_bundle(
    artifacts: dist.Artifacts, target: Target, pinned: pins.Pins
) -> list[bundles.Part]:
    """The parts of the artifacts' bundle, unless its sources have changed."""
    if "bundle" not in artifacts.manifest:
        return []
    parts = bundles.parts(pinned)
    if bundles.inputs(parts, target, pinned) != artifacts.manifest["bundle"]["inputs"]:
        raise SourceError(
            f"the bundle of {target.name} was built from other sources than the pinned ones",
            "check out the commit of this repository that built it, or rebuild it",
        )
    return parts


def _incomparable(part: bundles.Part, artifacts: dist.Artifacts, target: Target) -> str:
    """Why a part cannot be rebuilt bit for bit here, or an empty string."""
    if not part.component.cgo:
        return ""
    if target.arch is not Architecture.here():
        return f"it contains C, which is compiled on {target.arch} only"
    c = bundles.of(artifacts.manifest, next(iter(part.commands)))["c"]
    if not c_toolchain.is_here(c):
        return (
            f"it contains C, and this machine does not have {c['compiler']} and the same libraries"
        )
    return ""


def _by_record(
    part: bundles.Part,
    artifacts: dist.Artifacts,
    target: Target,
    go: toolchain.Go,
    extra: Mapping[str, str],
) -> dict[str, Any]:
    """Compare a program by its build information, without compiling it again."""
    (command,) = part.commands
    path = artifacts.path / dist.binary(command)
    return {
        "name": dist.binary(command),
        "artifact_sha256": filesystem.sha256(path),
        "why": _incomparable(part, artifacts, target),
        "differences": bundles.differences(part, read_build_info(path, go), go, target, extra),
    }


def _compile_again(artifacts: dist.Artifacts, target: Target) -> dict[str, Any] | None:
    """Compile again and compare; None under `--dry`, which only prints the commands.

    A machine of the same architecture uses no cache, because the cache may hold the artifacts.
    """
    started = time.monotonic()
    native = target.arch is Architecture.here()
    extra = dict(target.go_level())
    if not native:
        extra["GOARCH"] = str(target.arch)
    pinned = pins.load()
    source = _same_inputs(artifacts, target, pinned)
    if dry_run.active():
        profile = str(artifacts.path / dist.PROFILE) if target.pgo else ""
        log_compilation(source, extra, pinned, profile)
        for part in _same_bundle(artifacts, target, pinned):
            if not _incomparable(part, artifacts, target):
                log_part(part, target, pinned, extra)
        return None
    go = toolchain.ensure(pinned)
    sources.prepare(source, go)
    sources.verify_modules(source, go)
    parts = _same_bundle(artifacts, target, pinned)
    bundles.prepare(parts, go)
    bundles.verify(parts, go)
    comparable = [part for part in parts if not _incomparable(part, artifacts, target)]
    how = f"verify-binaries --{'rebuild' if native else 'cross-check'}"
    if comparable:
        how += ", with the bundle"
    with durations.announced("the verification", how), _aside(target) as directory:
        output, scratch = directory / "bin", directory / "scratch"
        output.mkdir()
        scratch.mkdir()
        cache = {"GOCACHE": f"{directory}/cache"} if native else {}
        compiler.compile_commands(
            source, go, output, scratch, {**extra, **cache},
            profile=str(artifacts.path / dist.PROFILE) if target.pgo else "",
        )  # fmt: skip
        for part in comparable:
            bundles.compile_part(part, go, output, scratch, {**extra, **cache})
        programs = [*dist.COMMANDS, *(command for part in comparable for command in part.commands)]
        files = [
            {
                "name": dist.binary(command),
                "artifact_sha256": filesystem.sha256(artifacts.path / dist.binary(command)),
                "compiled_again_sha256": filesystem.sha256(output / command),
            }
            for command in programs
        ]
    by_record = [
        _by_record(part, artifacts, target, go, extra) for part in parts if part not in comparable
    ]
    return {
        "target": target.name,
        "version": artifacts.manifest["version"],
        "identical": all(f["artifact_sha256"] == f["compiled_again_sha256"] for f in files)
        and not any(one["differences"] for one in by_record),
        "files": files,
        **({"compared_by_record": by_record} if parts else {}),
        "compiled_on": artifacts.manifest["host"],
        "checked_on": host.facts().as_json(),
        "checked_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(time.monotonic() - started, 1),
    }


@contextlib.contextmanager
def _aside(target: Target) -> Iterator[Path]:
    """An empty directory outside `dist/` and /tmp, which may be in memory.

    Removes leftovers of killed runs.
    """
    checkout = hashlib.sha256(str(project.ROOT).encode()).hexdigest()[:12]
    place = project.cache() / "verification" / checkout
    with dist.lock(target, place), dist.staging(target, place) as directory:
        yield directory


def _judge(verdict: Mapping[str, Any], what: str) -> None:
    """Refuse a verdict other than "identical"."""
    for file in verdict["files"]:
        artifact, again = file["artifact_sha256"], file["compiled_again_sha256"]
        if artifact != again:
            raise MismatchError(
                f"{verdict['target']}: {what} gave another {file['name']}: sha256 {again},"
                f" and the artifact's is {artifact}",
                _DO_NOT_USE,
            )
    for one in verdict.get("compared_by_record", []):
        for difference in one["differences"]:
            raise MismatchError(f"{verdict['target']}: {one['name']}: {difference}", _DO_NOT_USE)


def _log_plan(target: Target, how: str) -> None:
    log(f"{'would compile' if dry_run.active() else 'compiling'} {target.name} again, {how}")


def compile_again(artifacts: dist.Artifacts, target: Target) -> dict[str, Any] | None:
    """Compile the binaries in any directory again on this machine, and compare.

    Args:
        artifacts: the binaries.
        target: their target.

    Returns:
        The verdict; None under `--dry`.

    Raises:
        MismatchError: the bytes differ.
        SourceError: they come from other sources than the pins of this checkout.
    """
    _log_plan(target, f"on {Architecture.here()}, only to compare")
    verdict = _compile_again(artifacts, target)
    if verdict is not None:
        _judge(verdict, "compiling again")
    return verdict


def _rebuild(target: Target) -> dict[str, Any] | None:
    """Compile again without caches, in another directory, and compare.

    Returns:
        The verdict; None under `--dry`.
    """
    if target.arch is not Architecture.here():
        raise UsageError(
            f"--rebuild of {target.name} needs a {target.arch} machine, and this is {Architecture.here()}",
            "use --cross-check here",
        )
    artifacts = dist.load(dist.directory(target))
    _log_plan(target, "from nothing, in another directory")
    verdict = _compile_again(artifacts, target)
    if verdict is None:
        return None
    _judge(verdict, "compiling again")
    return verdict


def _cross_check(target: Target) -> dict[str, Any] | None:
    """Compile here for the artifacts' architecture, compare, and delete the result.

    Writes the verdict to the artifacts' directory, also when they differ.

    Returns:
        The verdict; None under `--dry`.
    """
    if target.arch is Architecture.here():
        raise UsageError(
            f"--cross-check needs a machine of another architecture, and this is {target.arch} too",
            "use --rebuild here",
        )
    artifacts = dist.load(dist.directory(target))
    _log_plan(target, f"on {Architecture.here()}, only to compare")
    verdict = _compile_again(artifacts, target)
    if verdict is None:
        log(f"would write {filesystem.display_path(artifacts.path / dist.VERDICT)}")
        return None
    filesystem.write_json(artifacts.path / dist.VERDICT, verdict)
    _judge(verdict, "the cross-check")
    return verdict


def main(target: str, *, rebuild: bool, cross_check: bool) -> list[dict[str, Any]]:
    """`invoke verify-binaries`: verify one target, or every target that this machine can.

    Without either flag, picks the possible way for each target.

    Returns:
        The verdicts; none under `--dry`.

    Raises:
        UsageError: both flags, or a way that this machine does not support.
        MismatchError: the bytes differ.
        SourceError: the source has changed.
    """
    if rebuild and cross_check:
        raise UsageError(
            "--rebuild and --cross-check need machines of different architectures", "give one"
        )
    here = Architecture.here()
    targets = chosen(target)
    if not target and rebuild != cross_check:
        fitting = [one for one in targets if (one.arch is here) is rebuild]
        targets = fitting or targets
    verdicts = [
        _rebuild(one) if (rebuild or (not cross_check and one.arch is here)) else _cross_check(one)
        for one in targets
    ]
    return [verdict for verdict in verdicts if verdict is not None]
