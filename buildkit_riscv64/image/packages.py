"""Debian's packages for the image: resolved, fetched and verified.

apt resolves them for the image's architecture, in a state independent of this machine's
packages. Nothing is installed: the Dockerfile unpacks the .deb files.
"""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ..core import filesystem, process, project
from ..core.console import log, size, warn
from ..core.errors import MissingRequirementError, NetworkError, SourceError
from ..system import debian

#: Lists of packages, and the scripts that unpack packages.
LISTS = project.ROOT / "dockerfiles" / "packages"
#: The file with the names of a set's packages.
LIST = "list"

# 'http://…/git_2.47.3-0%2bdeb13u1_riscv64.deb' git_1%3a2.47.3-0+deb13u1_riscv64.deb 8306616 SHA256:…
_URI = re.compile(r"^'(?P<uri>[^']+)' (?P<file>\S+\.deb) (?P<size>\d+) SHA256:(?P<sha256>\w{64})$")


@dataclass(frozen=True, kw_only=True)
class Package:
    """One version of a package.

    Args:
        name: Debian's name.
        version: Debian's version, with its epoch.
        architecture: such as `riscv64` or `all`.
        sha256: of the .deb file, from the archive's signed index.
        size: of the .deb file, in bytes.
        only: the single file to unpack; empty for every file.
    """

    name: str
    version: str
    architecture: str
    sha256: str
    size: int
    only: str = ""

    @property
    def file(self) -> str:
        """The .deb file's name, as apt writes it."""
        version = self.version.replace(":", "%3a")
        return f"{self.name}_{version}_{self.architecture}.deb"

    def as_json(self) -> dict[str, object]:
        """The manifest's entry."""
        return asdict(self)


def _parse(line: str) -> Package | None:
    """The package in a line of `apt-get --print-uris`, if any."""
    match = _URI.match(line.strip())
    if match is None:
        return None
    name, version, architecture = match["file"].removesuffix(".deb").split("_")
    return Package(
        name=name, version=version.replace("%3a", ":"), architecture=architecture,
        sha256=match["sha256"], size=int(match["size"]),
    )  # fmt: skip


def _stand_in(name: str) -> str:
    """An entry of dpkg's status file that marks a package as installed."""
    return (
        f"Package: {name}\nStatus: install ok installed\nVersion: 1:99999\nArchitecture: all\n"
        "Multi-Arch: foreign\nMaintainer: nobody <nobody@invalid>\nDescription: stand-in\n\n"
    )


class Archive:
    """Debian's archives, for one architecture.

    Args:
        arch: the architecture, by Debian's name for it.
    """

    def __init__(self, arch: str) -> None:
        self.arch = arch
        self._apt = debian.Apt(arch)
        self._directory = self._apt.directory
        self._debs = project.cache() / "packages"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Lock apt's state for one run; other runs wait."""
        self._debs.mkdir(parents=True, exist_ok=True)
        with self._apt.locked():
            yield

    def update(self) -> bool:
        """Fetch the archives' signed indexes.

        Returns:
            True if Debian's security updates are among them.

        Raises:
            MissingRequirementError: this is not Debian.
            NetworkError: an index could not be fetched, or its signature is wrong.
        """
        if process.which("apt-get") is None:
            raise MissingRequirementError(
                "the image needs Debian's packages, and apt-get is missing",
                "use a Debian machine, or `invoke on riscv64 -- build-image`",
            )
        updates = debian.source(debian.security(), f"{debian.SUITE}-security", debian.PACKAGES)
        try:
            self._apt.fetch_release(updates)
        except NetworkError as error:
            # The mirror may be updating; build without security updates.
            self._apt.fetch_release()
            warn(f"without Debian's security updates: {error.brief}")
            return False
        return True

    def resolve(self, *lists: str) -> list[Package]:
        """The packages of lists, with dependencies, sorted by name.

        Args:
            lists: file names in `dockerfiles/packages/`.

        Raises:
            NetworkError: apt finds no solution.
        """
        entries = [line.split() for name in lists for line in debian.listed(LISTS / name)]
        wanted = [words[0] for words in entries if len(words) == 1]
        partly = [(words[0], words[1]) for words in entries if len(words) == 2]
        without = [name for name in debian.listed(LISTS / "without") if name not in wanted]
        status, text = self._directory / "status", "".join(map(_stand_in, without))
        # apt caches the parsed indexes until this file is newer.
        if not status.exists() or status.read_text() != text:
            status.write_text(text)
        found = self._uris("install", "--yes", "--print-uris", *wanted) if wanted else []
        if partly:
            whole = {p.name: p for p in self.named(*sorted({name for name, _ in partly}))}
            found += [replace(whole[name], only=path) for name, path in partly]
        return sorted(found, key=lambda package: (package.name, package.only))

    def named(self, *names: str) -> list[Package]:
        """Packages without their dependencies.

        Raises:
            NetworkError: no such package.
        """
        return self._uris("download", "--print-uris", *names)

    def _uris(self, *args: str) -> list[Package]:
        return [package for line in self._apt.get(*args).splitlines() if (package := _parse(line))]

    def fetch(self, packages: Sequence[Package]) -> None:
        """Fetch the .deb files into the cache, and verify their hashes.

        Raises:
            NetworkError: a file could not be fetched.
            SourceError: a file does not match the archive's signed index.
        """
        missing = [package for package in packages if not self._is_cached(package)]
        if not missing:
            return
        log(f"fetching {len(missing)} packages, {size(sum(p.size for p in missing))}")
        for package in missing:
            # apt keeps existing files of the right size.
            (self._debs / package.file).unlink(missing_ok=True)
        self._apt.get("download", *(f"{p.name}={p.version}" for p in missing), cwd=self._debs)
        for package in missing:
            if not self._is_cached(package):
                raise SourceError(
                    f"{package.file} does not match Debian's signed index",
                    "run it again; if it comes back, do not use that mirror",
                )

    def _is_cached(self, package: Package) -> bool:
        path = self._debs / package.file
        return path.is_file() and filesystem.sha256(path) == package.sha256

    def place(self, packages: Iterable[Package], directory: Path) -> None:
        """Copy a set's .deb files and their list into a directory for the Dockerfile."""
        directory.mkdir(parents=True)
        lines = []
        for package in packages:
            shutil.copyfile(self._debs / package.file, directory / package.file)
            lines.append(f"{package.file} {package.only}".strip())
        (directory / LIST).write_text("\n".join(lines) + "\n")

    def path(self, package: Package) -> Path:
        """The cache's path of a package's .deb file."""
        return self._debs / package.file
