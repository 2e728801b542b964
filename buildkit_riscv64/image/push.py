"""`invoke push-image`: the finished images, published under tags that keep their promises.

A release's own tag never becomes another image, `v0.32` and `latest` only go
forward, and what is no release gets a tag of its day and no other.
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

from .. import apt, dist, locks, schemas, storage
from ..arch import Target
from ..console import step, warn
from ..errors import CheckError, MismatchError, MissingRequirementError, NetworkError, UsageError
from . import check, layout, registry
from .variants import Variant

_RELEASE = re.compile(r"(v\d+\.\d+)\.\d+")


@dataclass(frozen=True, kw_only=True)
class Options:
    """What `invoke push-image` was asked.

    Args:
        registry: where to push; None for the layout in `dist/oci/`.
        target: the only target to push; None for all.
        force: replace a release's own tag.
        dry: only say what would be pushed.
        yes: install what is missing without asking.
    """

    registry: registry.Reference | None
    target: Target | None
    force: bool = False
    dry: bool = False
    yes: bool = False

    @classmethod
    def parse(cls, *, repository: str, target: str, **others: bool) -> Options:
        """Options as the command line has them.

        Raises:
            UsageError: it is no repository, or no target that can have a tag.
        """
        where = registry.Reference.parse(repository) if repository else None
        which = Target.parse(target) if target else None
        if which and not which.default:
            raise UsageError(
                f"{which.name} is the same platform as {Target(which.arch).name},"
                " and a tag holds one image for each",
                f"push {Target(which.arch).name}, whose image runs on every machine",
            )
        return cls(registry=where, target=which, **others)


class State(StrEnum):
    """What becomes of a tag."""

    PUSHED = "pushed"
    THERE = "already there"
    HELD = "not moved"


@dataclass(frozen=True, kw_only=True)
class Tag:
    """A tag, and what becomes of it.

    Args:
        name: the tag.
        digest: of what is to be under it: an image, or an index of several.
        size: of all its images' layers, in bytes.
        platforms: what it runs on.
        state: what becomes of it.
        reason: why, where that is a question.
    """

    name: str
    digest: str
    size: int
    platforms: tuple[str, ...]
    state: State
    reason: str = ""


@dataclass(frozen=True)
class Outcome:
    """What became of a push.

    Args:
        place: where the images went.
        registry: whether that is a registry.
        tags: in the order in which they were pushed.
        dry: nothing was pushed but said.
        seconds: how long it took.
    """

    place: str
    registry: bool
    tags: list[Tag]
    dry: bool
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return asdict(self)


@dataclass(frozen=True)
class Publication:
    """The images of a variant, one for each platform.

    Args:
        variant: which.
        manifest: of any one of them.
        images: at least one, in the order of their targets.
    """

    variant: Variant
    manifest: Mapping[str, Any]
    images: Sequence[layout.Image]

    @property
    def version(self) -> str:
        """The release that it is; nothing if it is none."""
        version = str(self.manifest["version"])
        return version if self.manifest["pinned"] and _RELEASE.fullmatch(version) else ""

    @property
    def tags(self) -> list[str]:
        """Its tags: first what never moves, last what moves most."""
        if release := _RELEASE.fullmatch(self.version):
            names = [release[0], release[1], "latest"]
        else:
            day = datetime.fromisoformat(self.manifest["created"]).astimezone(UTC)
            names = [f"main-{day:%Y%m%d}"]
        return [name + self.variant.suffix for name in names]

    def newer(self, tag: str, existing: Collection[str]) -> str:
        """The newest release of those whose tags exist, if it holds a rolling tag back.

        Args:
            tag: the rolling tag.
            existing: every tag that there is.
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
        self, tag: str, place: str, there: str, existing: Collection[str], *, force: bool
    ) -> Tag:
        """What is to become of a tag.

        Args:
            tag: one of its own.
            place: where, for people to read.
            there: the digest of what is under it now; nothing if there is nothing.
            existing: every tag that there is.
            force: a release's own tag may be replaced.

        Raises:
            MismatchError: it is a release's own, and something else is there.
        """
        digest = str(layout.combined(self.images)[0]["digest"])
        state, reason = State.PUSHED, f"was {there[:19]}" if there else ""
        if there == digest:
            state, reason = State.THERE, ""
        elif newer := self.newer(tag, existing):
            state, reason = State.HELD, f"{newer} is there"
        elif there and not force and tag == self.version + self.variant.suffix:
            raise MismatchError(
                f"{place}:{tag} is {there} there, and {digest} here",
                "a release's tag is for ever; if it has to be replaced all the same: --force",
            )
        return Tag(
            name=tag, digest=digest, size=sum(image.size for image in self.images),
            platforms=tuple("/".join(image.platform.values()) for image in self.images),
            state=state, reason=reason,
        )  # fmt: skip


