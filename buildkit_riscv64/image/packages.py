"""Debian's packages for the image: exactly which, where from, and checked.

apt chooses them, in a state of its own that this machine's packages have no part
in, for the image's architecture. Nothing is installed: the .deb files are for the
Dockerfile to unpack.
"""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from .. import debian, process, project, storage
from ..console import say, size, warn
from ..errors import MissingRequirementError, NetworkError, SourceError

#: The lists of packages, and what unpacks them.
LISTS = project.ROOT / "dockerfiles" / "packages"
#: Names the packages of a set to what unpacks them.
LIST = "list"

# 'http://…/git_2.47.3-0%2bdeb13u1_riscv64.deb' git_1%3a2.47.3-0+deb13u1_riscv64.deb 8306616 SHA256:…
_URI = re.compile(r"^'(?P<uri>[^']+)' (?P<file>\S+\.deb) (?P<size>\d+) SHA256:(?P<sha256>\w{64})$")


@dataclass(frozen=True, kw_only=True)
class Package:
    """A package, exactly.

    Args:
        name: Debian's name for it.
        version: Debian's version, with its epoch.
        architecture: as in `riscv64` or `all`.
        sha256: of the .deb file, from the archive's signed index.
        size: of the .deb file, in bytes.
        only: the one file of it that is taken; empty for all.
    """

    name: str
    version: str
    architecture: str
    sha256: str
    size: int
    only: str = ""

    @property
    def file(self) -> str:
        """The .deb file's name, as apt gives it."""
        version = self.version.replace(":", "%3a")
        return f"{self.name}_{version}_{self.architecture}.deb"

    def as_json(self) -> dict[str, object]:
        """For a manifest."""
        return asdict(self)


def _parse(line: str) -> Package | None:
    """The package of a line of `apt-get --print-uris`, if it is one."""
    match = _URI.match(line.strip())
    if match is None:
        return None
    name, version, architecture = match["file"].removesuffix(".deb").split("_")
    return Package(
        name=name, version=version.replace("%3a", ":"), architecture=architecture,
        sha256=match["sha256"], size=int(match["size"]),
    )  # fmt: skip


def _stand_in(name: str) -> str:
    """An entry of dpkg's status file that apt takes for an installed package."""
    return (
        f"Package: {name}\nStatus: install ok installed\nVersion: 1:99999\nArchitecture: all\n"
        "Multi-Arch: foreign\nMaintainer: nobody <nobody@invalid>\nDescription: stand-in\n\n"
    )


class Archive:
    """Debian's archives as apt sees them, for one architecture.

    Args:
        arch: the architecture, by Debian's name for it.
    """

    def __init__(self, arch: str) -> None:
        self.arch = arch
        self._apt = debian.Apt(arch)
        self._folder = self._apt.folder
        self._debs = project.cache() / "packages"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the state for one run; another one waits."""
        self._debs.mkdir(parents=True, exist_ok=True)
        with self._apt.locked():
            yield

    def update(self) -> bool:
        """Fetch the archives' signed indexes.

        Returns:
            Whether Debian's security updates are among them.

        Raises:
            MissingRequirementError: this is not Debian.
            NetworkError: they could not be fetched, or their signatures are wrong.
        """
        if process.which("apt-get") is None:
            raise MissingRequirementError(
                "the image is made of Debian's packages, and there is no apt-get here",
                "use a Debian machine, or `invoke on riscv64 -- build-image`",
            )
        release = self._apt.fetch_release()
        updates = debian.source(debian.security(), f"{debian.SUITE}-security", debian.PACKAGES)
        sources = [release.source(debian.PACKAGES)]
        try:
            self._apt.fetch_indexes([*sources, updates])
        except NetworkError as error:
            # A mirror in the middle of an update; better without than not at all.
            self._apt.fetch_indexes(sources)
            warn(f"without Debian's security updates: {error.brief}")
            return False
        return True

    def resolve(self, *lists: str) -> list[Package]:
        """The packages of lists and what they depend on, by name.

        Args:
            lists: names below `dockerfiles/packages/`.

        Raises:
            NetworkError: apt finds no solution.
        """
        entries = [line.split() for name in lists for line in debian.listed(LISTS / name)]
        wanted = [words[0] for words in entries if len(words) == 1]
        partly = [(words[0], words[1]) for words in entries if len(words) == 2]
        without = [name for name in debian.listed(LISTS / "without") if name not in wanted]
        (self._folder / "status").write_text("".join(map(_stand_in, without)))
        found = self._uris("install", "--yes", "--print-uris", *wanted) if wanted else []
        if partly:
            whole = {p.name: p for p in self.named(*sorted({name for name, _ in partly}))}
            found += [replace(whole[name], only=path) for name, path in partly]
        return sorted(found, key=lambda package: (package.name, package.only))

    def named(self, *names: str) -> list[Package]:
        """These packages alone, without what they depend on.

        Raises:
            NetworkError: there is no such package.
        """
        return self._uris("download", "--print-uris", *names)

    def _uris(self, *args: str) -> list[Package]:
        return [package for line in self._apt.get(*args).splitlines() if (package := _parse(line))]

    def fetch(self, packages: Sequence[Package]) -> None:
        """Have the .deb files in the cache, checked against their hashes.

        Raises:
            NetworkError: one could not be fetched.
            SourceError: one is not what the archive's signed index says.
        """
        missing = [package for package in packages if not self._is_here(package)]
        if not missing:
            return
        say(f"fetching {len(missing)} packages, {size(sum(p.size for p in missing))}")
        for package in missing:
            # apt leaves what has the right size as it is.
            (self._debs / package.file).unlink(missing_ok=True)
        self._apt.get("download", *(f"{p.name}={p.version}" for p in missing), cwd=self._debs)
        for package in missing:
            if not self._is_here(package):
                raise SourceError(
                    f"{package.file} is not what Debian's signed index says",
                    "run it again; if it comes back, do not use that mirror",
                )

    def _is_here(self, package: Package) -> bool:
        path = self._debs / package.file
        return path.is_file() and storage.sha256(path) == package.sha256

    def place(self, packages: Iterable[Package], folder: Path) -> None:
        """Put the .deb files of a set into a folder, with their list, for the Dockerfile."""
        folder.mkdir(parents=True)
        lines = []
        for package in packages:
            shutil.copyfile(self._debs / package.file, folder / package.file)
            lines.append(f"{package.file} {package.only}".strip())
        (folder / LIST).write_text("\n".join(lines) + "\n")

    def path(self, package: Package) -> Path:
        """Where the cache has a package's .deb file."""
        return self._debs / package.file
