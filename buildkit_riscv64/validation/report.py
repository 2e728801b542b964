"""What the tasks of phase 3 tell: each scenario as it ends, and what is known at the end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .. import dist, host, pages, storage
from ..console import count, duration, emit_json, say, table
from ..errors import CheckError
from . import evidence, page
from .suites import Outcome, Suite
from .validate import Outcomes

_SHORT = {Outcome.PASSED: "ok", Outcome.FAILED: "FAILED", Outcome.NOT_PROVEN: "not proven"}
_HEADER = ("suite", "passed", "failed", "not proven", "time", "")


def progress(suite: Suite, number: int, total: int, result: Mapping[str, Any]) -> None:
    """One line for a scenario that has ended, and one of why for what did not pass."""
    outcome = Outcome(result["outcome"])
    say(
        f"{suite.name} {number}/{total}  {_SHORT[outcome]}  {duration(result['seconds'])}"
        f"  {result['title']}"
    )
    if outcome is Outcome.FAILED:
        say(f"    {page.why(result)}")
    elif outcome is Outcome.NOT_PROVEN:
        say(f"    {result['reason']}")


def _all(document: Mapping[str, Any], outcome: Outcome) -> Iterator[tuple[str, Mapping[str, Any]]]:
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
            (name, *(str(number[one]) for one in Outcome), duration(suite["seconds"]), remark)
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
    for name, one in _all(document, Outcome.FAILED):
        say(f"FAILED {name}\n    {page.why(one)}")
    say(f"{_title(document)}, {document['finished']}")
    if reasons := evidence.complete(found):
        say("no release may be gated on it:")
        for why in reasons:
            say(f"  {why}")
    else:
        say("complete: a release may be gated on it")
    say(f"the evidence is in {storage.shown(found.path)}/; to read it: {pages.INDEX}")


def validated(outcomes: Outcomes, *, json: bool) -> None:
    """The matrix, and where the evidence is.

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
    failed = [name for name, _ in _all({"suites": ran}, Outcome.FAILED)]
    ended = [f"{name}: {suite['aborted']}" for name, suite in ran.items() if suite["aborted"]]
    read = f"read {storage.shown(found.path / pages.INDEX)}"
    if failed:
        more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
        raise CheckError(f"{count(len(failed), 'scenario')} failed: {failed[0]}{more}", read)
    if ended:
        raise CheckError(f"not all scenarios have run: {'; '.join(ended)}", read)
    passed = sum(suite["counts"][Outcome.PASSED] for suite in ran.values())
    say(f"{count(passed, 'scenario')} passed, {duration(outcomes.seconds)} in all")


def shown(found: dist.Artifacts, *, json: bool) -> None:
    """What evidence says."""
    if json:
        emit_json({**found.manifest, "incomplete": evidence.complete(found)})
    for name, one in _all(found.manifest, Outcome.NOT_PROVEN):
        say(f"not proven {name}\n    {one['reason']}")
    _summary(found)


def _by_name(document: Mapping[str, Any]) -> dict[tuple[str, str, str], Mapping[str, Any]]:
    return {
        (suite, one["group"], one["name"]): one
        for suite, results in document["suites"].items()
        for one in results["scenarios"]
    }


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """What is different between two evidences, for `--json` and for people.

    Returns:
        `about`: what they are of, where it differs, both; `scenarios`: those with another
        outcome, both; `seconds`: of all scenarios that passed in both, both.
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
    """What is different here than there."""
    found = differences(before.manifest, after.manifest)
    if json:
        emit_json(found)
    if found["about"]:
        table(
            ("", str(storage.shown(before.path)), str(storage.shown(after.path))),
            [(name, *(_plain(value) for value in pair)) for name, pair in found["about"].items()],
        )
    if found["scenarios"]:
        table(
            ("scenario", "there", "here"),
            [
                (f"{one['suite']}/{one['group']}: {one['title']}",
                 one["before"] or "was not there", one["after"] or "is not here")
                for one in found["scenarios"]
            ],
        )  # fmt: skip
    there, here = found["seconds"]
    if there and here:
        say(f"what passes in both took {duration(there)} there and {duration(here)} here")
    say(f"{count(len(found['scenarios']), 'scenario')} with another outcome")


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return "\n".join(f"{name} {_plain(one)}" for name, one in value.items())
    return "none" if value is None else str(value)
