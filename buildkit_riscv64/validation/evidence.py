"""Evidence: the result of each scenario, for which artifacts, on which machine.

A new run of a suite replaces its results. Results of other suites stay if they are for the
same artifacts and machine.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..core import dist, filesystem, host, html, schemas
from ..core.arch import Target
from ..core.console import count
from ..core.errors import CheckError, Failure
from ..image.variants import Variant
from . import history, page, versions
from .artifacts import Subject, programs
from .suites import SUITES, ScenarioOutcome, counts

#: Version of the format, as in `buildkit_riscv64/core/schemas/evidence.schema.json`.
EVIDENCE_VERSION = 1


def junit(suite: str) -> str:
    """Name of pytest's JUnit report for a suite."""
    return f"junit-{suite}.xml"


def log(suite: str) -> str:
    """Name of pytest's output for a suite."""
    return f"pytest-{suite}.log"


def load(path: Path) -> dist.Artifacts:
    """Read evidence and check it against its schema.

    Args:
        path: the evidence directory, or the evidence.json in it.

    Raises:
        CheckError: the evidence is missing or damaged.
    """
    return dist.load(path.parent if path.name == dist.RESULTS else path, dist.Kind.EVIDENCE)


def assemble(
    subject: Subject, results: Mapping[str, Mapping[str, Any]], previous: Mapping[str, Any] | None
) -> tuple[dict[str, Any], list[str]]:
    """Combine new results with earlier results that are still valid.

    Args:
        subject: the validated artifacts.
        results: results of the suites that ran now, by suite name.
        previous: earlier evidence, or None.

    Returns:
        The evidence, and the names of the suites whose earlier results were dropped.
    """
    identity = subject.as_json()
    machine = host.facts().as_json()
    cgroup = versions.cgroup_version()
    earlier: Mapping[str, Any] = previous["suites"] if previous else {}
    retained = {
        name: suite
        for name, suite in earlier.items()
        if previous and name in SUITES and name not in results
        and previous["binaries"] == identity["binaries"]
        and (not SUITES[name].images or previous["images"] == identity["images"])
        and _same_machine(previous, machine, cgroup)
    }  # fmt: skip
    suites = {name: suite for name in SUITES if (suite := results.get(name) or retained.get(name))}
    document = {
        "evidence_version": EVIDENCE_VERSION,
        **identity,
        "started": min(suite["started"] for suite in suites.values()),
        "finished": max(suite["finished"] for suite in suites.values()),
        "host": machine,
        "cgroup_version": cgroup,
        "versions": _together(suite["versions"] for suite in suites.values()),
        "counts": counts(one for suite in suites.values() for one in suite["scenarios"]),
        "suites": suites,
    }
    return document, sorted(earlier.keys() - suites.keys())


def _same_machine(previous: Mapping[str, Any], machine: Mapping[str, Any], cgroup: int) -> bool:
    # The memory that the kernel leaves differs between boots.
    ignored = {"memory_bytes": 0}
    return bool(
        {**previous["host"], **ignored} == {**machine, **ignored}
        and previous["cgroup_version"] == cgroup
    )


def _together(of_suites: Iterable[Mapping[str, str | None]]) -> dict[str, str | None]:
    """Versions of each program; several where suites used different ones."""
    found_versions: dict[str, dict[str, None]] = {name: {} for name in versions.NAMES}
    for one in of_suites:
        for name, version in one.items():
            if version:
                found_versions.setdefault(name, {})[version] = None
    return {name: ", ".join(found) or None for name, found in found_versions.items()}


def changes(
    previous: Mapping[str, Any], name: str, result: Mapping[str, Any]
) -> dict[str, Any] | None:
    """How a suite's new results differ from those in earlier evidence; None if it has none.

    Args:
        previous: the earlier evidence.
        name: the name of the suite.
        result: the new results of the suite.
    """
    if name not in previous["suites"]:
        return None
    same = _same_machine(previous, host.facts().as_json(), versions.cgroup_version())
    return history.changes(previous["version"], previous["suites"][name], result, same_machine=same)


