"""The tasks of phase 2."""

from __future__ import annotations

from typing import Any

from ..cli import command

_TARGET = "As in linux-riscv64."


@command(
    help={
        "rootless": "Build the variant that an ordinary user runs (uid 1000, RootlessKit).",
        "engine": "buildkit: the freshly built daemon builds its own image, nothing else is needed"
        " but runc. docker: docker's buildx does, with our image as its builder.",
        "base": "What unpacks Debian's packages: registry (debian:trixie-slim), rootfs (made of"
        " Debian's packages), or auto: the registry if it answers.",
        "target": f"{_TARGET} Default: this machine's.",
        "load": "Have docker load the image, as buildkit-riscv64:VERSION.",
        "force": "Build every step anew, even if nothing has changed.",
        "yes": "Install missing packages without asking. Implied where CI is set.",
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
    """Build the container image of the binaries in dist/, test it, and keep it there.

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
        "target": f"{_TARGET} Default: all in dist/.",
        "yes": "Install missing packages without asking. Implied where CI is set.",
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
