"""The tasks of phase 4."""

from __future__ import annotations

from typing import Any

from ..cli import TARGET, YES, command

_KEY = "The armored private key to sign with, or its file. Default: BUILDKIT_SIGNING_KEY."
_REPOSITORY = "Ours on GitHub, as OWNER/NAME. Default: GITHUB_REPOSITORY."


@command(
    help={
        "target": f"{TARGET} Default: all that are in dist/.",
        "json": "Print it as JSON on stdout.",
    }
)
def status(context: Any, target: str = "", json: bool = False) -> None:
    """Show the chain, from binaries to packages, and what blocks a release.

    Tells of each phase whether it is done, of which version, on what machine,
    with which hashes; why the next phase refuses it, if it does; and the command
    that gets further. Looks at dist/ alone, and changes nothing.
    """
    from . import report
    from .status import chains

    report.chains(chains(target), json=json)


@command(
    help={
        "target": f"{TARGET} Default: linux-riscv64, which alone is released.",
        "revision": "Which release of this version of BuildKit it is, from 1. Default: 1.",
        "tag": "Release nothing but what this tag stands for, as in v0.32.2, or v0.32.2-2 for"
        " --revision 2.",
        "repository": _REPOSITORY,
        "key": _KEY,
        "yes": YES,
        "json": "Print what it consists of as JSON on stdout.",
    }
)
def release(
    context: Any,
    target: str = "",
    revision: str = "1",
    tag: str = "",
    repository: str = "",
    key: str = "",
    yes: bool = False,
    json: bool = False,
) -> None:
    """Publish what was built and proved, as a release on GitHub; or say why not.

    Gathers programs, packages, images, bills of materials, provenance, evidence
    and benchmarks, writes sums, signature and notes, and has `gh release` publish
    them, complete or not at all. Refuses what is not riscv64, not compiled
    natively, of other bytes on another machine, or not wholly proved, and a
    version that was released with other bytes. Releasing the same again does
    nothing.

    `invoke --dry release` shows all of it, and publishes nothing.

    The token is taken from GH_TOKEN or GITHUB_TOKEN. Exit code 7: refused; 8:
    released with other bytes.
    """
    from .. import config
    from . import report
    from .release import Options
    from .release import release as run

    settings = config.read(context.config)
    options = Options.parse(
        target=target, revision=revision, tag=tag, repository=repository, key=key,
        dry=settings.dry, yes=yes or settings.yes,
    )  # fmt: skip
    report.released(run(options), json=json)


@command(
    help={
        "repository": _REPOSITORY,
        "json": "Print what was found and done as JSON on stdout.",
    }
)
def track_releases(context: Any, repository: str = "", json: bool = False) -> None:
    """Look for a new release upstream, and do what follows: pins, build, issue.

    Compares upstream's newest stable release with the pinned one. If it is newer:
    opens one issue about it, makes a branch with what `invoke source.update`
    changes, opens a pull request of that, and starts the build of it. Closes the
    issue when our release is there, or when a newer one of upstream's has come.
    Also tells which other pins are behind: Go, Debian, and the actions of
    workflows.

    Does nothing that was done before, also when it runs twice at once. Changes
    nothing in this checkout, which has to be the default branch as it is on
    GitHub. `invoke track-releases --dry` only asks, and says what would be done.

    The token is taken from GH_TOKEN or GITHUB_TOKEN. Exit code 10: GitHub does
    not answer, or not to us; 11: another run is at it.
    """
    from .. import config
    from . import report
    from .track import track

    report.tracked(track(repository, dry=config.read(context.config).dry), json=json)


@command(
    help={
        "target": f"{TARGET} Default: this machine's; packages for riscv64 can be made anywhere.",
        "revision": "Which packages of this version they are, from 1. Default: 1.",
        "maintainer": "Whom they name, as NAME <ADDRESS>. Default: packages.maintainer.",
        "force": "Make them even if nothing has changed.",
        "yes": YES,
        "json": "Print the manifest as JSON on stdout.",
    }
)
def build_packages(
    context: Any,
    target: str = "",
    revision: str = "1",
    maintainer: str = "",
    force: bool = False,
    yes: bool = False,
    json: bool = False,
) -> None:
    """Make .deb and .rpm of the binaries in dist/: buildkit, and buildkit-rootless.

    Needs `invoke build-binaries`; with its --bundle the packages bring runc, CNI
    plugins and rootlesskit, without they depend on the distribution's. The same
    binaries make the same packages, to the bit. Refuses binaries that are damaged
    or that have changed since they were checked. Does nothing when nothing has
    changed.

    Leaves them in dist/TARGET/packages/; `invoke publish-repo` makes repositories
    of them.
    """
    from .. import config
    from . import report
    from .packages import Options, build

    settings = config.read(context.config)
    options = Options.parse(
        target=target, revision=revision, maintainer=maintainer or settings.maintainer,
        force=force, dry=settings.dry, yes=yes or settings.yes,
    )  # fmt: skip
    report.packaged(build(options), json=json)


@command(
    help={
        "target": f"{TARGET} Several with commas. Default: all that have packages.",
        "url": "Where people will find it, for what they paste. Default: packages.url.",
        "key": _KEY,
        "unsigned": "Leave signatures out, for trying.",
        "force": "Make it even if nothing has changed.",
        "yes": YES,
        "json": "Print the manifest as JSON on stdout.",
    }
)
def publish_repo(
    context: Any,
    target: str = "",
    url: str = "",
    key: str = "",
    unsigned: bool = False,
    force: bool = False,
    yes: bool = False,
    json: bool = False,
) -> None:
    """Make signed repositories of the packages in dist/, for apt and dnf.

    Needs `invoke build-packages`. Writes dist/repo/: files that any web server
    can serve, and an index.html with the lines that one pastes to install. Holds
    the newest packages alone. Refuses packages that are damaged, or of other
    binaries than those that are there.

    The key's passphrase, if it has one, is taken from
    BUILDKIT_SIGNING_PASSPHRASE. The key is never stored. Without a key: exit code
    2, or --unsigned.
    """
    from .. import config
    from . import report
    from .repository import Options, publish

    settings = config.read(context.config)
    options = Options.parse(
        target=target, url=url or settings.url, key=key, unsigned=unsigned, force=force,
        dry=settings.dry, yes=yes or settings.yes,
    )  # fmt: skip
    report.published(publish(options), json=json)


@command(
    help={
        "result": "How the build ended: success, failure, cancelled or skipped.",
        "repository": _REPOSITORY,
    }
)
def report_build(context: Any, result: str, repository: str = "") -> None:
    """In a workflow: open an issue when a build breaks, close it when it works.

    The issue names the steps that failed and the run. While it is open, no other
    is opened for that workflow and branch.

    The token is taken from GH_TOKEN or GITHUB_TOKEN.
    """
    from .. import config
    from ..console import say
    from .broken import report as run

    dry = config.read(context.config).dry
    say(f"{'would do' if dry else 'done'}: {run(result, repository, dry=dry)}")
