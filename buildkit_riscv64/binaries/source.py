"""Where upstream's source comes from, and the proof that it is the pinned one."""

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

from .. import digests, dist, process, project, storage
from ..errors import SourceError, UsageError
from ..pins import MODULE, Pins
from .toolchain import Go, environment, fetch_error

_FETCH_SUBMODULE = "git submodule update --init buildkit"


class Kind(StrEnum):
    """Kinds of source."""

    SUBMODULE = "submodule"
    MODULE = "module"
    PATH = "path"


@dataclass(frozen=True, kw_only=True)
class Source:
    """Upstream's source, looked at and found good.

    Args:
        kind: where it comes from.
        directory: where to run go.
        location: for people, as in `github.com/moby/buildkit@v0.32.2`.
        version: what `--version` will say.
        revision: the commit, with `.m` when files differ from it.
        time: the commit's; the date of files in archives.
        dirty: files differ from the commit.
        pinned: it is what `pins.toml` says, to the bit.
        sum: the module's dirhash, for a module.
        state: differs whenever anything that is compiled could.
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
        """Modules from the module cache, or from the tree's vendor folder as upstream does."""
        vendored = (self.directory / "vendor" / "modules.txt").is_file()
        return "-mod=vendor" if vendored else "-mod=readonly"


class Modules(Protocol):
    """What go compiles: in a folder with go.mod and go.sum."""

    @property
    def directory(self) -> Path:
        """Where to run go."""

    @property
    def location(self) -> str:
        """For people."""

    @property
    def state(self) -> str:
        """Differs whenever anything that is compiled could."""

    @property
    def mod_flag(self) -> str:
        """Where go takes modules from."""


def _git(directory: Path, *args: str, hint: str = "") -> str:
    # Settings of a repository that could hide a change from git.
    honest = ("core.fsmonitor=false", "core.trustctime=true", "core.checkStat=default")
    settings = [word for setting in honest for word in ("-c", setting)]
    return process.read(["git", "-C", directory, *settings, *args], error=SourceError, hint=hint)


def _differences(directory: Path) -> Iterator[tuple[str, str]]:
    """What differs from HEAD, as (how, file): all that could be compiled in and is not committed."""
    status = _git(
        directory, "status", "--porcelain=v1", "-z", "--untracked-files=all", "--no-renames"
    )
    for entry in filter(None, status.split("\0")):
        yield ("untracked" if entry.startswith("??") else "changed"), entry[3:]
    # A file that git has been told not to look at hides its changes from git status.
    for entry in filter(None, _git(directory, "ls-files", "-v", "-z").split("\0")):
        if entry[0] == "S" or entry[0].islower():
            yield "hidden from git (assume-unchanged or skip-worktree)", entry[2:]
    # So does one that is ignored, and go build compiles it all the same.
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
        digests.add(digest, how.encode(), os.fsencode(name), content)
    return f"sha256:{digest.hexdigest()}"


def _is_checkout(directory: Path) -> bool:
    # Without this, git would answer for a repository further up.
    return (directory / ".git").exists()


def _checkout(directory: Path, pins: Pins, kind: Kind, *, allow_dirty: bool) -> Source:
    head = _git(directory, "rev-parse", "--verify", "HEAD^{commit}").strip()
    if kind is Kind.SUBMODULE and head != pins.commit:
        raise SourceError(
            f"buildkit/ is at {head[:12]}, not at the pinned {pins.commit[:12]} ({pins.version})",
            f"{_FETCH_SUBMODULE}; or build it as it is with `--source ./buildkit`",
        )
    differing = list(_differences(directory))
    if differing and not allow_dirty:
        named = ", ".join(f"{name} ({how})" for how, name in differing[:3])
        more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
        raise SourceError(
            f"{storage.shown(directory)} differs from its commit: {named}{more}",
            "commit or remove the changes, or build them on purpose with --allow-dirty",
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
        location=str(storage.shown(directory)),
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
        there = directory.is_dir()
    except (OSError, RuntimeError):  # too long, not ours to look at, no such user
        there = False
    if not there:
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
            "give the top folder of a checkout",
        )
    if not _is_checkout(directory):
        raise SourceError(
            f"{text} is not a git checkout, so its version and commit are unknown",
            "give a clone, or use --source module",
        )
    return _checkout(directory, pins, Kind.PATH, allow_dirty=allow_dirty)


def submodule_is_there() -> bool:
    """True when the submodule has been fetched."""
    return _is_checkout(project.SUBMODULE)


def _from_submodule(pins: Pins, *, allow_dirty: bool) -> Source:
    if not submodule_is_there():
        raise SourceError(
            "the submodule buildkit/ has not been fetched",
            f"{_FETCH_SUBMODULE}; or use --source module, which needs no GitHub",
        )
    return _checkout(project.SUBMODULE, pins, Kind.SUBMODULE, allow_dirty=allow_dirty)


def module_sum(pins: Pins) -> str:
    """The dirhash of upstream's module that this repository keeps.

    Raises:
        SourceError: the module's files and `pins.toml` do not speak of the same version.
    """
    return kept_sum(project.UPSTREAM_MODULE, MODULE, pins.version, pins)


