"""Results of `invoke benchmark`: saved records, and rows of tables."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import definitions, ratios
from benchmarks.measure import RESULTS
from buildkit_riscv64.core import filesystem, schemas
from buildkit_riscv64.core.console import count, size
from buildkit_riscv64.core.errors import CheckError

NAME = "builds"
#: Version of the format, as in the schema.
FORMAT = 1
#: Labels of the metrics.
METRICS = {
    "seconds": "time", "cpu_seconds": "processor time", "peak_bytes": "memory",
    "size_bytes": "size", "instructions": "instructions",
}  # fmt: skip


def load(path: Path, schema: Path = schemas.BENCHMARK) -> dict[str, Any]:
    """Read results.

    Args:
        path: the file.
        schema: the schema of the results.

    Raises:
        CheckError: the results do not match the schema.
    """
    try:
        results = json.loads(path.read_text())
        wrong = schemas.validation_error(results, schema)
    except (OSError, ValueError, RecursionError) as error:
        wrong = str(error)
    if wrong:
        raise CheckError(
            f"cannot use {filesystem.display_path(path)}: {wrong}", f"git checkout {path.name}"
        )
    return dict(results)


def save(run: dict[str, Any], directory: Path = RESULTS) -> Path:
    """Append a run to the results of the same kind of machine.

    Raises:
        CheckError: the run or the existing results do not match the schema.
    """
    facts = run["host"]
    path = directory / f"{NAME}.linux-{facts['arch']}.{facts['execution']}.json"
    new: dict[str, Any] = {"name": NAME, "format": FORMAT, "runs": []}
    results = load(path) if path.exists() else new
    results["runs"].append(run)
    if wrong := schemas.validation_error(results, schemas.BENCHMARK):
        raise CheckError(f"this run cannot be saved: {wrong}", "this is a defect: report it")
    directory.mkdir(parents=True, exist_ok=True)
    filesystem.write_json(path, results)
    return path


def values(case: Mapping[str, Any], label: str, metric: str) -> list[float]:
    """The samples of a case, in order."""
    return [float(one[metric]) for one in case["samples"][label]]


def compare(run: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], str, ratios.Ratio]]:
    """Each case and metric of a run, with the ratio of ours to the baseline."""
    labels = [one["label"] for one in run["binaries"]]
    if len(labels) < 2:
        return
    for case in run["cases"]:
        for metric in case.get("metrics", []):
            ours, theirs = (values(case, label, metric) for label in labels)
            ratio = ratios.of(ours, theirs, exact=metric == "size_bytes")
            if ratio:
                yield case, metric, ratio


def by_metric(run: Mapping[str, Any]) -> dict[str, list[tuple[str, ratios.Ratio]]]:
    """For each metric in the order of METRICS: the name and the ratio of each case."""
    found: dict[str, list[tuple[str, ratios.Ratio]]] = {metric: [] for metric in METRICS}
    for case, metric, ratio in compare(run):
        found[metric].append((case["name"], ratio))
    return {metric: compared for metric, compared in found.items() if compared}


def sentences(run: Mapping[str, Any]) -> list[str]:
    """A comparison in words, a paragraph for each metric; empty without a baseline."""
    other = run["binaries"][-1]["label"]
    return [
        sentence(metric, other, [ratio for _, ratio in compared])
        for metric, compared in by_metric(run).items()
    ]


def sentence(metric: str, other: str, compared: Sequence[ratios.Ratio]) -> str:
    """A comparison in words.

    Args:
        metric: the metric, as in METRICS.
        other: the label of the baseline.
        compared: the ratio of each case.
    """
    by_verdict: dict[str, list[ratios.Ratio]] = {}
    for one in sorted(compared, key=lambda ratio: ratio.median):
        by_verdict.setdefault(one.verdict, []).append(one)
    total = f" of {count(len(compared), 'case')}"
    name = METRICS[metric]
    parts: list[str] = []
    for verdict in ("less", "more"):
        if found := by_verdict.get(verdict):
            ends = dict.fromkeys(one.short for one in (found[0], found[-1]))
            what = "" if parts else f" of the {name} of {other}"
            parts.append(f"{' to '.join(ends)}{what} in {len(found)}{total}")
    text = [f"Ours takes {', and '.join(parts)}."] if parts else []
    if same := by_verdict.get("none shown"):
        between = "" if parts else f" in {name} between ours and {other}"
        text.append(f"No difference{between} was shown in {len(same)}{total}.")
    if few := by_verdict.get("too few runs"):
        text.append(f"{len(few)}{total} had too few runs to compare the {name}.")
    return " ".join(text)


def comparisons(runs: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Runs of the same binaries on the same machine, merged: the newest figures of each case.

    Counted instructions are a comparison of their own.
    """
    merged: dict[Any, dict[str, Any]] = {}
    order = {case.name: number for number, case in enumerate(definitions.load())}
    for run in runs:
        for counted in (False, True):
            cases = {
                case["name"]: case
                for case in run["cases"]
                if ("instructions" in case.get("metrics", [])) is counted
            }
            if cases:
                key = (json.dumps([run["binaries"], run["host"]]), counted)
                known = merged.get(key, {"cases": []})["cases"]
                cases = {case["name"]: case for case in known} | cases
                names = sorted(cases, key=lambda name: (order.get(name, len(order)), name))
                merged[key] = {**run, "cases": [cases[name] for name in names]}
    return list(merged.values())


def display(metric: str, value: float) -> str:
    """Format a value."""
    match metric:
        case "seconds" | "cpu_seconds":
            return f"{value:.2f} s"
        case "instructions":
            return f"{value / 1e6:.1f} M"
    return size(round(value))


@dataclass(frozen=True)
class Row:
    """One metric of one case.

    Args:
        case: the name of the case.
        description: the description of the case.
        metric: its label in METRICS.
        values: the median of each candidate, in the order of the run.
        ratio: the ratio of ours to the baseline, or None.
        count: the number of runs.
    """

    case: str
    description: str
    metric: str
    values: list[str]
    ratio: ratios.Ratio | None
    count: int

    @property
    def verdict(self) -> tuple[str, str]:
        """The ratio and its verdict; empty without a baseline."""
        return (str(self.ratio), self.ratio.verdict) if self.ratio else ("", "")


def rows(run: Mapping[str, Any]) -> Iterator[Row]:
    """The table of a run."""
    labels = [one["label"] for one in run["binaries"]]
    compared = {(case["name"], metric): ratio for case, metric, ratio in compare(run)}
    for case in run["cases"]:
        for metric in case.get("metrics", []):
            yield Row(
                case=case["name"],
                description=case["description"],
                metric=METRICS[metric],
                values=[display(metric, median(values(case, label, metric))) for label in labels],
                ratio=compared.get((case["name"], metric)),
                count=len(case["samples"][labels[0]]),
            )
