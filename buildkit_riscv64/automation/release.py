"""`invoke release`: everything that was built and proved, gathered, signed and published; or why not."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.version import InvalidVersion, Version

from .. import apt, dist, pages, process, storage
from ..arch import Architecture, Target
from ..console import count, say, step, warn
from ..errors import CheckError, MismatchError, NetworkError, UsageError
from ..image.variants import Variant
from ..pins import release_tag
from . import api, chain, github, notes, signing

#: Describes a release; it is one of its files.
DESCRIPTION = dist.DESCRIPTIONS[dist.RELEASE]
#: What people read about it; on GitHub it is the release's text.
NOTES = "NOTES.md"
#: The public key that verifies the signature of the sums.
PUBLIC_KEY = "buildkit-riscv64.asc"
#: What signs all the rest.
SIGNATURE = f"{dist.SUMS}.asc"
# What tells of the rest, and is another one with another key.
_DERIVED = {dist.SUMS, SIGNATURE, PUBLIC_KEY, DESCRIPTION}


@dataclass(frozen=True, kw_only=True)
class Options:
    """What `invoke release` was asked.

    Args:
        target: what is released.
        revision: which release of this version it is, from 1.
        tag: nothing but the release of this tag; empty for any.
        repository: on GitHub, as OWNER/NAME; empty for what the environment says.
        key: the private key, or its file; empty for what the environment says.
        dry: gather and look at everything, and publish nothing.
        yes: install what is missing without asking.
    """

    target: Target
    revision: int = 1
    tag: str = ""
    repository: str = ""
    key: str = ""
    dry: bool = False
    yes: bool = False

    @classmethod
    def parse(cls, *, target: str, revision: str, tag: str = "", **others: Any) -> Options:
        """Options as the command line has them.

        Raises:
            UsageError: there is no such target, revision or tag.
        """
        if tag:
            version, dash, number = tag.partition("-")
            release_tag(version)
            revision = number if dash else "1"
        if not revision.isdecimal() or int(revision) < 1:
            raise UsageError(f"--revision {revision!r} is no number from 1", "as in --revision 2")
        wanted = Target.parse(target) if target else Target(Architecture.RISCV64)
        return cls(target=wanted, revision=int(revision), tag=tag, **others)


@dataclass(frozen=True, kw_only=True)
class Asset:
    """A file of a release.

    Args:
        name: what it is called there.
        path: where it is in `dist/`.
        what: what it is, for people.
        sha256: what the sums beside it say; empty for what they do not list.
    """

    name: str
    path: Path
    what: str
    sha256: str = ""


@dataclass(frozen=True)
class Outcome:
    """What became of a release.

    Args:
        artifacts: its folder; None under `--dry`.
        description: what it consists of.
        state: 'released', 'released before' or 'would be released'.
        latest: it is the newest stable one; None where GitHub was not there to be asked.
        seconds: how long it took.
    """

    artifacts: dist.Artifacts | None
    description: Mapping[str, Any]
    state: str
    latest: bool | None
    seconds: float


def tag_of(version: str, revision: int) -> str:
    """The tag: upstream's, and the number of the release where it is not the first of it."""
    return version if revision == 1 else f"{version}-{revision}"


def _order(tag: str) -> Version | None:
    """What tags are compared by; None for those that are not ours."""
    try:
        version, _, revision = tag.partition("-")
        return Version(f"{release_tag(version)}.post{int(revision or 1)}")
    except (UsageError, ValueError, InvalidVersion):
        return None


def refusals(target: Target, links: Sequence[chain.Link]) -> list[str]:
    """Every reason why what is there may not be released; nothing when it may."""
    found = []
    if target.arch is not Architecture.RISCV64:
        found.append(f"{target.name} is not riscv64: what is for others is for development")
    elif not target.default:
        found.append(f"{target.name} does not run on every riscv64 machine")
    return found + [f"{link.name}: {reason}" for link in links for reason in link.reasons]


