"""Output of the tasks of phase 2."""

from __future__ import annotations

from ..core import filesystem
from ..core.console import duration, emit_json, log, size, table
from . import push
from .build import ImageResult

#: Contents of the layers, the lowest first.
LAYERS = (
    "Debian's packages", "BuildKit", "configuration",
    "Debian's packages for rootless", "configuration for rootless",
)  # fmt: skip


def built(outcome: ImageResult, *, json: bool) -> None:
    """Print the layers, the digest, the duration and the directory."""
    artifacts = outcome.artifacts
    if artifacts is None:
        return
    manifest = artifacts.manifest
    if json:
        emit_json({**manifest, "up_to_date": outcome.up_to_date})
    title = f"BuildKit {manifest['version']}, {manifest['variant']} image for {manifest['target']}"
    if outcome.up_to_date:
        log(f"{title} in {filesystem.display_path(artifacts.path)}/ is up to date")
    else:
        rows = [
            (what, size(layer["size"]), size(layer["unpacked"]))
            for what, layer in zip(LAYERS, manifest["layers"], strict=False)
        ]
        rows.append(("all", size(manifest["size"]), size(manifest["unpacked"])))
        header = ("layer", "compressed", "unpacked")
        table(header, rows, title=title)
        log(
            f"{title}: built by {manifest['build']['engine']} ({manifest['host']['execution']}),"
            f" tested, {duration(outcome.seconds)} in all"
        )
    log(f"digest {manifest['digest']}")
    if not manifest["pinned"]:
        log("a development build: its source is not pinned, so it cannot be released")
    if outcome.loaded:
        log(f"loaded into docker as {outcome.loaded}")
    log(f"the files are in {filesystem.display_path(artifacts.path)}/")


def pushed(outcome: push.PushResult, *, json: bool) -> None:
    """Print each tag with its digest and result, and how to pull."""
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
        log(f"nothing was pushed to {outcome.place}")
        return
    log(f"{outcome.place}: complete, {duration(outcome.seconds)} in all")
    tag = outcome.tags[0].name
    if outcome.registry:
        log(f"to pull it: docker pull {outcome.place}:{tag}")
    else:
        log(f"to publish it: skopeo copy --all {outcome.place}:{tag} docker://HOST/NAME:{tag}")
