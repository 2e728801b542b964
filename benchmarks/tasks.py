"""The benchmark task."""

from __future__ import annotations

from typing import Any

from buildkit_riscv64.cli import YES, command


@command(
    changes="benchmarks/results/, dist/benchmark/, or what --output and --profile name; installs missing packages",
    help={
        "baseline": "What to compare with: a directory with buildkitd and buildctl, a tarball with"
        " them, a release like v0.32.1, `upstream` for the pinned source with upstream's flags, or"
        " `docker` for the builder in the docker engine. Default: nothing.",
        "only": "Prefixes of the cases to run, separated by commas. benchmarks/cases.toml lists them.",
        "count": "Runs of each case. Default: the count in benchmarks/cases.toml.",
        "instructions": "Count the instructions of the daemon (perf) instead of time and memory, for"
        " machines whose times mean nothing. Emulated ones need `machine.start --icount`.",
        "profile": "Record a CPU profile of our daemon into this file, for `build-binaries --pgo`.",
        "output": "The directory of the report. Default: dist/benchmark/.",
        "yes": YES,
        "json": "Print this run's samples and ratios as JSON on stdout.",
    },
)
def benchmark(
    context: Any,
    baseline: str = "",
    only: str = "",
    count: int = 0,
    instructions: bool = False,
    profile: str = "",
    output: str = "",
    yes: bool = False,
    json: bool = False,
) -> None:
    """Measure the binaries in dist/ on real daemons, alone or against a baseline.

    Appends the samples to benchmarks/results/, with the machine's properties, and
    writes a report of all results: dist/benchmark/index.html. Ratios are medians
    of pairs with a 95 % bootstrap interval. docs/benchmarks.md has the findings.
    """
    from benchmarks import builds
    from buildkit_riscv64.core import config

    settings = config.read(context.config)
    options = builds.BuildSettings(
        baseline=baseline, only=only, count=count, instructions=instructions, profile=profile, output=output,
        yes=yes or settings.yes,
    )  # fmt: skip
    builds.report(builds.main(options), json=json)
