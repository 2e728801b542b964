"""Servers of tests on the loopback."""

from __future__ import annotations

import contextlib
import functools
import http.server
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

from buildkit_riscv64.buildkitd import certificates

LOOPBACK = "127.0.0.1"


def free_port() -> int:
    """A free port."""
    with socket.create_server((LOOPBACK, 0)) as server:
        return int(server.getsockname()[1])


def make_certificates(directory: Path) -> Path:
    """Create certificates for a daemon on the loopback and its clients; return the directory."""
    options = certificates.CertificateOptions.parse(
        names="", days=2, output=str(directory), new_ca=False
    )
    assert certificates.make(options)
    return directory


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def serving(directory: Path) -> Iterator[str]:
    """Serve a directory by HTTP; yields the address."""
    handler = functools.partial(_Quiet, directory=str(directory))
    with http.server.ThreadingHTTPServer((LOOPBACK, 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://{LOOPBACK}:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
