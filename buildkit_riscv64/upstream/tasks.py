"""The tasks `pins.*`, `track-releases` and `notify-build` of phase 4."""

from __future__ import annotations

from typing import Any

from ..cli import NOTHING, command

_REPOSITORY = "Our repository on GitHub, as OWNER/NAME. Default: GITHUB_REPOSITORY."


@command(changes=NOTHING, help={"json": "Print it as JSON on stdout."})
def pins_show(context: Any, json: bool = False) -> None:
    """Show the pins and the source that a build uses."""
    from . import report, update_pins

    report.pinned(update_pins.show(), json=json)


@command(
    changes="pins/pins.toml, pins/upstream/, the submodule's commit, commands in *.md, Go's caches",
    positional=["version"],
    help={"version": "An upstream release tag, as in v0.32.2."},
)
def pins_update(context: Any, version: str) -> None:
    """Update the pins to another upstream release: commit, module and hashes.

    Asks upstream's repository for the tag's commit and the module proxy for the
    module, then writes pins/pins.toml, go.mod and go.sum in pins/upstream/, and
    the submodule's commit. Takes the bundle's versions from upstream's Dockerfile
    at that tag. Commit the result.
    """
    from . import update_pins

    update_pins.update(version)


@command(
    changes="pins/pins.toml, Go's module cache",
    name="update-go",
    positional=["version"],
    help={"version": "A release of Go, as in 1.26.11."},
)
def pins_update_go(context: Any, version: str) -> None:
    """Update the pin of Go to another release.

    Fetches the toolchains of the pinned platforms, checks them against Go's
    checksum database, then writes version and hashes to pins/pins.toml. Commit
    the result.
    """
    from . import update_go

    update_go.update(version)


@command(
    changes="issues, branches, pull requests and builds on GitHub",
    help={
        "repository": _REPOSITORY,
        "json": "Print findings and steps as JSON on stdout.",
    },
)
def track_releases(context: Any, repository: str = "", json: bool = False) -> None:
    """Check for a new upstream release; open an issue, a pull request and a build.

    Compares upstream's newest stable release with the pinned one. For a newer
    release: opens one issue, creates a branch with the changes of `invoke
    pins.update`, opens a pull request and starts the build. Closes the issue when
    our release is published or upstream publishes a newer one. Also reports other
    outdated pins: Go, Debian, and the actions of workflows.

    Repeats no step, even when two runs overlap. Does not change this checkout,
    which must be the default branch as on GitHub. `invoke track-releases --dry`
    only reads, and lists the steps.

    Reads the token from GH_TOKEN or GITHUB_TOKEN. Exit code 10: GitHub does not
    answer, or refuses; 11: another run holds the lock.
    """
    from . import report
    from .track import track

    report.tracked(track(repository), json=json)


@command(
    changes="issues on GitHub",
    help={
        "result": "The build's result: success, failure, cancelled or skipped.",
        "repository": _REPOSITORY,
    },
)
def notify_build(context: Any, result: str, repository: str = "") -> None:
    """In a workflow: open an issue when a build breaks, close it when it works.

    The issue lists the failed steps and the run. Each workflow and branch has at
    most one open issue.

    Reads the token from GH_TOKEN or GITHUB_TOKEN.
    """
    from ..core import dry_run
    from ..core.console import log
    from .build_issue import report as run

    log(f"{'would do' if dry_run.active() else 'done'}: {run(result, repository)}")