def kept_sum(folder: Path, module: str, version: str, pins: Pins) -> str:
    """The dirhash of a module that this repository keeps.

    Args:
        folder: where its go.mod and go.sum are.
        module: which.
        version: the pinned one.
        pins: what is pinned.

    Raises:
        SourceError: its files and `pins.toml` do not speak of the same version.
    """
    hint = f"git checkout pins.toml upstream/, or `invoke source.update {pins.version}`"
    place = folder.relative_to(project.ROOT)
    try:
        required = (folder / "go.mod").read_text()
        sums = (folder / "go.sum").read_text()
    except OSError as error:
        raise SourceError(f"cannot read {error.filename}: {error.strerror}", hint) from error
    wanted = re.escape(f"{module} {version}")
    if not re.search(rf"^\s*(require\s+)?{wanted}(?: // indirect)?$", required, re.M):
        raise SourceError(f"{place}/go.mod does not require the pinned {module} {version}", hint)
    found = re.search(rf"^{wanted} (h1:\S+)$", sums, re.M)
    if not found:
        raise SourceError(f"{place}/go.sum has no hash of {module} {version}", hint)
    return found[1]


def kept_state(folder: Path, kept: str) -> str:
    """What differs whenever anything that is compiled from a module could.

    Args:
        folder: where its go.mod and go.sum are.
        kept: its dirhash.
    """
    files = b"".join((folder / name).read_bytes() for name in ("go.mod", "go.sum"))
    return f"{kept} sha256:{hashlib.sha256(files).hexdigest()}"


def _from_module(pins: Pins) -> Source:
    kept = module_sum(pins)
    return Source(
        kind=Kind.MODULE,
        directory=project.UPSTREAM_MODULE,
        location=f"{MODULE}@{pins.version}",
        version=pins.version,
        revision=pins.commit,
        time=pins.time,
        dirty=False,
        pinned=True,
        sum=kept,
        state=kept_state(project.UPSTREAM_MODULE, kept),
    )


def resolve(source: str, pins: Pins, *, allow_dirty: bool = False) -> Source:
    """Find the source and refuse one that is not what it should be.

    Args:
        source: `auto` (the submodule if it has been fetched, else the module),
            `submodule`, `module`, or the path of a checkout.
        pins: what is pinned.
        allow_dirty: accept files that differ from the commit.

    Raises:
        UsageError: there is no such path.
        SourceError: it is not what is pinned, or not BuildKit.
    """
    match source:
        case "auto" if submodule_is_there():
            return _from_submodule(pins, allow_dirty=allow_dirty)
        case "auto" | "module":
            return _from_module(pins)
        case "submodule":
            return _from_submodule(pins, allow_dirty=allow_dirty)
    return _from_path(source, pins, allow_dirty=allow_dirty)


def prepare(source: Modules, go: Go) -> None:
    """Fetch what the source is compiled with, so that compiling needs no network.

    Raises:
        NetworkError: something could not be fetched.
        SourceError: something that was fetched has another hash than the pinned one.
    """
    if source.mod_flag == "-mod=vendor":
        return
    answer = process.probe(
        [go.command, "mod", "download"], cwd=source.directory, env=environment(go), timeout=None
    )
    if not answer.ok:
        raise fetch_error(f"cannot fetch {source.location}", answer.stderr)


def _newest_change(directories: list[str]) -> int:
    """The newest change, in nanoseconds, of any file or folder below `directories`."""
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
    """Check the extracted modules that are compiled against the hashes in this repository.

    The go command checks what it downloads, and trusts what it extracted
    before. `go mod verify` does not, but reads a hundred thousand kilobytes;
    so it runs only when a file has changed since it last ran. The kernel
    stamps each change of a file (ctime), and no call sets that stamp back.

    Args:
        source: what is compiled.
        go: the pinned toolchain.
        name: what it is remembered by until then.

    Raises:
        SourceError: a file is not what its module's hash says.
    """
    if source.mod_flag == "-mod=vendor":
        return
    env = environment(go)
    listing = process.read(
        [go.command, "mod", "download", "-json"],
        cwd=source.directory, env=env, timeout=None, error=SourceError,
    )  # fmt: skip
    directories = [m["Dir"] for m in json_stream(listing) if m.get("Dir")]
    stamp = project.cache() / f"verified-{name}.json"
    seen = {
        "state": source.state,
        "modules": len(directories),
        "newest": _newest_change(directories),
    }
    try:
        if json.loads(stamp.read_text()) == seen:
            return
    except (OSError, ValueError):
        pass
    answer = process.probe(
        [go.command, "mod", "verify"], cwd=source.directory, env=env, timeout=None
    )
    if not answer.ok:
        told = (answer.stdout + answer.stderr).strip().splitlines()
        raise SourceError(
            f"the module cache has been changed: {told[0] if told else 'go mod verify failed'}",
            "run `go clean -modcache` and build again",
        )
    # Without it the next run verifies again, which is no reason for this one to fail.
    with contextlib.suppress(OSError):
        stamp.parent.mkdir(parents=True, exist_ok=True)
        storage.write_json(stamp, seen)


def json_stream(text: str) -> Iterator[dict[str, str]]:
    """The objects of a go command's -json output, which follow each other."""
    decoder = json.JSONDecoder()
    position = 0
    while position < len(text):
        value, position = decoder.raw_decode(text, position)
        yield value
        while position < len(text) and text[position].isspace():
            position += 1
