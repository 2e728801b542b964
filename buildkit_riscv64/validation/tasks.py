"""The tasks of phase 3."""

from __future__ import annotations

from typing import Any

from ..cli import TARGET, YES, command

_TARGET = f"{TARGET} Default: this machine's."


@command(
    help={
        "only": "Only these suites, separated by commas: standalone (the binaries alone), buildx"
        " (the image in docker), rootless (as an ordinary user), platforms (building for others).",
        "select": "Only scenarios that match this expression, as pytest's -k has it, e.g."
        " 'secret or heredoc'. The evidence says so: no release is gated on a part.",
        "target": _TARGET,
        "online": "Use official images of a registry on the internet as well.",
        "yes": YES,
        "json": "Print the evidence as JSON on stdout.",
    }
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
    """Prove that the binaries and images in dist/ work, and keep the evidence there.

    Needs `invoke build-binaries`, and for buildx and rootless `invoke
    build-image` with and without --rootless; refuses what is not of one build.
    Starts real daemons, registries and a docker engine, as root, and leaves
    nothing of them. Each suite replaces its own results in dist/TARGET/evidence/
    when it has ended: evidence.json, and index.html for people. What cannot be
    shown on this machine is `not proven`, and says why.

    Exit code 7 when a scenario failed.
    """
    from .. import config
    from . import report
    from .validate import Options
    from .validate import validate as run

    settings = config.read(context.config)
    options = Options.parse(
        only=only, target=target, select=select, online=online,
        dry=settings.dry, yes=yes or settings.yes,
    )  # fmt: skip
    report.validated(run(options, report.progress), json=json)


@command(
    help={
        "compare": "Other evidence, to tell what is different here: its folder or evidence.json.",
        "target": _TARGET,
        "json": "Print the evidence as JSON on stdout; with --compare, what is different.",
    }
)
def evidence_show(context: Any, compare: str = "", target: str = "", json: bool = False) -> None:
    """Show what has been proved of the artifacts in dist/.

    Tells of each suite how many scenarios passed, failed or are not proven, on
    what machine, and whether a release may be gated on it; if not, why. Evidence
    of another architecture, brought here by `invoke on`, is shown with --target.
    """
    from pathlib import Path

    from .. import dist
    from ..arch import Target
    from . import report
    from .evidence import load

    found = load(dist.evidence_folder(Target.parse(target) if target else Target.here()))
    if compare:
        report.compared(load(Path(compare)), found, json=json)
    else:
        report.shown(found, json=json)
