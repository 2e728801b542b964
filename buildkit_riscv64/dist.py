"""The layout of `dist/`: the only place that knows it, and that writes there.

    dist/linux-riscv64/                           one folder per target
        bin/buildkitd, bin/buildctl
        bin/buildkit-runc, bin/rootlesskit, …     the bundle, where it was asked for
        buildkit-v0.32.2.linux-riscv64.tar.gz
        buildkitd.cdx.json, buildctl.cdx.json     CycloneDX SBOMs
        default.pgo                               the profile, for linux-riscv64-pgo and its like
        provenance.intoto.json                    in-toto statement, SLSA provenance v1
        manifest.json                             what, from what, on what, with what
        SHA256SUMS                                of all of the above
        cross-check.json                          verdict of another machine, if there is one
        image/root/, image/rootless/              what phase 2 makes of the binaries:
            layout/                               OCI image layout
            buildkit-v0.32.2.linux-riscv64.image.tar    the same in one file; docker loads it
            sbom.cdx.json                         CycloneDX SBOM of Debian's packages in it
            manifest.json, SHA256SUMS
        evidence/                                 what phase 3 proves of both:
            evidence.json, index.html             each scenario; the same for people
            junit-SUITE.xml, pytest-SUITE.log     what pytest has to say of a suite
            SHA256SUMS
        packages/                                 deb and rpm, with manifest.json and SHA256SUMS
        release/                                  what is published of all this:
            release.json, NOTES.md                what it consists of; what people read
            SHA256SUMS, SHA256SUMS.asc            of its files; the signature of that
    dist/oci/                                     OCI layout of what push-image would push
    dist/repo/                                    the packages of all targets, for apt and dnf
    dist/benchmark/index.html                     what `invoke benchmark` has measured

A folder is made whole beside its place and then exchanged with what was there,
in one system call. Names with a leading dot belong to a run at work.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import project, storage
from .arch import Architecture, Target
from .errors import BusyError, CheckError, NotNativeError, StorageError, UsageError

#: The commands, in the order in which upstream lists them.
COMMANDS = ("buildctl", "buildkitd")
#: What the commands run, for who has none of his own: `build-binaries --bundle`.
BUNDLE = (
    "buildkit-cni-bridge",
    "buildkit-cni-firewall",
    "buildkit-cni-host-local",
    "buildkit-cni-loopback",
    "buildkit-runc",
    "rootlesskit",
)
MANIFEST = "manifest.json"
#: The manifest of evidence.
RESULTS = "evidence.json"
SUMS = "SHA256SUMS"
PROVENANCE = "provenance.intoto.json"
#: The profile that a target was compiled with, under Go's own name for it.
PROFILE = "default.pgo"
VERDICT = "cross-check.json"
#: Version of the manifest's format, as in `schemas/manifest.schema.json`.
MANIFEST_VERSION = 1

#: Below a target's folder: one folder for each variant of the image.
IMAGE = "image"
#: Below a target's folder: what was proved of it.
EVIDENCE = "evidence"
#: Below a target's folder: packages for distributions.
PACKAGES = "packages"
#: In dist/: the repositories that apt and dnf read.
REPOSITORY = "repo"
#: Below a target's folder: what is published of it, each file under the name it has there.
RELEASE = "release"
#: What has sums of its own, in a target's folder.
PARTS = (IMAGE, EVIDENCE, PACKAGES, RELEASE)
#: What describes a part, where it is not called as elsewhere.
DESCRIPTIONS = {EVIDENCE: RESULTS, RELEASE: "release.json"}
#: In an image's folder: its OCI layout.
LAYOUT = "layout"
#: In an image's folder: the SBOM of its packages.
PACKAGES_SBOM = "sbom.cdx.json"


def binary(command: str) -> str:
    """Where a command is in a target's folder."""
    return f"bin/{command}"


def has_commands(folder: Path) -> bool:
    """True when a folder has each of BuildKit's commands."""
    return all((folder / command).is_file() for command in COMMANDS)


