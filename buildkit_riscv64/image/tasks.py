"""The tasks of phase 2."""

from __future__ import annotations

from typing import Any

from ..cli import TARGET, VERBOSE, YES, command


@command(
    changes="dist/TARGET/image/, caches of this project; with --load, images of docker; installs missing packages",
    help={
        "rootless": "Build the variant for ordinary users (uid 1000, RootlessKit).",
        "engine": "buildkit: the freshly built daemon builds its own image and needs only runc."
        " docker: docker's buildx builds, with our image as its builder."
        " Default: buildkit, unless configured.",
        "base": "Image that unpacks Debian's packages: registry (debian:trixie-slim), rootfs (built from"
        " Debian's packages), or auto: the registry if it answers. Default: auto, unless configured.",
        "target": f"{TARGET} Default: this machine's.",
        "load": "Load the image into docker as buildkit-riscv64:VERSION.",
        "force": "Run every build step again, even if nothing has changed.",
        "yes": YES,
        "json": "Print the image's manifest as JSON on stdout.",
    },
)
def build_image(
    context: Any,
    rootless: bool = False,
    engine: str = "",
    base: str = "",
    target: str = "",
    load: bool = False,
    force: bool = False,
    yes: bool = False,
    json: bool = False,
) -> None:
    """Build, test and store the container image of the binaries in dist/.

    Needs `invoke build-binaries` first, and checks its binaries. Writes an OCI
    layout and an archive for docker to dist/TARGET/image/. The same inputs give
    the same digest, with either engine. Does nothing when nothing has changed.
    """
    from ..core import config, dist
    from ..validation import evidence
    from . import report
    from .build import ImageOptions, build

    settings = config.read(context.config)
    options = ImageOptions.parse(
        rootless=rootless,
        engine=engine or settings.engine,
        base=base or settings.base,
        target=target,
        load=load,
        force=force,
        yes=yes or settings.yes,
    )
    outcome = build(options)
    if outcome.artifacts and not outcome.up_to_date:
        # The evidence describes the image that this one replaces.
        with dist.lock(options.target):
            evidence.mark_stale(options.target)
    report.built(outcome, json=json)


@command(
    changes="nothing permanent: unpacks and runs images; installs missing packages",
    help={
        "target": f"{TARGET} Default: all in dist/.",
        "verbose": VERBOSE,
        "yes": YES,
        "json": "Print the findings as JSON on stdout.",
    },
)
def check_image(
    context: Any, target: str = "", verbose: bool = False, yes: bool = False, json: bool = False
) -> None:
    """Check the images in dist/: contents, configuration, and that they run.

    Starts each program and the daemon in a container (runc), and ends the daemon
    as an engine would. Images of another architecture are checked, but not run.
    Exit code 7 if a check fails.
    """
    from ..core import check_results, config
    from . import check

    settings = config.read(context.config)
    check_results.report(
        check.examine_all(target, yes=yes or settings.yes), check.REMEDY, json=json, verbose=verbose
    )


@command(
    changes="tags in a registry, or dist/oci/; installs missing packages",
    help={
        "registry": "The repository to push to, as HOST[:PORT]/NAME, e.g. ghcr.io/me/buildkit."
        " Default: image.registry of the configuration, else the OCI layout dist/oci/.",
        "target": f"{TARGET} Default: all in dist/, as one image for several platforms.",
        "force": "Replace a release's own tag (vX.Y.Z) even if it is another image.",
        "yes": YES,
        "json": "Print the tags and digests as JSON on stdout.",
    },
)
def push_image(
    context: Any,
    registry: str = "",
    target: str = "",
    force: bool = False,
    yes: bool = False,
    json: bool = False,
) -> None:
    """Publish the images in dist/ under their tags, in a registry or in dist/oci/.

    Needs `invoke build-image` first, and checks its images again. A release
    v0.32.2 gets the tags v0.32.2, which never changes, and v0.32 and latest,
    which only move forward. Other builds get main-YYYYMMDD, the day of their
    commit. Tags of the rootless variant end in -rootless.

    Credentials come from `docker login`, or from the variables REGISTRY_USERNAME
    and REGISTRY_PASSWORD. An interrupted push continues when you run it again.
    `invoke --dry push-image` shows which tags would be pushed.
    """
    from ..core import config
    from . import report
    from .push import PushOptions, push

    settings = config.read(context.config)
    options = PushOptions.parse(
        repository=registry or settings.registry,
        target=target,
        force=force,
        yes=yes or settings.yes,
    )
    report.pushed(push(options), json=json)


@command(
    changes="certs/, or the directory that --output names",
    help={
        "names": "DNS names and IP addresses of the daemon, separated by commas."
        " Default: the previous ones; at first localhost, 127.0.0.1, ::1 and this machine's name.",
        "days": "How long the certificates last, at most 825. Default: 30. The CA lasts ten years.",
        "output": "The directory. Default: certs/ in the checkout.",
        "new-ca": "Create a new CA: the daemon and every client then need new files.",
        "yes": YES,
        "json": "Print directory, names, expiry and fingerprints as JSON on stdout.",
    },
)
def create_certs(
    context: Any,
    names: str = "",
    days: int = 30,
    output: str = "",
    new_ca: bool = False,
    yes: bool = False,  # read by `command`
    json: bool = False,
) -> None:
    """Create or renew the certificates for a daemon that listens on TCP.

    Writes a CA, a directory for the daemon and one for its clients to certs/,
    all together or none. Run it again to renew both with the same CA: older
    files keep working until they expire. docs/remote.md explains their use.
    """
    from ..buildkitd import certificates as certs_

    options = certs_.CertificateOptions.parse(names=names, days=days, output=output, new_ca=new_ca)
    certs_.report(certs_.make(options), json=json)
