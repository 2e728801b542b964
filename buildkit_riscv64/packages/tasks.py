"""The tasks `build-packages` and `publish-repo` of phase 4."""

from __future__ import annotations

from typing import Any

from ..cli import TARGET, YES, command

_KEY = "The armored private key to sign with, or its file. Default: BUILDKIT_SIGNING_KEY."


@command(
    changes="dist/TARGET/packages/, Go's caches; installs missing packages",
    help={
        "target": f"{TARGET} Default: this machine's; any host can build packages for riscv64.",
        "revision": "The packages' revision of this version, from 1. Default: 1.",
        "maintainer": "The maintainer, as NAME <ADDRESS>. Default: packages.maintainer.",
        "force": "Build even if nothing has changed.",
        "yes": YES,
        "json": "Print the manifest as JSON on stdout.",
    },
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
    """Build .deb and .rpm packages of the binaries in dist/.

    Builds buildkit and buildkit-rootless. Needs `invoke build-binaries`; with
    its --bundle the packages contain runc, CNI plugins and rootlesskit, otherwise
    they depend on the distribution's. The same binaries give identical packages.
    Refuses binaries that are damaged or have changed since they were checked.
    Does nothing when nothing has changed.

    Writes dist/TARGET/packages/; `invoke publish-repo` makes repositories of it.
    """
    from ..core import config
    from . import report
    from .build import PackageOptions, build

    settings = config.read(context.config)
    options = PackageOptions.parse(
        target=target, revision=revision, maintainer=maintainer or settings.maintainer,
        force=force, yes=yes or settings.yes,
    )  # fmt: skip
    report.packaged(build(options), json=json)


@command(
    changes="dist/repo/; installs missing packages",
    help={
        "target": f"{TARGET} Several with commas. Default: all with packages.",
        "url": "The repositories' address, for the install commands. Default: packages.url; with"
        " --unsigned, the directory.",
        "key": _KEY,
        "unsigned": "Do not sign; for tests only.",
        "force": "Build even if nothing has changed.",
        "yes": YES,
        "json": "Print the manifest as JSON on stdout.",
    },
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
    """Build signed repositories for apt and dnf of the packages in dist/.

    Needs `invoke build-packages`. Writes dist/repo/ for any web server, with the
    newest packages and an index.html with install commands. Refuses packages that
    are damaged or do not match the binaries in dist/.

    Reads the key's passphrase from BUILDKIT_SIGNING_PASSPHRASE. The key is never
    stored. Without a key: exit code 2, or use --unsigned.
    """
    from ..core import config
    from . import report
    from .repository import RepositoryOptions, publish

    settings = config.read(context.config)
    options = RepositoryOptions.parse(
        target=target, url=url or settings.url, key=key, unsigned=unsigned, force=force,
        yes=yes or settings.yes,
    )  # fmt: skip
    report.published(publish(options), json=json)