def sbom(command: str) -> str:
    """Where a command's SBOM is in a target's folder."""
    return f"{command}.cdx.json"


def tarball(version: str, target: Target) -> str:
    """The tarball's name, as upstream names its own."""
    return f"buildkit-{version}.{target.name}.tar.gz"


def image_archive(version: str, target: Target, suffix: str) -> str:
    """The name of an image in one file."""
    return f"buildkit{suffix}-{version}.{target.name}.image.tar"


@dataclass(frozen=True)
class Artifacts:
    """A target's finished folder."""

    path: Path
    manifest: Mapping[str, Any]

    @property
    def files(self) -> dict[str, dict[str, Any]]:
        """The manifest's record of each file, by name."""
        return {record["name"]: record for record in self.manifest["files"]}

    @property
    def inputs(self) -> str:
        """The digest of what they were made from; nothing where the manifest has none."""
        build = self.manifest.get("build")
        return str(build.get("inputs", "")) if isinstance(build, dict) else ""

    @property
    def programs(self) -> tuple[str, ...]:
        """The commands, and the bundle where there is one."""
        return (*COMMANDS, *(BUNDLE if "bundle" in self.manifest else ()))

    def sums(self) -> dict[str, str]:
        """What SHA256SUMS says of each file, by name."""
        lines = (self.path / SUMS).read_text().splitlines()
        return {name: sha256 for sha256, _, name in (line.partition("  ") for line in lines)}

    def made_of(self, inputs: str) -> bool:
        """True when they are what these inputs give, and nobody has changed them since."""
        return self.inputs == inputs and self.unchanged()

    def unchanged(self) -> bool:
        """True when the files are those of the manifest.

        Size and modification time decide; only a file that is newer than the
        manifest, as after a copy, is read.
        """
        try:
            listed = self.path / SUMS
            if listed.read_text() != sums([*self.files.values(), *record(self.path, [MANIFEST])]):
                return False
            finished = listed.stat().st_mtime_ns
            for name, file in self.files.items():
                stat = (self.path / name).stat()
                if stat.st_size != file["size"]:
                    return False
                if (
                    stat.st_mtime_ns > finished
                    and storage.sha256(self.path / name) != file["sha256"]
                ):
                    return False
        except (OSError, KeyError, TypeError, ValueError):
            return False
        return True


@dataclass(frozen=True)
class Outcome:
    """What became of a task that makes artifacts.

    Args:
        artifacts: the finished folder; None when nothing was to be done but said.
        up_to_date: nothing had changed, so nothing was done.
        seconds: how long it took.
    """

    artifacts: Artifacts | None
    up_to_date: bool
    seconds: float


#: What a folder holds that is no binaries and no image, and the task that makes it.
_MAKERS = {
    EVIDENCE: ("evidence", "validate"),
    RELEASE: ("release", "release"),
    PACKAGES: ("packages", "build-packages"),
    REPOSITORY: ("repository", "publish-repo"),
}


def _kind(path: Path, name: str) -> tuple[str, str]:
    """What a folder holds, and the task that makes it; evidence may be in any folder."""
    described = {description: kind for kind, description in DESCRIPTIONS.items()}
    image = path.parent.name == IMAGE
    other = ("artifacts", "build-image" if image else "build-binaries")
    return _MAKERS.get(described.get(name, path.name), other)


def load(path: Path, name: str = "") -> Artifacts:
    """A finished folder.

    Args:
        path: the folder.
        name: the file that describes it; by default what it is called in such a folder.

    Raises:
        CheckError: there is none, or it cannot be read.
    """
    name = name or DESCRIPTIONS.get(path.name, MANIFEST)
    what, maker = _kind(path, name)
    try:
        manifest = json.loads((path / name).read_text())
        if not isinstance(manifest, dict):
            raise TypeError("not an object")
    except FileNotFoundError as error:
        raise CheckError(
            f"no {what} in {storage.shown(path)}", f"run `invoke {maker}` first"
        ) from error
    except (OSError, ValueError, TypeError, RecursionError) as error:
        force = "" if name == RESULTS else " --force"
        raise CheckError(
            f"cannot read {storage.shown(path / name)}: {error}",
            f"run `invoke {maker}{force}` to make it anew",
        ) from error
    return Artifacts(path, manifest)


