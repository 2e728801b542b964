"""Output of the tasks of phase 1."""

from __future__ import annotations

from typing import Any

from ..core import dist, filesystem
from ..core.console import duration, emit_json, log, size, table


def built(outcome: dist.BuildResult, *, json: bool) -> None:
    """Print the files with sizes and checksums, the durations and the directory."""
    artifacts = outcome.artifacts
    if artifacts is None:
        return
    manifest = artifacts.manifest
    if json:
        emit_json({**manifest, "up_to_date": outcome.up_to_date})
    title = f"BuildKit {manifest['version']} for {manifest['target']}"
    if outcome.up_to_date:
        log(f"{title} in {filesystem.display_path(artifacts.path)}/ is up to date")
        return
    rows = [(f["name"], size(f["size"]), f["sha256"]) for f in manifest["files"]]
    header = ("file", "size", "sha256")
    table(header, rows, title=title)
    bundle = manifest.get("bundle")
    also = ""
    if bundle:
        also = f", the bundle in {duration(bundle['seconds'])} ({bundle['host']['execution']})"
    log(
        f"{title}: compiled in {duration(manifest['build']['seconds'])}"
        f" ({manifest['host']['execution']}){also}, all checks passed,"
        f" {duration(outcome.seconds)} in all"
    )
    if not manifest["source"]["pinned"]:
        log("a development build: its source is not pinned, so it cannot be released")
    log(f"the files are in {filesystem.display_path(artifacts.path)}/")


def verified(verdicts: list[dict[str, Any]], *, json: bool) -> None:
    """Print the verdicts."""
    if json:
        emit_json(verdicts)
    for verdict in verdicts:
        first, second = verdict["compiled_on"], verdict["checked_on"]
        by_record = verdict.get("compared_by_record", [])
        but = f", except {', '.join(one['name'] for one in by_record)}" if by_record else ""
        log(
            f"{verdict['target']}: bit-identical{but}: compiled on {first['arch']} ({first['execution']}),"
            f" again on {second['arch']} ({second['execution']}) in {duration(verdict['seconds'])}"
        )
        rows = [(f["name"], f["artifact_sha256"]) for f in verdict["files"]]
        table(("file", "sha256"), rows, title=f"{verdict['target']}: bit-identical")
        for one in by_record:
            log(f"{verdict['target']}: {one['name']}: bytes not compared: {one['why']}")
            log("  its build information matches: Go, flags, architecture, hash of each module")
