"""The layout of `dist/`: the only module that knows the layout and writes there.

    dist/linux-riscv64/                           one directory per target
        bin/buildkitd, bin/buildctl
        bin/buildkit-runc, bin/rootlesskit, …     with `build-binaries --bundle`
        buildkit-v0.32.2.linux-riscv64.tar.gz
        buildkitd.cdx.json, buildctl.cdx.json     CycloneDX SBOMs
        default.pgo                               the profile, for targets such as linux-riscv64-pgo
        provenance.intoto.json                    in-toto statement, SLSA provenance v1
        manifest.json                             files, sources, host and tools
        SHA256SUMS                                checksums of all of the above
        cross-check.json                          verdict of another machine, if any
        image/root/, image/rootless/              images of phase 2:
            layout/                               OCI image layout
            buildkit-v0.32.2.linux-riscv64.image.tar    the same in one file, for docker load
            sbom.cdx.json                         CycloneDX SBOM of the Debian packages
            manifest.json, SHA256SUMS
        evidence/                                 evidence of phase 3:
            evidence.json, index.html             results of the scenarios; the page of them
            junit-SUITE.xml, pytest-SUITE.log     pytest's output for each suite
            SHA256SUMS
        packages/                                 deb and rpm, with manifest.json and SHA256SUMS
        release/                                  files to publish:
            release.json, NOTES.md                list of the files; release notes
            SHA256SUMS, SHA256SUMS.asc            checksums of the files; their signature
    dist/oci/                                     OCI layout that push-image fills by default
    dist/repo/                                    the packages of all targets, for apt and dnf
    dist/benchmark/index.html                     report of `invoke benchmark`

A directory is completed under a temporary name and then exchanged with the previous one in
one system call. Names with a leading dot belong to a running task.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from . import documents, filesystem, locks, project, schemas
from .arch import Architecture, Target
from .errors import BusyError, CheckError, NotNativeError, StorageError, UsageError

#: The commands, in the order in which upstream lists them.
COMMANDS = ("buildctl", "buildkitd")
#: Programs that the commands start: `build-binaries --bundle`.
BUNDLE = (
    "buildkit-cni-bridge",
    "buildkit-cni-firewall",
    "buildkit-cni-host-local",
    "buildkit-cni-loopback",
    "buildkit-runc",
    "rootlesskit",
)
MANIFEST = "manifest.json"
#: The manifest of the evidence.
RESULTS = "evidence.json"
SUMS = "SHA256SUMS"
PROVENANCE = "provenance.intoto.json"
#: The profile that a target was compiled with, under Go's default name.
PROFILE = "default.pgo"
VERDICT = "cross-check.json"
#: Version of the manifest's format, as in `buildkit_riscv64/core/schemas/manifest.schema.json`.
MANIFEST_VERSION = 1

#: In a target's directory: one directory for each variant of the image.
IMAGE = "image"
#: In a target's directory: the evidence.
EVIDENCE = "evidence"
#: In a target's directory: packages for distributions.
PACKAGES = "packages"
#: In dist/: the repositories for apt and dnf.
REPOSITORY = "repo"
#: In a target's directory: the files to publish, each under its published name.
RELEASE = "release"
#: Parts of a target's directory with checksums of their own.
PARTS = (IMAGE, EVIDENCE, PACKAGES, RELEASE)
#: In an image's directory: its OCI layout.
LAYOUT = "layout"
#: In an image's directory: the SBOM of its packages.
PACKAGES_SBOM = "sbom.cdx.json"

# Lines of SHA256SUMS.
_SHA256 = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[^/.][^/]*(/[^/.][^/]*)*")


def binary(command: str) -> str:
    """The path of a command in a target's directory."""
    return f"bin/{command}"


def has_commands(directory: Path) -> bool:
    """True when a directory has each of BuildKit's commands."""
    return all((directory / command).is_file() for command in COMMANDS)


def sbom(command: str) -> str:
    """The path of a command's SBOM in a target's directory."""
    return f"{command}.cdx.json"