class Place(Protocol):
    """Where images are published."""

    @property
    def name(self) -> str:
        """What people call it."""

    def tags(self) -> list[str]:
        """Every tag that there is."""

    def digest(self, tag: str) -> str:
        """The digest of what is under a tag; nothing if there is nothing."""

    def put(self, source: Path) -> None:
        """Publish what a layout has by name, in its order."""


@dataclass(frozen=True)
class OnDisk:
    """An OCI layout, where nobody has named a registry: skopeo and others read it as one."""

    path: Path

    @property
    def name(self) -> str:
        """As skopeo names it."""
        return f"oci:{storage.shown(self.path)}"

    def tags(self) -> list[str]:
        """Every name that there is."""
        return list(layout.names(self.path))

    def digest(self, tag: str) -> str:
        """The digest of what has a name; nothing if nothing has."""
        return str(layout.names(self.path).get(tag, {}).get("digest", ""))

    def put(self, source: Path) -> None:
        """Add a layout's images, all in one step."""
        layout.merge(source, self.path)


@contextlib.contextmanager
def _opened(options: Options) -> Iterator[Place]:
    """Where to publish, for us alone where that is possible."""
    if options.registry:
        with registry.authfile(options.registry.host) as credentials:
            yield registry.Registry(options.registry, credentials)
    elif options.dry:
        yield OnDisk(dist.oci_folder())
    else:
        with locks.held(dist.oci_folder().with_name(".oci.lock")):
            yield OnDisk(dist.oci_folder())


