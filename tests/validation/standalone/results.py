"""Building, and looking at what builds have put out."""

from __future__ import annotations

import subprocess
import tarfile
from io import BytesIO
from pathlib import Path
from typing import Any

from buildkit_riscv64.image import layout
from buildkit_riscv64.image.layout import Image

from ..bases import BaseImage
from ..daemon import Daemon, Ended

#: How a Dockerfile ends when only the folder /out of its stage `work` is wanted.
ONLY_OUT = "\nFROM scratch\nCOPY --from=work /out /\n"


class Builder:
    """Builds on one daemon, with the base image at hand, to places of their own.

    Args:
        daemon: the daemon.
        base: the base image.
        place: a folder for what is put out.
    """

    def __init__(self, daemon: Daemon, base: BaseImage, place: Path) -> None:
        self.daemon = daemon
        self._base = base
        self._place = place
        self._made = 0

    def place(self, name: str = "out") -> Path:
        """A path of its own, where nothing is."""
        self._made += 1
        return self._place / f"{name}-{self._made}"

    def command(self, context: Path, *args: str | Path) -> list[str]:
        """The command that builds."""
        return self.daemon.build_command(context, *self._base.flags(), *args)

    def build(self, context: Path, *args: str | Path, **options: Any) -> Ended:
        """Build, whatever comes of it, with the options of :func:`daemon.run`."""
        return self.daemon.build(context, *self._base.flags(), *args, **options)

    def folder(self, context: Path, *args: str | Path, **options: Any) -> Path:
        """Build to a local folder."""
        dest = self.place()
        self.build(context, *args, f"--output=type=local,dest={dest}", **options).good()
        return dest

    def image(
        self, context: Path, *args: str | Path, output: str = "type=oci", **options: Any
    ) -> Image:
        """Build to an OCI layout with one image."""
        dest = self.place("layout")
        self.build(context, *args, f"--output={output},tar=false,dest={dest}", **options).good()
        return layout.load(dest)


def text(folder: Path) -> dict[str, str]:
    """Every file of a folder by its path, and what it says, without the last line's end."""
    return {
        str(path.relative_to(folder)): path.read_text().rstrip("\n")
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def decompressed(blob: Path) -> bytes:
    """What is in a layer's blob, whatever its compression."""
    content = blob.read_bytes()
    if content[:2] == b"\x1f\x8b":
        import gzip

        return gzip.decompress(content)
    if content[:4] == b"\x28\xb5\x2f\xfd":
        # Not in the standard library before Python 3.14.
        return subprocess.run(["zstd", "-dc", blob], check=True, capture_output=True).stdout
    return content


def layer(blob: Path) -> tarfile.TarFile:
    """A layer as the tar archive that it is."""
    return tarfile.open(fileobj=BytesIO(decompressed(blob)))


def contents(blob: Path) -> dict[str, bytes]:
    """The files of a layer, hard links among them."""
    with layer(blob) as archive:
        return {
            member.name.removeprefix("./"): reader.read()
            for member in archive
            if (member.isreg() or member.islnk()) and (reader := archive.extractfile(member))
        }
