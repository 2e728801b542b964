"""Alternating runs of candidates, and their results."""

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
from statistics import median

from buildkit_riscv64.core import host, process
from buildkit_riscv64.core.console import log, size

RESULTS = Path(__file__).parent / "results"

#: Seconds between looks at a process: short enough for runs of a quarter second; ten
#: milliseconds would take five percent of a core from a build.
SAMPLING_SECONDS = 0.02


@dataclass(frozen=True)
class Sample:
    """One run.

    Args:
        seconds: the wall time.
        peak_bytes: the maximum memory of the started process.
        size_bytes: the size of the output, if that is measured instead.
        cpu_seconds: the processor time of the process and its child processes.
        instructions: the executed instructions, if they are counted instead.
    """

    seconds: float
    peak_bytes: int
    size_bytes: int = 0
    cpu_seconds: float = 0.0
    instructions: int = 0


@dataclass(frozen=True, kw_only=True)
class Case:
    """A comparison of `ours` with other candidates, which take turns.

    Args:
        name: the short name.
        description: what is compared.
        limit: the maximum ratio of `ours` to the other in time or size.
        limit_more: the maximum of seconds that `ours` may take more than the other.
        limit_seconds: the maximum of seconds that `ours` may take.
        limit_bytes: the maximum memory of our process.
        samples: the samples of each candidate, in order.
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
    with tempfile.TemporaryFile("w+") as output:
        started = time.monotonic()
        with subprocess.Popen(
            args, cwd=cwd, env=env, stdout=subprocess.DEVNULL, stderr=output
        ) as child:
            while child.poll() is None:
                peak = max(peak, peak_bytes(child.pid))
                time.sleep(SAMPLING_SECONDS)
            seconds = time.monotonic() - started
        if child.returncode:
            output.seek(0)
            raise SystemExit(f"{process.show(args)} failed:\n{output.read()}")
    return Sample(round(seconds, 3), peak)


def peak_bytes(pid: int) -> int:
    """The maximum memory of a process until now (VmHWM)."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def reset_peak(pid: int) -> None:
    """Reset the maximum memory of a process to its present memory."""
    # proc_pid_clear_refs(5)
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def cpu_seconds(pid: int) -> float:
    """The processor time of a process and its ended child processes."""
    # utime, stime, cutime and cstime of proc_pid_stat(5); the name before them may have spaces.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def alternate(case: Case, count: int, candidates: Mapping[str, Callable[[], Sample]]) -> Case:
    """Run each candidate `count` times, in alternating order, so that noise affects all equally."""
    for number in range(count):
        for label, do in list(candidates.items())[:: -1 if number % 2 else 1]:
            sample = do()
            case.samples.setdefault(label, []).append(sample)
            log(f"{case.name} {number + 1}/{count} {label}: {sample.seconds:.2f} s")
    return case


def metric(samples: Sequence[Mapping[str, float]]) -> str:
    """The measured property of saved samples: `size_bytes` or `seconds`."""
    return "size_bytes" if samples[0].get("size_bytes") else "seconds"


def typical(samples: Sequence[Mapping[str, float]]) -> float:
    """The median of saved samples, in bytes or seconds."""
    return float(median(sample[metric(samples)] for sample in samples))


def display(samples: Sequence[Mapping[str, float]]) -> str:
    """Format saved samples: the median, and the range of several durations."""
    if metric(samples) == "size_bytes":
        return size(round(typical(samples)))
    seconds = [sample["seconds"] for sample in samples]
    times = f"{median(seconds):.2f} s"
    return f"{times} ({min(seconds):.2f} to {max(seconds):.2f})" if len(seconds) > 1 else times


def save(name: str, cases: Sequence[Case], execution: str = "") -> Path:
    """Save the samples with the machine's properties.

    Other cases stay if they were measured on this machine.

    Args:
        name: the name of the benchmark.
        cases: the measured cases.
        execution: the execution, if this machine emulated another.
    """
    facts = host.facts()
    execution = execution or facts.execution
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.linux-{facts.arch}.{execution}.json"
    by_name = {case.name: asdict(case) for case in cases}
    before = json.loads(path.read_text()) if path.exists() else {}
    if before.get("host") == facts.as_json():
        by_name = {case["name"]: case for case in before["cases"]} | by_name
    data = {
        "name": name,
        "execution": execution,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "host": facts.as_json(),
        "cases": list(by_name.values()),
    }
    path.write_text(json.dumps(data, indent=2) + "\n")
    return path
