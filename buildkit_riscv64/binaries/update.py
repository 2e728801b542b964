"""`invoke source.show` and `invoke source.update`: what is pinned, and moving it."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from packaging.version import Version

from .. import dist, pins, process, project, storage, timestamps
from ..console import say
from ..errors import Failure, MissingRequirementError, NetworkError, SourceError, UsageError
from . import bundle as bundles
from . import source as sources
from . import toolchain
from .source import json_stream

#: What people copy from a page; the release that it names has to be the one that there is.
_SHELL_BLOCK = re.compile(r"^ *```sh\n.*?^ *```", re.MULTILINE | re.DOTALL)


def _bundle(pinned: pins.Pins) -> dict[str, str]:
    """What is pinned of the bundle."""
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
    """What is pinned, and which source `--source auto` takes."""
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
    """Where the submodule comes from.

    Raises:
        SourceError: `.gitmodules` does not say.
    """
    return process.read(
        ["git", "config", "--file", project.ROOT / ".gitmodules", "submodule.buildkit.url"],
        error=SourceError, hint="git checkout .gitmodules",
    ).strip()  # fmt: skip


def _commit_of(tag: str) -> str:
    """The commit of a tag, asked of upstream's repository."""
    url = repository()
    # Whoever would be asked for a password here is asking for a repository that is not there.
    env = process.environment({"GIT_TERMINAL_PROMPT": "0"})
    answer = process.probe(
        ["git", "ls-remote", "--tags", url, f"refs/tags/{tag}", f"refs/tags/{tag}^{{}}"],
        env=env, timeout=120,
    )  # fmt: skip
    if not answer.ok:
        raise NetworkError(
            f"cannot ask {url} for the commit of {tag}: {answer.last_line}", "check the network"
        )
    # One line a reference: the object, a tab, the name.
    lines = (line.split() for line in answer.stdout.splitlines())
    commits = {name: commit for commit, name in lines}
    # An annotated tag is an object of its own; ^{} is the commit that it names.
    commit = commits.get(f"refs/tags/{tag}^{{}}") or commits.get(f"refs/tags/{tag}")
    if not commit:
        raise UsageError(f"{tag} is not a tag of {url}", "see upstream's list of releases")
    return commit


def fetch_module(tag: str, go: toolchain.Go, folder: Path) -> dict[str, Any]:
    """Write go.mod and go.sum for a release into a folder; say what the module is."""
    for name in ("go.mod", "go.sum"):
        shutil.copy(project.UPSTREAM_MODULE / name, folder)
    packages = [f"{pins.MODULE}/cmd/{command}@{tag}" for command in dist.COMMANDS]
    return _fetch(pins.MODULE, tag, packages, go, folder)


_COMPONENT = """\
// {path} as upstream's Dockerfile pins it, for the bundle,
// and the hash of every module that is compiled into it. Written by
// `invoke source.update`; do not edit by hand.
module buildkit-riscv64.invalid/upstream/{name}

go 1.21
"""


def _fetch_component(
    component: bundles.Component, tag: str, go: toolchain.Go, folder: Path
) -> pins.Release:
    """Write go.mod and go.sum for a component of the bundle into a folder; say which release it is.

    The line `go` becomes the component's own: Go's defaults at run time go by it.
    """
    folder.mkdir()
    (folder / "go.mod").write_text(_COMPONENT.format(path=component.path, name=component.name))
    packages = [f"{package}@{tag}" for package in component.commands(tag).values()]
    module = _fetch(component.module(tag), tag, ["-tool", *packages], go, folder)
    commit = (module.get("Origin") or {}).get("Hash", "")
    return pins.Release(version=tag, time=_commit_time(module), commit=commit)


def _fetch(
    path: str, tag: str, packages: Sequence[str], go: toolchain.Go, folder: Path
) -> dict[str, Any]:
    """Have the go.mod in a folder require packages, and its go.sum their hashes; say what the module is."""
    env = toolchain.environment(go)
    for args in (["get", *packages], ["mod", "tidy"]):
        answer = process.probe([go.command, *args], cwd=folder, env=env, timeout=None)
        if not answer.ok:
            if "requires go >=" in answer.stderr or "toolchain not available" in answer.stderr:
                raise MissingRequirementError(
                    f"{path} {tag} needs a newer Go than the pinned {go.version}: {answer.last_line}",
                    "move Go first: invoke source.update-go VERSION",
                )
            raise toolchain.fetch_error(f"cannot fetch {path} {tag}", answer.stderr)
    listing = process.read(
        [go.command, "mod", "download", "-json", f"{path}@{tag}"], cwd=folder, env=env,
        error=NetworkError,
    )  # fmt: skip
    return next(json_stream(listing))


