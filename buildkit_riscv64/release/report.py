"""Output of `status` and `release`."""

from __future__ import annotations

from collections.abc import Sequence

from ..core import dist, filesystem
from ..core.arch import Architecture, Target
from ..core.console import count, duration, emit_json, log, size, table
from . import gate, phase_status, release, status, verification

_HEADER = ("phase", "", "version", "made on", "when", "sha256")


def _made_on(phase: phase_status.PhaseStatus) -> str:
    facts = phase.manifest.get("host")
    return f"{facts['arch']}, {facts['execution']}" if facts else ""


def _hash(phase: phase_status.PhaseStatus) -> str:
    """A short identifying hash; for binaries, buildkitd's, which validation records too."""
    known = status.identity(phase)
    sha256 = known.get(dist.binary("buildkitd")) or next(iter(known.values()), "")
    return sha256.removeprefix("sha256:")[:8]


def _when(moment: str | None) -> str:
    """A timestamp, to the minute."""
    return (moment or "")[:16].replace("T", " ")


def statuses(found: Sequence[status.TargetStatus], *, json: bool) -> None:
    """Print each target's phases, release blockers and next command."""
    if json:
        emit_json([one.as_json() for one in found])
    if not found:
        log("Nothing has been built yet.")
        riscv64 = Target(Architecture.RISCV64)
        log(f"next: {phase_status.native_command('build-binaries', riscv64)}")
    for one in found:
        log(one.summary)
        rows = []
        for phase in one.phases:
            facts = status.facts(phase)
            rows.append((
                phase.name, phase.state, facts["version"] or "", _made_on(phase),
                _when(facts["finished"]), _hash(phase),
            ))  # fmt: skip
        table(_HEADER, rows, title=one.target.name)
        for reason in one.blocked:
            log(f"  blocked by {reason}")
        if one.next:
            log(f"next: {one.next}")


def released(outcome: release.ReleaseResult, *, json: bool) -> None:
    """Print the files of a release and their directory."""
    described = outcome.description
    if json:
        emit_json({**described, "state": outcome.state, "latest": outcome.latest})
    header = ("file", "size", "sha256", "what")
    rows = [
        (file["name"], size(file["size"]), file["sha256"], file["what"])
        for file in described["files"]
    ]
    table(header, rows, title=described["title"])
    total = size(sum(file["size"] for file in described["files"]))
    log(f"{described['title']}: {count(len(rows), 'file')}, {total}, {outcome.state}")
    if outcome.latest is not None:
        log("it is the newest stable release" if outcome.latest else "a newer stable release exists: this one is not marked as the latest")  # fmt: skip
    if described["key"]:
        log(f"signed by {described['key']}")
    if outcome.artifacts:
        log(f"the files are in {filesystem.display_path(outcome.artifacts.path)}/, {duration(outcome.seconds)} in all")  # fmt: skip
    else:
        log("nothing was published")


def verified(found: verification.Verification, *, json: bool) -> None:
    """Print what a verification has confirmed."""
    if json:
        emit_json(found.as_json())
    described = found.description
    if found.verdict:
        header = ("program", "sha256", "compared")
        by_record = {one["name"] for one in found.verdict.get("compared_by_record", [])}
        rows = [
            (name, sha256, "by its build information" if name in by_record else "every byte")
            for name, sha256 in gate.confirmed(found.verdict).items()
        ]
        table(header, rows, title=described["title"])
    log(f"signed by {found.fingerprint}: compare it with one that you got in another way")
    if found.verdict is None:
        log(f"{described['tag']}: nothing was compiled")
        return
    machine = found.verdict["checked_on"]
    log(
        f"{described['tag']} is verified: compiled again on {machine['arch']}"
        f" ({machine['execution']}), {duration(found.seconds)} in all"
    )
