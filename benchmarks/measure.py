"""Running things side by side, and keeping what was seen."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from buildkit_riscv64 import host, process
from buildkit_riscv64.console import say

RESULTS = Path(__file__).parent / "results"

#: How often a process is looked at. Often enough for one that takes a quarter of
#: a second; a hundred times a second would take a core's twentieth from a build.
SAMPLING_SECONDS = 0.02


@dataclass(frozen=True)
class Sample:
    """One run.

    Args:
        seconds: wall time.
        peak_bytes: the most memory that the started process itself held.
        size_bytes: how large what was made is, where that is measured instead.
        cpu_seconds: what the process and all that it has started took of the processors.
        instructions: what it executed, where that is counted instead.
    """

    seconds: float
    peak_bytes: int
    size_bytes: int = 0
    cpu_seconds: float = 0.0
    instructions: int = 0


@dataclass(frozen=True, kw_only=True)
class Case:
    """Our way, `ours`, and mostly another way of doing the same, run in turns.

    Args:
        name: short.
        description: what is compared.
        limit: the most that `ours` may take of the time, or size, of the other way.
        limit_more: the most seconds that `ours` may take more than the other way.
        limit_seconds: the most seconds that `ours` may take.
        limit_bytes: the most memory that our own process may take.
        samples: by way, in the order in which they ran.
    """

    name: str
    description: str
    limit: float | None = None
    limit_more: float | None = None
    limit_seconds: float | None = None
    limit_bytes: int | None = None
    samples: dict[str, list[Sample]] = field(default_factory=dict)


def run(args: Sequence[str | os.PathLike[str]], cwd: Path, env: Mapping[str, str]) -> Sample:
    """Time one command, which must succeed."""
    peak = 0
    with tempfile.TemporaryFile("w+") as said:
        started = time.monotonic()
        with subprocess.Popen(
            args, cwd=cwd, env=env, stdout=subprocess.DEVNULL, stderr=said
        ) as child:
            while child.poll() is None:
                peak = max(peak, peak_bytes(child.pid))
                time.sleep(SAMPLING_SECONDS)
            seconds = time.monotonic() - started
        if child.returncode:
            said.seek(0)
            raise SystemExit(f"{process.show(args)} failed:\n{said.read()}")
    return Sample(round(seconds, 3), peak)


def peak_bytes(pid: int) -> int:
    """The most memory that a process has held (VmHWM)."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def forget_peak(pid: int) -> None:
    """Have the most memory that a process has held be what it holds now."""
    # proc_pid_clear_refs(5)
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def cpu_seconds(pid: int) -> float:
    """What a process took of the processors, and what all that it started and that has ended took."""
    # utime, stime, cutime and cstime of proc_pid_stat(5); the name before them may have spaces.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def in_turns(case: Case, count: int, ways: Mapping[str, Callable[[], Sample]]) -> Case:
    """Run each way `count` times, there and back again, so that noise and order meet all."""
    for number in range(count):
        for way, do in list(ways.items())[:: -1 if number % 2 else 1]:
            sample = do()
            case.samples.setdefault(way, []).append(sample)
            say(f"{case.name} {number + 1}/{count} {way}: {sample.seconds:.2f} s")
    return case


def keep(name: str, cases: Sequence[Case], execution: str = "") -> Path:
    """Write the samples, with the machine that they were taken on.

    Cases that this run did not measure stay, if they were measured on this machine.

    Args:
        name: of the benchmark.
        cases: what was measured.
        execution: how what was measured executed, where this machine only emulated it.
    """
    facts = host.facts()
    execution = execution or facts.execution
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.linux-{facts.arch}.{execution}.json"
    kept = {case.name: asdict(case) for case in cases}
    before = json.loads(path.read_text()) if path.exists() else {}
    if before.get("host") == facts.as_json():
        kept = {case["name"]: case for case in before["cases"]} | kept
    data = {
        "name": name,
        "execution": execution,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "host": facts.as_json(),
        "cases": list(kept.values()),
    }
    path.write_text(json.dumps(data, indent=2) + "\n")
    return path
