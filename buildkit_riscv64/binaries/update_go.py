"""`invoke source.update-go`: moving the pin of Go, together with the hashes of its toolchains."""

from __future__ import annotations

import re

from packaging.version import Version

from .. import pins, project, storage
from ..console import say, step
from ..errors import SourceError, UsageError
from . import toolchain


def needed() -> str:
    """The oldest Go that the pinned release is content with, as in `1.26.3`.

    Raises:
        SourceError: `upstream/go.mod` does not say.
    """
    path = project.UPSTREAM_MODULE / "go.mod"
    found = re.search(r"^go (\d+\.\d+(?:\.\d+)?)$", path.read_text(), re.M)
    if not found:
        raise SourceError("upstream/go.mod names no Go", "git checkout upstream/")
    return found[1]


def update(version: str, *, dry: bool = False) -> None:
    """Move the pin of Go: its version and all its hashes, or nothing.

    Args:
        version: as in `1.26.11`.
        dry: find everything out, and write nothing.

    Raises:
        UsageError: it is no release of Go, or too old for the pinned BuildKit.
        NetworkError: the module proxy does not have it, or does not answer.
        MissingRequirementError: there is no Go that could fetch it.
    """
    version = version.removeprefix("go")
    if not re.fullmatch(r"\d+\.\d+\.\d+", version, re.ASCII):
        raise UsageError(f"{version!r} is not a release of Go", "give one like 1.26.11")
    if toolchain.older_than(version, needed()):
        raise UsageError(
            f"Go {version} is too old for the pinned BuildKit, which needs {needed()}",
            "give a newer one",
        )
    old = pins.load()
    go = toolchain.bootstrap(old)
    text = project.PINS.read_text()
    for platform, pinned in old.go_sums.items():
        with step(f"fetching go{version} for {platform}"):
            told = toolchain.download(go, f"go{version}", platform)
        text = text.replace(f'"{pinned}"', f'"{told["Sum"]}"')
        say(f"{platform}: {told['Sum']}")
    text = text.replace(f'version = "{old.go}"', f'version = "{version}"')
    say(f"Go {old.go} -> {version}")
    if Version(version) < Version(old.go):
        say("note: this is an older release than the pinned one")
    if dry:
        say("would write pins.toml")
        return
    storage.write_whole(project.PINS, text)
    say("moved. Look at `git diff`, build, and commit.")