def find(path: Path) -> Artifacts | None:
    """A finished folder, or None where there is no usable one."""
    try:
        return load(path)
    except CheckError:
        return None


def folder(target: Target) -> Path:
    """Where a target's finished folder is."""
    return project.DIST / target.name


def image_folder(target: Target, variant: str) -> Path:
    """Where a target's finished image of a variant is."""
    return folder(target) / IMAGE / variant


def evidence_folder(target: Target) -> Path:
    """Where the evidence for a target is."""
    return folder(target) / EVIDENCE


def repository_folder() -> Path:
    """Where the finished repositories of packages are."""
    return project.DIST / REPOSITORY


def oci_folder() -> Path:
    """Where the layout is that images are pushed to when nobody has named a registry."""
    return project.DIST / "oci"


def benchmark_folder() -> Path:
    """Where the report of benchmarks is."""
    return project.DIST / "benchmark"


def targets() -> list[Target]:
    """All targets that have a folder, in the order of their names; other folders are not ours."""
    found = []
    for path in sorted(project.DIST.glob("linux-*/")):
        with contextlib.suppress(UsageError):
            found.append(Target.parse(path.name))
    return found


def record(folder: Path, names: Iterable[str]) -> list[dict[str, Any]]:
    """Name, size in bytes and sha256 of files."""
    return [
        {
            "name": name,
            "size": (folder / name).stat().st_size,
            "sha256": storage.sha256(folder / name),
        }
        for name in names
    ]


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write a folder's manifest, and the sums of the files that it lists and of itself."""
    storage.write_json(folder / MANIFEST, manifest)
    (folder / SUMS).write_text(sums([*manifest["files"], *record(folder, [MANIFEST])]))


def sums(records: Iterable[Mapping[str, Any]]) -> str:
    """The text of SHA256SUMS, for `sha256sum --check`."""
    return "".join(f"{r['sha256']}  {r['name']}\n" for r in records)


def _remove(path: Path) -> None:
    if path.exists():
        shutil.rmtree(path)


def _owner(path: Path) -> tuple[int, int]:
    """Whose a folder or file is: user and group."""
    status = path.stat()
    return status.st_uid, status.st_gid


def _give(path: Path) -> None:
    """As root, give what was made to whoever owns the folder that it is in.

    Validation has to be root. What it makes in somebody's checkout is not to stand in
    the way of what they do there next.
    """
    user, group = _owner(path.parent)
    if os.geteuid() == 0 and user != 0:
        for made in (path, *path.rglob("*")):
            os.chown(made, user, group, follow_symlinks=False)


def _make(folder: Path) -> None:
    """Have a folder, owned as the one that it is in."""
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        _give(folder)


