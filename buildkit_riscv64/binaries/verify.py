"""`invoke verify-binaries`: compile again, and compare byte for byte.

`--cross-check` is the only place in this project that may set GOARCH. What
it compiles is compared and thrown away: it is made outside `dist/`, and
:func:`buildkit_riscv64.dist.publish` takes nothing that was compiled on
another architecture than it is for.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .. import dist, host, pins, project, schemas, storage
from ..arch import Architecture, Target
from ..console import say
from ..errors import CheckError, MismatchError, SourceError, UsageError
from . import bundle as bundles
from . import cc, pgo, toolchain
from . import compile as compiler
from . import source as sources
from .build import Via, inputs
from .check import chosen
from .elf import read_build_info

_DO_NOT_USE = "do not use these binaries; build them again, and report it if it stays so"


def _same_inputs(artifacts: dist.Artifacts, target: Target, pinned: pins.Pins) -> sources.Source:
    """The source that the artifacts were compiled from, if it is still there."""
    manifest = artifacts.manifest
    if wrong := schemas.objection(manifest, schemas.BINARIES):
        raise CheckError(
            f"cannot use {storage.shown(artifacts.path / dist.MANIFEST)}: {wrong}",
            "run `invoke build-binaries --force` to make it anew",
        )
    if manifest["build"]["via"] != Via.GO:
        raise UsageError(
            "these binaries come from upstream's container build, which is not reproducible here",
            "build them with --via go",
        )
    recorded = manifest["source"]
    where = recorded["location"] if recorded["kind"] == sources.Kind.PATH else recorded["kind"]
    source = sources.resolve(where, pinned, allow_dirty=recorded["dirty"])
    profile = pgo.read(artifacts.path / dist.PROFILE) if target.pgo else None
    if inputs(source, target, Via.GO, pinned, profile) != manifest["build"]["inputs"]:
        raise SourceError(
            f"{target.name} was built from {manifest['version']} with {manifest['go']['version']},"
            " and the source or the pins are others now",
            "check out the commit of this repository that built it, or build it again",
        )
    return source


def _same_bundle(
    artifacts: dist.Artifacts, target: Target, pinned: pins.Pins
) -> list[bundles.Part]:
    """What the artifacts' bundle was compiled from, if it is still there."""
    if "bundle" not in artifacts.manifest:
        return []
    parts = bundles.parts(pinned)
    if bundles.inputs(parts, target, pinned) != artifacts.manifest["bundle"]["inputs"]:
        raise SourceError(
            f"the bundle of {target.name} was built from other sources than those that are pinned now",
            "check out the commit of this repository that built it, or build it again",
        )
    return parts


def _incomparable(part: bundles.Part, artifacts: dist.Artifacts, target: Target) -> str:
    """Why a part cannot be compared by its bytes here; nothing where it can."""
    if not part.component.cgo:
        return ""
    if target.arch is not Architecture.here():
        return f"C is linked in, and that for {target.arch} is compiled there alone"
    c = bundles.of(artifacts.manifest, next(iter(part.commands)))["c"]
    if not cc.is_here(c):
        return f"C is linked in, and this machine has not the same: {c['compiler']}, its libraries"
    return ""


def _by_record(
    part: bundles.Part, artifacts: dist.Artifacts, target: Target, go: toolchain.Go,
    extra: Mapping[str, str],
) -> dict[str, Any]:  # fmt: skip
    """The verdict over a program that cannot be compiled again: by what Go recorded in it."""
    (command,) = part.commands
    path = artifacts.path / dist.binary(command)
    return {
        "name": dist.binary(command),
        "artifact_sha256": storage.sha256(path),
        "why": _incomparable(part, artifacts, target),
        "differences": bundles.differences(part, read_build_info(path, go), go, target, extra),
    }


def _compile_again(
    artifacts: dist.Artifacts, target: Target, extra: Mapping[str, str], *, fresh_cache: bool
) -> dict[str, Any]:
    started = time.monotonic()
    pinned = pins.load()
    source = _same_inputs(artifacts, target, pinned)
    go = toolchain.ensure(pinned)
    sources.prepare(source, go)
    sources.verify_modules(source, go)
    parts = _same_bundle(artifacts, target, pinned)
    bundles.prepare(parts, go)
    bundles.verify(parts, go)
    comparable = [part for part in parts if not _incomparable(part, artifacts, target)]
    with _aside(target) as folder:
        output, scratch = folder / "bin", folder / "scratch"
        output.mkdir()
        scratch.mkdir()
        cache = {"GOCACHE": f"{folder}/cache"} if fresh_cache else {}
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
                "artifact_sha256": storage.sha256(artifacts.path / dist.binary(command)),
                "compiled_again_sha256": storage.sha256(output / command),
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
    """An empty folder: not in /tmp, which may be memory, and not in `dist/`.

    What a run that was killed left is removed first.
    """
    checkout = hashlib.sha256(str(project.ROOT).encode()).hexdigest()[:12]
    place = project.cache() / "verification" / checkout
    with dist.lock(target, place), dist.staging(target, place) as folder:
        yield folder


def _judge(verdict: Mapping[str, Any], what: str) -> None:
    """Refuse a verdict that is not "identical"."""
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


def _rebuild(target: Target) -> dict[str, Any]:
    """Compile once more from nothing, in another folder, and compare.

    Returns:
        The verdict.

    Raises:
        UsageError: the target is for another architecture.
        MismatchError: the bytes differ.
        SourceError: what they were built from is not there any more.
    """
    if target.arch is not Architecture.here():
        raise UsageError(
            f"--rebuild of {target.name} needs a {target.arch} machine, and this is {Architecture.here()}",
            "use --cross-check here",
        )
    artifacts = dist.load(dist.folder(target))
    say(f"compiling {target.name} again from nothing, in another folder")
    verdict = _compile_again(artifacts, target, target.go_level(), fresh_cache=True)
    _judge(verdict, "compiling again")
    return verdict


def _cross_check(target: Target) -> dict[str, Any]:
    """Compile on this machine for the artifacts' architecture, compare, throw it away.

    The verdict is written beside the artifacts, whatever it is.

    Returns:
        The verdict.

    Raises:
        UsageError: this machine has the artifacts' own architecture.
        MismatchError: the bytes differ.
        SourceError: what they were built from is not there any more.
    """
    if target.arch is Architecture.here():
        raise UsageError(
            f"--cross-check needs a machine of another architecture, and this is {target.arch} too",
            "use --rebuild here",
        )
    artifacts = dist.load(dist.folder(target))
    say(f"compiling for {target.name} on {Architecture.here()}, only to compare")
    extra = {"GOARCH": str(target.arch), **target.go_level()}
    verdict = _compile_again(artifacts, target, extra, fresh_cache=False)
    storage.write_json(artifacts.path / dist.VERDICT, verdict)
    _judge(verdict, "the cross-check")
    return verdict


def main(target: str, *, rebuild: bool, cross_check: bool) -> list[dict[str, Any]]:
    """`invoke verify-binaries`: verify one target, or all that this machine can.

    Without either flag, each target is verified in the way that this machine can.

    Returns:
        The verdicts.

    Raises:
        UsageError: both ways at once, or a way that this machine cannot go.
        MismatchError: the bytes differ.
        SourceError: what they were built from is not there any more.
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
    return [
        _rebuild(one) if (rebuild or (not cross_check and one.arch is here)) else _cross_check(one)
        for one in targets
    ]
