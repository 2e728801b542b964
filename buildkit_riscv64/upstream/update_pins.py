"""`invoke pins.show` and `invoke pins.update`."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from packaging.version import Version

from ..binaries import bundle as bundles
from ..binaries import source as sources
from ..binaries import toolchain
from ..binaries.source import json_stream
from ..core import dist, documents, dry_run, filesystem, pins, process, project, timestamps
from ..core.console import log
from ..core.errors import Failure, MissingRequirementError, NetworkError, SourceError, UsageError

#: Shell blocks in pages: their commands name the pinned release.
_SHELL_BLOCK = re.compile(r"^ *```sh\n.*?^ *```", re.MULTILINE | re.DOTALL)


def _bundle(pinned: pins.Pins) -> dict[str, str]:
    """The pins of the bundle."""
    try:
        parts = bundles.parts(pinned)
    except SourceError as error:
        return {"bundle": f"none: {error.brief}"}
    shown: dict[str, str] = {}
    for part in parts:
        shown[part.component.name] = part.location
        shown[f"{part.component.name} hash"] = part.sum
    return shown


def show() -> dict[str, str]:
    """The pins, and the source that `--source auto` selects."""
    pinned = pins.load()
    try:
        source = sources.resolve("auto", pinned)
        chosen = f"{source.kind} ({source.location})"
    except Failure as error:
        chosen = f"none: {error.brief}"
    return {
        "version": pinned.version,
        "commit": pinned.commit,
        "commit time": pinned.time.isoformat(),
        "repository": repository(),
        "module": f"{pins.MODULE}@{pinned.version}",
        "module hash": sources.module_sum(pinned),
        **_bundle(pinned),
        "Go": pinned.go_version,
        "source auto takes": chosen,
    }


def repository() -> str:
    """The submodule's repository.

    Raises:
        SourceError: `.gitmodules` does not contain it.
    """
    return process.read(
        ["git", "config", "--file", project.ROOT / ".gitmodules", "submodule.buildkit.url"],
        error=SourceError, hint="git checkout .gitmodules",
    ).strip()  # fmt: skip


def _commit_of(tag: str) -> str:
    """Ask upstream's repository for the commit of a tag."""
    url = repository()
    # GitHub asks for a password when a repository does not exist.
    env = process.environment({"GIT_TERMINAL_PROMPT": "0"})
    answer = process.probe(
        ["git", "ls-remote", "--tags", url, f"refs/tags/{tag}", f"refs/tags/{tag}^{{}}"],
        env=env, timeout=120,
    )  # fmt: skip
    if not answer.ok:
        raise NetworkError(
            f"cannot ask {url} for the commit of {tag}: {answer.last_line}", "check the network"
        )
    # One line per reference: object, tab, name.
    lines = (line.split() for line in answer.stdout.splitlines())
    commits = {name: commit for commit, name in lines}
    # An annotated tag is an object; ^{} is its commit.
    commit = commits.get(f"refs/tags/{tag}^{{}}") or commits.get(f"refs/tags/{tag}")
    if not commit:
        raise UsageError(f"{tag} is not a tag of {url}", "see upstream's list of releases")
    return commit


def fetch_module(tag: str, go: toolchain.Go, directory: Path) -> dict[str, Any]:
    """Write go.mod and go.sum of a release; return Go's description of the module."""
    for name in ("go.mod", "go.sum"):
        shutil.copy(project.UPSTREAM_MODULE / name, directory)
    return _fetch(pins.MODULE, tag, _packages(tag), go, directory)


def _packages(tag: str) -> list[str]:
    """Upstream's commands, as arguments of `go get`."""
    return [f"{pins.MODULE}/cmd/{command}@{tag}" for command in dist.COMMANDS]


def _fetching(packages: Sequence[str]) -> list[list[str]]:
    """The go commands that make a go.mod require packages."""
    return [["get", *packages], ["mod", "tidy"]]


_COMPONENT = """\
// {path} as upstream's Dockerfile pins it, for the bundle,
// and the hash of every module that is compiled into it. Written by
// `invoke pins.update`; do not edit by hand.
module buildkit-riscv64.invalid/upstream/{name}

go 1.21
"""


def _fetch_component(
    component: bundles.Component, tag: str, go: toolchain.Go, directory: Path
) -> pins.PinnedRelease:
    """Write go.mod and go.sum of a component of the bundle; return its release.

    `go get` sets the line `go` to the component's: it decides Go's defaults at run time.
    """
    directory.mkdir()
    (directory / "go.mod").write_text(_COMPONENT.format(path=component.path, name=component.name))
    packages = [f"{package}@{tag}" for package in component.commands(tag).values()]
    module = _fetch(component.module(tag), tag, ["-tool", *packages], go, directory)
    commit = (module.get("Origin") or {}).get("Hash", "")
    return pins.PinnedRelease(version=tag, time=_commit_time(module), commit=commit)


def _fetch(
    path: str, tag: str, packages: Sequence[str], go: toolchain.Go, directory: Path
) -> dict[str, Any]:
    """Add packages to go.mod and go.sum in a directory; return Go's description of the module."""
    env = toolchain.environment(go)
    for args in _fetching(packages):
        answer = process.probe(
            [go.command, *args], cwd=directory, env=env, timeout=None, changes=True
        )
        if not answer.ok:
            if "requires go >=" in answer.stderr or "toolchain not available" in answer.stderr:
                raise MissingRequirementError(
                    f"{path} {tag} needs a newer Go than the pinned {go.version}: {answer.last_line}",
                    "update Go first: invoke pins.update-go VERSION",
                )
            raise toolchain.fetch_error(f"cannot fetch {path} {tag}", answer.stderr)
    listing = process.read(
        [go.command, "mod", "download", "-json", f"{path}@{tag}"], cwd=directory, env=env,
        changes=True, error=NetworkError,
    )  # fmt: skip
    return next(json_stream(listing))


