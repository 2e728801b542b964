"""`invoke benchmark`: the cases of `cases.toml` on real daemons, for one or two candidates."""

from __future__ import annotations

import contextlib
import functools
import os
import random
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks import candidates, definitions, engine, instructions, page, profiles, records
from benchmarks.candidates import OURS, Build, Candidate, Running
from benchmarks.definitions import CaseSpec
from benchmarks.measure import (
    RESULTS,
    Case,
    Sample,
    alternate,
    cpu_seconds,
    peak_bytes,
    reset_peak,
)
from buildkit_riscv64.buildkitd import daemon
from buildkit_riscv64.core import dist, dry_run, filesystem, host, process, timestamps, values
from buildkit_riscv64.core.arch import Platform
from buildkit_riscv64.core.console import count, emit_json, log, table
from buildkit_riscv64.core.errors import BuildError, UsageError
from buildkit_riscv64.system import apt, binfmt
from buildkit_riscv64.validation.scenarios import bases

#: Platforms for steps that need an emulator; the first one that this machine emulates is used.
_FOREIGN = (Platform.RISCV64, Platform.AMD64, Platform.ARM64)
_CHUNK = 1 << 20
_NOTHING: contextlib.nullcontext[None] = contextlib.nullcontext()
#: Disk space for the files of all cases, with a margin.
NEEDED_BYTES = 8 << 30


@dataclass(frozen=True, kw_only=True)
class BuildSettings:
    """Options of `invoke benchmark`.

    Args:
        baseline: what to compare with; empty for nothing.
        only: names of cases; empty for all.
        count: runs of each case; 0 for the count in `cases.toml`.
        instructions: count the instructions of the daemon instead of time and memory.
        profile: the file for a CPU profile of our daemon; empty for none.
        output: the directory of the report; empty for `dist/benchmark/`.
        results: the directory of the results.
        yes: install missing tools without asking.
    """

    baseline: str = ""
    only: str = ""
    count: int = 0
    instructions: bool = False
    profile: str = ""
    output: str = ""
    results: Path = RESULTS
    yes: bool = False


def foreign() -> Platform | None:
    """Another platform whose programs this machine emulates, or None."""
    return next((one for one in _FOREIGN if one is not Platform.here() and binfmt.runs(one)), None)


def skip_reason(case: CaseSpec, compared: Sequence[Candidate]) -> str:
    """Why a case cannot be measured here, or an empty string."""
    if case.foreign and foreign() is None:
        return "no emulator is registered: `invoke doctor --phase validation --fix`"
    return next(filter(None, (candidate.skip_reason(case) for candidate in compared)), "")


