"""Debian's archives: the only place that knows where packages come from."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from . import locks, process, project
from .arch import Architecture
from .console import warn
from .errors import MissingRequirementError, NetworkError

#: The release that machines and images are made of.
SUITE = "trixie"
#: What the archive calls that release too, for as long as it is the newest.
ALIAS = "stable"
#: For a source: of all that an archive has, the lists of packages alone.
PACKAGES = " target=Packages"
#: The keys that Debian signs its archives with.
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


# Before apt has fetched an archive's index for the first time, only its address tells
# what it is: the last part of it, as on every mirror.
_LABELS = {"debian": "Debian", "debian-security": "Debian-Security"}


def archives() -> dict[str, str]:
    """Where this machine's own packages come from: addresses by label, as in `Debian-Security`."""
    found: dict[str, str] = {}
    for options in ([], ["--no-release-info"]):
        answer = process.probe(
            ["apt-get", "indextargets", *options, "--format", "$(REPO_URI) $(LABEL)"]
        )
        for line in answer.stdout.splitlines():
            address, _, label = line.partition(" ")
            address = address.rstrip("/")
            if label == "$(LABEL)":
                label = _LABELS.get(address.rpartition("/")[2], "")
            found.setdefault(label, address)
    return found


def mirror() -> str:
    """Where this machine's own Debian packages come from.

    Raises:
        MissingRequirementError: it has no Debian archive among its sources.
    """
    try:
        # There are others, such as "Debian Backports".
        return archives()["Debian"]
    except KeyError:
        raise MissingRequirementError(
            "no Debian archive among this machine's package sources",
            "add one and run apt-get update",
        ) from None


def security() -> str:
    """Where security updates come from; a guess, as Debian's own mirrors have it, if nothing says so."""
    known = archives()
    return known.get("Debian-Security") or f"{mirror()}-security"


def source(archive: str, suite: str, options: str = "") -> str:
    """A line of sources.list(5).

    Args:
        archive: an archive's address.
        suite: what it has there.
        options: more of them, with a space before.
    """
    return f"deb [signed-by={KEYRING}{options}] {archive} {suite} main"


@dataclass(frozen=True)
class Release:
    """The release as a mirror has it whole.

    Args:
        archive: the mirror's address.
        suite: what the mirror has it under.
    """

    archive: str
    suite: str

    def source(self, options: str = "") -> str:
        """Its line of sources.list(5)."""
        return source(self.archive, self.suite, options)


class Apt:
    """apt-get for one architecture, with nothing of this machine's state or preferences.

    Args:
        arch: the architecture, by Debian's name for it.
    """

    def __init__(self, arch: str) -> None:
        self.arch = arch
        #: Its state, kept in the user's cache; whoever uses it holds a lock there.
        self.folder = project.cache() / "apt" / arch

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the state for one run; another one waits."""
        for folder in (self.folder / "lists" / "partial", self.folder / "cache"):
            folder.mkdir(parents=True, exist_ok=True)
        with locks.held(self.folder / ".lock"):
            yield

    def _options(self) -> list[str]:
        settings = {
            "APT::Architecture": self.arch,
            "APT::Architectures": self.arch,
            "APT::Install-Recommends": "false",
            # Ours: as root, apt would become a user who cannot read our cache.
            "APT::Sandbox::User": "",
            "Acquire::ForceHash": "sha256",
            "Acquire::Languages": "none",
            "Acquire::Retries": "3",
            "Dir::Cache": f"{self.folder}/cache",
            "Dir::Etc::preferences": "/dev/null",
            "Dir::Etc::preferencesparts": "/dev/null",
            "Dir::Etc::sourcelist": f"{self.folder}/sources.list",
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::State": str(self.folder),
            "Dir::State::lists": f"{self.folder}/lists",
            "Dir::State::status": f"{self.folder}/status",
        }
        return [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]

    def get(self, *args: str, cwd: Path | None = None) -> str:
        """The output of `apt-get`.

        Raises:
            NetworkError: it failed; almost always since something could not be fetched.
        """
        answer = process.probe(
            ["apt-get", "--quiet", *self._options(), *args], cwd=cwd, timeout=None
        )
        if answer.ok:
            return answer.stdout
        said = f"{answer.stdout}\n{answer.stderr}".splitlines()
        reasons = [line.removeprefix("E: ") for line in said if line.startswith("E:")]
        raise NetworkError(
            f"apt-get {args[0]} failed: {(reasons or [answer.last_line])[0]}",
            "check the network and this machine's package sources",
        )

    def fetch_indexes(self, sources: Sequence[str]) -> None:
        """Have the signed indexes of these sources, and of no others. Needs :meth:`locked`.

        Raises:
            NetworkError: one could not be fetched, or its signature is wrong.
        """
        (self.folder / "status").write_text("")
        (self.folder / "sources.list").write_text("\n".join(sources) + "\n")
        # Without this, an index that cannot be fetched is a warning.
        self.get("update", "-o", "APT::Update::Error-Mode=any")

    def fetch_release(self) -> Release:
        """Have the release's index, under the first of its names that the mirror has it whole by.

        A mirror in the middle of an update, or one that keeps files for a while, has
        an index that is not what its signed Release file says; for days, some have. By
        the release's other name it may have all of the state before.

        Needs :meth:`locked`.

        Raises:
            MissingRequirementError: this machine has no Debian archive among its sources.
            NetworkError: neither could be fetched, or its signature is wrong.
        """
        release = Release(mirror(), SUITE)
        try:
            self.fetch_indexes([release.source(PACKAGES)])
        except NetworkError as error:
            older = Release(release.archive, ALIAS)
            try:
                self.fetch_indexes([older.source(PACKAGES)])
                codename = self.get("indextargets", "--format", "$(CODENAME)").split()
            except NetworkError:
                codename = []
            # One day it will be another release.
            if set(codename) != {SUITE}:
                raise
            warn(f"{SUITE} for {self.arch} as {ALIAS}, maybe an older state: {error.brief}")
            return older
        return release


def release(arch: Architecture) -> Release:
    """The release as this machine's mirror has it whole, for one architecture.

    Raises:
        MissingRequirementError: this machine has no Debian archive among its sources.
        NetworkError: it could not be fetched, or its signature is wrong.
    """
    apt = Apt(arch)
    with apt.locked():
        return apt.fetch_release()


def listed(path: Path) -> list[str]:
    """The lines of a list of packages or file names, without comments."""
    lines = (line.strip() for line in path.read_text().splitlines())
    return [line for line in lines if line and not line.startswith("#")]
