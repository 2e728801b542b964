"""Counting instructions: with a perf of the tests' own, which says what the real one says."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from benchmarks import instructions
from buildkit_riscv64.errors import BuildError, MissingRequirementError


def counts(text: str) -> str:
    return f"{text},,instructions:u,5927300,100.00,1.00,insn per cycle"


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


def test_a_counter_that_counts(perf: Path) -> None:
    is_(perf, f"echo '{counts('152872')}' >&2")
    instructions.require()


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (f"echo '{counts('<not supported>')}' >&2", "no instructions here"),
        (f"echo '{counts('0')}' >&2", "no instructions here"),
        ("echo 'Access to performance monitoring is limited.' >&2; exit 255", "here: Access to"),
    ],
)
def test_no_counter(perf: Path, script: str, reason: str) -> None:
    is_(perf, script)
    with pytest.raises(MissingRequirementError, match=reason) as caught:
        instructions.require()
    assert "machine.start --icount" in caught.value.hint


def test_a_counter_of_something_else(perf: Path, tmp_path: Path) -> None:
    """An emulator that does not count gives the host's time."""
    said = counts("$(wc -c < seen)0000")
    is_(perf, f'cd {tmp_path}; printf x >> seen; echo "{said}" >&2')
    with pytest.raises(MissingRequirementError, match="`true` took 10000, 20000, 30000"):
        instructions.require()


def answering(tmp_path: Path, said: str) -> str:
    """Tells what it was asked, takes the first word of its control, and ends by SIGINT."""
    return f"""
echo "$@" > {tmp_path}/asked
fifos=$(echo "$@" | sed 's/.*--control=fifo://')
trap 'echo "{said}" >&2; exit 0' INT
read word < "${{fifos%,*}}"
echo "$word" > {tmp_path}/word
echo ack > "${{fifos#*,}}"
while :; do sleep 0.05; done"""


def test_what_a_block_takes(perf: Path, tmp_path: Path) -> None:
    is_(perf, answering(tmp_path, counts("577431341")))
    with instructions.counting(4711) as count:
        # Before the block, it has begun.
        assert (tmp_path / "word").read_text() == "enable\n"
        assert count.instructions == 0
    assert count.instructions == 577_431_341
    asked = (tmp_path / "asked").read_text()
    assert "--pid=4711 --delay=-1" in asked
    assert "--event=instructions:u" in asked


def test_perf_counts_nothing(perf: Path, tmp_path: Path) -> None:
    is_(perf, answering(tmp_path, "Error:\nno room"))
    with pytest.raises(BuildError, match="perf counted nothing: no room"), instructions.counting(1):
        pass


def test_perf_does_not_begin(perf: Path) -> None:
    is_(perf, "echo 'No such process' >&2; exit 255")
    with (
        pytest.raises(BuildError, match="perf counted nothing: No such process"),
        instructions.counting(1),
    ):
        pytest.fail("nothing is counted")


def test_what_fails_meanwhile_is_told(perf: Path, tmp_path: Path) -> None:
    is_(perf, answering(tmp_path, counts("1")))
    with pytest.raises(KeyError), instructions.counting(1):
        raise KeyError
