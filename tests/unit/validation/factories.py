"""Results of suites, as the recorder writes them and as evidence contains them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from buildkit_riscv64.core import dist
from buildkit_riscv64.core.arch import Target
from buildkit_riscv64.validation import suites, versions

#: Publishes evidence of suites in dist/.
Publish = Callable[..., dist.Artifacts]

TARGET = Target.parse("linux-riscv64")
#: The scenarios of each suite, as of `Suite.scenarios`.
KNOWN = {("cache", "test_one"): False}
WHEN = "2026-11-25T11:00:00Z"


def scene(
    name: str = "test_one", outcome: str = "passed", *, group: str = "cache", **changes: Any
) -> dict[str, Any]:
    """The result of a scenario."""
    document: dict[str, Any] = {
        "group": group, "name": name, "title": f"The title of {name}", "outcome": outcome,
        "seconds": 1.5, "reason": "another kernel would" if outcome == "not proven" else "",
        "failure": "E   AssertionError: no" if outcome == "failed" else "", "logs": [],
    }  # fmt: skip
    return document | changes


def result(*scenes: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """The result of a suite."""
    scenarios: Sequence[dict[str, Any]] = scenes or [scene()]
    document: dict[str, Any] = {
        "started": WHEN, "finished": "2026-11-25T11:10:00Z", "seconds": 600.0, "partial": False,
        "select": "", "online": False, "aborted": "",
        "versions": {**dict.fromkeys(versions.NAMES), "kernel": "6.12.1"},
        "counts": suites.counts(scenarios), "scenarios": list(scenarios),
    }  # fmt: skip
    return document | changes


def record(
    path: Path, *results: dict[str, Any], collected: Sequence[dict[str, Any]] = (), rest: str = ""
) -> None:
    """Write a recorder's file; `rest` is an incomplete last line."""
    keys = ("group", "name", "title")
    planned = [{key: one[key] for key in keys} for one in [*results, *collected]]
    lines = [{"collected": planned}, *({"result": {"suite": "x", **one}} for one in results)]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines) + rest)
