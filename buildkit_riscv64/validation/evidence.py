"""The evidence: what became of each scenario, of what, on what machine.

A suite that runs again replaces its own results; those of others stay if they are
of the same artifacts and the same machine.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .. import dist, host, pages, schemas, storage
from ..arch import Target
from ..errors import CheckError, Failure
from ..image.variants import Variant
from . import page, versions
from .subject import Subject, programs
from .suites import SUITES, Outcome, counts

#: Version of the format, as in `schemas/evidence.schema.json`.
EVIDENCE_VERSION = 1


def junit(suite: str) -> str:
    """Where pytest's own report on a suite is."""
    return f"junit-{suite}.xml"


def log(suite: str) -> str:
    """Where pytest's output on a suite is."""
    return f"pytest-{suite}.log"


def load(path: Path) -> dist.Artifacts:
    """Evidence, as its schema wants it.

    Args:
        path: its folder, or the evidence.json itself.

    Raises:
        CheckError: there is none, or it is damaged.
    """
    folder = path.parent if path.name == dist.RESULTS else path
    found = dist.load(folder, dist.RESULTS)
    if wrong := schemas.objection(found.manifest, schemas.EVIDENCE):
        raise CheckError(
            f"{storage.shown(folder / dist.RESULTS)}: {wrong}",
            "run `invoke validate` to make it anew",
        )
    return found


def assemble(
    subject: Subject, results: Mapping[str, Mapping[str, Any]], previous: Mapping[str, Any] | None
) -> tuple[dict[str, Any], list[str]]:
    """Make evidence of new results, and of earlier ones that are still worth something.

    Args:
        subject: what was validated.
        results: of suites that have run now, by name.
        previous: earlier evidence, if there is.

    Returns:
        The evidence, and which suites' earlier results were dropped.
    """
    identity = subject.as_json()
    machine = host.facts().as_json()
    cgroup = versions.cgroup_version()
    earlier: Mapping[str, Any] = previous["suites"] if previous else {}
    kept = {
        name: suite
        for name, suite in earlier.items()
        if previous and name in SUITES and name not in results
        and previous["binaries"] == identity["binaries"]
        and (not SUITES[name].images or previous["images"] == identity["images"])
        and _same_machine(previous, machine, cgroup)
    }  # fmt: skip
    suites = {name: suite for name in SUITES if (suite := results.get(name) or kept.get(name))}
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
    # What the kernel leaves of the memory differs from start to start.
    ignored = {"memory_bytes": 0}
    return bool(
        {**previous["host"], **ignored} == {**machine, **ignored}
        and previous["cgroup_version"] == cgroup
    )


def _together(of_suites: Iterable[Mapping[str, str | None]]) -> dict[str, str | None]:
    """Each program's version; more than one where suites have used different ones."""
    seen: dict[str, dict[str, None]] = {name: {} for name in versions.NAMES}
    for one in of_suites:
        for name, version in one.items():
            if version:
                seen.setdefault(name, {})[version] = None
    return {name: ", ".join(found) or None for name, found in seen.items()}


def publish(
    subject: Subject, document: Mapping[str, Any], made: Path, previous: Path | None
) -> dist.Artifacts:
    """Put evidence into `dist/`, whole. Needs :func:`dist.lock`.

    Args:
        subject: what it is of.
        document: the evidence.
        made: the folder with what pytest has written now.
        previous: the folder with what it had written before.

    Raises:
        Failure: it is not what the schema wants.
        StorageError: it cannot be written.
    """
    if wrong := schemas.objection(document, schemas.EVIDENCE):
        raise Failure(f"evidence that is none: {wrong}", "this is a defect: report it")
    with dist.staging(subject.target, part=dist.EVIDENCE) as stage:
        for suite in document["suites"]:
            for name in (junit(suite), log(suite)):
                for place in filter(None, (made, previous)):
                    if (place / name).is_file():
                        shutil.copy(place / name, stage)
                        break
        storage.write_json(stage / dist.RESULTS, document)
        _finish(stage, page.render(document))
        return dist.publish_part(stage, subject.target, dist.EVIDENCE)


def _finish(stage: Path, text: str) -> None:
    """Write the page, and the sums of everything."""
    (stage / pages.INDEX).write_text(text, encoding="utf-8")
    names = sorted(path.name for path in stage.iterdir() if path.name != dist.SUMS)
    (stage / dist.SUMS).write_text(dist.sums(dist.record(stage, names)))


def tell_stale(target: Target) -> None:
    """Have the page say what is not there any more; for who replaces an image. Needs the lock."""
    place = dist.evidence_folder(target)
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
    """What lies beside evidence, and is not what it is of."""
    found = []
    document = evidence.manifest
    binaries = dist.find(evidence.path.parent)
    try:
        now = programs(binaries) if binaries else None
    except (KeyError, TypeError):
        now = None
    if now != document["binaries"]:
        found.append("it is of other binaries than those that are there now")
    for variant in Variant:
        image = dist.find(evidence.path.parent / dist.IMAGE / variant)
        digest = image.manifest.get("digest") if image else None
        if digest != document["images"][variant]:
            found.append(f"it is of another {variant} image than the one that is there now")
    return found


def complete(evidence: dist.Artifacts) -> list[str]:
    """Why a release may not be gated on evidence; nothing when it may.

    Args:
        evidence: as :func:`load` returns it, in its place in a `dist/`.
    """
    document = evidence.manifest
    reasons = stale(evidence)
    if not document["pinned"]:
        reasons.append("it is of a development build, not of the pinned source")
    machine = document["host"]
    if document["target"].split("-")[1] != machine["arch"]:
        reasons.append(f"{document['target']} was validated on {machine['arch']}")
    if machine["execution"] == host.Execution.QEMU_USER:
        reasons.append("programs were emulated one by one (qemu-user), not the machine")
    for name in SUITES:
        if name not in document["suites"]:
            reasons.append(f"suite {name} has not run")
            continue
        suite = document["suites"][name]
        number = counts(suite["scenarios"])
        if suite["partial"]:
            reasons.append(f"suite {name} has run only in part (--select {suite['select']})")
        if suite["aborted"]:
            reasons.append(f"suite {name} did not run to its end: {suite['aborted']}")
        if number[Outcome.FAILED]:
            reasons.append(f"suite {name}: {number[Outcome.FAILED]} failed")
        if not number[Outcome.PASSED]:
            reasons.append(f"suite {name}: nothing passed")
    return reasons
