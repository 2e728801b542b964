"""Output of `track-releases` and `pins.show`."""

from __future__ import annotations

from collections.abc import Mapping

from ..core.console import emit_json, log, step_summary, table, warn
from . import outdated, track


def tracked(outcome: track.TrackResult, *, json: bool) -> None:
    """Print upstream's releases, the steps, and the state of the other pins."""
    if json:
        emit_json(outcome.as_json())
    upstream = outcome.upstream
    newest = upstream.newest.tag if upstream.newest else "none"
    state = outdated.State.BEHIND if upstream.new else outdated.State.CURRENT
    rows = [("BuildKit", upstream.pinned, newest, str(state), "")]
    rows += [(o.name, o.pinned, o.newest, str(o.state), o.detail) for o in outcome.others]
    header = ("what", "pinned", "newest", "state", "")
    table(header, rows, title="Pins")
    if not upstream.listed:
        warn(f"the pinned {upstream.pinned} is not among upstream's stable releases")
    for other in outcome.others:
        if other.state is outdated.State.SUSPECT:
            warn(f"{other.name}: {other.detail}: find out why before you run it")
    for one in upstream.backports:
        log(f"{one.tag} ({one.published:%Y-%m-%d}) is a backport to an older version: not selected")
    if not outcome.steps:
        log(f"{outcome.repository}: nothing to do")
        return
    done = "would be done" if outcome.dry else "done"
    steps = [(step.what, step.detail) for step in outcome.steps]
    step_summary(f"{outcome.repository}: {done}", ("what", ""), steps)
    for _, detail in steps:
        log(f"would {detail}" if outcome.dry else f"done: {detail}")
    if outcome.dry:
        log(f"nothing was changed in {outcome.repository}")


def pinned(facts: Mapping[str, str], *, json: bool) -> None:
    """Print the pins."""
    if json:
        emit_json(facts)
    else:
        table(("what", "pinned"), list(facts.items()))
