"""Output of the tasks of phase 3: progress of each scenario, and the summary."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from ..core import dist, filesystem, host, html
from ..core.console import count, duration, emit_json, log, table
from ..core.errors import CheckError
from . import evidence, page
from .suites import ScenarioOutcome, Suite
from .validate import Outcomes

_SHORT = {
    ScenarioOutcome.PASSED: "ok",
    ScenarioOutcome.FAILED: "FAILED",
    ScenarioOutcome.NOT_PROVEN: "not proven",
}
_HEADER = ("suite", "passed", "failed", "not proven", "time", "")


def progress(suite: Suite, number: int, total: int, result: Mapping[str, Any]) -> None:
    """Log a finished scenario, and the reason if it did not pass."""
    outcome = ScenarioOutcome(result["outcome"])
    log(
        f"{suite.name} {number}/{total}  {_SHORT[outcome]}  {duration(result['seconds'])}"
        f"  {result['title']}"
    )
    if outcome is ScenarioOutcome.FAILED:
        log(f"    {page.why(result)}")
    elif outcome is ScenarioOutcome.NOT_PROVEN:
        log(f"    {result['reason']}")


def _all(
    document: Mapping[str, Any], outcome: ScenarioOutcome
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for name, suite in document["suites"].items():
        for one in suite["scenarios"]:
            if one["outcome"] == outcome:
                yield f"{name}/{one['group']}: {one['title']}", one


def _rows(document: Mapping[str, Any]) -> list[tuple[str, ...]]:
    rows = []
    for name, suite in document["suites"].items():
        number = suite["counts"]
        remark = f"in part: {suite['select']}" if suite["partial"] else suite["aborted"]
        rows.append(
            (
                name,
                *(str(number[one]) for one in ScenarioOutcome),
                duration(suite["seconds"]),
                remark,
            )
        )
    return rows


def _title(document: Mapping[str, Any]) -> str:
    return (
        f"BuildKit {document['version']} for {document['target']}, validated"
        f" {host.executed(document['host'])}"
    )


def _summary(found: dist.Artifacts) -> None:
    document = found.manifest
    rows = _rows(document)
    table(_HEADER, rows, title=_title(document))
    for name, one in _all(document, ScenarioOutcome.FAILED):
        log(f"FAILED {name}\n    {page.why(one)}")
    log(f"{_title(document)}, {document['finished']}")
    if reasons := evidence.complete(found):
        log("a release is blocked:")
        for why in reasons:
            log(f"  {why}")
    else:
        log("complete: no release blockers")
    log(f"read the evidence: {filesystem.display_path(found.path / html.INDEX)}")


def validated(outcomes: Outcomes, *, json: bool) -> None:
    """Print the results of a run.

    Raises:
        CheckError: a scenario failed, or a suite did not run to its end.
    """
    found = outcomes.artifacts
    if found is None:
        return
    if json:
        emit_json(found.manifest)
    _summary(found)
    ran = {name: found.manifest["suites"][name] for name in outcomes.ran}
    failed = [name for name, _ in _all({"suites": ran}, ScenarioOutcome.FAILED)]
    ended = [f"{name}: {suite['aborted']}" for name, suite in ran.items() if suite["aborted"]]
    read = f"read {filesystem.display_path(found.path / html.INDEX)}"
    if failed:
        more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
        raise CheckError(f"{count(len(failed), 'scenario')} failed: {failed[0]}{more}", read)
    if ended:
        raise CheckError(f"not all scenarios have run: {'; '.join(ended)}", read)
    passed = sum(suite["counts"][ScenarioOutcome.PASSED] for suite in ran.values())
    log(f"{count(passed, 'scenario')} passed in {duration(outcomes.seconds)}")


def shown(found: dist.Artifacts, *, json: bool) -> None:
    """Print the evidence: one sentence, the details, and the next command."""
    blockers = evidence.complete(found)
    if json:
        emit_json({**found.manifest, "incomplete": blockers})
    numbers = Counter(
        scenario["outcome"]
        for suite in found.manifest["suites"].values()
        for scenario in suite["scenarios"]
    )
    result = ", ".join(f"{numbers[outcome]} {outcome}" for outcome in ScenarioOutcome)
    verdict = f"a release is blocked: {blockers[0]}" if blockers else "complete"
    log(f"{_title(found.manifest)}: {result}; {verdict}.")
    for name, one in _all(found.manifest, ScenarioOutcome.NOT_PROVEN):
        log(f"not proven {name}\n    {one['reason']}")
    _summary(found)
    log(f"next: invoke {'validate' if blockers else 'build-packages'}")


def _by_name(document: Mapping[str, Any]) -> dict[tuple[str, str, str], Mapping[str, Any]]:
    return {
        (suite, one["group"], one["name"]): one
        for suite, results in document["suites"].items()
        for one in results["scenarios"]
    }


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """Differences between two evidence documents.

    Returns:
        `about`: differing properties, both values; `scenarios`: those with different
        outcomes, both; `seconds`: sum over the scenarios that passed in both, both.
    """
    keys = ("target", "version", "revision", "binaries", "images", "cgroup_version")
    pairs = {key: (before[key], after[key]) for key in keys}
    pairs |= {f"host {key}": (before["host"][key], after["host"][key]) for key in after["host"]}
    names = before["versions"].keys() | after["versions"].keys()
    pairs |= {
        name: (before["versions"].get(name), after["versions"].get(name)) for name in sorted(names)
    }
    old, new = _by_name(before), _by_name(after)
    both = [
        key for key in new if old.get(key, {}).get("outcome") == new[key]["outcome"] == "passed"
    ]
    return {
        "about": {key: list(pair) for key, pair in pairs.items() if pair[0] != pair[1]},
        "scenarios": [
            {
                "suite": key[0], "group": key[1], "name": key[2],
                "title": (new.get(key) or old[key])["title"],
                "before": old[key]["outcome"] if key in old else None,
                "after": new[key]["outcome"] if key in new else None,
            }
            for key in {**old, **new}
            if old.get(key, {}).get("outcome") != new.get(key, {}).get("outcome")
        ],
        "seconds": [round(sum(one[key]["seconds"] for key in both), 1) for one in (old, new)],
    }  # fmt: skip


def compared(before: dist.Artifacts, after: dist.Artifacts, *, json: bool) -> None:
    """Print the differences between other evidence and this one."""
    found = differences(before.manifest, after.manifest)
    if json:
        emit_json(found)
    if found["about"]:
        table(
            (
                "",
                str(filesystem.display_path(before.path)),
                str(filesystem.display_path(after.path)),
            ),
            [(name, *(_plain(value) for value in pair)) for name, pair in found["about"].items()],
        )
    if found["scenarios"]:
        table(
            ("scenario", "other", "this"),
            [
                (f"{one['suite']}/{one['group']}: {one['title']}",
                 one["before"] or "absent", one["after"] or "absent")
                for one in found["scenarios"]
            ],
        )  # fmt: skip
    other, this = found["seconds"]
    if other and this:
        log(f"scenarios that pass in both took {duration(other)} there and {duration(this)} here")
    log(f"{count(len(found['scenarios']), 'scenario')} with different outcomes")


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return "\n".join(f"{name} {_plain(one)}" for name, one in value.items())
    return "none" if value is None else str(value)
