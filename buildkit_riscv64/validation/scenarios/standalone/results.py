"""Builds and their outputs."""

from __future__ import annotations

import gzip
import subprocess
import tarfile
from io import BytesIO
from pathlib import Path
from typing import Any

from buildkit_riscv64.image import layout
from buildkit_riscv64.image.layout import Image

from ..bases import BaseImage
from ..daemon import Daemon, Result, run

#: The end of a Dockerfile that outputs the directory /out of its stage `work`.
ONLY_OUT = "\nFROM scratch\nCOPY --from=work /out /\n"


class Builder:
    """Builds with the base image on one daemon, each to a new path.

    Args:
        daemon: the daemon.
        base: the base image.
        place: the directory for outputs.
    """

    def __init__(self, daemon: Daemon, base: BaseImage, place: Path) -> None:
        self.daemon = daemon
        self._base = base
        self._place = place
        self._count = 0

    def place(self, name: str = "out") -> Path:
        """A new path that does not exist."""
        self._count += 1
        return self._place / f"{name}-{self._count}"

    def command(self, context: Path, *args: str | Path) -> list[str]:
        """The command that builds."""
        return self.daemon.build_command(context, *self._base.flags(), *args)

    def build(self, context: Path, *args: str | Path, **options: Any) -> Result:
        """Build, with the options of :func:`daemon.run`."""
        return self.daemon.build(context, *self._base.flags(), *args, **options)

    def directory(self, context: Path, *args: str | Path, **options: Any) -> Path:
        """Build to a local directory."""
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


def text(directory: Path) -> dict[str, str]:
    """The text of each file in a directory, by path, without trailing newlines."""
    return {
        str(path.relative_to(directory)): path.read_text().rstrip("\n")
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def decompressed(blob: Path) -> bytes:
    """The decompressed content of a layer's blob."""
    content = blob.read_bytes()
    if content[:2] == b"\x1f\x8b":
        return gzip.decompress(content)
    if content[:4] == b"\x28\xb5\x2f\xfd":
        # Not in the standard library before Python 3.14.
        return subprocess.run(["zstd", "-dc", blob], check=True, capture_output=True).stdout
    return content


def layer(blob: Path) -> tarfile.TarFile:
    """Open a layer as a tar archive."""
    return tarfile.open(fileobj=BytesIO(decompressed(blob)))


def contents(blob: Path) -> dict[str, bytes]:
    """The files of a layer, including hard links."""
    with layer(blob) as archive:
        return {
            member.name.removeprefix("./"): reader.read()
            for member in archive
            if (member.isreg() or member.islnk()) and (reader := archive.extractfile(member))
        }


def pull(reference: str, directory: Path, *options: str) -> Path:
    """Copy an image from a registry on the loopback to a new layout with skopeo."""
    run(
        "skopeo", "--insecure-policy", "copy", *options, "--preserve-digests", "--src-tls-verify=false",
        "--dest-oci-accept-uncompressed-layers", f"docker://{reference}", f"oci:{directory}:it",
    ).good()  # fmt: skip
    return directory
