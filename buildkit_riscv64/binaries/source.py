"""Upstream's source: where it comes from, and whether it is the pinned one."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from ..core import cache_keys, dist, documents, filesystem, git, process, project
from ..core.errors import SourceError, UsageError
from ..core.pins import MODULE, Pins
from .toolchain import Go, environment, fetch_error

_FETCH_SUBMODULE = "git submodule update --init buildkit"


class Kind(StrEnum):
    """Kinds of source."""

    SUBMODULE = "submodule"
    MODULE = "module"
    PATH = "path"


@dataclass(frozen=True, kw_only=True)
class Source:
    """Upstream's source, verified.

    Args:
        kind: the origin.
        directory: the directory to run go in.
        location: for messages, such as `github.com/moby/buildkit@v0.32.2`.
        version: the output of `--version`.
        revision: the commit, with `.m` if files differ from it.
        time: of the commit; the timestamp of files in archives.
        dirty: files differ from the commit.
        pinned: the source is exactly the one in `pins/pins.toml`.
        sum: the module's dirhash, if the source is a module.
        state: changes whenever any compiled source could.
    """

    kind: Kind
    directory: Path
    location: str
    version: str
    revision: str
    time: datetime
    dirty: bool
    pinned: bool
    sum: str = ""
    state: str

    @property
    def packages(self) -> list[str]:
        """The commands, as arguments of go build."""
        return [f"{MODULE}/cmd/{command}" for command in dist.COMMANDS]

    @property
    def mod_flag(self) -> str:
        """Use upstream's vendor directory where there is one, else the module cache."""
        vendored = (self.directory / "vendor" / "modules.txt").is_file()
        return "-mod=vendor" if vendored else "-mod=readonly"


class Modules(Protocol):
    """A directory with go.mod and go.sum, to be compiled."""

    @property
    def directory(self) -> Path:
        """The directory to run go in."""

    @property
    def location(self) -> str:
        """The source's name in messages."""

    @property
    def state(self) -> str:
        """Changes whenever any compiled source could."""

    @property
    def mod_flag(self) -> str:
        """The source of modules, as a flag of go."""


def _git(directory: Path, *args: str) -> str:
    # Override settings that could hide a change from git.
    settings = ("core.fsmonitor=false", "core.trustctime=true", "core.checkStat=default")
    return git.read(directory, *args, settings=settings)


def _differences(directory: Path) -> Iterator[tuple[str, str]]:
    """Uncommitted files that could be compiled in, as (how, file)."""
    status = _git(
        directory, "status", "--porcelain=v1", "-z", "--untracked-files=all", "--no-renames"
    )
    for entry in filter(None, status.split("\0")):
        yield ("untracked" if entry.startswith("??") else "changed"), entry[3:]
    # assume-unchanged and skip-worktree hide changes from git status.
    for entry in filter(None, _git(directory, "ls-files", "-v", "-z").split("\0")):
        if entry[0] == "S" or entry[0].islower():
            yield "hidden from git (assume-unchanged or skip-worktree)", entry[2:]
    # Git status omits ignored files, but go build compiles them.
    ignored = _git(
        directory, "ls-files", "-z", "--others", "--ignored", "--exclude-standard", "--",
        "*.go", "*.s", "*.h", "*.syso",
    )  # fmt: skip
    for name in filter(None, ignored.split("\0")):
        yield "ignored by git", name


def _state_of(directory: Path, head: str, differing: list[tuple[str, str]]) -> str:
    digest = hashlib.sha256(head.encode())
    for how, name in differing:
        path = directory / name
        content = path.read_bytes() if path.is_file() else b""
        cache_keys.add(digest, how.encode(), os.fsencode(name), content)
    return f"sha256:{digest.hexdigest()}"


