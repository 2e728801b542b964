"""Make `docs/benchmarks.md` of the results that are kept."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import declaration, records
from benchmarks.measure import RESULTS
from buildkit_riscv64 import project
from buildkit_riscv64.console import size

PAGE = project.ROOT / "docs" / "benchmarks.md"
#: What people say of the numbers, above them.
FOUND = Path(__file__).with_name("found.md")
INTRODUCTION = """\
# Benchmarks

Made by `python -m benchmarks.report` of the samples in `benchmarks/results/`; only what
was found is written by hand, in `benchmarks/found.md`. Each table says how the machine
executes: a time from emulation says nothing about hardware.

<!-- run by: tests/integration/test_benchmark.py -->
```sh
invoke benchmark                              # what is in dist/, alone
invoke benchmark --against v0.32.1            # in turns with a release, compiled as ours is
invoke benchmark --against upstream           # with the same source and upstream's own flags
invoke benchmark --against dist/linux-amd64-pgo    # a folder, or a tarball
invoke benchmark --against docker             # with the builder in Debian's docker engine
invoke benchmark --only simple,export --count 9
nox -s benchmark                              # what we add to the Go compiler, qemu, the image
```

The cases are those that the field uses, by the names of
[moby/buildkit-bench](https://github.com/moby/buildkit-bench) where it has them;
`benchmarks/cases.toml` declares them, and needs no registry. Each run of a case has a
daemon of its own that knows only the base image. Two sides take turns, A B B A, in one
run. Time is what the clients wait; processor time is the daemon's and that of all that it
started (also the containers); memory is the most that the daemon itself held (VmHWM). With
`--instructions` it is none of these, but how many instructions the daemon and the programs
that it starts execute, without the kernel: on a board, or in an emulated machine
[that counts them](machines.md#counting-instructions).

A ratio is ours divided by the other's: the median of the ratios of runs side by side. The
brackets are a 95 % bootstrap interval: the pairs are drawn again, with replacement, two
thousand times, and the middle 95 % of those medians taken. Where 1 is in it no difference was
shown, and fewer than six runs show none. Sizes are exact. Many rows are many chances: of twenty rows without any difference, one
looks like one.

The samples are kept, run after run, with the machine, how it executes, its load and the digests
of the binaries; `dist/benchmark/index.html` shows them with plots, over cases and over
time. `--output` puts it elsewhere.

`invoke benchmark --profile cpu.pprof` records what our daemon is busy with meanwhile, and
`invoke build-binaries --pgo cpu.pprof` compiles for that.
"""


def _measure(samples: list[dict[str, Any]]) -> str:
    return "size_bytes" if samples[0].get("size_bytes") else "seconds"


def _median(samples: list[dict[str, Any]]) -> float:
    return float(median(sample[_measure(samples)] for sample in samples))


def _shown(samples: list[dict[str, Any]]) -> str:
    if _measure(samples) == "size_bytes":
        return size(round(_median(samples)))
    seconds = [sample["seconds"] for sample in samples]
    times = f"{median(seconds):.2f} s"
    return f"{times} ({min(seconds):.2f} to {max(seconds):.2f})" if len(seconds) > 1 else times


def _row(case: dict[str, Any]) -> str:
    ours = case["samples"]["ours"]
    others = [(way, samples) for way, samples in case["samples"].items() if way != "ours"]
    against = ", ".join(f"{way} {_shown(samples)}" for way, samples in others)
    ratio = ", ".join(f"{_median(ours) / _median(samples):.2f}" for _, samples in others)
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
        f"| {case['name']}: {case['description']} | {against} | {_shown(ours)} |"
        f" {ratio} | {memory} | {', '.join(limits)} |"
    )


def _runs(result: dict[str, Any]) -> str:
    """The tables of `invoke benchmark`: of each comparison the newest numbers of each case."""
    merged: dict[Any, dict[str, Any]] = {}
    for run in result["runs"]:
        for counted in (False, True):
            cases = [
                case
                for case in run["cases"]
                if ("instructions" in case.get("metrics", [])) is counted
            ]
            key = (json.dumps([run["binaries"], run["host"]]), counted)
            known = merged.get(key, {"cases": []})["cases"]
            names = {case["name"] for case in cases}
            kept = [case for case in known if case["name"] not in names]
            if cases:
                merged[key] = {**run, "cases": sorted([*kept, *cases], key=_declared)}
    return "\n".join(map(_run, merged.values()))


def _declared(case: dict[str, Any]) -> tuple[int, str]:
    """Where a case stands among those that are declared."""
    names = [one.name for one in declaration.load()]
    name = case["name"]
    return (names.index(name) if name in names else len(names), name)


def _run(run: dict[str, Any]) -> str:
    labels = [one["label"] for one in run["binaries"]]
    rows = [
        f"| {' | '.join([row.case, row.metric, *row.values, *row.told, str(row.count)])} |"
        for row in records.rows(run)
    ]
    skipped = [
        f"Not measured: {case['name']}: {case['skipped']}."
        for case in run["cases"]
        if "skipped" in case
    ]
    header = ["case", "what", *labels, "ratio", "ours takes", "runs"]
    host = run["host"]
    return "\n".join(
        [
            f"## {' against '.join(labels)}: {host['execution']}",
            "",
            f"{run['date'][:10]}, on {host['cpus']} x {host['cpu']}, linux/{host['arch']},"
            f" {size(host['memory_bytes'])}, {host['distribution']}, {host['kernel']},"
            f" load {run['load']} before it began; "
            + ", ".join(
                f"{one['label']} {one['version']} sha256 {list(one['sha256'].values())[-1][:12]}"
                for one in run["binaries"]
            )
            + ".",
            "",
            f"| {' | '.join(header)} |",
            f"|{' --- |' * len(header)}",
            *rows,
            *(["", *skipped] if skipped else []),
            "",
        ]
    )


def section(result: dict[str, Any]) -> str:
    """The table of one result."""
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
        "| case | against | ours | ratio | our memory | at most |",
        "| --- | --- | --- | --- | --- | --- |",
        *(_row(case) for case in result["cases"]),
    ]
    return "\n".join(lines) + "\n"


def page() -> str:
    """The page, of all results that are kept."""
    results = [json.loads(path.read_text()) for path in sorted(Path(RESULTS).glob("*.json"))]
    return "\n".join([INTRODUCTION, FOUND.read_text(), *map(section, results)])


def main() -> None:
    """Write the page."""
    PAGE.write_text(page())
    print(f"wrote {PAGE.relative_to(project.ROOT)}")


if __name__ == "__main__":
    main()
