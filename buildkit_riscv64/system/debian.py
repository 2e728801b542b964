"""Debian's archives: mirrors, indexes, and an apt with state of its own."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..core import dry_run, locks, process, project
from ..core.arch import Architecture
from ..core.console import warn
from ..core.errors import MissingRequirementError, NetworkError, StorageError

#: The Debian release of machines and images.
SUITE = "trixie"
#: The archive's other name for that release, while it is the newest.
ALIAS = "stable"
#: Option of a source: fetch only the lists of packages.
PACKAGES = " target=Packages"
#: Debian's archive signing keys.
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


# Before apt has fetched an archive's index for the first time, the last part of the archive's
# address is its only label.
_LABELS = {"debian": "Debian", "debian-security": "Debian-Security"}


@functools.cache
def archives() -> Mapping[str, str]:
    """The archives among this machine's package sources: addresses by label."""
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
        if found.keys() >= set(_LABELS.values()):
            break
    return found


def mirror() -> str:
    """The address of the Debian archive among this machine's package sources.

    Raises:
        MissingRequirementError: there is no Debian archive among them.
    """
    try:
        return archives()["Debian"]
    except KeyError:
        raise MissingRequirementError(
            "no Debian archive among this machine's package sources",
            "add one and run apt-get update",
        ) from None


def security() -> str:
    """The address of security updates; if no source has them, a guess by Debian's naming."""
    known = archives()
    return known.get("Debian-Security") or f"{mirror()}-security"


def source(archive: str, suite: str, options: str = "") -> str:
    """A line of sources.list(5).

    Args:
        archive: the archive's address.
        suite: the suite's name in the archive.
        options: additional options, each after a space.
    """
    return f"deb [signed-by={KEYRING}{options}] {archive} {suite} main"


@dataclass(frozen=True)
class DebianRelease:
    """A consistent copy of the release on a mirror.

    Args:
        archive: the mirror's address.
        suite: the suite's name on the mirror.
    """

    archive: str
    suite: str

    def source(self, options: str = "") -> str:
        """The line of sources.list(5)."""
        return source(self.archive, self.suite, options)


