"""`invoke benchmark`: the declared cases on real daemons, of one set of binaries or of two in turns."""

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

from benchmarks import declaration, instructions, page, profiles, records, sides
from benchmarks.declaration import Declared
from benchmarks.measure import (
    RESULTS,
    Case,
    Sample,
    cpu_seconds,
    forget_peak,
    in_turns,
    peak_bytes,
)
from benchmarks.sides import OURS, Build, Running, Side
from buildkit_riscv64 import apt, binfmt, dist, host, process, storage, timestamps
from buildkit_riscv64.arch import Platform
from buildkit_riscv64.console import count, emit_json, say, table
from buildkit_riscv64.errors import BuildError, UsageError
from buildkit_riscv64.image import daemon
from tests.validation import bases

#: Whose programs a foreign step runs, the first that this machine can emulate.
_FOREIGN = (Platform.RISCV64, Platform.AMD64, Platform.ARM64)
_CHUNK = 1 << 20
_NOTHING: contextlib.nullcontext[None] = contextlib.nullcontext()
#: What all cases together leave until the end, and some air.
NEEDED_BYTES = 8 << 30


@dataclass(frozen=True, kw_only=True)
class Options:
    """What `invoke benchmark` was asked.

    Args:
        against: what to compare with; empty for nothing.
        only: names of cases; empty for all.
        count: how often, instead of what is declared; 0 for that.
        instructions: count what the daemon executes, instead of time and memory.
        profile: where to write a CPU profile of our daemon; empty for none.
        output: the folder of the report; empty for `dist/benchmark/`.
        results: the folder of the results.
        yes: install what is missing without asking.
        dry: only say what would be measured.
    """

    against: str = ""
    only: str = ""
    count: int = 0
    instructions: bool = False
    profile: str = ""
    output: str = ""
    results: Path = RESULTS
    yes: bool = False
    dry: bool = False


def foreign() -> Platform | None:
    """Another platform whose programs this machine runs, through an emulator."""
    return next((one for one in _FOREIGN if one is not Platform.here() and binfmt.runs(one)), None)


def reason_not_to(case: Declared, compared: Sequence[Side]) -> str:
    """Why a case cannot be measured here; nothing when it can."""
    if case.foreign and foreign() is None:
        return "no emulator is registered: `invoke doctor --phase validation --fix`"
    return next(filter(None, (side.reason_not_to(case) for side in compared)), "")