def update(tag: str, *, dry: bool = False) -> None:
    """Move the pins to another release: all of them, or none.

    Args:
        tag: as in `v0.32.2`.
        dry: find everything out, and write nothing.

    Raises:
        UsageError: upstream has no such release.
        NetworkError: upstream's repository or the module proxy does not answer.
        MissingRequirementError: the release needs a newer Go.
        SourceError: repository and module proxy disagree about the commit, or upstream's
            Dockerfile does not pin what the bundle is made of.
    """
    tag = pins.release_tag(tag)
    old = pins.load()
    commit = _commit_of(tag)
    go = toolchain.ensure(old)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        module = fetch_module(tag, go, folder)
        origin = (module.get("Origin") or {}).get("Hash", commit)
        if origin != commit:
            raise SourceError(
                f"{tag} is {commit} in the repository and {origin} in the module proxy",
                "somebody has moved the tag: find out why before you build it",
            )
        bundle = _fetch_bundle(module, go, folder)
        new = pins.Release(version=tag, time=_commit_time(module), commit=commit)
        say(
            f"{old.version} ({old.commit[:12]}) -> {tag} ({commit[:12]}, {timestamps.utc(new.time)})"
        )
        say(f"module hash {module['Sum']}")
        for name, release in bundle.items():
            before = old.bundle[name].version if name in old.bundle else "none"
            say(f"{name} {before} -> {release.version}")
        if Version(tag) < Version(old.version):
            say("note: this is an older release than the pinned one")
        if dry:
            say(
                "would write pins.toml, go.mod and go.sum in upstream/, the submodule's commit,"
                " and the commands in the pages that name the release"
            )
            return
        _write(old, new, bundle, folder)
    say("moved. Look at `git diff --cached` and `git diff`, build, and commit.")
    if sources.submodule_is_there():
        say("then: git submodule update buildkit")


def _fetch_bundle(
    module: dict[str, Any], go: toolchain.Go, folder: Path
) -> dict[str, pins.Release]:
    """What the Dockerfile in upstream's module pins, with go.mod and go.sum of each in a folder."""
    try:
        dockerfile = (Path(module["Dir"]) / "Dockerfile").read_text()
    except OSError as error:
        raise SourceError(
            f"cannot read upstream's Dockerfile: {error}", "go clean -modcache; run it again"
        ) from error
    versions = {one.name: pins.others(dockerfile, one.argument) for one in bundles.COMPONENTS}
    return {
        one.name: _fetch_component(one, versions[one.name], go, folder / one.name)
        for one in bundles.COMPONENTS
    }


def _pages(old: str, new: str) -> dict[Path, str]:
    """What pages are to say of which shell blocks name a release; what they measured stays."""
    found = {}
    for page in (*project.ROOT.glob("*.md"), *(project.ROOT / "docs").rglob("*.md")):
        text = page.read_text()
        moved = _SHELL_BLOCK.sub(lambda block: block[0].replace(old[1:], new[1:]), text)
        if moved != text:
            found[page] = moved
    return found


def _write(
    old: pins.Pins, new: pins.Release, bundle: Mapping[str, pins.Release], folder: Path
) -> None:
    """Move the pins to what has been found out, with the go.mod and go.sum in a folder."""
    text = pins.with_upstream(project.PINS.read_text(), new)
    for name, release in bundle.items():
        text = pins.with_release(text, name, release)
    (folder / "pins.toml").write_text(text)
    pins.load(folder / "pins.toml")
    # First what can be refused: no repository, or another git at work in it.
    process.run(
        ["git", "-C", project.ROOT, "update-index", "--add", "--cacheinfo",
         f"160000,{new.commit},{project.SUBMODULE.name}"],
        error=SourceError, hint="git's reason is above; nothing has been moved",
    )  # fmt: skip
    # pins.toml last: until then a build says that the pins disagree.
    for place in ("", *bundle):
        (project.UPSTREAM_MODULE / place).mkdir(exist_ok=True)
        for file in ("go.mod", "go.sum"):
            text_of = (folder / place / file).read_text()
            storage.write_whole(project.UPSTREAM_MODULE / place / file, text_of)
    for page, said in _pages(old.version, new.version).items():
        storage.write_whole(page, said)
    storage.write_whole(project.PINS, text)


def _commit_time(module: dict[str, Any]) -> datetime:
    import json

    told = json.loads(Path(module["Info"]).read_text())["Time"]
    return datetime.fromisoformat(told.replace("Z", "+00:00")).astimezone(UTC)
