"""C, of which runc has some: what compiles it, and the libraries that are linked in."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .. import apt, process, storage
from ..errors import MissingRequirementError

#: Debian's package of each command and static library that is needed.
NEEDED = {
    "gcc": "gcc",
    "pkg-config": "pkg-config",
    "libc.a": "libc6-dev",
    "libseccomp.a": "libseccomp-dev",
}
#: Static libraries of which something ends in a program; those of the compiler come with it.
LIBRARIES = ("libc.a", "libgcc.a", "libgcc_eh.a", "libseccomp.a")


def find(library: str) -> Path | None:
    """Where the compiler takes a static library from, or None where it has none."""
    # For one that it does not know it answers with the mere name.
    place = Path(process.probe(["gcc", f"-print-file-name={library}"]).stdout.strip())
    return place.resolve() if place.is_absolute() and place.is_file() else None


def missing() -> dict[str, str]:
    """What is needed and not there, with Debian's package of it."""
    tools = [name for name in NEEDED if not name.endswith(".a") and process.which(name) is None]
    # Without a compiler nobody knows of libraries; to install one that is there does no harm.
    unknown = "gcc" in tools
    libraries = [name for name in NEEDED if name.endswith(".a") and (unknown or not find(name))]
    return {name: NEEDED[name] for name in (*tools, *libraries)}


def provide(*, yes: bool) -> None:
    """Have all that is needed, or install it, after one question.

    Raises:
        MissingRequirementError: the answer was no, or it could not be installed.
    """
    lacking = missing()
    apt.have(", ".join(lacking), sorted(lacking.values()), yes=yes)


def _package(path: Path) -> str:
    """The Debian package that a file comes from, as a package URL; nothing elsewhere."""
    if process.which("dpkg-query") is None:
        return ""
    owner = process.probe(["dpkg-query", "--search", path])
    if not owner.ok:
        return ""
    # As in `libseccomp-dev:amd64: /usr/lib/x86_64-linux-gnu/libseccomp.a`.
    name = owner.stdout.partition(": ")[0]
    form = "${Package} ${Version} ${Architecture}"
    package, version, arch = process.read(
        ["dpkg-query", "--show", f"--showformat={form}", name], error=MissingRequirementError
    ).split()
    from packageurl import PackageURL

    namespace = platform.freedesktop_os_release()["ID"]
    return PackageURL("deb", namespace, package, version, {"arch": arch}).to_string()


def _version(tool: str) -> str:
    said = process.read(
        [tool, "--version"], error=MissingRequirementError,
        hint="apt-get install --reinstall gcc binutils",
    )  # fmt: skip
    return said.partition("\n")[0].strip()


def facts() -> dict[str, Any]:
    """For a manifest: what compiles C here, and what would be linked in.

    Raises:
        MissingRequirementError: the compiler does not work.
    """
    places = {name: place for name in LIBRARIES if (place := find(name))}
    return {
        "compiler": _version("gcc"),
        "linker": _version("ld"),
        "libraries": [
            {"file": name, "sha256": storage.sha256(place), "package": _package(place)}
            for name, place in places.items()
        ],
    }


def is_here(recorded: Mapping[str, Any]) -> bool:
    """True when this machine has the very same as a manifest tells of: the same C makes the same code."""
    return (
        not missing()
        and recorded["compiler"] == _version("gcc")
        and recorded["linker"] == _version("ld")
        and all(
            (place := find(one["file"])) is not None and storage.sha256(place) == one["sha256"]
            for one in recorded["libraries"]
        )
    )