def update(tag: str) -> None:
    """Update all pins to another release, atomically.

    Args:
        tag: as in `v0.32.2`.

    Raises:
        UsageError: upstream has no such release.
        NetworkError: upstream's repository or the module proxy does not answer.
        MissingRequirementError: the release needs a newer Go.
        SourceError: repository and module proxy disagree about the commit, or upstream's
            Dockerfile does not pin a component of the bundle.
    """
    tag = pins.release_tag(tag)
    old = pins.load()
    commit = _commit_of(tag)
    if dry_run.active():
        _log_dry_run(old, tag, commit)
        return
    go = toolchain.ensure(old)
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        module = fetch_module(tag, go, directory)
        origin = (module.get("Origin") or {}).get("Hash", commit)
        if origin != commit:
            raise SourceError(
                f"{tag} is {commit} in the repository and {origin} in the module proxy",
                "the tag was moved: find out why before you build it",
            )
        bundle = _fetch_bundle(module, go, directory)
        new = pins.PinnedRelease(version=tag, time=_commit_time(module), commit=commit)
        _log_update(old, tag, f"{commit[:12]}, {timestamps.utc(new.time)}")
        log(f"module hash {module['Sum']}")
        for name, release in bundle.items():
            before = old.bundle[name].version if name in old.bundle else "none"
            log(f"{name} {before} -> {release.version}")
        _write(old, new, bundle, directory)
    log("updated the pins: check `git diff --cached` and `git diff`, build, and commit")
    if sources.submodule_is_fetched():
        log("then: git submodule update buildkit")


def _log_update(old: pins.Pins, tag: str, commit: str) -> None:
    log(f"{old.version} ({old.commit[:12]}) -> {tag} ({commit})")
    if Version(tag) < Version(old.version):
        log("note: this is an older release than the pinned one")


def _log_dry_run(old: pins.Pins, tag: str, commit: str) -> None:
    _log_update(old, tag, commit[:12])
    for command in _fetching(_packages(tag)):
        log(f"would run in a temporary directory: go {process.show(command)}")
    names = ", ".join(one.name for one in bundles.COMPONENTS)
    log(f"would do the same for {names}, in the versions of upstream's Dockerfile")
    log(
        "would write pins/pins.toml, go.mod and go.sum in pins/upstream/, the submodule's commit,"
        " and the release in the pages' commands"
    )


def _fetch_bundle(
    module: dict[str, Any], go: toolchain.Go, directory: Path
) -> dict[str, pins.PinnedRelease]:
    """Write go.mod and go.sum of each component; return the releases that upstream's Dockerfile pins."""
    try:
        dockerfile = (Path(module["Dir"]) / "Dockerfile").read_text()
    except OSError as error:
        raise SourceError(
            f"cannot read upstream's Dockerfile: {error}", "go clean -modcache; run it again"
        ) from error
    versions = {one.name: pins.others(dockerfile, one.argument) for one in bundles.COMPONENTS}
    return {
        one.name: _fetch_component(one, versions[one.name], go, directory / one.name)
        for one in bundles.COMPONENTS
    }


def _pages(old: str, new: str) -> dict[Path, str]:
    """New texts of the pages whose shell blocks name the old release; other text stays."""
    changed = {}
    for page in (*project.ROOT.glob("*.md"), *(project.ROOT / "docs").rglob("*.md")):
        text = page.read_text()
        updated = _SHELL_BLOCK.sub(lambda block: block[0].replace(old[1:], new[1:]), text)
        if updated != text:
            changed[page] = updated
    return changed


def _write(
    old: pins.Pins,
    new: pins.PinnedRelease,
    bundle: Mapping[str, pins.PinnedRelease],
    directory: Path,
) -> None:
    """Write the new pins, with go.mod and go.sum from a directory."""
    text = pins.with_upstream(project.PINS.read_text(), new)
    for name, release in bundle.items():
        text = pins.with_release(text, name, release)
    (directory / project.PINS.name).write_text(text)
    pins.load(directory / project.PINS.name)
    # First the step that may fail: no repository, or another git holds its lock.
    process.run(
        ["git", "-C", project.ROOT, "update-index", "--add", "--cacheinfo",
         f"160000,{new.commit},{project.SUBMODULE.name}"],
        error=SourceError, hint="see git's output above; no pin was changed",
    )  # fmt: skip
    # pins/pins.toml last: until then a build reports that the pins disagree.
    for name in ("", *bundle):
        (project.UPSTREAM_MODULE / name).mkdir(exist_ok=True)
        for file in ("go.mod", "go.sum"):
            content = (directory / name / file).read_text()
            filesystem.write_whole(project.UPSTREAM_MODULE / name / file, content)
    for page, content in _pages(old.version, new.version).items():
        filesystem.write_whole(page, content)
    filesystem.write_whole(project.PINS, text)


def _commit_time(module: dict[str, Any]) -> datetime:
    try:
        info = documents.parse_json(Path(module["Info"]).read_bytes())
        found = datetime.fromisoformat(info["Time"])
        if found.tzinfo is None:
            raise ValueError("its time has no zone")
        return found.astimezone(UTC)
    except (OSError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise SourceError(
            f"cannot read the commit's time in the module proxy's answer: {error}",
            "go clean -modcache; run it again",
        ) from error
