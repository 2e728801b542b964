"""Results of `invoke benchmark`, as they are kept, and as tables tell them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import ratios
from benchmarks.measure import RESULTS
from buildkit_riscv64 import schemas, storage
from buildkit_riscv64.console import size
from buildkit_riscv64.errors import CheckError

NAME = "builds"
#: Version of the results' format, as in the schema.
FORMAT = 1
#: For people.
METRICS = {
    "seconds": "time", "cpu_seconds": "processor time", "peak_bytes": "memory",
    "size_bytes": "size", "instructions": "instructions",
}  # fmt: skip


def load(path: Path) -> dict[str, Any]:
    """Results that are kept.

    Raises:
        CheckError: they are not as the schema has them.
    """
    try:
        results = json.loads(path.read_text())
        wrong = schemas.objection(results, schemas.BENCHMARK)
    except (OSError, ValueError, RecursionError) as error:
        wrong = str(error)
    if wrong:
        raise CheckError(f"cannot use {storage.shown(path)}: {wrong}", f"git checkout {path.name}")
    return dict(results)


def keep(run: dict[str, Any], folder: Path = RESULTS) -> Path:
    """Append a run to the results of this kind of machine.

    Raises:
        CheckError: it is not as the schema has it, or what is kept is not.
    """
    facts = run["host"]
    path = folder / f"{NAME}.linux-{facts['arch']}.{facts['execution']}.json"
    new: dict[str, Any] = {"name": NAME, "format": FORMAT, "runs": []}
    results = load(path) if path.exists() else new
    results["runs"].append(run)
    if wrong := schemas.objection(results, schemas.BENCHMARK):
        raise CheckError(f"this run cannot be kept: {wrong}", "this is a defect: report it")
    folder.mkdir(parents=True, exist_ok=True)
    storage.write_json(path, results)
    return path


def values(case: Mapping[str, Any], way: str, metric: str) -> list[float]:
    """The samples of a case in the results, in the order in which they were taken."""
    return [float(one[metric]) for one in case["samples"][way]]


def compare(run: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], str, ratios.Ratio]]:
    """Each case of a run and each metric, with the ratio of ours to the other side."""
    labels = [one["label"] for one in run["binaries"]]
    if len(labels) < 2:
        return
    for case in run["cases"]:
        for metric in case.get("metrics", []):
            ours, theirs = (values(case, label, metric) for label in labels)
            ratio = ratios.of(ours, theirs, exact=metric == "size_bytes")
            if ratio:
                yield case, metric, ratio


def shown(metric: str, value: float) -> str:
    """A value for people."""
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
        case: its name.
        description: what it is.
        metric: in the words of METRICS.
        values: the median of each side, in the order in which the run has them.
        ratio: ours to the other's, where that is known.
        count: how often each side ran.
    """

    case: str
    description: str
    metric: str
    values: list[str]
    ratio: ratios.Ratio | None
    count: int

    @property
    def told(self) -> tuple[str, str]:
        """The ratio, and what it says; nothing where there is none."""
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
                values=[shown(metric, median(values(case, label, metric))) for label in labels],
                ratio=compared.get((case["name"], metric)),
                count=len(case["samples"][labels[0]]),
            )
