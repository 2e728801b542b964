"""Malformed requests to a daemon.

Encodes protocol buffers, gRPC and HTTP/2 by hand, because libraries refuse to write
malformed messages.
"""

from __future__ import annotations

import contextlib
import hashlib
import socket
import struct
from collections.abc import Mapping

from buildkit_riscv64.validation.environment.waiting import BOUND

SOLVE = "/moby.buildkit.v1.Control/Solve"

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RESET, _SETTINGS = 0, 1, 3, 4
_END_STREAM, _END_HEADERS = 1, 4
#: The maximum size of a frame, by default.
_FRAME = 16384


def number(value: int) -> bytes:
    """A base-128 varint; negative numbers have 64 bits."""
    value &= (1 << 64) - 1
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])


def field(tag: int, value: int | str | bytes) -> bytes:
    """A field of a message."""
    if isinstance(value, int):
        return number(tag << 3) + number(value)
    content = value.encode(errors="surrogatepass") if isinstance(value, str) else value
    return number(tag << 3 | 2) + number(len(content)) + content


def entry(tag: int, key: str, value: str | bytes) -> bytes:
    """An entry of a map."""
    return field(tag, field(1, key) + field(2, value))


def file(name: str, content: bytes) -> bytes:
    """The LLB operation that creates a file; field numbers are from upstream's ops.proto."""
    mkfile = field(1, name) + field(2, 0o644) + field(3, content) + field(5, -1)
    action = field(1, -1) + field(2, -1) + field(3, 0) + field(5, mkfile)
    return field(4, field(2, action))


def definition(operation: bytes) -> bytes:
    """The LLB definition with one operation."""
    digest = f"sha256:{hashlib.sha256(operation).hexdigest()}"
    last = field(1, field(1, digest) + field(2, 0))
    # BuildKit ignores a definition without metadata.
    return field(1, operation) + field(1, last) + entry(2, digest, b"")


def solve(
    ref: str, *, frontend: str, attributes: Mapping[str, str], inputs: Mapping[str, bytes]
) -> bytes:
    """A SolveRequest without an export; field numbers are from upstream's control.proto."""
    return b"".join([
        field(1, ref), field(6, frontend),
        *(entry(7, key, value) for key, value in attributes.items()),
        *(entry(10, key, value) for key, value in inputs.items()),
    ])  # fmt: skip


def dockerfile(ref: str, content: bytes) -> bytes:
    """A SolveRequest that contains a Dockerfile and builds it."""
    llb = definition(file("Dockerfile", content))
    return solve(
        ref, frontend="dockerfile.v0", attributes={}, inputs={"context": llb, "dockerfile": llb}
    )


def message(content: bytes) -> bytes:
    """A gRPC message: the compression flag, the length, the content."""
    return struct.pack(">BI", 0, len(content)) + content


def _frame(kind: int, flags: int, stream: int, content: bytes) -> bytes:
    return struct.pack(">I", len(content))[1:] + struct.pack(">BBI", kind, flags, stream) + content


def _header(name: str, value: str) -> bytes:
    """A header field, literal and never indexed; it is short, so a length is one byte."""
    return b"".join([
        b"\x10", bytes([len(name)]), name.encode(), bytes([len(value)]), value.encode(),
    ])  # fmt: skip


def call(method: str, body: bytes) -> bytes:
    """The bytes of one call; `body` need not be a valid :func:`message`."""
    headers = {
        ":method": "POST", ":scheme": "http", ":path": method, ":authority": "localhost",
        "content-type": "application/grpc", "te": "trailers",
    }  # fmt: skip
    chunks = [body[at : at + _FRAME] for at in range(0, len(body), _FRAME)] or [b""]
    return b"".join([
        _PREFACE, _frame(_SETTINGS, 0, 0, b""),
        _frame(_HEADERS, _END_HEADERS, 1, b"".join(_header(*one) for one in headers.items())),
        *(_frame(_DATA, 0, 1, chunk) for chunk in chunks[:-1]),
        _frame(_DATA, _END_STREAM, 1, chunks[-1]),
    ])  # fmt: skip


def _frames(received: bytes) -> tuple[list[tuple[int, int]], bytes]:
    """Kind and flags of each complete frame, and the remaining bytes."""
    found = []
    while len(received) >= 9 and len(received) >= 9 + (size := int.from_bytes(received[:3], "big")):
        found.append((received[3], received[4]))
        received = received[9 + size :]
    return found, received


def send(address: str, content: bytes, *, patience: float = BOUND) -> str:
    """Send bytes to a daemon, wait for the reaction, and hang up.

    Args:
        address: the daemon's unix socket.
        content: the bytes.
        patience: seconds before hanging up, for an incomplete request.

    Returns:
        "answered", "reset" (this call alone) or "closed" (the connection).
    """
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address.removeprefix("unix://"))
        # The daemon does not read a refused request to its end.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(content)
        connection.settimeout(patience)
        with contextlib.suppress(TimeoutError):
            return _received(connection)
        connection.settimeout(BOUND)
        connection.shutdown(socket.SHUT_WR)
        return _received(connection)


def _received(connection: socket.socket) -> str:
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while chunk := connection.recv(_FRAME):
            frames, received = _frames(received + chunk)
            for kind, flags in frames:
                if kind == _HEADERS and flags & _END_STREAM:
                    return "answered"
                if kind == _RESET:
                    return "reset"
    return "closed"


def send_solve(address: str, request: bytes) -> str:
    """Send a SolveRequest as :func:`send` does."""
    return send(address, call(SOLVE, message(request)))
