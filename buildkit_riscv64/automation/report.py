"""What the tasks of phase 4 tell at their end."""

from __future__ import annotations

from collections.abc import Sequence

from .. import dist
from ..console import count, duration, emit_json, say, size, step_summary, table
from ..validation import page
from . import chain, release, status

_CHAIN = ("phase", "", "version", "made on", "when", "sha256")


def _made_on(link: chain.Link) -> str:
    host = link.manifest.get("host")
    return f"{host['distribution']}, {page.executed(host)}" if host else ""


def _hashes(link: chain.Link) -> str:
    """As many as one knows them by, short."""
    found = [sha256.removeprefix("sha256:")[:12] for sha256 in status.identity(link).values()]
    return " ".join(found[:2]) + (f" +{len(found) - 2}" if len(found) > 2 else "")


def chains(found: Sequence[status.Chain], *, json: bool) -> None:
    """Each phase of each target, what blocks the next one, and what to do."""
    if json:
        emit_json([one.as_json() for one in found])
    for one in found:
        say(one.target.name)
        rows = []
        for link in one.links:
            facts = status.facts(link)
            rows.append((
                link.name, link.state, facts["version"] or "", _made_on(link),
                facts["finished"] or "", _hashes(link),
            ))  # fmt: skip
        table(_CHAIN, rows)
        step_summary(one.target.name, _CHAIN, rows)
        for link in one.links:
            for remark in link.remarks:
                say(f"  {link.name}: {remark}")
        for reason in one.blocked:
            say(f"  blocked by {reason}")
        say(f"  {'next' if one.blocked else 'all is there'}: {one.next}")


def released(outcome: release.Outcome, *, json: bool) -> None:
    """Every file of a release, and where it is."""
    described = outcome.description
    if json:
        emit_json({**described, "state": outcome.state, "latest": outcome.latest})
    header = ("file", "size", "sha256", "what")
    rows = [
        (file["name"], size(file["size"]), file["sha256"], file["what"])
        for file in described["files"]
    ]
    table(header, rows)
    step_summary(described["title"], header, rows)
    total = size(sum(file["size"] for file in described["files"]))
    say(f"{described['title']}: {count(len(rows), 'file')}, {total}, {outcome.state}")
    say("it is the newest stable release" if outcome.latest else "a newer stable release is there; it is not marked as the latest")  # fmt: skip
    if described["key"]:
        say(f"signed by {described['key']}")
    if outcome.artifacts:
        say(f"the files are in {dist.shown(outcome.artifacts.path)}/, {duration(outcome.seconds)} in all")  # fmt: skip
    else:
        say("nothing was published")
