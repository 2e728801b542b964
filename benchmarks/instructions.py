"""Counting what a daemon executes, where time says nothing: by perf, with the processor's counter.

What counts is the daemon and the programs that it starts, without the kernel. It does not
depend on what else the machine does, but goroutines and the garbage collector are never
scheduled twice alike, so it has a spread, too.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from buildkit_riscv64 import process
from buildkit_riscv64.errors import BuildError, MissingRequirementError

#: What has to be there.
TOOL = "perf"
_STAT = (TOOL, "stat", "--field-separator=,", "--event=instructions:u")
#: How far counts of the same program may be apart: an emulator that hands out time in
#: their place is ten times as far off, and a processor a hundredth of it.
_SPREAD = 1.1


@dataclass
class Count:
    """A count, which is there when counting has ended."""

    instructions: int = 0


def _counted(said: str) -> int:
    """The count, in what perf has written; 0 when there is none.

    See "CSV FORMAT" in perf-stat(1).
    """
    for line in said.splitlines():
        value, _, rest = line.partition(",")
        if "instructions" in rest and value.isdecimal():
            return int(value)
    return 0


def require() -> None:
    """Make sure that this machine can count.

    Raises:
        MissingRequirementError: it has no such counter, or one that counts something else.
    """
    hint = "count on a board, or in a machine that `invoke machine.start --icount` started"
    counts = []
    for _ in range(3):
        answer = process.probe([*_STAT, "true"])
        counts.append(_counted(answer.stderr))
        if not counts[-1]:
            reason = "" if answer.ok else f": {answer.last_line}"
            raise MissingRequirementError(f"perf can count no instructions here{reason}", hint)
    if max(counts) > _SPREAD * min(counts):
        raise MissingRequirementError(
            f"the counter of instructions is none: `true` took {', '.join(map(str, counts))}", hint
        )


@contextlib.contextmanager
def counting(pid: int) -> Iterator[Count]:
    """Count until the block ends.

    Args:
        pid: of the daemon.

    Raises:
        BuildError: perf ended, or counted nothing.
    """
    count = Count()
    with tempfile.TemporaryDirectory(prefix="perf-") as name, contextlib.ExitStack() as stack:
        fifos = [Path(name) / "control", Path(name) / "answer"]
        for fifo in fifos:
            os.mkfifo(fifo)
        # Opened for both, none of them waits for perf to open it, too.
        control, answer = (os.open(fifo, os.O_RDWR | os.O_CLOEXEC) for fifo in fifos)
        stack.callback(os.close, control)
        stack.callback(os.close, answer)
        output = stack.enter_context((Path(name) / "output").open("w+"))
        command = [*_STAT, f"--pid={pid}", "--delay=-1", f"--control=fifo:{fifos[0]},{fifos[1]}"]
        with process.guarded(command, stderr=output.fileno()) as perf:
            # Counting begins when perf says so, not when it was started.
            os.write(control, b"enable\n")
            while not (begun := select.select([answer], [], [], 0.1)[0]) and perf.poll() is None:
                pass
            if begun:
                yield count
                perf.send_signal(signal.SIGINT)
            perf.wait()
        output.seek(0)
        said = output.read()
        count.instructions = _counted(said)
        if not count.instructions:
            reason = (said.strip().splitlines() or ["no word"])[-1]
            raise BuildError(f"perf counted nothing: {reason}", "run it again")
