"""Generate `docs/benchmarks.md` from the results in `benchmarks/results/`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks import measure, records
from buildkit_riscv64.core import project
from buildkit_riscv64.core.console import count, size

PAGE = project.ROOT / "docs" / "benchmarks.md"
#: The findings, written by hand, above the tables of the page.
FINDINGS = Path(__file__).with_name("findings.md")
INTRODUCTION = """\
# Benchmarks

`python -m benchmarks.report` generates this page from the samples in `benchmarks/results/`. Only the
findings are written by hand, in `benchmarks/findings.md`. Each table names how the machine executes:
times from emulation do not represent hardware.

<!-- run by: tests/integration/test_benchmark.py -->
```sh
invoke benchmark                              # the binaries in dist/, alone
invoke benchmark --baseline v0.32.1           # in turns with a release, compiled with our flags
invoke benchmark --baseline upstream          # with the same source and upstream's flags
invoke benchmark --baseline dist/linux-amd64-pgo    # a directory or a tarball
invoke benchmark --baseline docker            # with the builder in Debian's docker engine
invoke benchmark --only simple,export --count 9
nox -s benchmark                              # our overhead over the Go compiler, qemu, the image
```

The cases have the names of [moby/buildkit-bench](https://github.com/moby/buildkit-bench) where it
has the same case.
`benchmarks/cases.toml` declares them; they need no registry. Each run of a case has its own daemon,
with only the base image. Two candidates take turns, A B B A, in one run. These metrics are
recorded:

- time: how long the clients wait;
- processor time: of the daemon and of every process that it started, also in containers;
- memory: the maximum of the daemon itself (VmHWM);
- with `--instructions`, instead of these: the instructions that the daemon and the programs that it
  starts execute, without the kernel, on a board or in an emulated machine
  [that counts them](machines.md#counting-instructions).

A ratio is ours divided by the baseline: the median of the ratios of paired runs. The brackets are a
95 % bootstrap interval: the pairs are drawn two thousand times with replacement, and the interval
holds the middle 95 % of the medians. If the interval contains 1, no difference was shown. Fewer
than six runs show no difference. Sizes are exact. Of twenty rows without any difference, about one
appears to have one by chance.

Every run is recorded with the machine, its execution, its load and the digests of the binaries.
`dist/benchmark/index.html` plots the samples over cases and over time; `--output` changes its place.

`invoke benchmark --profile cpu.pprof` records a profile of our daemon during the cases.
`invoke build-binaries --pgo cpu.pprof` compiles with that profile.
"""


def _row(case: dict[str, Any]) -> str:
    ours = case["samples"]["ours"]
    others = [(label, samples) for label, samples in case["samples"].items() if label != "ours"]
    baseline = ", ".join(f"{label} {measure.display(samples)}" for label, samples in others)
    ratio = ", ".join(
        f"{measure.typical(ours) / measure.typical(samples):.2f}" for _, samples in others
    )
    limits = []
    if case["limit"]:
        limits.append(f"{case['limit']:.2f} times")
    if case.get("limit_more"):
        limits.append(f"{case['limit_more']:g} s more")
    if case["limit_seconds"]:
        limits.append(f"{case['limit_seconds']:g} s")
    memory = ""
    if case["limit_bytes"]:
        limits.append(size(case["limit_bytes"]))
        memory = size(max(s["peak_bytes"] for s in ours))
    return (
        f"| {case['name']}: {case['description']} | {baseline} | {measure.display(ours)} |"
        f" {ratio} | {memory} | {', '.join(limits)} |"
    )


def _runs(result: dict[str, Any]) -> str:
    """The tables of `invoke benchmark`, one for each comparison."""
    return "\n".join(map(_run, records.comparisons(result["runs"])))


def _run(run: dict[str, Any]) -> str:
    labels = [one["label"] for one in run["binaries"]]
    rows = [
        f"| {' | '.join([row.case, row.metric, *row.values, *row.verdict, str(row.count)])} |"
        for row in records.rows(run)
    ]
    skipped = [
        f"Not measured: {case['name']}: {case['skipped']}."
        for case in run["cases"]
        if "skipped" in case
    ]
    header = ["case", "metric", *labels, "ratio", "ours takes", "runs"]
    host = run["host"]
    return "\n".join(
        [
            f"## {' against '.join(labels)}: {host['execution']}",
            "",
            f"{run['date'][:10]}, on {host['cpus']} x {host['cpu']}, linux/{host['arch']},"
            f" {size(host['memory_bytes'])}, {host['distribution']}, {host['kernel']},"
            f" load {run['load']} before the run; "
            + ", ".join(
                f"{one['label']} {one['version']} sha256 {list(one['sha256'].values())[-1][:12]}"
                for one in run["binaries"]
            )
            + ".",
            "",
            *(f"- {one}" for one in records.sentences(run)),
            "",
            f"<details><summary>All {count(len(rows), 'row')}</summary>",
            "",
            f"| {' | '.join(header)} |",
            f"|{' --- |' * len(header)}",
            *rows,
            "",
            "</details>",
            *(["", *skipped] if skipped else []),
            "",
        ]
    )


def section(result: dict[str, Any]) -> str:
    """The section of one result."""
    if "runs" in result:
        return _runs(result)
    host = result["host"]
    execution = result["execution"]
    lines = [
        f"## {result['name']}: {execution}",
        "",
        f"{result['date']}, on {host['cpus']} x {host['cpu']}, linux/{host['arch']},"
        f" {size(host['memory_bytes'])}, {host['distribution']}, {host['kernel']}.",
        "",
        "| case | baseline | ours | ratio | our memory | limit |",
        "| --- | --- | --- | --- | --- | --- |",
        *(_row(case) for case in result["cases"]),
    ]
    return "\n".join(lines) + "\n"


def page() -> str:
    """The page with all results."""
    results = [
        json.loads(path.read_text()) for path in sorted(Path(measure.RESULTS).glob("*.json"))
    ]
    return "\n".join([INTRODUCTION, FINDINGS.read_text(), *map(section, results)])


def main() -> None:
    """Write the page."""
    PAGE.write_text(page())
    print(f"wrote {PAGE.relative_to(project.ROOT)}")


if __name__ == "__main__":
    main()
