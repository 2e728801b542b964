"""History: how a suite's results differ from the results that they replace."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .suites import ScenarioOutcome

#: A scenario is slower when it takes this many times as long as before, and this much longer.
_SLOWER_TIMES = 2.0
_SLOWER_SECONDS = 1.0


def changes(
    version: str, before: Mapping[str, Any], after: Mapping[str, Any], *, same_machine: bool
) -> dict[str, Any]:
    """The scenarios of a suite that are new, have another outcome or are much slower.

    Args:
        version: the version of BuildKit in the earlier run.
        before: the suite's earlier results.
        after: the suite's new results.
        same_machine: both ran on one machine, so their durations are comparable.

    Returns:
        `since` and `version` of the earlier run, and `scenarios` with their results `before`,
        which are None for a new scenario.
    """
    known = {(one["group"], one["name"]): one for one in before["scenarios"]}
    # An incomplete run does not show which scenarios existed.
    complete = not before["partial"] and not before["aborted"]
    found = []
    for one in after["scenarios"]:
        earlier = known.get((one["group"], one["name"]))
        if _changed(earlier, one, same_machine=same_machine) if earlier else complete:
            result = {key: earlier[key] for key in ("outcome", "seconds")} if earlier else None
            found.append({"group": one["group"], "name": one["name"], "before": result})
    return {"since": before["finished"], "version": version, "scenarios": found}


def _changed(before: Mapping[str, Any], after: Mapping[str, Any], *, same_machine: bool) -> bool:
    if before["outcome"] != after["outcome"]:
        return True
    least = max(before["seconds"] * _SLOWER_TIMES, before["seconds"] + _SLOWER_SECONDS)
    passed = after["outcome"] == ScenarioOutcome.PASSED
    return bool(same_machine and passed and after["seconds"] > least)
