"""What the tasks of phase 4 tell at their end."""

from __future__ import annotations

from collections.abc import Sequence

from .. import dist, pages, storage
from ..console import count, duration, emit_json, say, size, step_summary, table, warn
from . import chain, pinned, release, repository, status, track

_CHAIN = ("phase", "", "version", "made on", "when", "sha256")


def _made_on(link: chain.Link) -> str:
    facts = link.manifest.get("host")
    return f"{facts['arch']}, {facts['execution']}" if facts else ""


def _hash(link: chain.Link) -> str:
    """The one that tells best, short: of binaries that which validation names, too."""
    known = status.identity(link)
    sha256 = known.get(dist.binary("buildkitd")) or next(iter(known.values()), "")
    return sha256.removeprefix("sha256:")[:8]


def _when(moment: str | None) -> str:
    """To the minute, for people."""
    return (moment or "")[:16].replace("T", " ")


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
                _when(facts["finished"]), _hash(link),
            ))  # fmt: skip
        table(_CHAIN, rows, title=one.target.name)
        for link in one.links:
            for remark in link.remarks:
                say(f"  {link.name}: {remark}")
        for reason in one.blocked:
            say(f"  blocked by {reason}")
        if one.next:
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
    table(header, rows, title=described["title"])
    total = size(sum(file["size"] for file in described["files"]))
    say(f"{described['title']}: {count(len(rows), 'file')}, {total}, {outcome.state}")
    if outcome.latest is not None:
        say("it is the newest stable release" if outcome.latest else "a newer stable release is there; it is not marked as the latest")  # fmt: skip
    if described["key"]:
        say(f"signed by {described['key']}")
    if outcome.artifacts:
        say(f"the files are in {storage.shown(outcome.artifacts.path)}/, {duration(outcome.seconds)} in all")  # fmt: skip
    else:
        say("nothing was published")


def tracked(outcome: track.Outcome, *, json: bool) -> None:
    """What upstream has, what was done about it or would be, and which other pins are behind."""
    if json:
        emit_json(outcome.as_json())
    upstream = outcome.upstream
    newest = upstream.newest.tag if upstream.newest else "none"
    state = pinned.State.BEHIND if upstream.new else pinned.State.CURRENT
    rows = [("BuildKit", upstream.pinned, newest, str(state), "")]
    rows += [(o.name, o.pinned, o.newest, str(o.state), o.detail) for o in outcome.others]
    header = ("what", "pinned", "newest", "state", "")
    table(header, rows, title="Pins")
    if not upstream.listed:
        warn(f"{upstream.pinned}, which is pinned, is not among upstream's stable releases")
    for other in outcome.others:
        if other.state is pinned.State.SUSPECT:
            warn(f"{other.name}: {other.detail}: find out why before anything runs it")
    for one in upstream.backports:
        say(f"{one.tag} is out since {one.published:%Y-%m-%d}, of an older line: not newer")
    if not outcome.steps:
        say(f"{outcome.repository}: nothing to do")
        return
    done = "would be done" if outcome.dry else "done"
    steps = [(step.what, step.detail) for step in outcome.steps]
    step_summary(f"{outcome.repository}: {done}", ("what", ""), steps)
    for _, detail in steps:
        say(f"would {detail}" if outcome.dry else f"done: {detail}")
    if outcome.dry:
        say(f"nothing was changed in {outcome.repository}")


def packaged(outcome: dist.Outcome, *, json: bool) -> None:
    """Every package, and where they are."""
    if outcome.artifacts is None:
        return
    manifest = outcome.artifacts.manifest
    if json:
        emit_json(manifest)
    header = ("package", "size", "sha256")
    rows = [(file["name"], size(file["size"]), file["sha256"]) for file in manifest["files"]]
    table(header, rows, title=f"Packages for {manifest['target']}")
    done = "nothing has changed" if outcome.up_to_date else f"made in {duration(outcome.seconds)}"
    held = count(len(manifest["binaries"]), "program")
    say(f"BuildKit {manifest['package_version']} for {manifest['target']}, {held}: {done}")
    say(f"the files are in {storage.shown(outcome.artifacts.path)}/")


def published(outcome: repository.Outcome, *, json: bool) -> None:
    """What the repositories hold, who signed them, and where they are."""
    header = ("package", "for", "version", "size")
    rows = [
        (f"{file['package']} ({file['format']})", file["arch"], file["version"], size(file["size"]))
        for one in outcome.published for file in one.manifest["files"]
    ]  # fmt: skip
    table(header, rows, title="Repositories of packages")
    if outcome.artifacts is None:
        say(f"would publish them in {storage.shown(dist.repository_folder())}/")
        return
    manifest = outcome.artifacts.manifest
    if json:
        emit_json(manifest)
    if manifest["signed_by"]:
        say(f"signed by {manifest['signed_by']}")
    else:
        warn("not signed: for trying, and for nothing else")
    done = "nothing has changed" if outcome.up_to_date else f"made in {duration(outcome.seconds)}"
    place = storage.shown(outcome.artifacts.path)
    say(f"{place}/: {done}; serve it as it is, {place / pages.INDEX} says how to install")
