"""`invoke push-image`: publish the images.

A release's own tag never changes, `v0.32` and `latest` only move forward, and other
builds get a tag with the day of their commit.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

from packaging.version import Version

from ..core import dist, dry_run, filesystem, locks
from ..core.arch import Target
from ..core.console import step, warn
from ..core.errors import (
    CheckError,
    MismatchError,
    MissingRequirementError,
    NetworkError,
    UsageError,
)
from ..system import apt
from . import check, layout, registry
from .variants import Variant

_RELEASE = re.compile(r"(v[0-9]{1,9}\.[0-9]{1,9})\.[0-9]{1,9}")


@dataclass(frozen=True, kw_only=True)
class PushOptions:
    """Options of `invoke push-image`.

    Args:
        registry: the repository; None for the layout in `dist/oci/`.
        target: the only target to push; None for every target.
        force: replace a release's own tag.
        yes: install missing packages without asking.
    """

    registry: registry.Reference | None
    target: Target | None
    force: bool = False
    yes: bool = False

    @classmethod
    def parse(cls, *, repository: str, target: str, **others: bool) -> PushOptions:
        """Options from the command line.

        Raises:
            UsageError: invalid repository, or a target that gets no tag.
        """
        where = registry.Reference.parse(repository) if repository else None
        which = Target.parse(target) if target else None
        if which and not which.default:
            raise UsageError(
                f"{which.name} is the same platform as {Target(which.arch).name},"
                " and a tag holds one image per platform",
                f"push {Target(which.arch).name}, whose image runs on every machine",
            )
        return cls(registry=where, target=which, **others)


class State(StrEnum):
    """Result for a tag."""

    PUSHED = "pushed"
    THERE = "already there"
    HELD = "not moved"


@dataclass(frozen=True, kw_only=True)
class Tag:
    """A tag and its result.

    Args:
        name: the tag.
        digest: of the image, or of an index of several.
        size: of the layers of every image, in bytes.
        platforms: of the images.
        state: the result.
        reason: of the result, where it needs one.
    """

    name: str
    digest: str
    size: int
    platforms: tuple[str, ...]
    state: State
    reason: str = ""


@dataclass(frozen=True)
class PushResult:
    """The result of a push.

    Args:
        place: the target's name.
        registry: the target is a registry.
        tags: in the order of the push.
        dry: nothing was pushed.
        seconds: duration.
    """

    place: str
    registry: bool
    tags: list[Tag]
    dry: bool
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """The output of `--json`."""
        return asdict(self)


@dataclass(frozen=True)
class ImageSet:
    """The images of a variant, one per platform.

    Args:
        variant: root or rootless.
        manifest: of any of the images.
        images: at least one, in the order of their targets.
    """

    variant: Variant
    manifest: Mapping[str, Any]
    images: Sequence[layout.Image]

    @property
    def version(self) -> str:
        """The release's version; empty for other builds."""
        version = str(self.manifest["version"])
        return version if self.manifest["pinned"] and _RELEASE.fullmatch(version) else ""

    @property
    def tags(self) -> list[str]:
        """Its tags: the fixed one first, `latest` last."""
        if release := _RELEASE.fullmatch(self.version):
            names = [release[0], release[1], "latest"]
        else:
            day = datetime.fromisoformat(self.manifest["created"]).astimezone(UTC)
            names = [f"main-{day:%Y%m%d}"]
        return [name + self.variant.suffix for name in names]

    def newer(self, tag: str, existing: Collection[str]) -> str:
        """The newer release that prevents moving a rolling tag, or an empty string.

        Args:
            tag: the rolling tag.
            existing: every existing tag.
        """
        suffix = self.variant.suffix
        rolling = tag.removesuffix(suffix)
        if not self.version or rolling == self.version:
            return ""
        found = (_RELEASE.fullmatch(one.removesuffix(suffix)) for one in existing if one.endswith(suffix))  # fmt: skip
        rivals = [one[0] for one in found if one and rolling in {one[1], "latest"}]
        newest = max([self.version, *rivals], key=Version)
        return "" if Version(newest) == Version(self.version) else newest + suffix

    def decide(
        self, tag: str, place: str, current: str, existing: Collection[str], *, force: bool
    ) -> Tag:
        """Decide what to do with a tag.

        Args:
            tag: one of this set's tags.
            place: the push target's name.
            current: the digest of the tag now; empty if it does not exist.
            existing: every existing tag.
            force: replace a release's own tag.

        Raises:
            MismatchError: the tag is a release's own, and exists with another digest.
        """
        digest = str(layout.combined(self.images)[0]["digest"])
        state, reason = State.PUSHED, f"was {current[:19]}" if current else ""
        if current == digest:
            state, reason = State.THERE, ""
        elif newer := self.newer(tag, existing):
            state, reason = State.HELD, f"{newer} is there"
        elif current and not force and tag == self.version + self.variant.suffix:
            raise MismatchError(
                f"{place}:{tag} is {current} there, and {digest} here",
                "the tag of a release never changes; to replace it anyway: --force",
            )
        return Tag(
            name=tag, digest=digest, size=sum(image.size for image in self.images),
            platforms=tuple("/".join(image.platform.values()) for image in self.images),
            state=state, reason=reason,
        )  # fmt: skip


