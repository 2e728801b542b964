"""The HTML page: one file without scripts that shows all evidence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..core import host, html
from .suites import SCENARIOS, SUITES, ScenarioOutcome, counts

_TEMPLATE = Path(__file__).with_name("page.html.jinja")


def why(scenario: Mapping[str, Any]) -> str:
    """The line that explains best why a scenario failed: pytest marks it with an E."""
    lines = [line.strip() for line in str(scenario["failure"]).splitlines() if line.strip()]
    marked = [line.removeprefix("E").strip() for line in lines if line.startswith("E ")]
    return str((marked or lines or ["no reason given"])[0])


def _groups(name: str, suite: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A suite's scenarios by group, each with its anchor on the page."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for number, one in enumerate(suite["scenarios"]):
        css = one["outcome"].replace(" ", "-")
        path = f"{SCENARIOS / name}/test_{one['group']}.py::{one['name']}"
        groups.setdefault(one["group"], []).append(
            {**one, "suite": name, "id": f"{name}-{number}", "class": css, "path": path}
        )
    return [
        {
            "name": group, "scenarios": scenarios, "counts": counts(scenarios),
            "seconds": sum(one["seconds"] for one in scenarios),
        }
        for group, scenarios in groups.items()
    ]  # fmt: skip


def _changes(suite: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The scenarios that changed since the earlier run, failed scenarios first."""
    before = {(one["group"], one["name"]): one for one in suite["changes"]["scenarios"]}
    found = [
        {**one, "before": before[key]["before"]}
        for group in suite["groups"]
        for one in group["scenarios"]
        if (key := (one["group"], one["name"])) in before
    ]
    return sorted(found, key=lambda one: one["outcome"] != ScenarioOutcome.FAILED)


def _worst(counts: Mapping[str, int]) -> str:
    """The outcome that sets the colour of a cell."""
    worst = [ScenarioOutcome.FAILED, ScenarioOutcome.PASSED, ScenarioOutcome.NOT_PROVEN]
    return next((one.replace(" ", "-") for one in worst if counts[one]), "not-proven")


def render(document: Mapping[str, Any], stale: Sequence[str] = ()) -> str:
    """Render evidence as a page.

    Args:
        document: the evidence.
        stale: why the evidence does not match the artifacts beside it.
    """
    suites = [
        {
            **suite,
            "name": name,
            # Evidence of another checkout may have other suites.
            "proves": SUITES[name].proves if name in SUITES else "",
            "groups": _groups(name, suite),
        }
        for name, suite in document["suites"].items()
    ]
    unproven: dict[str, list[Mapping[str, Any]]] = {}
    for suite in suites:
        for group in suite["groups"]:
            for one in group["scenarios"]:
                if one["outcome"] == ScenarioOutcome.NOT_PROVEN:
                    unproven.setdefault(one["reason"], []).append(one)
    return html.render(
        _TEMPLATE, {"worst": _worst, "why": why, "changes": _changes}, document=document, suites=suites, stale=stale,
        executed=host.executed(document["host"]), unproven=unproven,
        absent=[suite for name, suite in SUITES.items() if name not in document["suites"]],
    )  # fmt: skip
