"""Output of `build-packages` and `publish-repo`."""

from __future__ import annotations

from ..core import dist, filesystem, html
from ..core.console import count, duration, emit_json, log, size, table, warn
from . import repository


def packaged(outcome: dist.BuildResult, *, json: bool) -> None:
    """Print every package and their directory."""
    if outcome.artifacts is None:
        return
    manifest = outcome.artifacts.manifest
    if json:
        emit_json(manifest)
    header = ("package", "size", "sha256")
    rows = [(file["name"], size(file["size"]), file["sha256"]) for file in manifest["files"]]
    table(header, rows, title=f"Packages for {manifest['target']}")
    done = "nothing has changed" if outcome.up_to_date else f"built in {duration(outcome.seconds)}"
    held = count(len(manifest["binaries"]), "program")
    log(f"BuildKit {manifest['package_version']} for {manifest['target']}, {held}: {done}")
    log(f"the files are in {filesystem.display_path(outcome.artifacts.path)}/")


def published(outcome: repository.RepositoryResult, *, json: bool) -> None:
    """Print the repositories' packages, signer and directory."""
    header = ("package", "for", "version", "size")
    rows = [
        (f"{file['package']} ({file['format']})", file["arch"], file["version"], size(file["size"]))
        for one in outcome.published for file in one.manifest["files"]
    ]  # fmt: skip
    table(header, rows, title="Package repositories")
    if outcome.artifacts is None:
        log(
            f"would publish the repositories in {filesystem.display_path(dist.repository_directory())}/"
        )
        return
    manifest = outcome.artifacts.manifest
    if json:
        emit_json(manifest)
    if manifest["signed_by"]:
        log(f"signed by {manifest['signed_by']}")
    else:
        warn("the repositories are not signed: use them for tests only")
    done = "nothing has changed" if outcome.up_to_date else f"built in {duration(outcome.seconds)}"
    directory = filesystem.display_path(outcome.artifacts.path)
    log(f"{directory}/: {done}; serve this directory; install commands: {directory / html.INDEX}")
