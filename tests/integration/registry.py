"""A real registry on the loopback, and a road to it on which accidents happen."""

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

from buildkit_riscv64 import process

from ..loopback import LOOPBACK, free_port
from ..processes import eventually
from . import dockerd

#: Who may use a registry that asks, and what `htpasswd -Bbn` makes of it.
USERNAME, PASSWORD = "publisher", "correct-horse-battery"
_HTPASSWD = f"{USERNAME}:$2y$04$XER4vKkd1dt80B2HDA0xTuJWTGlsqH3pde5AMAI6X0muvNPOq1EK2\n"
_CHUNK = 1 << 16


class Registry:
    """Debian's docker-registry; killed and started again, it has its port and content still.

    Args:
        folder: for all that it writes.
        auth: ask for a name and a password.
        inside: what is put before it, for another network than ours.
    """

    def __init__(self, folder: Path, *, auth: bool = False, inside: Sequence[str] = ()) -> None:
        self.port = free_port()
        self.host = f"{LOOPBACK}:{self.port}"
        #: All that it has.
        self.storage = folder / "storage"
        self._log = folder / "log"
        self._command = [*inside, *dockerd.registry(), "serve", str(folder / "config.yml")]
        self._process: subprocess.Popen[bytes] | None = None
        (folder / "htpasswd").write_text(_HTPASSWD)
        config = {
            "version": "0.1",
            "log": {"level": "error"},
            "storage": {"filesystem": {"rootdirectory": str(self.storage)}},
            "http": {"addr": self.host},
        }
        if auth:
            config["auth"] = {"htpasswd": {"realm": "tests", "path": str(folder / "htpasswd")}}
        # JSON is YAML.
        (folder / "config.yml").write_text(json.dumps(config))

    def start(self) -> None:
        """Start it, and wait until it listens."""
        # Not even killed tests leave one behind.
        self._group = process.Group()
        with self._log.open("ab") as log:
            self._process = self._group.start(
                self._command, stdout=log.fileno(), stderr=log.fileno()
            )
        assert eventually(self._listens), self._log.read_text()

    def _listens(self) -> bool:
        """As its own network says, which need not be ours."""
        assert self._process is not None
        with contextlib.suppress(OSError):
            sockets = Path(f"/proc/{self._process.pid}/net/tcp").read_text()
            return f":{self.port:04X} 00000000:0000 0A" in sockets
        return False

    def kill(self) -> None:
        """As `kill -9` does it: nothing can be finished."""
        if self._process is not None:
            self._process.kill()
            self._group.close(self._process)
            self._process = None


@contextlib.contextmanager
def running(folder: Path, *, auth: bool = False, inside: Sequence[str] = ()) -> Iterator[Registry]:
    """A registry that listens, and is gone afterwards."""
    folder.mkdir()
    registry = Registry(folder, auth=auth, inside=inside)
    try:
        registry.start()
        yield registry
    finally:
        registry.kill()


@dataclass
class Accident:
    """What happens to requests instead of reaching the registry.

    Args:
        request: regular expression of method and path.
        times: to how many of them.
        status: what they are answered; 0 to cut the connection.
        headers: of the answer.
        after: bytes of a request that do reach the registry before the cut.
        answered: bytes of the answer, instead, that come back before it; about so many.
        then: what happens at that moment.
    """

    request: str
    times: int = 1
    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    after: int = 0
    answered: int | None = None
    then: Callable[[], None] = lambda: None


class Road:
    """A proxy with one connection for each request.

    Args:
        port: where the registry listens, if it does.
    """

    def __init__(self, port: int) -> None:
        self.accidents: list[Accident] = []
        #: Method and path of each request.
        self.requests: list[str] = []
        self._port = port
        self._server = socket.create_server((LOOPBACK, 0))
        self.host = f"{LOOPBACK}:{self._server.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        # A mere close() would not wake who waits for connections.
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
                return  # it begins with TLS, which this is not
            request = line.decode().rpartition(" ")[0]
            self.requests.append(request)
            accident = self._accident(request)
            if accident and accident.status:
                _answer(client, accident)
                return
            with socket.create_connection((LOOPBACK, self._port)) as server:
                server.sendall(line + b"\r\nConnection: close\r\n" + rest)
                enough = accident.answered if accident else None
                back = threading.Thread(target=_pump, args=(server, client, enough), daemon=True)
                back.start()
                left = accident.after if accident else None
                while chunk := client.recv(_CHUNK):
                    server.sendall(chunk)
                    if left is not None and (left := left - len(chunk)) <= 0:
                        break
                if accident:
                    accident.then()
                    server.shutdown(socket.SHUT_RDWR)
                back.join()

    def _accident(self, request: str) -> Accident | None:
        for accident in self.accidents:
            if accident.times and re.match(accident.request, request):
                accident.times -= 1
                return accident
        return None


def _pump(server: socket.socket, client: socket.socket, enough: int | None) -> None:
    """Bring the answer, or about as many bytes of it; whatever ends it ends both."""
    with contextlib.suppress(OSError):
        while (enough is None or enough > 0) and (chunk := server.recv(_CHUNK)):
            client.sendall(chunk)
            enough = None if enough is None else enough - len(chunk)
    with contextlib.suppress(OSError):
        client.shutdown(socket.SHUT_RDWR)


def _answer(client: socket.socket, accident: Accident) -> None:
    phrase = http.HTTPStatus(accident.status).phrase
    fields = {"Content-Length": "0", "Connection": "close", **accident.headers}
    lines = [f"HTTP/1.1 {accident.status} {phrase}", *(f"{k}: {v}" for k, v in fields.items())]
    client.sendall("\r\n".join([*lines, "", ""]).encode())
    client.shutdown(socket.SHUT_WR)
    # Closing with something unread would take the answer back.
    while client.recv(_CHUNK):
        pass


@contextlib.contextmanager
def road_to(registry: Registry) -> Iterator[Road]:
    """A road to a registry, closed afterwards."""
    road = Road(registry.port)
    try:
        yield road
    finally:
        road.close()
