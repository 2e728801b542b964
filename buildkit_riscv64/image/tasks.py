"""The tasks of phase 2."""

from __future__ import annotations

from typing import Any

from ..cli import TARGET, YES, command


@command(
    help={
        "rootless": "Build the variant that an ordinary user runs (uid 1000, RootlessKit).",
        "engine": "buildkit: the freshly built daemon builds its own image, nothing else is needed"
        " but runc. docker: docker's buildx does, with our image as its builder.",
        "base": "What unpacks Debian's packages: registry (debian:trixie-slim), rootfs (made of"
        " Debian's packages), or auto: the registry if it answers.",
        "target": f"{TARGET} Default: this machine's.",
        "load": "Have docker load the image, as buildkit-riscv64:VERSION.",
        "force": "Build every step anew, even if nothing has changed.",
        "yes": YES,
        "json": "Print the image's manifest as JSON on stdout.",
    }
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
    """Build the container image of the binaries in dist/, test it, and keep it.

    Needs `invoke build-binaries` first, and checks what that has made. Leaves an
    OCI layout and an archive that docker can load in dist/TARGET/image/. The same
    inputs give the same digest, with either engine. Does nothing when nothing has
    changed.
    """
    from .. import config
    from . import report
    from .build import Options, build

    settings = config.read(context.config)
    options = Options.parse(
        rootless=rootless,
        engine=engine or settings.engine,
        base=base or settings.base,
        target=target,
        load=load,
        force=force,
        dry=settings.dry,
        yes=yes or settings.yes,
    )
    report.built(build(options), json=json)


@command(
    help={
        "target": f"{TARGET} Default: all in dist/.",
        "yes": YES,
        "json": "Print the findings as JSON on stdout.",
    }
)
def check_image(context: Any, target: str = "", yes: bool = False, json: bool = False) -> None:
    """Check the images in dist/: contents, configuration, and they run.

    Starts each program and the daemon in a container (runc), and ends the daemon
    as an engine would. Images of another architecture are checked too, but not
    run. Exit code 7 when anything is refused.
    """
    from .. import config, findings
    from . import check

    settings = config.read(context.config)
    findings.report(check.examine_all(target, yes=yes or settings.yes), check.REMEDY, json=json)


@command(
    help={
        "registry": "The repository to push to, as HOST[:PORT]/NAME, e.g. ghcr.io/me/buildkit."
        " Default: image.registry of the configuration, else the OCI layout dist/oci/.",
        "target": f"{TARGET} Default: all in dist/, as one image for several platforms.",
        "force": "Replace a release's own tag (vX.Y.Z) even if another image is under it.",
        "yes": YES,
        "json": "Print the tags and digests as JSON on stdout.",
    }
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

    Needs `invoke build-image` first, and looks at what that has made once more. A
    release v0.32.2 gets the tags v0.32.2, which never becomes another image, and
    v0.32 and latest, which only go forward; anything else gets main-YYYYMMDD, the
    day of its commit. The rootless variant has the same with -rootless behind.

    Who you are is taken from `docker login`, or from the variables
    REGISTRY_USERNAME and REGISTRY_PASSWORD. What is interrupted goes on where it
    was when it is run again. `invoke --dry push-image` says which tags would be
    pushed.
    """
    from .. import config
    from . import report
    from .push import Options, push

    settings = config.read(context.config)
    options = Options.parse(
        repository=registry or settings.registry,
        target=target,
        force=force,
        dry=settings.dry,
        yes=yes or settings.yes,
    )
    report.pushed(push(options), json=json)


@command(
    help={
        "names": "DNS names and IP addresses that clients reach the daemon by, separated by commas."
        " Default: those of before; at first localhost, 127.0.0.1, ::1 and this machine's name.",
        "days": "How long the certificates last, at most 825. Default: 30. The CA lasts ten years.",
        "output": "The folder. Default: certs/ in the checkout.",
        "new-ca": "Begin anew with another CA: the daemon and all clients need new files then.",
        "yes": YES,
        "json": "Print where they are, names, ends and fingerprints as JSON on stdout.",
    }
)
def certs(
    context: Any,
    names: str = "",
    days: int = 30,
    output: str = "",
    new_ca: bool = False,
    yes: bool = False,  # read by `command`
    json: bool = False,
) -> None:
    """Make or renew the certificates for a daemon that is reached over TCP.

    Leaves a CA, a folder for the daemon and one for its clients in certs/, all of
    them or none. Run it again to renew both with the same CA: what has not been
    renewed yet goes on working. docs/remote.md says how to use them.
    """
    from .. import config
    from . import certs as certs_

    options = certs_.Options.parse(
        names=names, days=days, output=output, new_ca=new_ca, dry=config.read(context.config).dry
    )
    certs_.report(certs_.make(options), json=json)