def _write_files(directory: Path, case: CaseSpec) -> None:
    """Write the files of a context: half noise and half text, to compress like programs."""
    noise = random.Random(case.name)
    directory.mkdir()
    for number in range(case.files):
        with (directory / f"{number:05}").open("wb") as file:
            for start in range(0, case.bytes, _CHUNK):
                length = min(_CHUNK, case.bytes - start)
                text = b"the quick brown fox %d " % noise.randrange(1000) * (length // 40 + 1)
                file.write(noise.randbytes(length // 2) + text[: length - length // 2])


class Bench:
    """One case with its context, in a directory of its own.

    Args:
        case: the case.
        directory: for the context and the daemons' states.
        recorder: records profiles of our daemon.
    """

    def __init__(self, case: CaseSpec, directory: Path, recorder: profiles.Recorder | None) -> None:
        self.case = case
        self.directory = directory
        self.recorder = recorder
        self.context = directory / "context"
        self.output = directory / "output"
        self.changes = 0
        self.counts = "instructions" in case.metrics
        self.platform = foreign() if case.foreign else None
        if case.context:
            shutil.copytree(definitions.CONTEXTS / case.context, self.context)
            if case.files:
                _write_files(self.context / "data", case)

    @functools.cached_property
    def base(self) -> bases.BaseImage:
        """The base image, for `FROM base`."""
        return bases.busybox(self.platform or Platform.here())

    def sample(self, candidate: Candidate) -> Sample:
        """Run the case once."""
        if self.case.program:
            return Sample(0, 0, (candidate.binaries / self.case.program).stat().st_size)
        # Write pending data of the last run to the disk.
        os.sync()
        began = time.monotonic()
        recorder = self.recorder if candidate.label == OURS else None
        flags = recorder.flags if recorder else []
        with candidate.started(self.directory, self.base, flags) as daemon:
            return self._sample(candidate, daemon, began, recorder)

    def _sample(
        self,
        candidate: Candidate,
        daemon: Running,
        began: float,
        recorder: profiles.Recorder | None,
    ) -> Sample:
        """Prepare and measure the case on a running daemon."""
        if self.case.start:
            seconds = time.monotonic() - began
            return Sample(
                round(seconds, 3), peak_bytes(daemon.pid), cpu_seconds=cpu_seconds(daemon.pid)
            )
        ours = self._request()
        self._build(
            candidate, daemon, [replace(ours, context=definitions.CONTEXTS / "base", arguments=())]
        )
        if self.case.again:
            without_output = [one for one in ours.arguments if not one.startswith("--output")]
            self._build(candidate, daemon, [replace(ours, arguments=without_output)])
        if self.case.change:
            self.changes += 1
            (self.context / "data" / "00000").write_text(f"another {self.changes}\n")
        with recorder.recording() if recorder else _NOTHING:
            return self._measure_build(candidate, daemon)

    def _request(self) -> Build:
        return Build(
            context=self.context, platform=self.platform,
            arguments=[
                one.format(context=self.context, output=self.output) for one in self.case.arguments
            ],
        )  # fmt: skip

    def _measure_build(self, candidate: Candidate, daemon: Running) -> Sample:
        os.sync()
        reset_peak(daemon.pid)
        cpu = cpu_seconds(daemon.pid)
        began = time.monotonic()
        with instructions.counting(daemon.pid) if self.counts else _NOTHING as counted:
            self._build(
                candidate,
                daemon,
                [replace(self._request(), number=n) for n in range(self.case.parallel)],
            )
        seconds = time.monotonic() - began
        cpu = cpu_seconds(daemon.pid) - cpu
        self.output.unlink(missing_ok=True)
        return Sample(
            round(seconds, 3), peak_bytes(daemon.pid), cpu_seconds=round(cpu, 3),
            instructions=counted.instructions if counted else 0,
        )  # fmt: skip

    def _build(self, candidate: Candidate, daemon: Running, requests: Sequence[Build]) -> None:
        """Run builds in parallel, each with its own client; every build must succeed."""
        with contextlib.ExitStack() as stack:
            group = process.Group()
            stack.callback(group.close)
            outputs = [stack.enter_context(tempfile.TemporaryFile("w+")) for _ in requests]
            clients = [
                group.start(
                    daemon.command(one),
                    env=daemon.env, stdout=file.fileno(), stderr=file.fileno(),
                )
                for one, file in zip(requests, outputs, strict=True)
            ]  # fmt: skip
            for client, file in zip(clients, outputs, strict=True):
                if code := client.wait():
                    file.seek(0)
                    words = file.read().strip()
                    log(words[-2000:])
                    raise BuildError(
                        f"{self.case.name} with {candidate.label}: its client failed"
                        f" ({process.describe_exit(code)}): {(words.splitlines() or ['no output'])[-1]}",
                        "read its output above",
                    )


def measure(
    case: CaseSpec,
    compared: Sequence[Candidate],
    directory: Path,
    recorder: profiles.Recorder | None,
) -> Case:
    """Measure a case for all candidates, which take turns.

    Args:
        case: the case.
        compared: the candidates.
        directory: for their files.
        recorder: records profiles of our daemon.
    """
    bench = Bench(case, Path(tempfile.mkdtemp(dir=directory)), recorder)
    return alternate(
        Case(name=case.name, description=case.description),
        case.count,
        {candidate.label: functools.partial(bench.sample, candidate) for candidate in compared},
    )


def _record(case: CaseSpec, measured: Case) -> dict[str, Any]:
    """The result of a case: only the metrics of the case."""
    return {
        "name": case.name,
        "description": case.description,
        "metrics": list(case.metrics),
        "samples": {
            label: [
                {metric: value for metric, value in asdict(one).items() if metric in case.metrics}
                for one in samples
            ]
            for label, samples in measured.samples.items()
        },
    }


@contextlib.contextmanager
def _workspace() -> Iterator[Path]:
    """A directory for the daemons' files, removed when all cases are measured.

    Not earlier: ext4 avoids recently freed inodes for a minute or more, and searches for
    others when files are created. After a case with many files, the search took most of
    the processor time of the next case.
    """
    place = Path(os.environ.get("TMPDIR") or "/var/tmp")
    filesystem.require_space(
        place,
        NEEDED_BYTES,
        "the daemons may need",
        "free some, or set TMPDIR to a directory with enough space",
    )
    directory = Path(tempfile.mkdtemp(prefix="benchmark-", dir=place))
    # The files of a user who is not root belong to other users in the namespace. A killed daemon
    # may need a moment to end.
    script = (
        'for _ in $(seq 100); do rm -rf --one-file-system "$1" && exit; sleep 0.2; done; exit 1'
    )
    remove = [*process.namespaced(), "sh", "-c", script, "sh", str(directory)]
    with process.run_if_killed([remove]):
        try:
            yield directory
        finally:
            process.run(remove)


def _cases(options: BuildSettings) -> list[CaseSpec]:
    """The selected cases; instructions can be counted only in builds.

    Raises:
        UsageError: no case is selected.
    """
    cases = definitions.select(definitions.load(), options.only, options.count)
    if not options.instructions:
        return cases
    if options.baseline == candidates.DOCKER:
        raise UsageError(
            "--instructions cannot count docker's engine: it includes other processes",
            "choose another --baseline",
        )
    builds = [case for case in cases if not case.program and not case.start]
    if not builds:
        raise UsageError(f"--instructions --only {options.only}: no build", "select a build")
    return [replace(case, metrics=("instructions",)) for case in builds]


def _compared(baseline: str, directory: Path) -> list[Candidate]:
    """Ours, and the candidate of `--baseline`, if any.

    Args:
        baseline: as in :func:`.candidates.baseline`, or `docker`.
        directory: for files of the candidates.
    """
    ours = candidates.ours()
    if baseline == candidates.DOCKER:
        return engine.candidates(ours.binaries, directory)
    return [ours, *([candidates.baseline(baseline)] if baseline else [])]


def run(options: BuildSettings) -> dict[str, Any]:
    """Measure, and return the run in the format of the results.

    Raises:
        UsageError: unknown case or baseline.
        CheckError: dist/ has no binaries.
        BuildError: a daemon or a build failed.
    """
    cases = _cases(options)
    apt.ensure_installed(daemon.tools(), yes=options.yes)
    if options.instructions:
        apt.ensure_installed([instructions.TOOL], yes=options.yes)
        instructions.require()
    load = os.getloadavg()[0]
    measured: list[dict[str, Any]] = []
    with _workspace() as directory, filesystem.socket_directory() as sockets:
        recorder = (
            profiles.Recorder(values.path("--profile", options.profile), Path(sockets))
            if options.profile
            else None
        )
        compared = _compared(options.baseline, directory)
        for case in cases:
            if reason := skip_reason(case, compared):
                log(f"{case.name}: not measured: {reason}")
                measured.append({"name": case.name, "description": case.description, "skipped": reason})  # fmt: skip
                continue
            measured.append(_record(case, measure(case, compared, directory, recorder)))
        binaries = [candidate.as_json() for candidate in compared]
        if recorder:
            recorder.write()
    return {
        "date": timestamps.now(),
        "host": host.facts().as_json(),
        # The load at the start: ratios tolerate other load, times do not.
        "load": round(load, 2),
        "binaries": binaries,
        "cases": measured,
    }


def main(options: BuildSettings) -> tuple[dict[str, Any], Path] | None:
    """Measure, save the results, and write the report of all results.

    Returns:
        The run and the path of the report; None for a dry run.

    Raises:
        UsageError: as of :func:`run`, or the profile's directory is missing.
    """
    output = values.directory("--output", options.output or str(dist.benchmark_directory()))
    if options.profile and not values.path("--profile", options.profile).absolute().parent.is_dir():
        raise UsageError(f"--profile {options.profile}: no such directory", "create it first")
    if dry_run.active():
        for case in _cases(options):
            log(f"would measure, {count(case.count, 'time')}: {case.name}: {case.description}")
        log(f"would add the result to {filesystem.display_path(options.results)}/")
        log(f"would write the report to {filesystem.display_path(output)}/")
        return None
    result = run(options)
    log(f"saved the result in {filesystem.display_path(records.save(result, options.results))}")
    return result, page.write(options.results, output)


def report(outcome: tuple[dict[str, Any], Path] | None, *, json: bool) -> None:
    """Print the results of a run."""
    if outcome is None:
        return
    result, place = outcome
    if json:
        emit_json(
            {
                **result,
                "ratios": [
                    {"case": case["name"], "metric": metric, **asdict(ratio), "verdict": ratio.verdict}
                    for case, metric, ratio in records.compare(result)
                ],
            }
        )  # fmt: skip
    labels = [one["label"] for one in result["binaries"]]
    cases = [case for case in result["cases"] if "skipped" not in case]
    log(
        f"Measured {count(len(cases), 'case')} of {' and '.join(labels)}, {result['host']['execution']}."
    )
    # Without a baseline there are no ratios.
    columns = 2 * (len(labels) - 1)
    table(
        ("case", "metric", *labels, *("ratio", "ours takes")[:columns]),
        [
            (row.case, row.metric, *row.values, *row.verdict[:columns])
            for row in records.rows(result)
        ],
        title="Benchmarks",
    )
    log(f"read the report: {filesystem.display_path(place)}")
    alone = len(labels) == 1
    log(f"next: invoke benchmark {'--baseline upstream' if alone else '--profile cpu.pprof'}")
