"""Counting instructions, with a fake perf that prints the output of the real one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from benchmarks import instructions
from buildkit_riscv64.core.errors import BuildError, MissingRequirementError
from buildkit_riscv64.validation.environment.waiting import alive, eventually

#: Output of perf 6.1.
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
    """The path of the fake perf."""
    script = tmp_path / "bin" / "perf"
    script.parent.mkdir()
    monkeypatch.setenv("PATH", f"{script.parent}:{os.environ['PATH']}")
    return script


def install(script: Path, text: str) -> None:
    script.write_text(f"#!/bin/sh\n{text}\n")
    script.chmod(0o755)


def prints(text: str) -> str:
    return f"cat >&2 <<'.'\n{text}\n.\n"


def test_valid_counter(perf: Path) -> None:
    install(perf, prints(counts("152872")))
    instructions.require()


@pytest.mark.parametrize(
    ("output", "code", "reason", "hint"),
    [
        (counts("<not supported>"), 0, "here: <not supported>'", "--icount"),
        (counts("0"), 0, "gives no exact count", "--icount"),
        # Estimates: of a shared counter, and of two kinds of cores.
        (counts("152872", percent="49.80"), 0, "gives no exact count", "--icount"),
        (f"{counts('1')}\n{counts('152872')}", 0, "gives no exact count", "--icount"),
        (FORBIDDEN, 255, "Access to", "as root"),
    ],
)
def test_no_counter(perf: Path, output: str, code: int, reason: str, hint: str) -> None:
    install(perf, f"{prints(output)}exit {code}")
    with pytest.raises(MissingRequirementError, match=reason) as caught:
        instructions.require()
    assert hint in caught.value.hint


def test_counter_of_time(perf: Path, tmp_path: Path) -> None:
    """Some emulators report the host's time instead of a count."""
    output = counts("$(wc -c < calls)0000")
    install(perf, f'cd {tmp_path}; printf x >> calls; echo "{output}" >&2')
    with pytest.raises(MissingRequirementError, match="10000, 20000, 30000"):
        instructions.require()


def answering(tmp_path: Path, output: str) -> str:
    """A perf that records its arguments and the first control command, and ends by SIGINT.

    Python, because a shell that was started with SIGINT ignored cannot handle it. It waits for a
    blocked signal, because `signal.pause` would lose an earlier one.
    """
    return f"""exec python3 - "$@" <<'.'
import pathlib, signal, sys
directory = pathlib.Path({str(tmp_path)!r})
(directory / "asked").write_text(" ".join(sys.argv[1:]))
control, answer = sys.argv[-1].removeprefix("--control=fifo:").split(",")
signal.pthread_sigmask(signal.SIG_BLOCK, {{signal.SIGINT}})
(directory / "word").write_text(open(control).readline())
open(answer, "w").write("ack\\n")
signal.sigwait({{signal.SIGINT}})
print({output!r}, file=sys.stderr)
.
"""


def test_counting(perf: Path, tmp_path: Path) -> None:
    install(perf, answering(tmp_path, counts("577431341")))
    with instructions.counting(4711) as count:
        # Counting starts before the block.
        assert (tmp_path / "word").read_text() == "enable\n"
        assert count.instructions == 0
    assert count.instructions == 577_431_341
    asked = (tmp_path / "asked").read_text()
    assert "--event=instructions:u --pid=4711 --delay=-1" in asked


def test_perf_counts_nothing(perf: Path, tmp_path: Path) -> None:
    install(perf, answering(tmp_path, counts("<not counted>")))
    with pytest.raises(BuildError, match=r"perf.*<not"), instructions.counting(1):
        pass


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (f"{prints(NO_PROCESS)}exit 234", "Problems finding threads"),
        (prints(counts("1")), "1,,instr"),
    ],
)
def test_perf_ends_before_it_counts(perf: Path, script: str, reason: str) -> None:
    install(perf, script)
    with (
        pytest.raises(BuildError, match=f"perf.*{reason}"),
        instructions.counting(1),
    ):
        pytest.fail("the block ran")


def test_perf_does_not_answer(perf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instructions, "ANSWER_SECONDS", 0.3)
    install(perf, "exec sleep 4321")
    with pytest.raises(BuildError, match=r"perf.*no output"), instructions.counting(1):
        pytest.fail("the block ran")


def test_error_in_the_block_ends_perf(perf: Path, tmp_path: Path) -> None:
    install(perf, f"echo $$ > {tmp_path}/pid\n{answering(tmp_path, counts('1'))}")
    with pytest.raises(KeyError), instructions.counting(1):
        raise KeyError
    assert eventually(lambda: not alive(int((tmp_path / "pid").read_text())))
