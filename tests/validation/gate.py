"""A moment in a build that a test holds for as long as it likes."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

from ..loopback import LOOPBACK
from ..processes import alive, eventually
from .daemon import BOUND

#: Seconds until a build is there; one that has failed never comes.
ARRIVAL = min(BOUND, 300.0)


class Gate:
    """Where RUN waits until it is let through; its network has to be the host's."""

    def __init__(self) -> None:
        self._server = socket.create_server((LOOPBACK, 0))
        self._server.settimeout(ARRIVAL)
        self._held: list[socket.socket] = []
        port = self._server.getsockname()[1]
        self._words = ["nc", LOOPBACK, str(port)]
        #: What RUN has to say to wait here; once the gate is open it goes through.
        self.command = f"nc {LOOPBACK} {port} </dev/null || true"
        #: What it says to leave somebody behind here, who holds none of its files open.
        self.leaving = f"(nc {LOOPBACK} {port} </dev/null >/dev/null 2>&1 &)"

    def wait(self) -> list[int]:
        """Until somebody waits here: the processes that do."""
        self._held.append(self._server.accept()[0])
        waiting = self.waiting()
        assert waiting, "who came is not there any more"
        return waiting

    def waiting(self) -> list[int]:
        """The processes that wait here now, as the host numbers them."""
        found = []
        for place in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                words = (place / "cmdline").read_text(errors="replace").split("\0")[:-1]
                if words == self._words and alive(int(place.name)):
                    found.append(int(place.name))
        return found

    def deserted(self) -> bool:
        """True as soon as nobody waits here any more."""
        return eventually(lambda: not self.waiting())

    def open(self) -> None:
        """Let everybody through, those who come later, too."""
        self._server.close()
        for one in self._held:
            one.close()


@contextlib.contextmanager
def gate() -> Iterator[Gate]:
    """A gate, open at last."""
    made = Gate()
    try:
        yield made
    finally:
        made.open()
