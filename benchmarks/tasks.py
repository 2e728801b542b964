"""The task that measures."""

from __future__ import annotations

from typing import Any

from buildkit_riscv64.cli import YES, command


@command(
    help={
        "against": "What to compare with: a folder with buildkitd and buildctl, a tarball of them, a"
        " release like v0.32.1, `upstream` for the pinned source with upstream's own flags, or"
        " `docker` for the builder that is in the docker engine. Default: nothing.",
        "only": "Only cases whose names begin so, separated by commas. benchmarks/cases.toml has all.",
        "count": "How often each case runs. Default: as benchmarks/cases.toml says.",
        "instructions": "Count what the daemon executes (perf), instead of time and memory, for"
        " machines whose time says nothing. Emulated ones need `machine.start --icount`.",
        "profile": "Record a CPU profile of our daemon into this file: for `build-binaries --pgo`.",
        "output": "The report's folder. Default: dist/benchmark/.",
        "yes": YES,
        "json": "Print this run's samples and ratios as JSON on stdout.",
    }
)
def benchmark(
    context: Any,
    against: str = "",
    only: str = "",
    count: int = 0,
    instructions: bool = False,
    profile: str = "",
    output: str = "",
    yes: bool = False,
    json: bool = False,
) -> None:
    """Measure what is in dist/ on real daemons, alone or beside other binaries.

    Appends the samples to benchmarks/results/, with the machine and how it
    executes, and makes a report with plots of all that is kept there:
    dist/benchmark/index.html. Ratios are medians of pairs with a 95 % bootstrap
    interval. docs/benchmarks.md says what was found so far.
    """
    from benchmarks import builds
    from buildkit_riscv64 import config

    settings = config.read(context.config)
    options = builds.Options(
        against=against, only=only, count=count, instructions=instructions, profile=profile, output=output,
        yes=yes or settings.yes, dry=settings.dry,
    )  # fmt: skip
    builds.report(builds.main(options), json=json)