def _chosen(target: Target | None) -> list[tuple[Target, Variant]]:
    """The images to publish; of those for one platform, the one that runs everywhere.

    Raises:
        CheckError: there are none.
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
    """The finished images, all of one build.

    Raises:
        CheckError: one has no good manifest, or not all are of the same.
    """
    builds: dict[tuple[str, ...], str] = {}
    found = []
    for target, variant in chosen:
        artifacts = dist.load(dist.image_folder(target, variant))
        manifest = artifacts.manifest
        if wrong := schemas.objection(manifest, schemas.IMAGE):
            raise CheckError(f"{storage.shown(artifacts.path)}: {dist.MANIFEST}: {wrong}", check.REMEDY)  # fmt: skip
        kind = "the pinned source" if manifest["pinned"] else "a development build"
        build = (manifest["version"], manifest["revision"], kind)
        builds.setdefault(build, f"{target.name} {variant}")
        found.append(artifacts)
    if len(builds) > 1:
        described = (f"{name} is {', '.join(build)}" for build, name in builds.items())
        raise CheckError(
            f"images of several builds: {'; '.join(described)}",
            "build them all of the same, or choose one with --target",
        )
    return found


def _complaints(artifacts: dist.Artifacts, target: Target, variant: Variant) -> Iterator[str]:
    """What is wrong with a finished image; after the first, the rest says nothing."""
    manifest = artifacts.manifest
    if (manifest["target"], manifest["variant"]) != (target.name, variant):
        yield f"it is the image {manifest['target']} {manifest['variant']}"
    if not artifacts.unchanged():
        yield "its files are not those of its manifest"
    image = layout.load(artifacts.path / dist.LAYOUT)
    if digest := layout.damaged(image):
        yield f"{digest} is damaged"
    if image.digest != manifest["digest"]:
        yield f"its digest is {image.digest}, expected {manifest['digest']}"
    if (image.platform.get("os"), image.platform.get("architecture")) != ("linux", target.arch):
        yield f"it is for {'/'.join(image.platform.values())}, expected linux/{target.arch}"
    sums = check.read(image).sums
    for command in dist.COMMANDS:
        binary = dist.folder(target) / dist.binary(command)
        if sums.get(command) != manifest["binaries"][command]:
            yield f"the {command} in it is not that of its manifest"
        if binary.is_file() and storage.sha256(binary) != sums[command]:
            yield f"the {command} in it is not {storage.shown(binary)}"


def _publications(
    chosen: Sequence[tuple[Target, Variant]], artifacts: Sequence[dist.Artifacts]
) -> list[Publication]:
    """The images by their variants, each looked at once more.

    Raises:
        CheckError: one is not what it was when it was finished.
    """
    images: dict[Variant, list[layout.Image]] = {}
    for (target, variant), one in zip(chosen, artifacts, strict=True):
        if wrong := next(_complaints(one, target, variant), ""):
            raise CheckError(f"{storage.shown(one.path)}: {wrong}", check.REMEDY)
        images.setdefault(variant, []).append(layout.load(one.path / dist.LAYOUT))
    return [Publication(variant, artifacts[0].manifest, parts) for variant, parts in images.items()]


def push(options: Options) -> Outcome:
    """Look at the finished images once more, and publish them.

    Raises:
        Failure: whatever went wrong, as the class of what it was; what is under a
            tag is then whole.
    """
    started = time.time()
    chosen = _chosen(options.target)
    if options.registry and not options.dry:
        apt.provide(["skopeo"], yes=options.yes)
    with contextlib.ExitStack() as stack:
        if not options.dry:
            for target in dict.fromkeys(target for target, _ in chosen):
                stack.enter_context(dist.lock(target))
        artifacts = _read(chosen)
        place = stack.enter_context(_opened(options))
        existing, there = _asked(place, dry=options.dry)
        with step("checking the images"):
            publications = _publications(chosen, artifacts)
        # By rank, so that `latest` comes last.
        plan = {
            publication.decide(tag, place.name, there(tag), existing, force=options.force): publication
            for tags in zip(*(one.tags for one in publications), strict=True)
            for publication, tag in zip(publications, tags, strict=True)
        }  # fmt: skip
        if not options.dry:
            images = {tag.name: one.images for tag, one in plan.items() if tag.state is not State.HELD}  # fmt: skip
            with dist.staging(chosen[0][0], part="push") as stage:
                layout.gather(images, stage)
                place.put(stage)
            _verify(place, plan)
    return Outcome(place.name, bool(options.registry), list(plan), options.dry, time.time() - started)  # fmt: skip


def _asked(place: Place, *, dry: bool) -> tuple[Collection[str], Callable[[str], str]]:
    """Every tag that there is, and who knows their digests.

    Raises:
        Failure: it does not answer, and not only to say what would be done.
    """
    try:
        return place.tags(), place.digest
    except (NetworkError, MissingRequirementError) as error:
        if not dry:
            raise
        warn(f"{error.brief}; what is there already is not known")
        return (), lambda _tag: ""


def _verify(place: Place, tags: Collection[Tag]) -> None:
    """See that under each tag is what was pushed.

    Raises:
        MismatchError: there is something else.
    """
    for tag in tags:
        if tag.state is not State.HELD and (seen := place.digest(tag.name)) != tag.digest:
            raise MismatchError(
                f"{place.name}:{tag.name} is {seen or 'nothing'} after pushing {tag.digest}",
                "does somebody else push there too? run it again",
            )
