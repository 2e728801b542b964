"""Make `docs/benchmarks.md` of the results that are kept."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.measure import RESULTS
from buildkit_riscv64 import project
from buildkit_riscv64.console import size

PAGE = project.ROOT / "docs" / "benchmarks.md"
INTRODUCTION = """\
# Benchmarks

Made by `python -m benchmarks.report` of the samples in `benchmarks/results/`.
Times are medians of runs that took turns, with the fastest and the slowest in
brackets. Each table says how the machine executes: a figure from emulation says
nothing about hardware.

`nox -s benchmark` measures again, on your machine.
"""


def _times(samples: list[dict[str, Any]]) -> str:
    seconds = [sample["seconds"] for sample in samples]
    return f"{median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f})"


def _row(case: dict[str, Any]) -> str:
    (_, baseline), (_, ours) = case["samples"].items()
    ratio = median(s["seconds"] for s in ours) / median(s["seconds"] for s in baseline)
    limits = []
    if case["limit"]:
        limits.append(f"{case['limit']:.2f} times")
    if case["limit_seconds"]:
        limits.append(f"{case['limit_seconds']:g} s")
    if case["limit_bytes"]:
        limits.append(size(case["limit_bytes"]))
    peak = max(s["peak_bytes"] for s in ours)
    return (
        f"| {case['name']}: {case['description']} | {_times(baseline)} | {_times(ours)} |"
        f" {ratio:.2f} | {size(peak)} | {', '.join(limits) or 'no limit'} |"
    )


def section(result: dict[str, Any]) -> str:
    """The table of one result."""
    host = result["host"]
    first = result["cases"][0]["samples"]
    baseline, ours = first
    lines = [
        f"## {result['name']}: {host['execution']}, linux/{host['arch']}",
        "",
        f"{result['date']}, {host['cpus']} x {host['cpu']}, {size(host['memory_bytes'])},"
        f" {host['distribution']}, {host['kernel']}.",
        "",
        f"| case | {baseline} | {ours} | ratio | our memory | at most |",
        "| --- | --- | --- | --- | --- | --- |",
        *(_row(case) for case in result["cases"]),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write the page."""
    results = [json.loads(path.read_text()) for path in sorted(Path(RESULTS).glob("*.json"))]
    PAGE.write_text("\n".join([INTRODUCTION, *map(section, results)]))
    print(f"wrote {PAGE.relative_to(project.ROOT)}")


if __name__ == "__main__":
    main()