def _write_files(folder: Path, case: Declared) -> None:
    """The files of a context: half noise and half text, so that they compress as programs do."""
    noise = random.Random(case.name)
    folder.mkdir()
    for number in range(case.files):
        with (folder / f"{number:05}").open("wb") as file:
            for start in range(0, case.bytes, _CHUNK):
                length = min(_CHUNK, case.bytes - start)
                text = b"the quick brown fox %d " % noise.randrange(1000) * (length // 40 + 1)
                file.write(noise.randbytes(length // 2) + text[: length - length // 2])


class Bench:
    """One case, with its context, in a folder of its own.

    Args:
        case: what is measured.
        folder: for the context, and for the daemons' states.
        recorder: keeps profiles of our daemon.
    """

    def __init__(self, case: Declared, folder: Path, recorder: profiles.Recorder | None) -> None:
        self.case = case
        self.folder = folder
        self.recorder = recorder
        self.context = folder / "context"
        self.output = folder / "output"
        self.changes = 0
        self.counts = "instructions" in case.metrics
        self.platform = foreign() if case.foreign else None
        if case.context:
            shutil.copytree(declaration.CONTEXTS / case.context, self.context)
            if case.files:
                _write_files(self.context / "data", case)

    @functools.cached_property
    def base(self) -> bases.BaseImage:
        """What `FROM base` means."""
        return bases.busybox(self.platform or Platform.here())

    def sample(self, side: Side) -> Sample:
        """Run it once."""
        if self.case.program:
            return Sample(0, 0, (side.binaries / self.case.program).stat().st_size)
        # What the last run wrote does not wait for this one.
        os.sync()
        began = time.monotonic()
        recorder = self.recorder if side.label == OURS else None
        flags = recorder.flags if recorder else []
        with side.started(self.folder, self.base, flags) as daemon:
            return self._sample(side, daemon, began, recorder)

    def _sample(
        self, side: Side, daemon: Running, began: float, recorder: profiles.Recorder | None
    ) -> Sample:
        """What is left to do with a daemon that runs."""
        if self.case.start:
            seconds = time.monotonic() - began
            return Sample(
                round(seconds, 3), peak_bytes(daemon.pid), cpu_seconds=cpu_seconds(daemon.pid)
            )
        ours = self._asked()
        self._build(
            side, daemon, [replace(ours, context=declaration.CONTEXTS / "base", arguments=())]
        )
        if self.case.again:
            kept = [one for one in ours.arguments if not one.startswith("--output")]
            self._build(side, daemon, [replace(ours, arguments=kept)])
        if self.case.change:
            self.changes += 1
            (self.context / "data" / "00000").write_text(f"another {self.changes}\n")
        with recorder.recording() if recorder else _NOTHING:
            return self._measured(side, daemon)

    def _asked(self) -> Build:
        return Build(
            context=self.context, platform=self.platform,
            arguments=[
                one.format(context=self.context, output=self.output) for one in self.case.arguments
            ],
        )  # fmt: skip

    def _measured(self, side: Side, daemon: Running) -> Sample:
        os.sync()
        forget_peak(daemon.pid)
        cpu = cpu_seconds(daemon.pid)
        began = time.monotonic()
        with instructions.counting(daemon.pid) if self.counts else _NOTHING as counted:
            self._build(
                side, daemon, [replace(self._asked(), number=n) for n in range(self.case.parallel)]
            )
        seconds = time.monotonic() - began
        cpu = cpu_seconds(daemon.pid) - cpu
        self.output.unlink(missing_ok=True)
        return Sample(
            round(seconds, 3), peak_bytes(daemon.pid), cpu_seconds=round(cpu, 3),
            instructions=counted.instructions if counted else 0,
        )  # fmt: skip

    def _build(self, side: Side, daemon: Running, asked: Sequence[Build]) -> None:
        """Build all at the same time, each with a client of its own; all must succeed."""
        with contextlib.ExitStack() as stack:
            group = process.Group()
            stack.callback(group.close)
            said = [stack.enter_context(tempfile.TemporaryFile("w+")) for _ in asked]
            clients = [
                group.start(
                    daemon.command(one),
                    env=daemon.env, stdout=file.fileno(), stderr=file.fileno(),
                )
                for one, file in zip(asked, said, strict=True)
            ]  # fmt: skip
            for client, file in zip(clients, said, strict=True):
                if code := client.wait():
                    file.seek(0)
                    words = file.read().strip()
                    say(words[-2000:])
                    raise BuildError(
                        f"{self.case.name} with {side.label}: its client failed"
                        f" ({process.describe_exit(code)}): {(words.splitlines() or ['no word'])[-1]}",
                        "what it said is above",
                    )


def measure(
    case: Declared, compared: Sequence[Side], folder: Path, recorder: profiles.Recorder | None
) -> Case:
    """Run a case as often as it is declared, all sides in turns.

    Args:
        case: what is measured.
        compared: the sides.
        folder: for what they leave.
        recorder: keeps profiles of our daemon.
    """
    bench = Bench(case, Path(tempfile.mkdtemp(dir=folder)), recorder)
    return in_turns(
        Case(name=case.name, description=case.description),
        case.count,
        {side.label: functools.partial(bench.sample, side) for side in compared},
    )


def _record(case: Declared, measured: Case) -> dict[str, Any]:
    """A case in the results: of each sample only what the case is about."""
    return {
        "name": case.name,
        "description": case.description,
        "metrics": list(case.metrics),
        "samples": {
            way: [
                {metric: value for metric, value in asdict(one).items() if metric in case.metrics}
                for one in samples
            ]
            for way, samples in measured.samples.items()
        },
    }


@contextlib.contextmanager
def _workshop() -> Iterator[Path]:
    """A folder for all that the daemons keep, which goes as a whole when all is measured.

    Not before: ext4 avoids inodes that were freed within the last minute or more, and whoever
    makes files then has to search. After a case with many files that was the better part
    of the next one's processor time.
    """
    place = Path(os.environ.get("TMPDIR") or "/var/tmp")
    storage.require_space(
        place,
        NEEDED_BYTES,
        "the daemons may need",
        "free some, or set TMPDIR to a folder that has it",
    )
    folder = Path(tempfile.mkdtemp(prefix="benchmark-", dir=place))
    # Where we are not root, its files are other users' of our namespace. A daemon that has
    # just been killed may need a moment.
    script = (
        'for _ in $(seq 100); do rm -rf --one-file-system "$1" && exit; sleep 0.2; done; exit 1'
    )
    remove = [*process.namespaced(), "sh", "-c", script, "sh", str(folder)]
    with process.afterwards([remove]):
        try:
            yield folder
        finally:
            process.run(remove)


def _cases(options: Options) -> list[Declared]:
    """The cases that are asked for; to be counted, a daemon has to run already.

    Raises:
        UsageError: there is none.
    """
    cases = declaration.chosen(declaration.load(), options.only, options.count)
    if not options.instructions:
        return cases
    if options.against == sides.DOCKER:
        raise UsageError(
            "--instructions cannot count docker's engine, which has processes besides its own",
            "compare with something else",
        )
    builds = [case for case in cases if not case.program and not case.start]
    if not builds:
        raise UsageError(f"--instructions --only {options.only}: no build", "choose another case")
    return [replace(case, metrics=("instructions",)) for case in builds]


def run(options: Options) -> dict[str, Any]:
    """Measure, and return the run as results have it.

    Raises:
        UsageError: there is no such case, or nothing to compare with.
        CheckError: there are no binaries in dist/.
        BuildError: a daemon or a build failed.
    """
    cases = _cases(options)
    recorder = profiles.Recorder(Path(options.profile)) if options.profile else None
    apt.provide(daemon.tools(), yes=options.yes)
    if options.instructions:
        apt.provide([instructions.TOOL], yes=options.yes)
        instructions.require()
    load = os.getloadavg()[0]
    measured: list[dict[str, Any]] = []
    with _workshop() as folder:
        compared = sides.compared(options.against, folder)
        for case in cases:
            if reason := reason_not_to(case, compared):
                say(f"{case.name}: not measured: {reason}")
                measured.append({"name": case.name, "description": case.description, "skipped": reason})  # fmt: skip
                continue
            measured.append(_record(case, measure(case, compared, folder, recorder)))
        binaries = [side.as_json() for side in compared]
    if recorder:
        recorder.write()
    return {
        "date": timestamps.now(),
        "host": host.facts().as_json(),
        # What else the machine had to do when this began: ratios bear that, times do not.
        "load": round(load, 2),
        "binaries": binaries,
        "cases": measured,
    }


def main(options: Options) -> tuple[dict[str, Any], Path] | None:
    """Measure, keep the results, and make the report of all that are kept.

    Returns:
        The run, and where the report is; None when it was only to be said what would run.

    Raises:
        UsageError: as of :func:`run`, or the profile's folder is not there.
    """
    if options.profile and not Path(options.profile).absolute().parent.is_dir():
        raise UsageError(f"--profile {options.profile}: no such folder", "make it first")
    if options.dry:
        for case in _cases(options):
            say(f"would measure, {count(case.count, 'time')}: {case.name}: {case.description}")
        return None
    taken = run(options)
    say(f"kept in {storage.shown(records.keep(taken, options.results))}")
    output = Path(options.output) if options.output else dist.benchmark_folder()
    return taken, page.write(options.results, output)


def report(outcome: tuple[dict[str, Any], Path] | None, *, json: bool) -> None:
    """Tell what was seen."""
    if outcome is None:
        return
    taken, place = outcome
    if json:
        emit_json(
            {
                **taken,
                "ratios": [
                    {"case": case["name"], "metric": metric, **asdict(ratio), "verdict": ratio.verdict}
                    for case, metric, ratio in records.compare(taken)
                ],
            }
        )  # fmt: skip
    labels = [one["label"] for one in taken["binaries"]]
    # Alone, there is nothing to compare with.
    columns = 2 * (len(labels) - 1)
    table(
        ("case", "what", *labels, *("ratio", "ours takes")[:columns]),
        [(row.case, row.metric, *row.values, *row.told[:columns]) for row in records.rows(taken)],
        title="Benchmarks",
    )
    say(f"the report is {storage.shown(place)}")
