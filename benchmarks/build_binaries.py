"""`invoke build-binaries` against two plain `go build`s, and our startup time.

Both use the same Go, source and flags. "Cold" is an empty build cache and a
filled module cache.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import report
from benchmarks.checkout import copy_checkout
from benchmarks.measure import Case, Sample, alternate, run, save
from buildkit_riscv64.binaries import compile as compiler
from buildkit_riscv64.binaries import source as sources
from buildkit_riscv64.binaries import toolchain
from buildkit_riscv64.core import dist, pins

MIB = 1 << 20


class Bench:
    """Both builds, in a directory of their own."""

    def __init__(self, directory: Path) -> None:
        pinned = pins.load()
        self.go = toolchain.ensure(pinned)
        self.source = sources.resolve("module", pinned)
        sources.prepare(self.source, self.go)
        self.cache = directory / "cache"
        self.output = directory / "plain"
        self.checkout = directory / "checkout"
        copy_checkout(self.checkout)
        self.empty = directory / "empty"
        self.empty.mkdir()
        (self.empty / "tasks.py").write_text(
            "from invoke import task\n\n@task\ndef nothing(context):\n    '''Nothing.'''\n"
        )
        self.output.mkdir()

    def clear_cache(self) -> None:
        """Empty the build cache, and write pending data to the disk."""
        shutil.rmtree(self.cache, ignore_errors=True)
        os.sync()

    def plain(self, *, fresh: bool = True) -> Sample:
        """Two plain `go build`s in sequence."""
        if fresh:
            shutil.rmtree(self.output)
            self.output.mkdir()
        env = toolchain.environment(self.go, {"GOCACHE": str(self.cache)})
        seconds, peak = 0.0, 0
        for command in dist.COMMANDS:
            package = f"{pins.MODULE}/cmd/{command}"
            flags = compiler.flags(self.source)
            one = run(
                [self.go.command, "build", *flags, "-o", f"{self.output}/{command}", package],
                self.source.directory,
                env,
            )
            seconds, peak = seconds + one.seconds, max(peak, one.peak_bytes)
        return Sample(round(seconds, 3), peak)

    def invoke(self, *args: str, cwd: Path | None = None) -> Sample:
        """Run one of our tasks."""
        return run(
            [sys.executable, "-m", "buildkit_riscv64", *args],
            cwd or self.checkout,
            {**os.environ, "GOCACHE": str(self.cache)},
        )

    def build(self) -> Sample:
        """Our build, even if the binaries are up to date."""
        return self.invoke("build-binaries", "--source=module", "--force")

    def cold_plain(self) -> Sample:
        """The plain build with an empty build cache."""
        self.clear_cache()
        return self.plain()

    def cold_build(self) -> Sample:
        """Our build with an empty build cache."""
        self.clear_cache()
        return self.build()


def main(argv: Sequence[str] = ()) -> None:
    """Measure all cases; `--quick` omits the cold one."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR") or "/var/tmp") as name:
        bench = Bench(Path(name))
        bench.build()
        cases = []
        if "--quick" not in argv:
            cases.append(
                alternate(
                    Case(name="cold", description="empty build cache", limit=0.85),
                    4,
                    {"plain": bench.cold_plain, "ours": bench.cold_build},
                )
            )
        cases += [
            alternate(
                Case(
                    name="warm",
                    description="full build cache, both programs linked again",
                    limit=1.05,
                    limit_bytes=80 * MIB,
                ),
                7,
                {"plain": bench.plain, "ours": bench.build},
            ),
            alternate(
                Case(name="up to date", description="nothing changed", limit_seconds=0.5),
                10,
                {
                    "plain": lambda: bench.plain(fresh=False),
                    "ours": lambda: bench.invoke("build-binaries", "--source=module"),
                },
            ),
            alternate(
                Case(
                    name="list",
                    description="`invoke --list`, against one task in an empty tasks.py",
                    limit=1.5,
                ),
                20,
                {
                    "plain": lambda: bench.invoke("--list", cwd=bench.empty),
                    "ours": lambda: bench.invoke("--list"),
                },
            ),
        ]
        print(f"wrote {save('build-binaries', cases)}")
    report.main()


if __name__ == "__main__":
    main(sys.argv[1:])
