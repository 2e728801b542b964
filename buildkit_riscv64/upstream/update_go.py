"""`invoke pins.update-go`: update the pin of Go and the hashes of its toolchains."""

from __future__ import annotations

import re

from packaging.version import Version

from ..binaries import toolchain
from ..core import dry_run, filesystem, pins, process, project
from ..core.console import log, step
from ..core.errors import SourceError, UsageError


def needed() -> str:
    """The oldest Go that the pinned release supports, as in `1.26.3`.

    Raises:
        SourceError: `pins/upstream/go.mod` has no Go version.
    """
    path = project.UPSTREAM_MODULE / "go.mod"
    found = re.search(r"^go (\d+\.\d+(?:\.\d+)?)$", path.read_text(), re.M | re.A)
    if not found:
        raise SourceError("pins/upstream/go.mod has no Go version", "git checkout pins/upstream/")
    return found[1]


def update(version: str) -> None:
    """Update version and hashes of Go atomically.

    Args:
        version: as in `1.26.11`.

    Raises:
        UsageError: the version is not a Go release, or too old for the pinned BuildKit.
        NetworkError: the module proxy does not have the version, or does not answer.
        MissingRequirementError: no Go is installed to fetch the version.
    """
    version = version.removeprefix("go")
    if not re.fullmatch(r"\d+\.\d+\.\d+", version, re.ASCII):
        raise UsageError(f"{version!r} is not a release of Go", "give a version like 1.26.11")
    if toolchain.older_than(version, needed()):
        raise UsageError(
            f"Go {version} is too old for the pinned BuildKit, which needs {needed()}",
            "give a newer version",
        )
    old = pins.load()
    go = toolchain.bootstrap(old)
    log(f"Go {old.go} -> {version}")
    if Version(version) < Version(old.go):
        log("note: this is an older release than the pinned one")
    if dry_run.active():
        for platform in old.go_sums:
            log(
                f"would run: {process.show(toolchain.download_command(go, f'go{version}', platform))}"
            )
        log("would write the version and the hashes to pins/pins.toml")
        return
    text = project.PINS.read_text()
    for platform, pinned in old.go_sums.items():
        with step(f"fetching go{version} for {platform}"):
            fetched = toolchain.download(go, f"go{version}", platform)
        text = text.replace(f'"{pinned}"', f'"{fetched["Sum"]}"')
        log(f"{platform}: {fetched['Sum']}")
    text = text.replace(f'version = "{old.go}"', f'version = "{version}"')
    filesystem.write_whole(project.PINS, text)
    log("updated the pin: check `git diff`, build, and commit")
