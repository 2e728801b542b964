"""What the tasks of phase 1 tell at their end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .. import dist, storage
from ..console import duration, emit_json, say, size, table


def built(outcome: dist.Outcome, *, json: bool) -> None:
    """Where the files are, how large, their hashes, how long it took."""
    artifacts = outcome.artifacts
    if artifacts is None:
        return
    manifest = artifacts.manifest
    if json:
        emit_json({**manifest, "up_to_date": outcome.up_to_date})
    title = f"BuildKit {manifest['version']} for {manifest['target']}"
    if outcome.up_to_date:
        say(f"{title} in {storage.shown(artifacts.path)}/ is up to date")
        return
    rows = [(f["name"], size(f["size"]), f["sha256"]) for f in manifest["files"]]
    header = ("file", "size", "sha256")
    table(header, rows, title=title)
    bundle = manifest.get("bundle")
    also = ""
    if bundle:
        also = f", the bundle in {duration(bundle['seconds'])} ({bundle['host']['execution']})"
    say(
        f"{title}: compiled in {duration(manifest['build']['seconds'])}"
        f" ({manifest['host']['execution']}){also}, all checks passed,"
        f" {duration(outcome.seconds)} in all"
    )
    if not manifest["source"]["pinned"]:
        say("a development build: not the pinned source, so it will not be released")
    say(f"the files are in {storage.shown(artifacts.path)}/")


def verified(verdicts: list[dict[str, Any]], *, json: bool) -> None:
    """That the bytes are the same, and where they were compiled."""
    if json:
        emit_json(verdicts)
    for verdict in verdicts:
        first, second = verdict["compiled_on"], verdict["checked_on"]
        by_record = verdict.get("compared_by_record", [])
        but = f", but for {', '.join(one['name'] for one in by_record)}" if by_record else ""
        say(
            f"{verdict['target']}: bit-identical{but}: compiled on {first['arch']} ({first['execution']}),"
            f" again on {second['arch']} ({second['execution']}) in {duration(verdict['seconds'])}"
        )
        rows = [(f["name"], f["artifact_sha256"]) for f in verdict["files"]]
        table(("file", "sha256"), rows, title=f"{verdict['target']}: bit-identical")
        for one in by_record:
            say(f"{verdict['target']}: {one['name']}: not compared by its bytes: {one['why']}")
            say("  the same by its record: Go, flags and architecture, each module with its hash")


def pinned(facts: Mapping[str, str], *, json: bool) -> None:
    """What is pinned."""
    if json:
        emit_json(facts)
    else:
        table(("what", "pinned"), list(facts.items()))
