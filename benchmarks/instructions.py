"""Counting what a daemon executes, where time says nothing: by perf, with the processor's counter.

What is counted is the daemon and the programs that it starts, without the kernel. It does
not depend on what else the machine does, but goroutines and the garbage collector are
never scheduled twice alike, so it has a spread, too.
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

from buildkit_riscv64 import process
from buildkit_riscv64.errors import BuildError, MissingRequirementError

#: What has to be there.
TOOL = "perf"
#: What perf counts: those of programs.
EVENT = "instructions:u"
#: Seconds for perf to find all threads of a daemon, and to tell what it counted.
ANSWER_SECONDS = 60.0
#: How far three counts of one program may be apart: far more than a counter's are. What
#: an emulator gives in its place is time, which depends on what else happens.
_SPREAD = 1.1
#: What perf says besides.
_NO_REASON = ("Error:", "Events disabled", "Events enabled")


@dataclass
class Count:
    """A count, which is there when counting has ended."""

    instructions: int = 0


def _stat(*options: str) -> list[str]:
    return [TOOL, "stat", "--field-separator=,", f"--event={EVENT}", *options]


def _counted(said: str) -> int:
    """The count, in what perf has written; 0 when there is none, or it is an estimate.

    See "CSV FORMAT" in perf-stat(1): value, unit, event, time that the counter ran, and that
    in percent. A processor with two kinds of cores has a counter, and a line, for each.
    """
    lines = [line.split(",") for line in said.splitlines() if f",{EVENT}," in line]
    if len(lines) == 1 and lines[0][0].isdecimal() and float(lines[0][4]) == 100:
        return int(lines[0][0])
    return 0


def _reason(said: str) -> str:
    """Why perf counted nothing, in its words: what comes after is what could be done."""
    lines = [line.strip() for line in said.splitlines()]
    reason = next((line for line in lines if line and line not in _NO_REASON), "no word")
    # "<not supported>,,instructions:u,0,100.00,,"; of a number the rest says what is wrong.
    value, found, _ = reason.partition(f",,{EVENT}")
    return value if found and not value.isdecimal() else reason


def require() -> None:
    """Make sure that this machine can count.

    Raises:
        MissingRequirementError: it has no such counter, or one that counts something else.
    """
    hint = "count on a board, or in a machine that `invoke machine.start --icount` started"
    counts = []
    for _ in range(3):
        answer = process.probe(_stat("true"))
        if not answer.ok:
            raise MissingRequirementError(
                f"perf may not count instructions: {_reason(answer.stderr)}",
                "as root, or after `sysctl kernel.perf_event_paranoid=2` as root",
            )
        counts.append(_counted(answer.stderr))
    if not all(counts):
        raise MissingRequirementError(
            f"perf gives no exact count of instructions here: {_reason(answer.stderr)}", hint
        )
    if max(counts) > _SPREAD * min(counts):
        raise MissingRequirementError(
            "the counter of this machine does not count instructions:"
            f" `true` took {', '.join(map(str, counts))}", hint,
        )  # fmt: skip


@contextlib.contextmanager
def counting(pid: int) -> Iterator[Count]:
    """Count until the block ends.

    Args:
        pid: of the daemon.

    Raises:
        BuildError: perf ended, does not answer, or counted nothing.
    """
    count = Count()
    with (
        tempfile.TemporaryDirectory(prefix="perf-") as name,
        process.afterwards([["rm", "-rf", name]]),
        contextlib.ExitStack() as stack,
    ):
        fifos = [Path(name) / "control", Path(name) / "answer"]
        for fifo in fifos:
            os.mkfifo(fifo)
        # Opened for both, none of them waits for perf to open it, too.
        control, answer = (os.open(fifo, os.O_RDWR | os.O_CLOEXEC) for fifo in fifos)
        stack.callback(os.close, control)
        stack.callback(os.close, answer)
        output = stack.enter_context((Path(name) / "output").open("w+"))
        command = _stat(f"--pid={pid}", "--delay=-1", f"--control=fifo:{fifos[0]},{fifos[1]}")
        with process.guarded(command, stderr=output.fileno()) as perf:
            # Counting begins when perf says so, not when it was started.
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
        said = output.read()
        count.instructions = _counted(said)
        if not begun or not count.instructions:
            raise BuildError(f"perf counted nothing: {_reason(said)}", "run it again")
