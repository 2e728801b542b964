"""A barrier at which a build step waits until the test opens it."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

from buildkit_riscv64.validation.environment.loopback import LOOPBACK
from buildkit_riscv64.validation.environment.waiting import BOUND, alive, eventually


class Barrier:
    """A barrier for RUN steps; they need the host's network."""

    def __init__(self) -> None:
        self._server = socket.create_server((LOOPBACK, 0))
        self._server.settimeout(BOUND)
        self._held: list[socket.socket] = []
        port = self._server.getsockname()[1]
        self._words = ["nc", LOOPBACK, str(port)]
        #: Shell command of a step that waits here; after open() it returns at once.
        self.command = f"nc {LOOPBACK} {port} </dev/null || true"
        #: The same in the background, with no open files of the step.
        self.background_command = f"(nc {LOOPBACK} {port} </dev/null >/dev/null 2>&1 &)"

    def wait(self) -> list[int]:
        """Wait until a process waits here; return the waiting processes."""
        self._held.append(self._server.accept()[0])
        waiting = self.waiting()
        assert waiting, "the waiting process ended"
        return waiting

    def waiting(self) -> list[int]:
        """The waiting processes, as host process ids."""
        found = []
        for place in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                words = (place / "cmdline").read_text(errors="replace").split("\0")[:-1]
                if words == self._words and alive(int(place.name)):
                    found.append(int(place.name))
        return found

    def no_waiters(self) -> bool:
        """Wait until no process waits here; False if that never happens."""
        return eventually(lambda: not self.waiting())

    def open(self) -> None:
        """Release the waiting processes and every later one."""
        self._server.close()
        for one in self._held:
            one.close()


@contextlib.contextmanager
def barrier() -> Iterator[Barrier]:
    """Create a barrier; open it afterwards."""
    held = Barrier()
    try:
        yield held
    finally:
        held.open()