class PushTarget(Protocol):
    """Where to push: a registry or a layout."""

    @property
    def name(self) -> str:
        """The name in messages."""

    def tags(self) -> list[str]:
        """Every existing tag."""

    def digest(self, tag: str) -> str:
        """The digest of a tag; empty if it does not exist."""

    def put(self, source: Path) -> None:
        """Publish the named images of a layout, in its order."""


@dataclass(frozen=True)
class OciLayout:
    """An OCI layout, the default without a registry; skopeo and others read it."""

    path: Path

    @property
    def name(self) -> str:
        """The name in skopeo's syntax."""
        return f"oci:{filesystem.display_path(self.path)}"

    def tags(self) -> list[str]:
        """Every name."""
        return list(layout.names(self.path))

    def digest(self, tag: str) -> str:
        """The digest of a name; empty if it does not exist."""
        return str(layout.names(self.path).get(tag, {}).get("digest", ""))

    def put(self, source: Path) -> None:
        """Add a layout's images atomically."""
        layout.merge(source, self.path)
        filesystem.make_public(self.path)


@contextlib.contextmanager
def _opened(options: PushOptions) -> Iterator[PushTarget]:
    """The push target, locked if it is a layout."""
    if options.registry:
        with registry.authfile(options.registry.host) as credentials:
            yield registry.Registry(options.registry, credentials)
    elif dry_run.active():
        yield OciLayout(dist.oci_directory())
    else:
        with locks.held(dist.oci_directory().with_name(".oci.lock")):
            yield OciLayout(dist.oci_directory())


def _chosen(target: Target | None) -> list[tuple[Target, Variant]]:
    """The images to publish; only the default target of each platform.

    Raises:
        CheckError: no images.
    """
    found = check.chosen(target.name if target else "")
    for one, variant in found:
        if not one.default:
            warn(f"left out: {one.name} {variant}; a tag holds one image for linux/{one.arch}")
    chosen = [(one, variant) for one, variant in found if one.default]
    if not chosen:
        raise CheckError("no image that can be published", "run `invoke build-image` first")
    return chosen


def _read(chosen: Sequence[tuple[Target, Variant]]) -> list[dist.Artifacts]:
    """The manifests of the images, which must be of the same build.

    Raises:
        CheckError: a manifest is invalid, or the builds differ.
    """
    builds: dict[tuple[str, ...], str] = {}
    found = []
    for target, variant in chosen:
        artifacts = dist.load(dist.image_directory(target, variant))
        manifest = artifacts.manifest
        kind = "the pinned source" if manifest["pinned"] else "a development build"
        build = (manifest["version"], manifest["revision"], kind)
        builds.setdefault(build, f"{target.name} {variant}")
        found.append(artifacts)
    if len(builds) > 1:
        described = (f"{name} is {', '.join(build)}" for build, name in builds.items())
        raise CheckError(
            f"images of several builds: {'; '.join(described)}",
            "build every image from the same source, or choose one with --target",
        )
    return found


