"""The C toolchain for runc: compiler, linker, static libraries."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..core import filesystem, process
from ..core.errors import MissingRequirementError
from ..system import apt

#: Debian's package of each required command and static library.
NEEDED = {
    "gcc": "gcc",
    "pkg-config": "pkg-config",
    "libc.a": "libc6-dev",
    "libseccomp.a": "libseccomp-dev",
}
#: Static libraries that are linked in; gcc brings its own.
LIBRARIES = ("libc.a", "libgcc.a", "libgcc_eh.a", "libseccomp.a")


def find(library: str) -> Path | None:
    """The compiler's path of a static library; None if it has none."""
    # gcc prints the bare name of an unknown library.
    place = Path(process.probe(["gcc", f"-print-file-name={library}"]).stdout.strip())
    return place.resolve() if place.is_absolute() and place.is_file() else None


def missing() -> dict[str, str]:
    """Missing requirements, with their Debian packages."""
    tools = [name for name in NEEDED if not name.endswith(".a") and process.which(name) is None]
    # Only gcc can find the libraries; installing a present package is harmless.
    unknown = "gcc" in tools
    libraries = [name for name in NEEDED if name.endswith(".a") and (unknown or not find(name))]
    return {name: NEEDED[name] for name in (*tools, *libraries)}


def ensure_installed(*, yes: bool) -> None:
    """Install missing requirements after one question.

    Raises:
        MissingRequirementError: the user refused, or the installation failed.
    """
    lacking = missing()
    apt.install_missing(", ".join(lacking), sorted(lacking.values()), yes=yes)


def _package(path: Path) -> str:
    """The package URL of a file's Debian package; empty on other systems."""
    if process.which("dpkg-query") is None:
        return ""
    owner = process.probe(["dpkg-query", "--search", path])
    if not owner.ok:
        return ""
    # Such as `libseccomp-dev:amd64: /usr/lib/x86_64-linux-gnu/libseccomp.a`.
    name = owner.stdout.partition(": ")[0]
    form = "${Package} ${Version} ${Architecture}"
    package, version, arch = process.read(
        ["dpkg-query", "--show", f"--showformat={form}", name], error=MissingRequirementError
    ).split()
    from packageurl import PackageURL

    namespace = platform.freedesktop_os_release()["ID"]
    return PackageURL("deb", namespace, package, version, {"arch": arch}).to_string()


def _version(tool: str) -> str:
    output = process.read(
        [tool, "--version"], error=MissingRequirementError,
        hint="apt-get install --reinstall gcc binutils",
    )  # fmt: skip
    return output.partition("\n")[0].strip()


def facts() -> dict[str, Any]:
    """The manifest's entry for the C toolchain of this machine.

    Raises:
        MissingRequirementError: the compiler fails.
    """
    places = {name: place for name in LIBRARIES if (place := find(name))}
    return {
        "compiler": _version("gcc"),
        "linker": _version("ld"),
        "libraries": [
            {"file": name, "sha256": filesystem.sha256(place), "package": _package(place)}
            for name, place in places.items()
        ],
    }


def is_here(recorded: Mapping[str, Any]) -> bool:
    """True when this machine has exactly the recorded toolchain, and so compiles the same C code."""
    return (
        not missing()
        and recorded["compiler"] == _version("gcc")
        and recorded["linker"] == _version("ld")
        and all(
            (place := find(one["file"])) is not None and filesystem.sha256(place) == one["sha256"]
            for one in recorded["libraries"]
        )
    )