class Apt:
    """apt-get for one architecture, without this machine's state and preferences.

    Args:
        arch: Debian's name of the architecture.
    """

    def __init__(self, arch: str) -> None:
        self.arch = arch
        #: The state, in the user's cache; needs :meth:`locked`.
        self.directory = project.cache() / "apt" / arch

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the state for one run; other runs wait."""
        for name in ("lists/partial", "cache"):
            (self.directory / name).mkdir(parents=True, exist_ok=True)
        with locks.held(self.directory / ".lock"):
            yield

    def _options(self) -> list[str]:
        settings = {
            "APT::Architecture": self.arch,
            "APT::Architectures": self.arch,
            "APT::Install-Recommends": "false",
            # Otherwise root's apt becomes a user that cannot read our cache.
            "APT::Sandbox::User": "",
            "Acquire::ForceHash": "sha256",
            "Acquire::Languages": "none",
            "Acquire::Retries": "3",
            "Dir::Cache": f"{self.directory}/cache",
            # Debian's containers switch these off; then each call parses all indexes.
            "Dir::Cache::pkgcache": "pkgcache.bin",
            "Dir::Cache::srcpkgcache": "srcpkgcache.bin",
            "Dir::Etc::preferences": "/dev/null",
            "Dir::Etc::preferencesparts": "/dev/null",
            "Dir::Etc::sourcelist": f"{self.directory}/sources.list",
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::State": str(self.directory),
            "Dir::State::lists": f"{self.directory}/lists",
            "Dir::State::status": f"{self.directory}/status",
        }
        return [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]

    def get(self, *args: str, cwd: Path | None = None) -> str:
        """The output of `apt-get`.

        Raises:
            StorageError: the disk is full.
            NetworkError: apt-get failed, usually because a download failed.
        """
        answer = process.probe(
            ["apt-get", "--quiet", *self._options(), *args], cwd=cwd, timeout=None, changes=True
        )
        if answer.ok:
            return answer.stdout
        lines = f"{answer.stdout}\n{answer.stderr}".splitlines()
        reasons = [line.removeprefix("E: ") for line in lines if line.startswith("E:")]
        if any("No space left on device" in line for line in lines):
            raise StorageError(
                f"no space left in {self.directory} for Debian's indexes and packages",
                project.CACHE_HINT,
            )
        raise NetworkError(
            f"apt-get {args[0]} failed: {(reasons or [answer.last_line])[0]}",
            "check the network and this machine's package sources",
        )

    def fetch_indexes(self, sources: Sequence[str]) -> None:
        """Fetch the signed indexes of these sources only. Needs :meth:`locked`.

        Raises:
            NetworkError: an index cannot be fetched, or its signature is wrong.
        """
        (self.directory / "status").touch()
        (self.directory / "sources.list").write_text("\n".join(sources) + "\n")
        # By default, an index that cannot be fetched is only a warning.
        self.get("update", "-o", "APT::Update::Error-Mode=any")

    def fetch_release(self, *more: str) -> DebianRelease:
        """Fetch the release's index under the first name with a consistent copy on the mirror.

        On a mirror that is being updated or that caches files, an index may differ from the
        signed Release file, on some mirrors for days. Under the release's other name, the mirror
        may have a consistent older copy.

        Needs :meth:`locked`.

        Args:
            more: lines of sources.list(5) with other indexes to fetch.

        Raises:
            MissingRequirementError: this machine has no Debian archive among its sources.
            NetworkError: both failed: a download, or a signature.
        """
        release = DebianRelease(mirror(), SUITE)
        try:
            self.fetch_indexes([release.source(PACKAGES), *more])
        except NetworkError as error:
            older = DebianRelease(release.archive, ALIAS)
            try:
                self.fetch_indexes([older.source(PACKAGES), *more])
                codename = self.get(
                    "indextargets", "--format", "$(CODENAME)", f"Release: {ALIAS}"
                ).split()
            except NetworkError:
                codename = []
            # After the next release of Debian, the alias names another release.
            if set(codename) != {SUITE}:
                raise
            warn(f"using {ALIAS} for {SUITE} on {self.arch}, maybe older: {error.brief}")
            return older
        return release


def release(arch: Architecture) -> DebianRelease:
    """A consistent copy of the release on this machine's mirror, for one architecture.

    Under `--dry`, the mirror is not asked, because apt would write to its cache.

    Raises:
        MissingRequirementError: this machine has no Debian archive among its sources.
        NetworkError: a download failed, or a signature is wrong.
    """
    if dry_run.active():
        return DebianRelease(mirror(), SUITE)
    apt = Apt(arch)
    with apt.locked():
        return apt.fetch_release()


def listed(path: Path) -> list[str]:
    """The lines of a list of packages or file names, without comments."""
    lines = (line.strip() for line in path.read_text().splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def mmdebstrap(*options: str) -> list[str]:
    """The mmdebstrap command, up to the suite."""
    return [
        *process.as_root(),
        # mmdebstrap mounts /proc, /sys and /dev in the new root; in a mount namespace, the mounts
        # end with the command.
        "unshare", "--mount", "mmdebstrap", "--mode=root", *options,
        '--aptopt=Acquire::Languages "none"', '--aptopt=APT::Install-Recommends "false"',
        '--aptopt=Acquire::Retries "3"',
    ]  # fmt: skip


def unpack_command(release: DebianRelease, packages: Sequence[str], root: Path) -> list[str]:
    """The command that unpacks packages for this host without configuring them."""
    return [
        *mmdebstrap("--variant=extract", f"--include={','.join(packages)}"),
        SUITE, str(root), release.source(),
    ]  # fmt: skip
