from __future__ import annotations

from typing import Any

import pytest

from buildkit_riscv64.validation import history

from .factories import result, scene


def changes(
    before: dict[str, Any], after: dict[str, Any], *, same_machine: bool = True
) -> dict[str, Any]:
    return history.changes("v0.32.1", before, after, same_machine=same_machine)


def names(document: dict[str, Any]) -> list[str]:
    return [one["name"] for one in document["scenarios"]]


def test_earlier_run() -> None:
    found = changes(result(finished="2026-11-20T01:00:00Z"), result())
    assert found == {"since": "2026-11-20T01:00:00Z", "version": "v0.32.1", "scenarios": []}


def test_other_outcomes_and_new_scenarios() -> None:
    before = result(scene("a", "failed"), scene("b"), scene("c", "not proven"), scene("gone"))
    after = result(scene("a"), scene("b", "failed"), scene("c", "not proven"), scene("new"))
    assert changes(before, after)["scenarios"] == [
        {"group": "cache", "name": "a", "before": {"outcome": "failed", "seconds": 1.5}},
        {"group": "cache", "name": "b", "before": {"outcome": "passed", "seconds": 1.5}},
        {"group": "cache", "name": "new", "before": None},
    ]


def test_scenarios_of_one_name_in_two_groups() -> None:
    before = result(scene("a", group="x"), scene("a", "failed", group="y"))
    assert names(changes(before, before)) == []


@pytest.mark.parametrize("incomplete", [{"partial": True}, {"aborted": "killed by SIGKILL"}])
def test_incomplete_earlier_run_makes_no_scenario_new(incomplete: dict[str, Any]) -> None:
    before = result(scene("a", "failed"), **incomplete)
    assert names(changes(before, result(scene("a"), scene("b")))) == ["a"]


@pytest.mark.parametrize(
    ("before", "after", "slower"),
    [
        (5.0, 10.0, False), (5.0, 10.1, True), (10.1, 5.0, False),
        # A short scenario takes twice as long by chance.
        (0.1, 1.0, False), (0.1, 1.2, True), (0.0, 0.5, False),
    ],
)  # fmt: skip
def test_slower_scenarios(before: float, after: float, slower: bool) -> None:
    earlier, now = (result(scene("a", seconds=seconds)) for seconds in (before, after))
    assert names(changes(earlier, now)) == ["a"] * slower
    assert names(changes(earlier, now, same_machine=False)) == []


def test_durations_of_failed_scenarios_are_not_compared() -> None:
    earlier, now = (result(scene("a", "failed", seconds=seconds)) for seconds in (1, 100))
    assert names(changes(earlier, now)) == []
