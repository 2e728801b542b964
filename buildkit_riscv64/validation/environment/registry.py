"""A real registry on the loopback, and a proxy in front of it that injects faults."""

from __future__ import annotations

import contextlib
import http
import json
import re
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from buildkit_riscv64.core import process

from . import docker_engine
from .loopback import LOOPBACK, free_port
from .waiting import eventually

#: The account of a registry with authentication, and its line from `htpasswd -Bbn`.
USERNAME, PASSWORD = "publisher", "correct-horse-battery"
_HTPASSWD = f"{USERNAME}:$2y$04$XER4vKkd1dt80B2HDA0xTuJWTGlsqH3pde5AMAI6X0muvNPOq1EK2\n"
_CHUNK = 1 << 16


class Registry:
    """Debian's docker-registry; a restart keeps its port and content.

    Args:
        directory: for its configuration, its log and its storage.
        auth: whether it requires a name and a password.
        inside: a command prefix, to run it in another network.
    """

    def __init__(self, directory: Path, *, auth: bool = False, inside: Sequence[str] = ()) -> None:
        self.port = free_port()
        self.host = f"{LOOPBACK}:{self.port}"
        #: Its content.
        self.storage = directory / "storage"
        self._log = directory / "log"
        self._command = [*inside, *docker_engine.registry(), "serve", str(directory / "config.yml")]
        self._process: subprocess.Popen[bytes] | None = None
        (directory / "htpasswd").write_text(_HTPASSWD)
        config = {
            "version": "0.1",
            "log": {"level": "error"},
            "storage": {"filesystem": {"rootdirectory": str(self.storage)}},
            "http": {"addr": self.host},
        }
        if auth:
            config["auth"] = {"htpasswd": {"realm": "tests", "path": str(directory / "htpasswd")}}
        # JSON is YAML.
        (directory / "config.yml").write_text(json.dumps(config))

    def start(self) -> None:
        """Start it, and wait until it listens."""
        # The group ends with the tests, even if they are killed.
        self._group = process.Group()
        with self._log.open("ab") as log:
            self._process = self._group.start(
                self._command, stdout=log.fileno(), stderr=log.fileno()
            )
        assert eventually(self._listens), self._log.read_text()

    def _listens(self) -> bool:
        """Whether it listens, in its own network namespace."""
        assert self._process is not None
        with contextlib.suppress(OSError):
            sockets = Path(f"/proc/{self._process.pid}/net/tcp").read_text()
            return f":{self.port:04X} 00000000:0000 0A" in sockets
        return False

    def kill(self) -> None:
        """Kill it, without a clean shutdown."""
        if self._process is not None:
            self._process.kill()
            self._group.close(self._process)
            self._process = None


@contextlib.contextmanager
def running(
    directory: Path, *, auth: bool = False, inside: Sequence[str] = ()
) -> Iterator[Registry]:
    """Run a registry; end it afterwards."""
    directory.mkdir()
    registry = Registry(directory, auth=auth, inside=inside)
    try:
        registry.start()
        yield registry
    finally:
        registry.kill()


@dataclass
class Fault:
    """A fault that the proxy injects instead of forwarding a request.

    Args:
        request: a regular expression for method and path.
        times: the number of requests.
        status: the status of the answer; 0 to close the connection.
        headers: the headers of the answer.
        after: bytes of the request that reach the registry first.
        answered: about how many bytes of the answer come back first.
        then: called at that moment.
    """

    request: str
    times: int = 1
    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    after: int = 0
    answered: int | None = None
    then: Callable[[], object] = lambda: None


class FaultyProxy:
    """A proxy with one connection for each request.

    Args:
        port: the port of the registry.
    """

    def __init__(self, port: int) -> None:
        self.faults: list[Fault] = []
        #: Method and path of each request.
        self.requests: list[str] = []
        self._port = port
        self._server = socket.create_server((LOOPBACK, 0))
        self.host = f"{LOOPBACK}:{self._server.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Refuse connections from now on."""
        # close() alone would not wake the thread that accepts connections.
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._server.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            head = client.recv(_CHUNK)
            while head[:1].isalpha() and b"\r\n\r\n" not in head and (more := client.recv(_CHUNK)):
                head += more
            line, _, rest = head.partition(b"\r\n")
            if not line[:1].isalpha():
                return  # TLS, which the proxy does not speak
            request = line.decode().rpartition(" ")[0]
            self.requests.append(request)
            fault = self._fault(request)
            if fault and fault.status:
                _answer(client, fault)
                return
            with socket.create_connection((LOOPBACK, self._port)) as server:
                server.sendall(line + b"\r\nConnection: close\r\n" + rest)
                enough = fault.answered if fault else None
                back = threading.Thread(target=_pump, args=(server, client, enough), daemon=True)
                back.start()
                left = fault.after if fault else None
                while chunk := client.recv(_CHUNK):
                    server.sendall(chunk)
                    if left is not None and (left := left - len(chunk)) <= 0:
                        break
                if fault:
                    fault.then()
                    server.shutdown(socket.SHUT_RDWR)
                back.join()

    def _fault(self, request: str) -> Fault | None:
        for fault in self.faults:
            if fault.times and re.match(fault.request, request):
                fault.times -= 1
                return fault
        return None


def _pump(server: socket.socket, client: socket.socket, enough: int | None) -> None:
    """Forward the answer, or about `enough` bytes of it, then close both connections."""
    with contextlib.suppress(OSError):
        while (enough is None or enough > 0) and (chunk := server.recv(_CHUNK)):
            client.sendall(chunk)
            enough = None if enough is None else enough - len(chunk)
    with contextlib.suppress(OSError):
        client.shutdown(socket.SHUT_RDWR)


def _answer(client: socket.socket, fault: Fault) -> None:
    phrase = http.HTTPStatus(fault.status).phrase
    fields = {"Content-Length": "0", "Connection": "close", **fault.headers}
    lines = [f"HTTP/1.1 {fault.status} {phrase}", *(f"{k}: {v}" for k, v in fields.items())]
    client.sendall("\r\n".join([*lines, "", ""]).encode())
    client.shutdown(socket.SHUT_WR)
    # Closing a connection with unread data would discard the answer.
    while client.recv(_CHUNK):
        pass


@contextlib.contextmanager
def proxy_to(registry: Registry) -> Iterator[FaultyProxy]:
    """Run a proxy in front of a registry; close it afterwards."""
    proxy = FaultyProxy(registry.port)
    try:
        yield proxy
    finally:
        proxy.close()