def _exchange(new: Path, old: Path) -> None:
    """Put `new` in the place of `old` and `old` in the place of `new`, in one step.

    Python has no renameat2(2). File systems without RENAME_EXCHANGE answer
    EINVAL; there, a run that is killed between the two renames leaves no
    folder at all rather than half a folder.
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
    """Hold a target's folder for one run; the kernel lets go of it however that run ends.

    Raises:
        BusyError: another run holds it.
        StorageError: `dist/` cannot be written.
    """
    with _held(target.name, dist or project.DIST):
        yield


@contextlib.contextmanager
def _held(name: str, dist: Path) -> Iterator[None]:
    try:
        _make(dist)
        file = dist / f".{name}.lock"
        handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        _give(file)
    except OSError as error:
        raise storage.failure(error, dist) from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.pread(handle, 32, 0).decode(errors="replace").strip() or "unknown"
            raise BusyError(
                f"another run (pid {owner}) is at work on {name}", "wait for it, or end it"
            ) from error
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(handle)


def _staged(target: Target, dist: Path, part: str = "") -> tuple[Path, Path]:
    """The folder of a run at work, and the one that :func:`_exchange` may need."""
    name = f"{part.replace('/', '-')}." if part else ""
    stage = dist / f".{target.name}.{name}staging"
    return stage, stage.with_name(f"{stage.name}.old")


def sweep(target: Target, dist: Path | None = None) -> None:
    """Remove what a killed run left, if it can be and no other run is at work."""
    dist = dist or project.DIST
    if any(path.exists() for path in _staged(target, dist)):
        with contextlib.suppress(BusyError, StorageError, OSError), lock(target, dist):
            for path in _staged(target, dist):
                _remove(path)


@contextlib.contextmanager
def staging(target: Target, dist: Path | None = None, *, part: str = "") -> Iterator[Path]:
    """An empty folder on the file system of `dist/`; :func:`publish` it when it is whole.

    What an interrupted run left is removed first. Needs :func:`lock`.

    Args:
        target: what it will be for.
        dist: where it will be published.
        part: for what is only a part of the target's folder: where it is in there.
    """
    with _emptied(_staged(target, dist or project.DIST, part)) as stage:
        yield stage


@contextlib.contextmanager
def staging_repository() -> Iterator[Path]:
    """The same for what becomes :func:`repository_folder`, held for this run alone.

    Raises:
        BusyError: another run is at work on it.
        StorageError: `dist/` cannot be written.
    """
    stage = project.DIST / f".{REPOSITORY}.staging"
    with (
        _held(REPOSITORY, project.DIST),
        _emptied((stage, stage.with_name(f"{stage.name}.old"))) as empty,
    ):
        yield empty


@contextlib.contextmanager
def _emptied(leftovers: tuple[Path, Path]) -> Iterator[Path]:
    """A new folder, the first of those that an earlier run may have left."""
    stage, _ = leftovers
    try:
        for path in leftovers:
            _remove(path)
        _make(stage)
    except OSError as error:
        raise storage.failure(error, stage.parent) from error
    try:
        yield stage
    finally:
        _remove(stage)


def publish(stage: Path, target: Target, *, machine: Architecture | None = None) -> Artifacts:
    """Make a staged folder the target's, replacing what was there.

    Where the commands are those that were there, so are the image and the evidence of them.

    Args:
        stage: the folder.
        target: what it is for.
        machine: what the machine that compiled it is; by default this one.

    Raises:
        NotNativeError: it was compiled on another architecture than it is for.
        StorageError: it could not be put in place.
    """
    final = folder(target)
    # A manifest may say anything; a machine is what it is.
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
    """Have what was made of the commands beside them still, if they are the same."""
    if previous is None or not previous.inputs or previous.inputs != staged.inputs:
        return
    if not previous.unchanged():
        return
    if any(previous.files.get(name) != staged.files.get(name) for name in map(binary, COMMANDS)):
        return
    for part in (IMAGE, EVIDENCE):
        there, here = previous.path / part, staged.path / part
        if there.is_dir() and not here.exists():
            try:
                shutil.copytree(there, here, symlinks=True, copy_function=os.link)
            except OSError as error:
                raise storage.failure(error, here) from error


def publish_part(stage: Path, target: Target, part: str) -> Artifacts:
    """Make a staged folder a part of the target's, replacing what was there.

    Args:
        stage: the folder.
        target: what it is for.
        part: where it is in the target's folder, as in `image/root`.

    Raises:
        StorageError: it could not be put in place.
    """
    final = folder(target) / part
    _make(final.parent)
    return _put(stage, final)


def publish_repository(stage: Path) -> Artifacts:
    """Make a staged folder the repositories, replacing those that were there.

    Raises:
        StorageError: it could not be put in place.
    """
    return _put(stage, repository_folder())


def _put(stage: Path, final: Path) -> Artifacts:
    try:
        _give(stage)
        if final.exists():
            _exchange(stage, final)
        else:
            stage.rename(final)
    except OSError as error:
        raise storage.failure(error, final) from error
    return load(final)