def publish(
    subject: Subject, document: Mapping[str, Any], new: Path, previous: Path | None
) -> dist.Artifacts:
    """Publish evidence in `dist/` atomically. Needs :func:`dist.lock`.

    Args:
        subject: the validated artifacts.
        document: the evidence.
        new: the directory with the files that pytest wrote now.
        previous: the directory with the files of earlier runs, or None.

    Raises:
        Failure: the evidence does not match its schema.
        StorageError: the evidence cannot be written.
    """
    if wrong := schemas.validation_error(document, schemas.EVIDENCE):
        raise Failure(f"invalid evidence: {wrong}", "this is a defect: report it")
    with dist.staging(subject.target, part=dist.EVIDENCE) as stage:
        for suite in document["suites"]:
            for name in (junit(suite), log(suite)):
                for place in filter(None, (new, previous)):
                    if (place / name).is_file():
                        shutil.copy(place / name, stage)
                        break
        filesystem.write_json(stage / dist.RESULTS, document)
        _finish(stage, page.render(document))
        return dist.publish_part(stage, subject.target, dist.EVIDENCE)


def _finish(stage: Path, text: str) -> None:
    """Write the page and the checksums."""
    (stage / html.INDEX).write_text(text, encoding="utf-8")
    names = sorted(path.name for path in stage.iterdir() if path.name != dist.SUMS)
    (stage / dist.SUMS).write_text(dist.sums(dist.record(stage, names)))


def mark_stale(target: Target) -> None:
    """Write on the page that the evidence is outdated. Needs the lock."""
    place = dist.evidence_directory(target)
    try:
        found = load(place)
    except CheckError:
        return
    if reasons := stale(found):
        with dist.staging(target, part=dist.EVIDENCE) as stage:
            shutil.copytree(place, stage, dirs_exist_ok=True)
            _finish(stage, page.render(found.manifest, reasons))
            dist.publish_part(stage, target, dist.EVIDENCE)


def stale(evidence: dist.Artifacts) -> list[str]:
    """Reasons why the evidence does not match the artifacts beside it."""
    found = []
    document = evidence.manifest
    binaries = dist.find(evidence.path.parent)
    now = programs(binaries) if binaries else None
    if now != document["binaries"]:
        found.append("it is for different binaries than the present ones")
    for variant in Variant:
        image = dist.find(evidence.path.parent / dist.IMAGE / variant)
        digest = image.manifest["digest"] if image else None
        if digest != document["images"][variant]:
            found.append(f"it is for a different {variant} image than the present one")
    return found


def complete(evidence: dist.Artifacts) -> list[str]:
    """Release blockers in the evidence; empty if a release may use it.

    Args:
        evidence: the result of :func:`load`, in its place in a `dist/`.
    """
    document = evidence.manifest
    reasons = stale(evidence)
    if not document["pinned"]:
        reasons.append("it is for a development build, not for the pinned source")
    machine = document["host"]
    if document["target"].split("-")[1] != machine["arch"]:
        reasons.append(f"{document['target']} was validated on {machine['arch']}")
    if machine["execution"] == host.Execution.QEMU_USER:
        reasons.append("each program was emulated (qemu-user), not the machine")
    for name in sorted(document["suites"].keys() - SUITES.keys()):
        reasons.append(f"suite {name} is not a suite of this checkout")
    for name in SUITES:
        if name not in document["suites"]:
            reasons.append(f"suite {name} has not run")
            continue
        suite = document["suites"][name]
        number = counts(suite["scenarios"])
        if suite["partial"]:
            reasons.append(f"suite {name} ran only in part (--select {suite['select']})")
        if suite["aborted"]:
            reasons.append(f"suite {name} did not run to its end: {suite['aborted']}")
        if number[ScenarioOutcome.FAILED]:
            reasons.append(f"suite {name}: {number[ScenarioOutcome.FAILED]} failed")
        if not number[ScenarioOutcome.PASSED]:
            reasons.append(f"suite {name}: nothing passed")
        reasons += _other_scenarios(name, suite["scenarios"])
    return reasons


def _other_scenarios(name: str, scenarios: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Differences between the scenarios of the evidence and those of this checkout."""
    known = SUITES[name].scenarios()
    outcomes: dict[tuple[str, str], set[str]] = {}
    for one in scenarios:
        function = one["name"].partition("[")[0]
        outcomes.setdefault((one["group"], function), set()).add(one["outcome"])
    not_allowed = [
        key
        for key, found in outcomes.items()
        if ScenarioOutcome.NOT_PROVEN in found and not known.get(key, True)
    ]
    for keys, what in (
        (known.keys() - outcomes.keys(), "has no result"),
        (outcomes.keys() - known.keys(), "is not a scenario of this checkout"),
        (not_allowed, "is not proven, but every machine can run it"),
    ):
        if keys:
            first, *others = sorted("::".join(key) for key in keys)
            more = f" (and {count(len(others), 'more scenario')})" if others else ""
            yield f"suite {name}: {first} {what}{more}"
