"""Many builds at once, and much to send."""

from __future__ import annotations

import contextlib
import hashlib
import re
import secrets
import subprocess
from pathlib import Path
from typing import NoReturn

import pytest

from buildkit_riscv64 import host, process
from buildkit_riscv64.host import Execution

from ...processes import eventually
from ..conftest import NewContext
from ..daemon import BOUND
from ..gate import gate
from ..scenario import not_proven
from .results import Builder, text

FILES = 20_000
GIGABYTE = 1 << 30
#: The daemon starts from the context that it has only where the build before has let go of it,
#: which it does a moment after its client has the result: on a slow machine, too late.
ATTEMPTS = 3


def _waits(build: subprocess.Popen[bytes], log: Path) -> bool:
    """True when a build has come to the step that all share; False when it has ended instead."""
    assert eventually(lambda: "[shared " in log.read_text() or build.poll() is not None, BOUND)
    return build.poll() is None


def _give_up(builder: Builder, number: int, said: str) -> NoReturn:
    """End a scenario in which a build has failed: where the machine is to blame, as not proven."""
    in_time = "no such job" not in said and "healthcheck failed fatally" not in builder.daemon.log
    if in_time or host.execution() is Execution.NATIVE:
        pytest.fail(said)
    not_proven(
        f"{number} builds at once keep this emulated machine busy for longer than the 15 s"
        " after which upstream takes a client or the daemon for dead"
    )


@pytest.mark.parametrize("number", [16, 64])
def test_concurrent_builds(builder: Builder, new_context: NewContext, number: int) -> None:
    """Builds at the same time: each gets its own result, and what they share is made once"""
    with gate() as held, contextlib.ExitStack() as stack:
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
                started = process.guarded(command, stdout=subprocess.DEVNULL, stderr=file.fileno())
                running.append(stack.enter_context(started))
            # One by one: a client gives up where the daemon has not got to it within 15 s, as
            # with many at once on a slow machine. All of them wait for the step that they share.
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


def _sent(said: str) -> float:
    """Bytes of the context that were sent, as progress has it last."""
    units = {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9}
    found = re.findall(r"transferring context: ([\d.]+)([kMG]?B)", said)
    assert found, said
    return max(float(number) * units[unit] for number, unit in found)


def test_many_files(builder: Builder, new_context: NewContext) -> None:
    """A context with 20 000 files arrives whole; the second time only what has changed is sent"""
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

    # Each file is still named, with its time and its mode.
    assert any(check_changed() < first / 2 for _ in range(ATTEMPTS))


def test_a_large_file(builder: Builder, new_context: NewContext, workshop: Path) -> None:
    """A context with a file of 1 GB arrives whole; the second time it is not sent"""
    context = new_context(
        "FROM base AS work\nARG LOOK\n"
        "RUN --mount=type=bind,target=/context cd /context && $LOOK large >/said\n"
        "FROM scratch\nCOPY --from=work /said /\n"
    )
    folder = workshop / secrets.token_hex(4)
    folder.mkdir()
    (folder / "Dockerfile").write_bytes((context / "Dockerfile").read_bytes())
    large = folder / "large"
    digest = hashlib.sha256()
    with large.open("wb") as file:
        # Neither zeros nor the same again and again, and cheap to make.
        for _ in range(GIGABYTE >> 20):
            block = secrets.token_bytes(1 << 12) + bytes((1 << 20) - (1 << 12))
            digest.update(block)
            file.write(block)

    def sent(look: str, said: str) -> float:
        dest = builder.place()
        ended = builder.build(
            folder, f"--opt=build-arg:LOOK={look}", f"--output=type=local,dest={dest}"
        ).good()
        assert text(dest) == {"said": said}
        return _sent(ended.stderr)

    try:
        assert sent("sha256sum", f"{digest.hexdigest()}  large") > 0.99 * GIGABYTE
        assert any(sent("stat -c %s", str(GIGABYTE)) < 10_000 for _ in range(ATTEMPTS))
    finally:
        large.unlink()