def _defects(artifacts: dist.Artifacts, target: Target, variant: Variant) -> Iterator[str]:
    """Defects of a published image; only the first one is meaningful."""
    manifest = artifacts.manifest
    if (manifest["target"], manifest["variant"]) != (target.name, variant):
        yield f"it is the image {manifest['target']} {manifest['variant']}"
    if not artifacts.unchanged():
        yield "its files do not match its manifest"
    image = layout.load(artifacts.path / dist.LAYOUT)
    if digest := layout.damaged(image):
        yield f"{digest} is damaged"
    if image.digest != manifest["digest"]:
        yield f"its digest is {image.digest}, expected {manifest['digest']}"
    if (image.platform.get("os"), image.platform.get("architecture")) != ("linux", target.arch):
        yield f"it is for {'/'.join(image.platform.values())}, expected linux/{target.arch}"
    contents = check.read(image)
    for difference in check.differences(image, contents, variant):
        yield f"{difference} differs from this checkout"
    for command in dist.COMMANDS:
        binary = dist.directory(target) / dist.binary(command)
        checksum = contents.checksums.get(f"usr/bin/{command}")
        if checksum != manifest["binaries"][command]:
            yield f"its {command} does not match its manifest"
        if binary.is_file() and filesystem.sha256(binary) != checksum:
            yield f"its {command} differs from {filesystem.display_path(binary)}"


def _image_sets(
    chosen: Sequence[tuple[Target, Variant]], artifacts: Sequence[dist.Artifacts]
) -> list[ImageSet]:
    """Check the images, and group them by variant.

    Raises:
        CheckError: an image was modified.
    """
    images: dict[Variant, list[layout.Image]] = {}
    for (target, variant), one in zip(chosen, artifacts, strict=True):
        if defect := next(_defects(one, target, variant), ""):
            raise CheckError(f"{filesystem.display_path(one.path)}: {defect}", check.REMEDY)
        images.setdefault(variant, []).append(layout.load(one.path / dist.LAYOUT))
    return [ImageSet(variant, artifacts[0].manifest, parts) for variant, parts in images.items()]


def push(options: PushOptions) -> PushResult:
    """Check the images again, and publish them.

    Raises:
        Failure: the class tells the cause; each tag is complete, old or new.
    """
    started = time.time()
    chosen = _chosen(options.target)
    if options.registry and not dry_run.active():
        apt.ensure_installed(["skopeo"], yes=options.yes)
    with contextlib.ExitStack() as stack:
        if not dry_run.active():
            for target in dict.fromkeys(target for target, _ in chosen):
                stack.enter_context(dist.lock(target))
        artifacts = _read(chosen)
        place = stack.enter_context(_opened(options))
        existing, digest_of = _existing(place)
        with step("checking the images"):
            image_sets = _image_sets(chosen, artifacts)
        # By rank, so that `latest` comes last.
        plan = {
            one.decide(tag, place.name, digest_of(tag), existing, force=options.force): one
            for tags in zip(*(one.tags for one in image_sets), strict=True)
            for one, tag in zip(image_sets, tags, strict=True)
        }  # fmt: skip
        if not dry_run.active():
            images = {tag.name: one.images for tag, one in plan.items() if tag.state is not State.HELD}  # fmt: skip
            with dist.staging(chosen[0][0], part="push") as stage:
                layout.gather(images, stage)
                place.put(stage)
            _verify(place, plan)
    return PushResult(place.name, bool(options.registry), list(plan), dry_run.active(), time.time() - started)  # fmt: skip


def _existing(place: PushTarget) -> tuple[Collection[str], Callable[[str], str]]:
    """Every existing tag, and a function for the digest of one.

    Raises:
        Failure: the target does not answer; under `--dry`, only a warning.
        Failure: it does not answer, and not only to say what would be done.
    """
    try:
        return place.tags(), place.digest
    except (NetworkError, MissingRequirementError) as error:
        if not dry_run.active():
            raise
        warn(f"{error.brief}; existing tags are unknown")
        return (), lambda _tag: ""


def _verify(place: PushTarget, tags: Collection[Tag]) -> None:
    """Check that each tag has the pushed digest.

    Raises:
        MismatchError: a tag has another digest.
    """
    for tag in tags:
        if tag.state is not State.HELD and (seen := place.digest(tag.name)) != tag.digest:
            raise MismatchError(
                f"{place.name}:{tag.name} is {seen or 'nothing'} after pushing {tag.digest}",
                "another user may push to the same tags; run it again",
            )