def _checkout(directory: Path, pins: Pins, kind: Kind, *, allow_dirty: bool) -> Source:
    head = _git(directory, "rev-parse", "--verify", "HEAD^{commit}").strip()
    if kind is Kind.SUBMODULE and head != pins.commit:
        raise SourceError(
            f"buildkit/ is at {head[:12]}, not at the pinned {pins.commit[:12]} ({pins.version})",
            f"{_FETCH_SUBMODULE}; or build it as it is with `--source ./buildkit`",
        )
    differing = list(_differences(directory))
    if differing and not allow_dirty:
        files = ", ".join(f"{name} ({how})" for how, name in differing[:3])
        more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
        raise SourceError(
            f"{filesystem.display_path(directory)} differs from its commit: {files}{more}",
            "commit or remove the changes, or build them with --allow-dirty",
        )
    dirty = bool(differing)
    if head == pins.commit:
        version = pins.version
    else:
        version = _git(directory, "describe", "--match", "v[0-9]*", "--always", "--tags").strip()
    if not re.fullmatch(r"[\w.+-]+", version, re.ASCII):
        raise SourceError(
            f"the tag {version!r} cannot be stamped into a program", "use another tag"
        )
    mark = ".m" if dirty else ""
    seconds = int(_git(directory, "show", "--no-show-signature", "-s", "--format=%ct", "HEAD"))
    return Source(
        kind=kind,
        directory=directory,
        location=str(filesystem.display_path(directory)),
        version=version + mark,
        revision=head + mark,
        time=datetime.fromtimestamp(seconds, UTC),
        dirty=dirty,
        pinned=head == pins.commit and not dirty,
        state=_state_of(directory, head, differing),
    )


def _from_path(text: str, pins: Pins, *, allow_dirty: bool) -> Source:
    try:
        directory = Path(text).expanduser().resolve()
        exists = directory.is_dir()
    except (OSError, RuntimeError):  # path too long, permission denied, unknown user
        exists = False
    if not exists:
        raise UsageError(
            f"--source {text}: no such directory",
            "give auto, submodule, module or the path of a BuildKit checkout",
        )
    try:
        first = (directory / "go.mod").read_text().split(maxsplit=2)[:2]
    except (OSError, ValueError):
        first = []
    if first != ["module", MODULE]:
        raise SourceError(
            f"{text} is not BuildKit's source: no go.mod that says `module {MODULE}`",
            "give the top directory of a checkout",
        )
    if not git.is_checkout(directory):
        raise SourceError(
            f"{text} is not a git checkout, so its version and commit are unknown",
            "give a clone, or use --source module",
        )
    return _checkout(directory, pins, Kind.PATH, allow_dirty=allow_dirty)


def submodule_is_fetched() -> bool:
    """True when the submodule has been fetched."""
    return git.is_checkout(project.SUBMODULE)


def _from_submodule(pins: Pins, *, allow_dirty: bool) -> Source:
    if not submodule_is_fetched():
        raise SourceError(
            "the submodule buildkit/ has not been fetched",
            f"{_FETCH_SUBMODULE}; or use --source module, which needs no GitHub",
        )
    return _checkout(project.SUBMODULE, pins, Kind.SUBMODULE, allow_dirty=allow_dirty)


def module_sum(pins: Pins) -> str:
    """The pinned dirhash of upstream's module.

    Raises:
        SourceError: `pins/upstream/` and `pins/pins.toml` have different versions.
    """
    return pinned_hash(project.UPSTREAM_MODULE, MODULE, pins.version, pins)


def pinned_hash(directory: Path, module: str, version: str, pins: Pins) -> str:
    """The pinned dirhash of a module.

    Args:
        directory: of its go.mod and go.sum.
        module: the module's path.
        version: the pinned version.
        pins: the pins.

    Raises:
        SourceError: the module's files and `pins/pins.toml` have different versions.
    """
    hint = f"git checkout pins/pins.toml pins/upstream/, or `invoke pins.update {pins.version}`"
    place = directory.relative_to(project.ROOT)
    try:
        required = (directory / "go.mod").read_text()
        checksums = (directory / "go.sum").read_text()
    except OSError as error:
        raise SourceError(f"cannot read {error.filename}: {error.strerror}", hint) from error
    wanted = re.escape(f"{module} {version}")
    if not re.search(rf"^\s*(require\s+)?{wanted}(?: // indirect)?$", required, re.M):
        raise SourceError(f"{place}/go.mod does not require the pinned {module} {version}", hint)
    found = re.search(rf"^{wanted} (h1:\S+)$", checksums, re.M)
    if not found:
        raise SourceError(f"{place}/go.sum has no hash of {module} {version}", hint)
    return found[1]


def module_state(directory: Path, dirhash: str) -> str:
    """The state of a pinned module: changes whenever any compiled source could.

    Args:
        directory: of its go.mod and go.sum.
        dirhash: the pinned hash of the module.
    """
    files = b"".join((directory / name).read_bytes() for name in ("go.mod", "go.sum"))
    return f"{dirhash} sha256:{hashlib.sha256(files).hexdigest()}"