def tarball(version: str, target: Target) -> str:
    """The tarball's name, in upstream's form."""
    return f"buildkit-{version}.{target.name}.tar.gz"


def image_archive(version: str, target: Target, suffix: str) -> str:
    """The name of an image's archive."""
    return f"buildkit{suffix}-{version}.{target.name}.image.tar"


@dataclass(frozen=True)
class Artifacts:
    """A finished directory of artifacts."""

    path: Path
    manifest: Mapping[str, Any]

    @property
    def files(self) -> dict[str, dict[str, Any]]:
        """The manifest's record of each file, by name."""
        return {record["name"]: record for record in self.manifest["files"]}

    @property
    def inputs(self) -> str:
        """The digest of the build's inputs; empty where the manifest has none."""
        return str(self.manifest.get("build", {}).get("inputs", ""))

    @property
    def programs(self) -> tuple[str, ...]:
        """The commands, and the bundle if it was built."""
        return (*COMMANDS, *(BUNDLE if "bundle" in self.manifest else ()))

    def sums(self) -> dict[str, str]:
        """The checksums in SHA256SUMS, by file name.

        Raises:
            CheckError: SHA256SUMS cannot be read, or is not in our format.
        """
        try:
            return parse_sums(filesystem.read_bytes(self.path / SUMS))
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise CheckError(
                f"cannot read {filesystem.display_path(self.path / SUMS)}: {reason}",
                Kind.of(self.path).rebuild,
            ) from error

    def made_of(self, inputs: str) -> bool:
        """True when they were built from these inputs and have not been changed since."""
        return self.inputs == inputs and self.unchanged()

    def unchanged(self) -> bool:
        """True when the files match the manifest.

        Size and modification time decide. Only a file that is newer than the manifest, as after a
        copy, is read.
        """
        try:
            listed = self.path / SUMS
            if filesystem.read_bytes(listed).decode() != sums(
                [*self.files.values(), *record(self.path, [MANIFEST])]
            ):
                return False
            finished = listed.stat().st_mtime_ns
            for name, file in self.files.items():
                stat = (self.path / name).stat()
                if stat.st_size != file["size"]:
                    return False
                if (
                    stat.st_mtime_ns > finished
                    and filesystem.sha256(self.path / name) != file["sha256"]
                ):
                    return False
        except (OSError, KeyError, TypeError, ValueError):
            return False
        return True


@dataclass(frozen=True)
class BuildResult:
    """The result of a task that builds artifacts.

    Args:
        artifacts: the finished directory; None under `--dry`.
        up_to_date: no input had changed, so nothing was built.
        seconds: the duration.
    """

    artifacts: Artifacts | None
    up_to_date: bool
    seconds: float


class Kind(Enum):
    """The kind of a finished directory: noun, description file, schema of that file, task."""

    BINARIES = ("artifacts", MANIFEST, schemas.BINARIES, "build-binaries")
    IMAGE = ("artifacts", MANIFEST, schemas.IMAGE, "build-image")
    EVIDENCE = ("evidence", RESULTS, schemas.EVIDENCE, "validate")
    PACKAGES = ("packages", MANIFEST, schemas.PACKAGES, "build-packages")
    RELEASE = ("release", "release.json", schemas.RELEASE, "release")
    REPOSITORY = ("repository", MANIFEST, schemas.REPOSITORY, "publish-repo")

    @property
    def description(self) -> str:
        """The file that describes the directory."""
        return self.value[1]

    @property
    def schema(self) -> Path:
        """The schema of the description."""
        return self.value[2]

    @property
    def rebuild(self) -> str:
        """What to do when the directory is damaged."""
        # The tasks of these have no --force: they always start from nothing.
        force = "" if self in {Kind.EVIDENCE, Kind.RELEASE} else " --force"
        return f"run `invoke {self.value[3]}{force}` to rebuild it"

    @classmethod
    def of(cls, path: Path) -> Kind:
        """The kind of a directory, by its path in `dist/`."""
        if path.parent.name == IMAGE:
            return cls.IMAGE
        parts = {EVIDENCE: cls.EVIDENCE, PACKAGES: cls.PACKAGES, RELEASE: cls.RELEASE, REPOSITORY: cls.REPOSITORY}  # fmt: skip
        return parts.get(path.name, cls.BINARIES)