def assets(target: Target, links: Sequence[chain.Link]) -> list[Asset]:
    """What a release consists of, in the order in which people look for it."""
    found = {link.name: link.artifacts for link in links if link.artifacts}
    binaries = found["binaries"]
    version = binaries.manifest["version"]
    prefix = f"buildkit-{version}.{target.name}"
    sums = {one.path: one.sums() for one in found.values()}

    def of(artifacts: dist.Artifacts, name: str, what: str, called: str = "") -> Asset:
        return Asset(
            name=called or f"{prefix}.{name}", path=artifacts.path / name, what=what,
            sha256=sums[artifacts.path].get(name, ""),
        )  # fmt: skip

    def several() -> Iterator[Asset]:
        tarball = dist.tarball(version, target)
        yield of(binaries, tarball, "the programs", tarball)
        packages = found["packages"]
        for name in sorted(packages.files):
            yield of(packages, name, "a package for distributions", Path(name).name)
        for variant in Variant:
            image = found[f"{variant} image"]
            for name in image.files:
                if name.endswith(".image.tar"):
                    yield of(image, name, f"the {variant} image, for docker load", name)
            yield of(image, dist.PACKAGES_SBOM, f"bill of materials of the {variant} image",
                     f"{prefix}.image-{variant}.cdx.json")  # fmt: skip
        for name in sorted(binaries.files):
            if name.endswith(".cdx.json"):
                yield of(binaries, name, f"bill of materials of {name.partition('.')[0]}")
        yield of(binaries, dist.PROVENANCE, "provenance: how it was built")
        yield of(binaries, dist.MANIFEST, "what, from what, on what machine, with what")
        if (binaries.path / dist.VERDICT).exists():
            yield of(binaries, dist.VERDICT, "what another machine found that compiled the same")
        validation = found["validation"]
        yield of(validation, dist.RESULTS, "evidence: what was proved, as data")
        yield of(validation, pages.INDEX, "evidence: what was proved, to read", f"{prefix}.evidence.html")  # fmt: skip
        if (report := dist.benchmark_folder() / pages.INDEX).is_file():
            yield Asset(name=f"{prefix}.benchmarks.html", path=report, what="what was measured")

    return list(several())


def _take(asset: Asset, stage: Path) -> dict[str, Any]:
    """Put a file into the release; what is recorded of it."""
    place = stage / asset.name
    # Files in dist/ are replaced and never written to, so one file may have two names.
    try:
        os.link(asset.path, place)
    except OSError:
        shutil.copyfile(asset.path, place)
    (record,) = dist.record(stage, [asset.name])
    if asset.sha256 and record["sha256"] != asset.sha256:
        raise CheckError(
            f"{storage.shown(asset.path)} is not what SHA256SUMS beside it says: it was changed or damaged",
            "make it anew: `invoke status` names the command",
        )
    return {**record, "what": asset.what}


def _gather(
    options: Options, links: Sequence[chain.Link], signer: signing.Signer | None, stage: Path
) -> dict[str, Any]:
    """Make the release's folder: all files, the notes, the sums, the signature.

    Returns:
        Its description.
    """
    files = [_take(asset, stage) for asset in assets(options.target, links)]
    manifest = links[0].manifest
    tag = tag_of(manifest["version"], options.revision)
    description: dict[str, Any] = {
        "release_version": 1,
        "tag": tag,
        "title": f"BuildKit {tag} for {options.target.arch}",
        **{key: manifest[key] for key in ("target", "version", "revision", "host")},
        "key": signer.fingerprint if signer else None,
        "files": files,
    }
    text = notes.render(description, {link.name: link for link in links})
    (stage / NOTES).write_text(text, encoding="utf-8")
    if signer:
        (stage / PUBLIC_KEY).write_text(signer.public_key())
        files.append(
            {**dist.record(stage, [PUBLIC_KEY])[0], "what": "the key that signed the sums"}
        )
    storage.write_json(stage / DESCRIPTION, description)
    own = {**dist.record(stage, [DESCRIPTION])[0], "what": "this list, as data"}
    (stage / dist.SUMS).write_text(dist.sums([*files, own]))
    if signer:
        signer.sign_detached(stage / dist.SUMS)
    return {**description, "files": [*files, own]}


def _digests(release: Mapping[str, Any]) -> dict[str, str]:
    """The sha256 of each file of a release on GitHub; empty where GitHub does not say."""
    return {
        asset["name"]: str(asset.get("digest") or "").removeprefix("sha256:")
        for asset in release["assets"]
        if asset["name"] not in _DERIVED
    }


def _compare(description: Mapping[str, Any], release: Mapping[str, Any]) -> None:
    """Refuse to release again what was released with other bytes.

    Raises:
        MismatchError: the bytes differ.
    """
    files = description["files"]
    ours = {file["name"]: file["sha256"] for file in files if file["name"] not in _DERIVED}
    theirs = _digests(release)
    if ours == theirs:
        return
    other = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))  # fmt: skip
    tag = description["tag"]
    raise MismatchError(
        f"{tag} has been released with other bytes: {other[0]}"
        + (f" (and {count(len(other) - 1, 'more file')})" if len(other) > 1 else ""),
        "what people have downloaded stays as it is: release this as another one with --revision",
    )


def _newest(tag: str, releases: Iterable[Mapping[str, Any]]) -> bool:
    """True when no stable release is newer than this one."""
    others = [
        order
        for one in releases
        if not one["draft"] and not one["prerelease"] and one["tag_name"] != tag
        if (order := _order(one["tag_name"]))
    ]
    ours = _order(tag)
    return ours is not None and all(ours > other for other in others)


