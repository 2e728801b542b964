"""What the tasks of phase 2 tell at their end."""

from __future__ import annotations

from .. import storage
from ..console import duration, emit_json, say, size, table
from . import push
from .build import Outcome

#: What each layer holds, the lowest first.
LAYERS = (
    "Debian's packages", "BuildKit", "configuration",
    "Debian's packages for rootless", "configuration for rootless",
)  # fmt: skip


def built(outcome: Outcome, *, json: bool) -> None:
    """Where the image is, its digest, its layers, how long it took."""
    artifacts = outcome.artifacts
    if artifacts is None:
        return
    manifest = artifacts.manifest
    if json:
        emit_json({**manifest, "up_to_date": outcome.up_to_date})
    title = f"BuildKit {manifest['version']}, {manifest['variant']} image for {manifest['target']}"
    if outcome.up_to_date:
        say(f"{title} in {storage.shown(artifacts.path)}/ is up to date")
    else:
        rows = [
            (what, size(layer["size"]), size(layer["unpacked"]))
            for what, layer in zip(LAYERS, manifest["layers"], strict=False)
        ]
        rows.append(("all", size(manifest["size"]), size(manifest["unpacked"])))
        header = ("layer", "compressed", "unpacked")
        table(header, rows, title=title)
        say(
            f"{title}: built by {manifest['build']['engine']} ({manifest['host']['execution']}),"
            f" tested, {duration(outcome.seconds)} in all"
        )
    say(f"digest {manifest['digest']}")
    if not manifest["pinned"]:
        say("a development build: not the pinned source, so it will not be released")
    if outcome.loaded:
        say(f"docker has it as {outcome.loaded}")
    say(f"the files are in {storage.shown(artifacts.path)}/")


def pushed(outcome: push.Outcome, *, json: bool) -> None:
    """Each tag with its digest and what became of it, and where to pull from."""
    if json:
        emit_json(outcome.as_json())
    would = "would be " if outcome.dry else ""
    rows = [
        (
            tag.name, tag.digest, size(tag.size), ", ".join(tag.platforms),
            f"{would if tag.state is push.State.PUSHED else ''}{tag.state}"
            + (f" ({tag.reason})" if tag.reason else ""),
        )
        for tag in outcome.tags
    ]  # fmt: skip
    header = ("tag", "digest", "size", "platforms", "")
    table(header, rows, title=f"Images in {outcome.place}")
    if outcome.dry:
        say(f"nothing was pushed to {outcome.place}")
        return
    say(f"{outcome.place}: everything is there, {duration(outcome.seconds)} in all")
    tag = outcome.tags[0].name
    if outcome.registry:
        say(f"to have it: docker pull {outcome.place}:{tag}")
    else:
        say(f"to publish it: skopeo copy --all {outcome.place}:{tag} docker://HOST/NAME:{tag}")
