"""The tasks of phase 3."""

from __future__ import annotations

from typing import Any

from ..cli import NOTHING, TARGET, YES, command

_TARGET = f"{TARGET} Default: this machine's."


@command(
    changes="dist/TARGET/evidence/; starts and ends daemons; installs missing packages",
    help={
        "only": "Only these suites, separated by commas: standalone (the binaries alone), buildx"
        " (the image in docker), rootless (as an ordinary user), platforms (other architectures).",
        "select": "Only scenarios that match this expression of pytest's -k, for example"
        " 'secret or heredoc'. Such evidence blocks a release.",
        "target": _TARGET,
        "online": "Also use official images from a registry on the internet.",
        "yes": YES,
        "json": "Print the evidence as JSON on stdout.",
    },
)
def validate(
    context: Any,
    only: str = "",
    select: str = "",
    target: str = "",
    online: bool = False,
    yes: bool = False,
    json: bool = False,
) -> None:
    """Test the binaries and images in dist/ as root, and write the evidence.

    Needs `invoke build-binaries`; buildx and rootless also need `invoke
    build-image` with and without --rootless. All artifacts must be of one build.
    Starts real daemons, registries and a docker engine, and removes them. Each
    suite replaces its own results in dist/TARGET/evidence/ when it ends:
    evidence.json, and index.html for people. A scenario that this machine
    cannot run is `not proven`, with the reason.

    Exit code 7 when a scenario failed.
    """
    from ..core import config
    from . import report
    from .validate import ValidationOptions
    from .validate import validate as run

    settings = config.read(context.config)
    options = ValidationOptions.parse(
        only=only, target=target, select=select, online=online,
        yes=yes or settings.yes,
    )  # fmt: skip
    report.validated(run(options, report.progress), json=json)


@command(
    changes=NOTHING,
    help={
        "compare": "Other evidence to compare with: its directory or evidence.json.",
        "target": _TARGET,
        "json": "Print the evidence as JSON on stdout; with --compare, the differences.",
    },
)
def evidence_show(context: Any, compare: str = "", target: str = "", json: bool = False) -> None:
    """Show the validation results of the artifacts in dist/.

    Shows how many scenarios of each suite passed, failed or are not proven, on
    which machine, and the release blockers. Use --target for evidence of
    another architecture that `invoke on` fetched.
    """
    from ..core import dist, values
    from ..core.arch import Target
    from . import report
    from .evidence import load

    other = values.path("--compare", compare)
    found = load(dist.evidence_directory(Target.parse(target) if target else Target.here()))
    if compare:
        report.compared(load(other), found, json=json)
    else:
        report.shown(found, json=json)