def _from_module(pins: Pins) -> Source:
    dirhash = module_sum(pins)
    return Source(
        kind=Kind.MODULE,
        directory=project.UPSTREAM_MODULE,
        location=f"{MODULE}@{pins.version}",
        version=pins.version,
        revision=pins.commit,
        time=pins.time,
        dirty=False,
        pinned=True,
        sum=dirhash,
        state=module_state(project.UPSTREAM_MODULE, dirhash),
    )


def resolve(source: str, pins: Pins, *, allow_dirty: bool = False) -> Source:
    """Find and verify the source.

    Args:
        source: `auto` (the submodule if it has been fetched, else the module),
            `submodule`, `module`, or the path of a checkout.
        pins: the pins.
        allow_dirty: accept uncommitted changes.

    Raises:
        UsageError: no such path.
        SourceError: the source is not BuildKit, not the pinned commit, or has changes.
    """
    match source:
        case "auto" if submodule_is_fetched():
            return _from_submodule(pins, allow_dirty=allow_dirty)
        case "auto" | "module":
            return _from_module(pins)
        case "submodule":
            return _from_submodule(pins, allow_dirty=allow_dirty)
    return _from_path(source, pins, allow_dirty=allow_dirty)


def prepare(source: Modules, go: Go) -> None:
    """Fetch the modules, so that compiling needs no network.

    Raises:
        NetworkError: a module could not be fetched.
        SourceError: a fetched module does not have its pinned hash.
    """
    if source.mod_flag == "-mod=vendor":
        return
    answer = process.probe(
        [go.command, "mod", "download"],
        cwd=source.directory,
        env=environment(go),
        timeout=None,
        changes=True,
    )
    if not answer.ok:
        raise fetch_error(f"cannot fetch {source.location}", answer.stderr)


def _newest_change(directories: list[str]) -> int:
    """The newest change below `directories`, in nanoseconds."""
    newest = 0
    pending = list(directories)
    while pending:
        directory = pending.pop()
        newest = max(newest, Path(directory).stat().st_ctime_ns)
        with os.scandir(directory) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)
                else:
                    newest = max(newest, entry.stat(follow_symlinks=False).st_ctime_ns)
    return newest


def verify_modules(source: Modules, go: Go, name: str = "modules") -> None:
    """Check the extracted modules against the hashes in this repository.

    The go command checks downloads, but not modules that it extracted earlier. `go mod
    verify` checks them and reads a hundred thousand kilobytes, so it runs only if a file
    has changed since its last run. The kernel updates a file's ctime on each change, and
    no call can set it back.

    Args:
        source: the modules to check.
        go: the pinned toolchain.
        name: of the file that records the last run.

    Raises:
        SourceError: a file does not match its module's hash.
    """
    if source.mod_flag == "-mod=vendor":
        return
    env = environment(go)
    listing = process.read(
        [go.command, "mod", "download", "-json"],
        cwd=source.directory, env=env, timeout=None, changes=True, error=SourceError,
    )  # fmt: skip
    directories = [m["Dir"] for m in json_stream(listing) if m.get("Dir")]
    stamp = project.cache() / f"verified-{name}.json"
    seen = {
        "state": source.state,
        "modules": len(directories),
        "newest": _newest_change(directories),
    }
    try:
        if documents.parse_json(stamp.read_bytes()) == seen:
            return
    except (OSError, ValueError):
        pass
    answer = process.probe(
        [go.command, "mod", "verify"], cwd=source.directory, env=env, timeout=None
    )
    if not answer.ok:
        output = (answer.stdout + answer.stderr).strip().splitlines()
        raise SourceError(
            f"the module cache has been changed: {output[0] if output else 'go mod verify failed'}",
            "run `go clean -modcache` and build again",
        )
    # If this cannot be written, the next run verifies again.
    with contextlib.suppress(OSError):
        stamp.parent.mkdir(parents=True, exist_ok=True)
        filesystem.write_json(stamp, seen)


def json_stream(text: str) -> Iterator[dict[str, str]]:
    """The concatenated objects of a go command's -json output."""
    decoder = json.JSONDecoder()
    position = 0
    while position < len(text):
        value, position = decoder.raw_decode(text, position)
        yield value
        while position < len(text) and text[position].isspace():
            position += 1