def load(path: Path, kind: Kind | None = None) -> Artifacts:
    """Read a finished directory, and validate its description.

    Args:
        path: the directory.
        kind: its kind; by default the kind of its path in `dist/`.

    Raises:
        CheckError: the description is missing or damaged, or a file in the directory that we read
            is not a regular file.
    """
    kind = kind or Kind.of(path)
    description = path / kind.description
    try:
        _require_regular(path, [kind.description, SUMS, VERDICT], kind)
        manifest = documents.load(description, kind.schema, hint=kind.rebuild)
    except FileNotFoundError as error:
        noun, _, _, task = kind.value
        raise CheckError(
            f"no {noun} in {filesystem.display_path(path)}", f"run `invoke {task}` first"
        ) from error
    _require_regular(path, [file["name"] for file in manifest.get("files", [])], kind)
    return Artifacts(path, manifest)


def _require_regular(directory: Path, names: Iterable[str], kind: Kind) -> None:
    """Refuse links, fifos, devices and directories in the places of files; a file may be missing.

    A link could lead out of the directory, to a file that changes after its check.
    """
    real = os.path.realpath(directory)
    for name in names:
        path = directory / name
        if not os.path.lexists(path):
            continue
        if os.path.realpath(path) != os.path.join(real, name) or not path.is_file():  # noqa: PTH118 - Path.resolve raises for a loop
            raise CheckError(f"{filesystem.display_path(path)} is not a regular file", kind.rebuild)


def find(path: Path) -> Artifacts | None:
    """Read a finished directory; None where it is missing or damaged."""
    try:
        return load(path)
    except CheckError:
        return None


def directory(target: Target) -> Path:
    """The finished directory of a target."""
    return project.DIST / target.name


def image_directory(target: Target, variant: str) -> Path:
    """The finished directory of a target's image of a variant."""
    return directory(target) / IMAGE / variant


def evidence_directory(target: Target) -> Path:
    """The finished directory of a target's evidence."""
    return directory(target) / EVIDENCE


def repository_directory() -> Path:
    """The finished directory of the package repositories."""
    return project.DIST / REPOSITORY


def oci_directory() -> Path:
    """The OCI layout to which images are pushed when no registry is set."""
    return project.DIST / "oci"


def benchmark_directory() -> Path:
    """The directory of the benchmark report."""
    return project.DIST / "benchmark"


def targets() -> list[Target]:
    """Every target with a directory, sorted by name; directories with other names are ignored."""
    found = []
    for path in sorted(project.DIST.glob("linux-*/")):
        with contextlib.suppress(UsageError):
            found.append(Target.parse(path.name))
    return found


def record(directory: Path, names: Iterable[str]) -> list[dict[str, Any]]:
    """Name, size in bytes and sha256 of files in a directory."""
    return [
        {
            "name": name,
            "size": (directory / name).stat().st_size,
            "sha256": filesystem.sha256(directory / name),
        }
        for name in names
    ]


def write_manifest(directory: Path, manifest: Mapping[str, Any]) -> None:
    """Write a manifest, and the checksums of the manifest and of every file that it lists."""
    filesystem.write_json(directory / MANIFEST, manifest)
    (directory / SUMS).write_text(sums([*manifest["files"], *record(directory, [MANIFEST])]))


def sums(records: Iterable[Mapping[str, Any]]) -> str:
    """The text of SHA256SUMS, for `sha256sum --check`."""
    return "".join(f"{r['sha256']}  {r['name']}\n" for r in records)


