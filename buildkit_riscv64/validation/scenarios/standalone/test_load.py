"""Parallel builds and large contexts."""

from __future__ import annotations

import contextlib
import hashlib
import re
import secrets
import subprocess
from pathlib import Path
from typing import NoReturn

import pytest

from buildkit_riscv64.core import durations, host, process
from buildkit_riscv64.core.host import Execution
from buildkit_riscv64.validation.environment.waiting import BOUND, eventually

from ..barrier import barrier
from ..conftest import NewContext
from ..scenario import not_proven
from .results import Builder, text

FILES = 20_000
GIGABYTE = 1 << 30
#: Attempts: the daemon reuses a context only after the previous build has released it, a moment
#: after its client gets the result. A slow machine may be too late.
ATTEMPTS = 3
#: A machine that is this many times slower than usual, or busy, may exceed upstream's timeouts.
SLOW = 3.0


def _waits(build: subprocess.Popen[bytes], log: Path) -> bool:
    """Wait until a build reaches the shared step; False if it ends instead."""
    assert eventually(lambda: "[shared " in log.read_text() or build.poll() is not None)
    return build.poll() is None


def _give_up(builder: Builder, number: int, output: str) -> NoReturn:
    """End a scenario with a failed build: as not proven if the machine is too slow."""
    in_time = "no such job" not in output and "healthcheck failed fatally" not in builder.daemon.log
    if in_time or (host.execution() is Execution.NATIVE and durations.slowness() < SLOW):
        pytest.fail(output)
    not_proven(
        f"{number} parallel builds take this slow machine longer than 15 s, after which upstream"
        " gives up on a client or the daemon"
    )


@pytest.mark.may_be_not_proven
@pytest.mark.parametrize("number", [16, 64])
def test_concurrent_builds(builder: Builder, new_context: NewContext, number: int) -> None:
    """Parallel builds get their own results, and run shared steps once"""
    with barrier() as held, contextlib.ExitStack() as stack:
        context = new_context(
            f"FROM base AS shared\nRUN {held.command}; cat /proc/sys/kernel/random/uuid >/shared\n"
            "FROM shared AS own\nARG IT\nRUN echo $IT >/own && cat /proc/sys/kernel/random/uuid >/once\n"
            "FROM scratch\nCOPY --from=own /shared /own /once /\n"
        )
        places = [builder.place() for _ in range(number)]
        logs = [place.with_name(f"{place.name}.log") for place in places]
        running = []
        for it, (place, log) in enumerate(zip(places, logs, strict=True)):
            command = builder.command(
                context, f"--opt=build-arg:IT={it}", f"--output=type=local,dest={place}"
            )
            with log.open("wb") as file:
                started = process.child_process(
                    command, stdout=subprocess.DEVNULL, stderr=file.fileno()
                )
                running.append(stack.enter_context(started))
            # Start them one by one: a client gives up if the daemon does not answer within 15 s, which
            # many simultaneous builds exceed on a slow machine. Each waits at the shared step.
            if not _waits(running[-1], log):
                _give_up(builder, number, log.read_text())
        held.wait()
        held.open()
        for ended, log in zip(running, logs, strict=True):
            if ended.wait(BOUND) != 0:
                _give_up(builder, number, log.read_text())
    results = [text(place) for place in places]
    assert [it["own"] for it in results] == [str(it) for it in range(number)]
    assert len({it["shared"] for it in results}) == 1
    assert len({it["once"] for it in results}) == number


def _sent(output: str) -> float:
    """Bytes of the context that were sent, from the last progress line."""
    units = {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9}
    found = re.findall(r"transferring context: ([\d.]+)([kMG]?B)", output)
    assert found, output
    return max(float(number) * units[unit] for number, unit in found)


def test_many_files(builder: Builder, new_context: NewContext) -> None:
    """A context of 20 000 files is complete; the next build sends only changes"""
    context = new_context(
        "FROM base AS work\nRUN --mount=type=bind,target=/context cd /context/files"
        " && find . -type f | sort | xargs cat | sha256sum >/sum && find . -type f | wc -l >/number\n"
        "FROM scratch\nCOPY --from=work /sum /number /\n"
    )
    paths = [context / "files" / f"{it // 200:03}" / f"{it:05}" for it in range(FILES)]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(secrets.token_hex(64))

    def check() -> float:
        dest = builder.place()
        ended = builder.build(context, f"--output=type=local,dest={dest}").good()
        digest = hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()
        assert text(dest) == {"sum": f"{digest}  -", "number": str(FILES)}
        return _sent(ended.stderr)

    first = check()
    assert first > FILES * 128

    def check_changed() -> float:
        paths[FILES // 2].write_text(secrets.token_hex(64))
        return check()

    # The client still sends name, time and mode of each file.
    assert any(check_changed() < first / 2 for _ in range(ATTEMPTS))


def test_large_file(builder: Builder, new_context: NewContext, workspace: Path) -> None:
    """A context with a file of 1 GB is complete; the next build does not send it"""
    context = new_context(
        "FROM base AS work\nARG LOOK\n"
        "RUN --mount=type=bind,target=/context cd /context && $LOOK large >/said\n"
        "FROM scratch\nCOPY --from=work /said /\n"
    )
    directory = workspace / secrets.token_hex(4)
    directory.mkdir()
    (directory / "Dockerfile").write_bytes((context / "Dockerfile").read_bytes())
    large = directory / "large"
    digest = hashlib.sha256()
    with large.open("wb") as file:
        # Blocks that differ, but are cheap to generate.
        for _ in range(GIGABYTE >> 20):
            block = secrets.token_bytes(1 << 12) + bytes((1 << 20) - (1 << 12))
            digest.update(block)
            file.write(block)

    def sent(look: str, output: str) -> float:
        dest = builder.place()
        ended = builder.build(
            directory, f"--opt=build-arg:LOOK={look}", f"--output=type=local,dest={dest}"
        ).good()
        assert text(dest) == {"said": output}
        return _sent(ended.stderr)

    try:
        assert sent("sha256sum", f"{digest.hexdigest()}  large") > 0.99 * GIGABYTE
        assert any(sent("stat -c %s", str(GIGABYTE)) < 10_000 for _ in range(ATTEMPTS))
    finally:
        large.unlink()