def release(options: Options) -> Outcome:
    """Gather, sign and publish; under `--dry`, all but the publishing.

    Raises:
        CheckError: something may not be released, or is missing.
        MismatchError: this version was released with other bytes.
        UsageError: there is no key, or no repository.
        NetworkError: GitHub does not answer, or refuses.
        MissingRequirementError: a tool is missing.
    """
    started = time.monotonic()
    links = chain.links(options.target)
    _refuse(refusals(options.target, links), options)
    _refuse_another_tag(options, links)
    for link in links:
        for remark in link.remarks:
            warn(f"{link.name}: {remark}")
    if not options.dry:
        apt.provide(["gpg", "gh"], yes=options.yes)
        github.repository(options.repository)
    with dist.lock(options.target), dist.staging(options.target, part=dist.RELEASE) as stage:
        with step("gathering the release"):
            description = _signed(options, links, stage)
        with api.Client.connected(dry=options.dry) as client:
            asked = _asked(options, client)
            # Only a dry run gets so far without GitHub.
            releases = asked or []
            published = _published(description["tag"], releases)
            if published:
                _compare(description, published)
            latest = None if asked is None else _newest(description["tag"], releases)
            if options.dry:
                state = "released before" if published else "would be released"
                return Outcome(None, description, state, latest, time.monotonic() - started)
            if not published:
                _publish(options, client, description, stage, releases, latest=bool(latest))
        found = dist.publish_part(stage, options.target, dist.RELEASE)
    state = "released before" if published else "released"
    return Outcome(found, description, state, latest, time.monotonic() - started)


def _refuse(reasons: Sequence[str], options: Options) -> None:
    if not reasons:
        return
    for reason in reasons:
        say(f"refused: {reason}")
    more = f" (and {count(len(reasons) - 1, 'more reason')})" if len(reasons) > 1 else ""
    raise CheckError(
        f"{options.target.name} may not be released: {reasons[0]}{more}",
        f"invoke status --target {options.target.name}",
    )


def _refuse_another_tag(options: Options, links: Sequence[chain.Link]) -> None:
    """A tag that somebody has pushed says what is to be released: this, or nothing."""
    version = links[0].manifest["version"]
    ours = tag_of(version, options.revision)
    if options.tag and options.tag != ours:
        raise CheckError(
            f"{options.tag} is the tag, and what is in dist/ would be {ours}",
            f"remove the tag, and tag as {ours} a commit that pins {version}",
        )


def _signed(options: Options, links: Sequence[chain.Link], stage: Path) -> dict[str, Any]:
    """Gather with a signature; a dry run may have no key, and says so."""
    if options.dry and not options.key and not os.environ.get(signing.KEY):
        warn(f"there is no key in {signing.KEY}: {SIGNATURE} and {PUBLIC_KEY} are left out here")
        return _gather(options, links, None, stage)
    with signing.opened(options.key) as signer:
        return _gather(options, links, signer, stage)


def _asked(options: Options, client: api.Client) -> list[dict[str, Any]] | None:
    """The releases that there are; None for a dry run without GitHub, which it says."""
    try:
        return github.Repository(client, github.repository(options.repository)).releases()
    except (NetworkError, UsageError) as error:
        if not options.dry:
            raise
        warn(f"whether it has been released is not known: {error.brief}")
        return None


def _published(tag: str, releases: Iterable[dict[str, Any]]) -> dict[str, Any] | None:
    return next((one for one in releases if one["tag_name"] == tag and not one["draft"]), None)


def _for_gh() -> dict[str, str]:
    """The environment of gh: where GitHub is, and who we are to it."""
    ours = {name: value for name, value in os.environ.items() if name.startswith("GH_")}
    return process.environment({**ours, "GH_TOKEN": api.token(), "GH_PROMPT_DISABLED": "1"})


def _publish(
    options: Options,
    client: api.Client,
    description: Mapping[str, Any],
    stage: Path,
    releases: Iterable[Mapping[str, Any]],
    *,
    latest: bool,
) -> None:
    """Have GitHub's own command make the release: a draft until all files are there.

    Raises:
        NetworkError: it failed; nobody sees a release that is not whole.
    """
    tag = description["tag"]
    name = github.repository(options.repository)
    for one in releases:
        if one["draft"] and one["tag_name"] == tag:
            say(f"removing the draft that an interrupted run has left for {tag}")
            client.send("DELETE", f"/repos/{name}/releases/{one['id']}")
    files = [stage / file["name"] for file in description["files"]]
    command = [
        "gh", "release", "create", tag, f"--repo={name}", f"--title={description['title']}",
        f"--notes-file={stage / NOTES}", f"--latest={str(latest).lower()}",
        *files, stage / dist.SUMS, stage / SIGNATURE,
    ]  # fmt: skip
    with step(f"publishing {tag} in {name}"):
        process.run(
            command, env=_for_gh(), title=f"gh release create {tag}", error=NetworkError,
            hint="gh's reason is above; nothing was published: run it again",
        )  # fmt: skip