def parse_sums(content: bytes) -> dict[str, str]:
    """The checksums in a SHA256SUMS that :func:`sums` wrote, by file name.

    A valid name is relative and printable, and none of its parts begins with a dot, so it names a
    file below the directory.

    Raises:
        ValueError: a line is invalid; the message is the reason.
    """
    found: dict[str, str] = {}
    *lines, rest = content.decode().split("\n")
    for line in lines:
        sha256, _, name = line.partition("  ")
        if not _SHA256.fullmatch(sha256) or not _NAME.fullmatch(name) or not name.isprintable():
            raise ValueError(f"{documents.shown(line)} is not a checksum and a file's name")
        if name in found:
            raise ValueError(f"{documents.shown(name)} is listed twice")
        found[name] = sha256
    if rest or not found:
        raise ValueError("the list is incomplete")
    return found


def _remove(path: Path) -> None:
    if path.exists():
        shutil.rmtree(path)


def _owner(path: Path) -> tuple[int, int]:
    """The user and the group of a file or directory."""
    status = path.stat()
    return status.st_uid, status.st_gid


def _give(path: Path) -> None:
    """As root, give new files to the owner of their directory.

    Validation runs as root, and its files in a user's checkout must not block that user later.
    """
    user, group = _owner(path.parent)
    if os.geteuid() == 0 and user != 0:
        for new in (path, *path.rglob("*")):
            os.chown(new, user, group, follow_symlinks=False)


def _make(directory: Path) -> None:
    """Create a directory that all users can read, with the owner of its parent."""
    if not directory.is_dir():
        _make(directory.parent)
        directory.mkdir(exist_ok=True)
        directory.chmod(0o755)
        _give(directory)


def _exchange(new: Path, old: Path) -> None:
    """Exchange two directories in one step.

    Python has no renameat2(2). Filesystems without RENAME_EXCHANGE answer EINVAL; there, a run
    that is killed between the two renames leaves no directory, never a partial one.
    """
    at_fdcwd, rename_exchange = -100, 2
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(at_fdcwd, os.fsencode(new), at_fdcwd, os.fsencode(old), rename_exchange) == 0:
        return
    code = ctypes.get_errno()
    if code not in {errno.EINVAL, errno.ENOSYS}:
        raise OSError(code, os.strerror(code), str(old))
    aside = new.with_name(f"{new.name}.old")
    old.rename(aside)
    try:
        new.rename(old)
    except OSError:
        aside.rename(old)
        raise
    aside.rename(new)


@contextlib.contextmanager
def lock(target: Target, dist: Path | None = None) -> Iterator[None]:
    """Lock a target's directory for one run; the kernel releases the lock when the run ends.

    Raises:
        BusyError: another run holds it.
        StorageError: `dist/` cannot be written.
    """
    with _locked(target.name, dist or project.DIST):
        yield


@contextlib.contextmanager
def _locked(name: str, dist: Path) -> Iterator[None]:
    try:
        _make(dist)
        file = dist / f".{name}.lock"
        file.touch(0o644)
        _give(file)
    except OSError as error:
        raise filesystem.failure(error, dist) from error
    with locks.exclusive(file, name):
        yield


def _staged(target: Target, dist: Path, part: str = "") -> tuple[Path, Path]:
    """The staging directory of a run, and the directory that :func:`_exchange` may need."""
    name = f"{part.replace('/', '-')}." if part else ""
    stage = dist / f".{target.name}.{name}staging"
    return stage, stage.with_name(f"{stage.name}.old")


def sweep(target: Target, dist: Path | None = None) -> None:
    """Remove the directories that a killed run left, where possible, unless another run is active."""
    dist = dist or project.DIST
    if any(path.exists() for path in _staged(target, dist)):
        with contextlib.suppress(BusyError, StorageError, OSError), lock(target, dist):
            for path in _staged(target, dist):
                _remove(path)


