"""The tarball of the binaries: compressed in parallel, reproducible."""

from __future__ import annotations

import collections
import concurrent.futures
import tarfile
import zlib
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, cast

from ..core import host

#: Half the time of the default level, for two percent more size.
_GZIP_LEVEL = 4
#: Chunks are compressed independently, to use every processor.
_CHUNK_BYTES = 1 << 20


class _ParallelGzip:
    """A gzip file written by all processors.

    Each chunk becomes a gzip member of its own, and members that follow each
    other are one file (RFC 1952, 2.2). Neither the number of processors nor
    the time changes a bit of it.
    """

    def __init__(self, file: BinaryIO, pool: concurrent.futures.Executor) -> None:
        self._file, self._pool = file, pool
        self._buffer = bytearray()
        self._pending: collections.deque[concurrent.futures.Future[bytes]] = collections.deque()

    @staticmethod
    def _member(chunk: bytes) -> bytes:
        # 31: a gzip header and the largest window. zlib's header has no time.
        compressor = zlib.compressobj(_GZIP_LEVEL, wbits=31)
        return compressor.compress(chunk) + compressor.flush()

    def write(self, data: bytes) -> int:
        self._buffer += data
        if len(self._buffer) >= _CHUNK_BYTES:
            self._submit(host.cpus())
        return len(data)

    def _submit(self, waiting: int) -> None:
        self._pending.append(self._pool.submit(self._member, bytes(self._buffer)))
        self._buffer.clear()
        while len(self._pending) > waiting:
            self._file.write(self._pending.popleft().result())

    def finish(self) -> None:
        self._submit(0)


def pack(directory: Path, names: list[str], archive: Path, when: datetime) -> None:
    """Write a tarball: sorted, owned by root, with one timestamp.

    Args:
        directory: with the files.
        names: of the files, relative to the directory.
        archive: the tarball to write.
        when: the timestamp of every file.
    """

    def plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = "root"
        entry.mode = 0o755
        entry.mtime = int(when.timestamp())
        return entry

    with archive.open("wb") as file, concurrent.futures.ThreadPoolExecutor(host.cpus()) as pool:
        compressed = _ParallelGzip(file, pool)
        with tarfile.open(
            fileobj=cast(BinaryIO, compressed), mode="w|", format=tarfile.USTAR_FORMAT
        ) as tar:
            for name in sorted(names):
                tar.add(directory / name, name, filter=plain)
        compressed.finish()
