"""Counting instructions: with a perf of the tests' own, which says what the real one says."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from benchmarks import instructions
from buildkit_riscv64.errors import BuildError, MissingRequirementError

from ...processes import alive, eventually

#: As perf 6.1 says it.
FORBIDDEN = """Error:
Access to performance monitoring and observability operations is limited.
Consider adjusting /proc/sys/kernel/perf_event_paranoid setting to open
access to performance monitoring and observability operations for processes
in /etc/sysctl.conf (e.g. kernel.perf_event_paranoid = <setting>)"""
NO_PROCESS = """Problems finding threads of monitor

 Usage: perf stat [<options>] [<command>]

    -p, --pid <pid>       stat events on existing process id"""


def counts(text: str, event: str = "instructions:u", percent: str = "100.00") -> str:
    return f"{text},,{event},5927300,{percent},1.00,insn per cycle"


@pytest.fixture
def perf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The script that is perf."""
    script = tmp_path / "bin" / "perf"
    script.parent.mkdir()
    monkeypatch.setenv("PATH", f"{script.parent}:{os.environ['PATH']}")
    return script


def is_(script: Path, text: str) -> None:
    script.write_text(f"#!/bin/sh\n{text}\n")
    script.chmod(0o755)


def says(text: str) -> str:
    return f"cat >&2 <<'.'\n{text}\n.\n"


def test_a_counter_that_counts(perf: Path) -> None:
    is_(perf, says(counts("152872")))
    instructions.require()


@pytest.mark.parametrize(
    ("said", "code", "reason", "hint"),
    [
        (counts("<not supported>"), 0, "here: <not supported>'", "--icount"),
        (counts("0"), 0, "gives no exact count", "--icount"),
        # Of a counter that others had meanwhile, and of two kinds of cores: estimates.
        (counts("152872", percent="49.80"), 0, "gives no exact count", "--icount"),
        (f"{counts('1')}\n{counts('152872')}", 0, "gives no exact count", "--icount"),
        (FORBIDDEN, 255, "perf may not count instructions: Access to", "as root"),
    ],
)
def test_no_counter(perf: Path, said: str, code: int, reason: str, hint: str) -> None:
    is_(perf, f"{says(said)}exit {code}")
    with pytest.raises(MissingRequirementError, match=reason) as caught:
        instructions.require()
    assert hint in caught.value.hint


def test_a_counter_of_something_else(perf: Path, tmp_path: Path) -> None:
    """An emulator that does not count gives the host's time."""
    said = counts("$(wc -c < seen)0000")
    is_(perf, f'cd {tmp_path}; printf x >> seen; echo "{said}" >&2')
    with pytest.raises(MissingRequirementError, match="`true` took 10000, 20000, 30000"):
        instructions.require()


def answering(tmp_path: Path, said: str) -> str:
    """Tells what it was asked, takes the first word of its control, and ends by SIGINT.

    A shell that was started with SIGINT ignored cannot hear it, and Python can.
    """
    return f"""exec python3 - "$@" <<'.'
import pathlib, signal, sys
folder = pathlib.Path({str(tmp_path)!r})
(folder / "asked").write_text(" ".join(sys.argv[1:]))
control, answer = sys.argv[-1].removeprefix("--control=fifo:").split(",")
def end(*_):
    print({said!r}, file=sys.stderr)
    sys.exit()
signal.signal(signal.SIGINT, end)
(folder / "word").write_text(open(control).readline())
open(answer, "w").write("ack\\n")
signal.pause()
.
"""


def test_what_a_block_takes(perf: Path, tmp_path: Path) -> None:
    is_(perf, answering(tmp_path, counts("577431341")))
    with instructions.counting(4711) as count:
        # Before the block, it has begun.
        assert (tmp_path / "word").read_text() == "enable\n"
        assert count.instructions == 0
    assert count.instructions == 577_431_341
    asked = (tmp_path / "asked").read_text()
    assert "--event=instructions:u --pid=4711 --delay=-1" in asked


def test_perf_counts_nothing(perf: Path, tmp_path: Path) -> None:
    is_(perf, answering(tmp_path, counts("<not counted>")))
    with pytest.raises(BuildError, match="counted nothing: <not"), instructions.counting(1):
        pass


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (f"{says(NO_PROCESS)}exit 234", "Problems finding threads"),
        (says(counts("1")), "1,,instr"),
    ],
)
def test_perf_ends_before_it_begins(perf: Path, script: str, reason: str) -> None:
    is_(perf, script)
    with (
        pytest.raises(BuildError, match=f"perf counted nothing: {reason}"),
        instructions.counting(1),
    ):
        pytest.fail("nothing is counted")


def test_perf_never_begins(perf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instructions, "ANSWER_SECONDS", 0.3)
    is_(perf, "exec sleep 4321")
    with pytest.raises(BuildError, match="counted nothing: no word"), instructions.counting(1):
        pytest.fail("nothing is counted")


def test_what_fails_meanwhile_is_told_and_perf_ends(perf: Path, tmp_path: Path) -> None:
    is_(perf, f"echo $$ > {tmp_path}/pid\n{answering(tmp_path, counts('1'))}")
    with pytest.raises(KeyError), instructions.counting(1):
        raise KeyError
    assert eventually(lambda: not alive(int((tmp_path / "pid").read_text())))
