"""The tasks `status` and `release` of phase 4."""

from __future__ import annotations

from typing import Any

from ..cli import NOTHING, TARGET, YES, command

_KEY = "The armored private key to sign with, or its file. Default: BUILDKIT_SIGNING_KEY."
_REPOSITORY = "Our repository on GitHub, as OWNER/NAME. Default: GITHUB_REPOSITORY."


@command(
    changes=NOTHING,
    help={
        "target": f"{TARGET} Default: every target in dist/.",
        "json": "Print it as JSON on stdout.",
    },
)
def status(context: Any, target: str = "", json: bool = False) -> None:
    """Show every phase, from binaries to packages, and what blocks a release.

    Shows each phase's state, version, host and hash, why the next phase refuses
    its artifacts, and the next command. Reads dist/ only.
    """
    from . import report
    from .status import statuses

    report.statuses(statuses(target), json=json)


@command(
    changes="a release on GitHub, dist/TARGET/release/; installs missing packages",
    help={
        "target": f"{TARGET} Default: linux-riscv64, the only target that is released.",
        "revision": "The release's revision of this BuildKit version, from 1. Default: 1.",
        "tag": "Release only if the artifacts match this tag, as in v0.32.2, or v0.32.2-2 for"
        " --revision 2.",
        "repository": _REPOSITORY,
        "key": _KEY,
        "yes": YES,
        "json": "Print the release's description as JSON on stdout.",
    },
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
    """Publish the validated artifacts as a release on GitHub.

    Collects programs, packages, images, SBOMs, provenance and evidence, writes
    checksums, signature and notes, and publishes them with `gh release`: all
    files or none. Refuses artifacts that are not riscv64, not
    compiled natively, not reproduced by the cross-check or not fully validated,
    and a version that is already released with different content. Releasing the
    same content again does nothing.

    `invoke --dry release` shows the release and publishes nothing.

    Reads the token from GH_TOKEN or GITHUB_TOKEN. Exit code 7: refused; 8:
    already released with different content.
    """
    from ..core import config
    from . import report
    from .release import ReleaseOptions
    from .release import release as run

    settings = config.read(context.config)
    options = ReleaseOptions.parse(
        target=target, revision=revision, tag=tag, repository=repository, key=key,
        yes=yes or settings.yes,
    )  # fmt: skip
    report.released(run(options), json=json)


@command(
    changes="caches of this project; installs missing packages",
    positional=["release"],
    help={
        "release": "A directory with all files of a release, or the tag of a release to download.",
        "fingerprint": "The fingerprint that the signing key must have. Default: any; compare it"
        " yourself.",
        "repository": _REPOSITORY,
        "yes": YES,
        "json": "Print the result as JSON on stdout.",
    },
)
def verify_release(
    context: Any,
    release: str,
    fingerprint: str = "",
    repository: str = "",
    yes: bool = False,
    json: bool = False,
) -> None:
    """Verify a release: its signature, and each program by compiling it again.

    Compiles the programs of the release on this machine, of any architecture, and
    compares every byte. Opens the tarball, the packages and the images: they must
    contain exactly these programs and the configuration of this checkout. Checks
    that the evidence is for them. Needs a checkout of the release's tag and no
    dist/. Compiling takes minutes.

    Downloads a tag with `gh`, which reads the token from GH_TOKEN. Exit code 7: a
    file is damaged, not signed or not what it claims to be; 8: a program is not
    what its source compiles to.
    """
    from ..core import config
    from . import report
    from .verification import verify_release as run

    settings = config.read(context.config)
    found = run(release, fingerprint=fingerprint, repository=repository, yes=yes or settings.yes)
    report.verified(found, json=json)
