"""`invoke verify-binaries`: compile again, and compare byte for byte.

:func:`cross_check` is the only place in this project that may set GOARCH. What
it compiles is compared and thrown away: it is made outside `dist/`, and
:func:`buildkit_riscv64.dist.publish` takes nothing that was compiled on
another architecture than it is for.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .. import dist, host, pins
from ..arch import Architecture, Target
from ..console import say
from ..errors import MismatchError, SourceError, UsageError
from . import compile as compiler
from . import source as sources
from . import toolchain
from .build import Via, inputs


@dataclass(frozen=True)
class Comparison:
    """A command's two digests.

    Args:
        name: the file, as the manifest names it.
        artifact: the sha256 of what lies in `dist/`.
        again: the sha256 of what was compiled to compare.
    """

    name: str
    artifact: str
    again: str

    @property
    def identical(self) -> bool:
        """True when they are the same, bit for bit."""
        return self.artifact == self.again


def _same_inputs(artifacts: dist.Artifacts, target: Target, pinned: pins.Pins) -> sources.Source:
    """The source that the artifacts were compiled from, if it is still there."""
    manifest = artifacts.manifest
    if manifest["build"]["via"] != Via.GO:
        raise UsageError(
            "these binaries come from upstream's container build, which is not reproducible here",
            "build them with --via go",
        )
    recorded = manifest["source"]
    where = recorded["location"] if recorded["kind"] == sources.Kind.PATH else recorded["kind"]
    source = sources.resolve(where, pinned, allow_dirty=recorded["dirty"])
    if inputs(source, target, Via.GO, pinned) != manifest["build"]["inputs"]:
        raise SourceError(
            f"{target.name} was built from {manifest['version']} with {manifest['go']['version']},"
            " and the source or the pins are others now",
            "check out the commit of this repository that built it, or build it again",
        )
    return source


def _compile_again(
    artifacts: dist.Artifacts, target: Target, extra: Mapping[str, str], *, fresh_cache: bool
) -> list[Comparison]:
    pinned = pins.load()
    source = _same_inputs(artifacts, target, pinned)
    go = toolchain.ensure(pinned)
    sources.prepare(source, go)
    sources.verify_modules(source, go)
    # Not /tmp, which is memory on many machines; not dist/, where only artifacts are.
    place = os.environ.get("TMPDIR") or "/var/tmp"
    with tempfile.TemporaryDirectory(prefix="buildkit-verify-", dir=place) as folder:
        output, scratch = Path(folder, "bin"), Path(folder, "scratch")
        output.mkdir()
        scratch.mkdir()
        cache = {"GOCACHE": f"{folder}/cache"} if fresh_cache else {}
        compiler.compile_commands(source, go, output, scratch, {**extra, **cache})
        return [
            Comparison(
                dist.binary(command),
                dist.sha256(artifacts.path / dist.binary(command)),
                dist.sha256(output / command),
            )
            for command in dist.COMMANDS
        ]


def _judge(comparisons: list[Comparison], target: Target, what: str) -> None:
    for comparison in comparisons:
        verdict = "identical" if comparison.identical else "DIFFERENT"
        say(f"  {comparison.name}: {verdict} (sha256 {comparison.artifact})")
    differing = [c for c in comparisons if not c.identical]
    if differing:
        raise MismatchError(
            f"{target.name}: {what} gave another {differing[0].name}:"
            f" {differing[0].again}, not {differing[0].artifact}",
            "do not use these binaries; rebuild them, and report it if it stays so",
        )


def rebuild(target: Target) -> list[Comparison]:
    """Compile once more from nothing, in another folder, and compare.

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
    comparisons = _compile_again(artifacts, target, target.go_level(), fresh_cache=True)
    _judge(comparisons, target, "compiling again")
    return comparisons


def cross_check(target: Target) -> dict[str, Any]:
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
    started = time.monotonic()
    comparisons = _compile_again(
        artifacts, target, {"GOARCH": str(target.arch), **target.go_level()}, fresh_cache=False
    )
    verdict = {
        "target": target.name,
        "version": artifacts.manifest["version"],
        "identical": all(c.identical for c in comparisons),
        "files": [asdict(c) for c in comparisons],
        "compiled_natively": {"execution": artifacts.manifest["host"]["execution"]},
        "checked_on": host.facts().as_json(),
        "checked_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(time.monotonic() - started, 1),
    }
    dist.write_json(artifacts.path / dist.VERDICT, verdict)
    _judge(comparisons, target, "the cross-check")
    return verdict
