"""CPU profiles of our daemon during builds, for `build-binaries --pgo`."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

from buildkit_riscv64.binaries import pgo, toolchain
from buildkit_riscv64.core import pins, process
from buildkit_riscv64.core.errors import BuildError

#: Longer than every case; a recording ends with its case.
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
    """Records a profile of each case, and merges the profiles into one file.

    Args:
        path: the file.
        directory: for a socket and unmerged profiles.
    """

    def __init__(self, path: Path, directory: Path) -> None:
        self._path = path
        self._directory = directory
        self._socket = directory / "debug.sock"
        self._recorded: list[Path] = []

    @property
    def flags(self) -> list[str]:
        """Flags of buildkitd for recording."""
        self._socket.unlink(missing_ok=True)
        return [f"--debugaddr=unix://{self._socket}"]

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Record the daemon during the block."""
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
            # The server takes this for a lost client, ends the recording, and answers.
            connection.sock.shutdown(socket.SHUT_WR)
            reader.join()
            connection.close()
        if pgo.validation_error(content) == "":
            path = self._directory / str(len(self._recorded))
            path.write_bytes(content)
            self._recorded.append(path)

    def write(self) -> None:
        """Merge the profiles into the file.

        Raises:
            BuildError: no profile was recorded.
        """
        if not self._recorded:
            raise BuildError("no profile recorded: no case kept the daemon busy", "run more cases")
        go = toolchain.ensure(pins.load())
        merged = self._directory / "merged"
        process.run(
            [go.command, "tool", "pprof", "-proto", "-output", merged, *self._recorded],
            env=toolchain.environment(go), title="go tool pprof -proto",
        )  # fmt: skip
        self._path.write_bytes(merged.read_bytes())