@contextlib.contextmanager
def staging(target: Target, dist: Path | None = None, *, part: str = "") -> Iterator[Path]:
    """An empty directory on the filesystem of `dist/`; :func:`publish` it when it is complete.

    Removes the directories of an interrupted run first. Needs :func:`lock`.

    Args:
        target: the target.
        dist: where the directory will be published.
        part: the path in the target's directory, for a part of it.
    """
    with _emptied(_staged(target, dist or project.DIST, part)) as stage:
        yield stage


@contextlib.contextmanager
def staging_repository() -> Iterator[Path]:
    """An empty directory for the package repositories, locked for this run.

    Raises:
        BusyError: another run holds the lock.
        StorageError: `dist/` cannot be written.
    """
    stage = project.DIST / f".{REPOSITORY}.staging"
    with (
        _locked(REPOSITORY, project.DIST),
        _emptied((stage, stage.with_name(f"{stage.name}.old"))) as empty,
    ):
        yield empty


@contextlib.contextmanager
def _emptied(leftovers: tuple[Path, Path]) -> Iterator[Path]:
    """Remove the leftovers of an earlier run, and create the staging directory."""
    stage, _ = leftovers
    try:
        for path in leftovers:
            _remove(path)
        _make(stage)
    except OSError as error:
        raise filesystem.failure(error, stage.parent) from error
    try:
        yield stage
    finally:
        _remove(stage)


def publish(stage: Path, target: Target, *, machine: Architecture | None = None) -> Artifacts:
    """Replace a target's directory with a staged directory.

    If the commands are unchanged, the image and the evidence of the previous directory are kept.

    Args:
        stage: the staged directory.
        target: the target.
        machine: architecture of the machine that compiled it; by default of this machine.

    Raises:
        NotNativeError: it was compiled on another architecture than the target's.
        StorageError: the directory cannot be replaced.
    """
    final = directory(target)
    # A manifest can be wrong, so the machine counts too.
    staged = load(stage)
    compiled_on = {staged.manifest["host"]["arch"], str(machine or Architecture.here())}
    if "bundle" in staged.manifest:
        compiled_on.add(staged.manifest["bundle"]["host"]["arch"])
    if compiled_on != {str(target.arch)}:
        others = " and ".join(sorted(compiled_on - {str(target.arch)}))
        raise NotNativeError(
            f"binaries for {target.name} that were compiled on {others} are not artifacts",
            f"build them on {target.arch}",
        )
    _keep(find(final), staged)
    return _put(stage, final)


def _keep(previous: Artifacts | None, staged: Artifacts) -> None:
    """Link the image and the evidence of the previous directory, if the commands are unchanged."""
    if previous is None or not previous.inputs or previous.inputs != staged.inputs:
        return
    if not previous.unchanged():
        return
    if any(previous.files.get(name) != staged.files.get(name) for name in map(binary, COMMANDS)):
        return
    for part in (IMAGE, EVIDENCE):
        old, new = previous.path / part, staged.path / part
        if old.is_dir() and not new.exists():
            try:
                shutil.copytree(old, new, symlinks=True, copy_function=os.link)
            except OSError as error:
                raise filesystem.failure(error, new) from error


def publish_part(stage: Path, target: Target, part: str) -> Artifacts:
    """Replace a part of a target's directory with a staged directory.

    Args:
        stage: the staged directory.
        target: the target.
        part: the path in the target's directory, as in `image/root`.

    Raises:
        CheckError: its description is damaged.
        StorageError: the directory cannot be replaced.
    """
    final = directory(target) / part
    load(stage, Kind.of(final))
    _make(final.parent)
    return _put(stage, final)


def publish_repository(stage: Path) -> Artifacts:
    """Replace the package repositories with a staged directory.

    Raises:
        CheckError: its description is damaged.
        StorageError: the directory cannot be replaced.
    """
    load(stage, Kind.REPOSITORY)
    return _put(stage, repository_directory())


def _put(stage: Path, final: Path) -> Artifacts:
    try:
        filesystem.make_public(stage)
        _give(stage)
        if final.exists():
            _exchange(stage, final)
        else:
            stage.rename(final)
    except OSError as error:
        raise filesystem.failure(error, final) from error
    return load(final)
