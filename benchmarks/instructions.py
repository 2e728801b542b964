"""Count the instructions of a daemon with perf, for machines whose times mean nothing.

The count includes the daemon and the programs that it starts, without the kernel. It does
not depend on other load, but goroutines and the garbage collector are scheduled
differently each time, so it varies too.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from buildkit_riscv64.core import process
from buildkit_riscv64.core.errors import BuildError, MissingRequirementError

#: The required tool.
TOOL = "perf"
#: The event that perf counts: instructions in user mode.
EVENT = "instructions:u"
#: Seconds for perf to find all threads of a daemon, and to report the count.
ANSWER_SECONDS = 60.0
#: The maximum ratio of three counts of one program. Counters differ far less; some emulators
#: count time instead, which depends on other load.
_SPREAD = 1.1
#: Lines of perf that give no reason.
_NO_REASON = ("Error:", "Events disabled", "Events enabled")


@dataclass
class Count:
    """The count; it is set when counting ends."""

    instructions: int = 0


def _stat(*options: str) -> list[str]:
    return [TOOL, "stat", "--field-separator=,", f"--event={EVENT}", *options]


def _counted(text: str) -> int:
    """The count in perf's output; 0 if it is missing or an estimate.

    See "CSV FORMAT" in perf-stat(1): value, unit, event, time that the counter ran, and its
    percentage. A processor with two kinds of cores has a counter, and a line, for each.
    """
    lines = [line.split(",") for line in text.splitlines() if f",{EVENT}," in line]
    if len(lines) == 1 and lines[0][0].isdecimal() and float(lines[0][4]) == 100:
        return int(lines[0][0])
    return 0


def _reason(text: str) -> str:
    """The reason in perf's output, without its suggestions."""
    lines = [line.strip() for line in text.splitlines()]
    reason = next((line for line in lines if line and line not in _NO_REASON), "no output")
    # "<not supported>,,instructions:u,0,100.00,,"; after a number, the rest has the reason.
    value, found, _ = reason.partition(f",,{EVENT}")
    return value if found and not value.isdecimal() else reason


def require() -> None:
    """Check that this machine can count instructions.

    Raises:
        MissingRequirementError: the machine has no such counter, or a wrong one.
    """
    hint = "use a board, or a machine started with `invoke machine.start --icount`"
    counts = []
    for _ in range(3):
        answer = process.probe(_stat("true"))
        if not answer.ok:
            raise MissingRequirementError(
                f"perf is not allowed to count instructions: {_reason(answer.stderr)}",
                "run it as root, or run `sysctl kernel.perf_event_paranoid=2` as root first",
            )
        counts.append(_counted(answer.stderr))
    if not all(counts):
        raise MissingRequirementError(
            f"perf gives no exact count of instructions here: {_reason(answer.stderr)}", hint
        )
    if max(counts) > _SPREAD * min(counts):
        raise MissingRequirementError(
            "this machine's counter does not count instructions:"
            f" `true` took {', '.join(map(str, counts))}", hint,
        )  # fmt: skip


@contextlib.contextmanager
def counting(pid: int) -> Iterator[Count]:
    """Count the instructions of a daemon in the block.

    Args:
        pid: the process id of the daemon.

    Raises:
        BuildError: perf ended, did not answer, or counted nothing.
    """
    count = Count()
    with (
        tempfile.TemporaryDirectory(prefix="perf-") as name,
        process.run_if_killed([["rm", "-rf", name]]),
        contextlib.ExitStack() as stack,
    ):
        fifos = [Path(name) / "control", Path(name) / "answer"]
        for fifo in fifos:
            os.mkfifo(fifo)
        # Opened for reading and writing, so that open() does not wait for perf.
        control, answer = (os.open(fifo, os.O_RDWR | os.O_CLOEXEC) for fifo in fifos)
        stack.callback(os.close, control)
        stack.callback(os.close, answer)
        output = stack.enter_context((Path(name) / "output").open("w+"))
        command = _stat(f"--pid={pid}", "--delay=-1", f"--control=fifo:{fifos[0]},{fifos[1]}")
        with process.child_process(command, stderr=output.fileno()) as perf:
            # perf needs time before it counts, and then acknowledges.
            os.write(control, b"enable\n")
            deadline = time.monotonic() + ANSWER_SECONDS
            while not (begun := select.select([answer], [], [], 0.1)[0]):
                if perf.poll() is not None or time.monotonic() > deadline:
                    break
            if begun:
                yield count
                perf.send_signal(signal.SIGINT)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    perf.wait(ANSWER_SECONDS)
        output.seek(0)
        text = output.read()
        count.instructions = _counted(text)
        if not begun or not count.instructions:
            raise BuildError(f"perf counted nothing: {_reason(text)}", "run it again")
