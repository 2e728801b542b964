"""Dry runs: an active dry run refuses every change by this process, local or remote.

A task under `--dry` prints what it would do. An audit hook (PEP 578) refuses any other change: it
sees each file that Python or a library opens for writing, renames or deletes, each process and
each HTTP request.

Two things are allowed: temporary directories, and the processes that :mod:`.process` starts only
to read something.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import Failure

#: Audit events of changes to files, with the positions of a path and of the directory's
#: descriptor that the path is relative to
#: (https://docs.python.org/3/library/audit_events.html).
_FILE_EVENTS: dict[str, tuple[tuple[int, int | None], ...]] = {
    "os.chmod": ((0, 2),),
    "os.chown": ((0, 3),),
    "os.link": ((1, 3),),
    "os.mkdir": ((0, 2),),
    "os.remove": ((0, 1),),
    "os.removexattr": ((0, None),),
    "os.rename": ((0, 2), (1, 3)),
    "os.rmdir": ((0, 1),),
    "os.setxattr": ((0, None),),
    "os.symlink": ((1, 2),),
    "os.truncate": ((0, None),),
    "os.utime": ((0, 3),),
    "sqlite3.connect": ((0, None),),
}
_PROCESS_EVENTS = {
    "os.exec", "os.kill", "os.killpg", "os.posix_spawn", "os.spawn", "os.system",
    "pty.spawn", "subprocess.Popen",
}  # fmt: skip
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_SAFE_METHODS = {"GET", "HEAD", "OPTIONS", "CONNECT"}
#: The only directory of files in /dev; everything else there is a device.
_MEMORY = Path("/dev/shm")  # noqa: S108 - nothing is written there


@dataclass
class _State:
    """The dry run of this process, in all of its threads."""

    active: bool = False
    hooked: bool = False
    scratch: set[Path] = field(default_factory=set)


_state = _State()
_reading: ContextVar[bool] = ContextVar("reading", default=False)


class EndedError(Exception):
    """The dry run cannot continue: the next steps depend on a change that it did not make."""


def active() -> bool:
    """True under `--dry`: print what would be done, and change nothing."""
    return _state.active


@contextlib.contextmanager
def running(*, dry: bool) -> Iterator[None]:
    """Run a task; with `dry`, as a dry run."""
    if not dry:
        yield
        return
    # The first call of gettempdir writes a file.
    tempfile.gettempdir()
    if not _state.hooked:
        # An audit hook cannot be removed.
        sys.addaudithook(_audit)
        _state.hooked = True
    before = _state.active, sys.dont_write_bytecode
    _state.active = sys.dont_write_bytecode = True
    try:
        yield
    finally:
        _state.active, sys.dont_write_bytecode = before
        _state.scratch.clear()


@contextlib.contextmanager
def reading() -> Iterator[None]:
    """Allow processes that only read."""
    token = _reading.set(True)
    try:
        yield
    finally:
        _reading.reset(token)


def refuse(change: str) -> None:
    """Refuse a change under `--dry`; do nothing otherwise.

    Raises:
        Failure: a dry run is active.
    """
    if _state.active:
        raise Failure(
            f"--dry stopped a change: {change}",
            "nothing was changed; report this defect of the task",
        )


def _audit(event: str, args: tuple[Any, ...]) -> None:
    """Refuse the change that an audit event announces, if any."""
    if not _state.active:
        return
    if event in {"tempfile.mkdtemp", "tempfile.mkstemp"}:
        temporary = Path(args[0])
        if temporary.parent == Path(tempfile.gettempdir()):
            _state.scratch.add(temporary)
    elif event == "open":
        path, _, flags = args
        # A directory opened for writing (O_TMPFILE) gives a file without a name.
        if flags & _WRITES and not os.path.isdir(path):  # noqa: PTH112 - may be a descriptor
            _refuse_file("writing", path, None)
    elif event in _FILE_EVENTS:
        for path, directory in _FILE_EVENTS[event]:
            _refuse_file(event, args[path], None if directory is None else args[directory])
    elif event in _PROCESS_EVENTS:
        if not _reading.get() and not (event == "os.kill" and args[1] == 0):
            refuse(f"{event} {args[1] if event == 'subprocess.Popen' else args[0]}")
    elif event == "http.client.send":
        request = bytes(args[1]).partition(b"\r\n")[0] if isinstance(args[1], bytes) else b""
        method = request.partition(b" ")[0].decode(errors="replace")
        if b" HTTP/1." in request and method not in _SAFE_METHODS:
            refuse(f"HTTP request {method}")


def _refuse_file(event: str, path: Any, directory: int | None) -> None:
    if isinstance(path, int) or path == ":memory:":
        # A descriptor was checked when it was opened.
        return
    base = Path() if directory in {None, -1} else Path(f"/proc/self/fd/{directory}").readlink()
    file = Path(os.path.abspath(base / os.fsdecode(path)))  # noqa: PTH100 - follows no links
    if file.is_relative_to("/dev") and not file.is_relative_to(_MEMORY):
        return
    # The page of a GitHub Actions run is output.
    if event == "writing" and str(file) == os.environ.get("GITHUB_STEP_SUMMARY"):
        return
    if not any(file.is_relative_to(allowed) for allowed in _state.scratch):
        refuse(f"{event} {file}")
