"""CPU profiles of our daemon, recorded while it builds: what `build-binaries --pgo` takes."""

from __future__ import annotations

import contextlib
import http.client
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from buildkit_riscv64 import pins, process
from buildkit_riscv64.binaries import pgo, toolchain
from buildkit_riscv64.errors import BuildError

#: Longer than any case; a recording ends when the case does.
_SECONDS = 24 * 60 * 60


class _Connection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(self._path))


class Recorder:
    """Records a profile for each case, and merges them into one file.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        # A socket's path is short.
        self._folder = tempfile.TemporaryDirectory(prefix="bk-")
        self._socket = Path(self._folder.name) / "debug.sock"
        self._recorded: list[Path] = []

    @property
    def flags(self) -> list[str]:
        """What buildkitd must be told."""
        self._socket.unlink(missing_ok=True)
        return [f"--debugaddr=unix://{self._socket}"]

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Record what the daemon does in the block."""
        connection = _Connection(self._socket)
        connection.request("GET", f"/debug/pprof/profile?seconds={_SECONDS}")
        content = b""

        def read() -> None:
            nonlocal content
            content = connection.getresponse().read()

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        try:
            yield
        finally:
            # To the server this is a client that went away: it ends the recording, and answers.
            connection.sock.shutdown(socket.SHUT_WR)
            reader.join()
            connection.close()
        if pgo.objection(content) == "":
            path = Path(self._folder.name) / str(len(self._recorded))
            path.write_bytes(content)
            self._recorded.append(path)

    def write(self) -> None:
        """Merge what was recorded into the file.

        Raises:
            BuildError: nothing was recorded.
        """
        if not self._recorded:
            raise BuildError("nothing was recorded: no case kept the daemon busy", "run more cases")
        go = toolchain.ensure(pins.load())
        merged = Path(self._folder.name) / "merged"
        process.run(
            [go.command, "tool", "pprof", "-proto", "-output", merged, *self._recorded],
            env=toolchain.environment(go), title="go tool pprof -proto",
        )  # fmt: skip
        self._path.write_bytes(merged.read_bytes())
        self._folder.cleanup()
