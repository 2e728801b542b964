"""Programs inside packages and archives, compared byte for byte with the verified programs.

A manifest and checksums describe what a builder claims. This module reads the files that
users install: every ELF file in them must be one of the verified programs, under its name.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
import zlib
from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from ..core import filesystem, process
from ..core.errors import CheckError

#: The command that turns a package into a tar archive of its files, by the package's suffix.
#: dpkg and libarchive know every compression; Python's tarfile does not.
READERS = {
    ".deb": ("dpkg-deb", "--fsys-tarfile", "/dev/stdin"),
    ".rpm": ("bsdtar", "--format=pax", "-cf", "-", "@-"),
}
#: The commands that :data:`READERS` starts.
TOOLS = ("bsdtar", "dpkg-deb")
_ELF = b"\x7fELF"


def programs(archive: Path, names: Container[str]) -> Iterator[tuple[str, str]]:
    """Name and sha256 of every program in a .deb, an .rpm or a .tar.gz.

    A program is every ELF file, and everything outside /usr/share that has the name of a
    program: a script or a link in its place is not the program.

    Args:
        archive: the file.
        names: the names of programs.

    Yields:
        The name, and the sha256 in hexadecimal; empty for anything but a regular file.

    Raises:
        CheckError: it cannot be read.
        MissingRequirementError: a tool of :data:`TOOLS` is missing.
    """
    content = filesystem.read_bytes(archive)
    if reader := READERS.get(archive.suffix):
        content = process.pipe_through(reader, content, error=CheckError)
    try:
        with tarfile.open(fileobj=io.BytesIO(content)) as tar:
            for entry in tar:
                path = PurePosixPath("/", entry.name)
                named = path.name in names and not path.is_relative_to("/usr/share")
                file = tar.extractfile(entry) if entry.isreg() else None
                start = file.read(len(_ELF)) if file else b""
                if start == _ELF or (named and not entry.isdir()):
                    digest = hashlib.sha256(start + file.read()).hexdigest() if file else ""
                    yield path.name, digest
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise CheckError(f"{filesystem.display_path(archive)} cannot be read: {error}") from error


def require_verified(archives: Sequence[Path], verified: Mapping[str, str], fix: str) -> None:
    """Refuse archives whose programs are not the verified programs.

    Args:
        archives: files that together contain every program, such as all .deb of a version.
        verified: the sha256 of each program, by its name.
        fix: what the user should do about a refusal.

    Raises:
        CheckError: a program differs, is unknown or is missing.
    """
    missing = set(verified)
    for archive in archives:
        for name, sha256 in programs(archive, verified):
            if verified.get(name) != sha256:
                raise CheckError(
                    f"{filesystem.display_path(archive)}: {name} is not the verified program", fix
                )
            missing.discard(name)
    if missing:
        names = ", ".join(archive.name for archive in archives) or "no archive"
        raise CheckError(f"{names}: no program {', '.join(sorted(missing))} inside", fix)
