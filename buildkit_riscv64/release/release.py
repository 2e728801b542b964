"""`invoke release`: collect, sign and publish all artifacts of a target."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.version import Version

from ..core import dist, dry_run, filesystem, html, process, values
from ..core.arch import Architecture, Target
from ..core.console import count, log, step, warn
from ..core.documents import shown
from ..core.errors import CheckError, MismatchError, NetworkError, UsageError
from ..core.pins import release_tag
from ..image import archive
from ..image.variants import Variant
from ..packages import build as packages
from ..packages import contents, signing
from ..system import apt
from ..upstream import github, github_client
from ..validation import page
from . import gate, notes, phase_status

#: The release's description, one of its files.
DESCRIPTION = dist.Kind.RELEASE.description
#: The release notes; on GitHub the release's text.
NOTES = "NOTES.md"
#: The public key for the signature of SHA256SUMS.
PUBLIC_KEY = "buildkit-riscv64.asc"
#: The signature of SHA256SUMS, which covers every file.
SIGNATURE = f"{dist.SUMS}.asc"
# GitHub replaces other characters in the names of files.
_NAME = re.compile(r"[0-9A-Za-z][0-9A-Za-z._+-]*")
# Files that depend on the signing key, or on the time of the cross-check.
_DERIVED = (dist.SUMS, SIGNATURE, PUBLIC_KEY, DESCRIPTION, f".{dist.VERDICT}")


@dataclass(frozen=True, kw_only=True)
class ReleaseOptions:
    """Options of `invoke release`.

    Args:
        target: the target to release.
        revision: the release's revision of this version, from 1.
        tag: release only if this is the release's tag; empty for any.
        repository: on GitHub, as OWNER/NAME; empty for the repository in the environment.
        key: the private key, or its file; empty for the key in the environment.
        yes: install missing tools without asking.
    """

    target: Target
    revision: int = 1
    tag: str = ""
    repository: str = ""
    key: str = ""
    yes: bool = False

    @classmethod
    def parse(cls, *, target: str, revision: str, tag: str = "", **others: Any) -> ReleaseOptions:
        """Parse the command line's options.

        Raises:
            UsageError: the target, revision or tag is invalid.
        """
        if tag:
            version, dash, number = tag.partition("-")
            release_tag(version)
            revision = number if dash else "1"
        flag = "--tag" if tag else "--revision"
        counted = values.revision(flag, revision)
        wanted = Target.parse(target) if target else Target(Architecture.RISCV64)
        return cls(target=wanted, revision=counted, tag=tag, **others)


@dataclass(frozen=True, kw_only=True)
class Asset:
    """A file of a release.

    Args:
        name: the file's name in the release.
        path: the file in `dist/`.
        what: a description for readers.
        sha256: the digest in the directory's SHA256SUMS; empty when the file is not listed.
        text: the content to publish; empty for the content of `path`.
    """

    name: str
    path: Path
    what: str
    sha256: str = ""
    text: str = ""


@dataclass(frozen=True)
class ReleaseResult:
    """The result of a release.

    Args:
        artifacts: the release's directory; None under `--dry`.
        description: the release's description.
        state: 'released', 'released before' or 'would be released'.
        latest: True for the newest stable release; None when GitHub did not answer.
        seconds: the duration.
    """

    artifacts: dist.Artifacts | None
    description: Mapping[str, Any]
    state: str
    latest: bool | None
    seconds: float


def tag_of(version: str, revision: int) -> str:
    """The tag: upstream's, followed by the revision from 2."""
    return version if revision == 1 else f"{version}-{revision}"


def order(tag: str) -> Version | None:
    """The sort key of a tag; None for a tag that is not ours."""
    version, dash, revision = tag.partition("-")
    try:
        release_tag(version)
        number = values.revision("", revision) if dash else 1
    except UsageError:
        return None
    return Version(f"{version}.post{number}") if tag == tag_of(version, number) else None


def assets(target: Target, phases: Sequence[phase_status.PhaseStatus]) -> list[Asset]:
    """The files of a release, the most wanted first."""
    found = {phase.name: phase.artifacts for phase in phases if phase.artifacts}
    binaries = found["binaries"]
    version = binaries.manifest["version"]
    prefix = f"buildkit-{version}.{target.name}"
    checksums = {one.path: one.sums() for one in found.values()}

    def of(artifacts: dist.Artifacts, name: str, what: str, called: str = "") -> Asset:
        return Asset(
            name=called or f"{prefix}.{name}", path=artifacts.path / name, what=what,
            sha256=checksums[artifacts.path].get(name, ""),
        )  # fmt: skip

    def several() -> Iterator[Asset]:
        tarball = dist.tarball(version, target)
        yield of(binaries, tarball, "the programs", tarball)
        packed = found["packages"]
        for name in sorted(packed.files):
            yield of(packed, name, "package for Linux distributions", Path(name).name)
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
        yield of(binaries, dist.MANIFEST, "manifest: source, host, toolchain, checksums")
        yield of(binaries, dist.VERDICT, "verdict of the cross-check on another machine")
        validation = found["validation"]
        yield of(validation, dist.RESULTS, "evidence of the validation, as JSON")
        # Rendered here: nothing of a page that another machine wrote is published.
        yield Asset(
            name=f"{prefix}.evidence.html", path=validation.path / html.INDEX,
            what="evidence of the validation, as a page", text=page.render(validation.manifest),
        )  # fmt: skip

    return list(several())


def _take(asset: Asset, stage: Path) -> dict[str, Any]:
    """Add a file to the release; return its record."""
    if asset.path.is_symlink() or not asset.path.is_file():
        raise CheckError(
            f"{filesystem.display_path(asset.path)} is not a regular file",
            "rebuild it: run `invoke status` for the command",
        )
    if not _NAME.fullmatch(asset.name):
        raise CheckError(
            f"{shown(asset.name)} cannot be published: GitHub allows letters, digits and . _ + - in names",
            "rebuild it: run `invoke status` for the command",
        )
    path = stage / asset.name
    if asset.text:
        path.write_text(asset.text, encoding="utf-8")
    elif dry_run.active():
        path = asset.path
    else:
        # Files in dist/ are replaced, never written to, so a hard link is safe.
        try:
            os.link(asset.path, path)
        except OSError:
            shutil.copyfile(asset.path, path)
    (record,) = dist.record(path.parent, [path.name])
    record["name"] = asset.name
    if asset.sha256 and record["sha256"] != asset.sha256:
        raise CheckError(
            f"{filesystem.display_path(asset.path)} does not match its SHA256SUMS: it was changed or damaged",
            "rebuild it: run `invoke status` for the command",
        )
    return {**record, "what": asset.what}


def require_verified(files: Sequence[Path], verified: Mapping[str, str]) -> dict[Variant, str]:
    """Compare every program inside the files of a release with the verified programs.

    Args:
        files: the files that are published, not those in `dist/` that they come from.
        verified: the sha256 of each program, by its name.

    Returns:
        The digest of the image in each archive.

    Raises:
        CheckError: a file contains another program, or lacks one.
        MissingRequirementError: a tool that reads packages is missing.
    """
    for suffix, task in ((".gz", "build-binaries"), (".deb", "build-packages"), (".rpm", "build-packages")):  # fmt: skip
        archives = [path for path in files if path.suffix == suffix]
        contents.require_verified(archives, verified, f"run `invoke {task} --force` to rebuild it")
    digests = {}
    for path in files:
        if path.name.endswith(".image.tar"):
            rootless = path.name.startswith("buildkit-rootless-")
            variant = Variant.ROOTLESS if rootless else Variant.ROOT
            digests[variant] = archive.require_verified(path, verified, variant)
    return digests


def prefix_of(description: Mapping[str, Any]) -> str:
    """The start of the names of a release's files."""
    return f"buildkit-{description['version']}.{description['target']}"


def _gather(
    options: ReleaseOptions,
    phases: Sequence[phase_status.PhaseStatus],
    signer: signing.Signer | None,
    stage: Path,
) -> dict[str, Any]:
    """Fill the release's directory: all files, notes, checksums, signature.

    Returns:
        The release's description.
    """
    taken = assets(options.target, phases)
    files = [_take(asset, stage) for asset in taken]
    staged = [asset.path if dry_run.active() else stage / asset.name for asset in taken]
    named = {phase.name: phase for phase in phases}
    binaries = named["binaries"].artifacts
    assert binaries is not None
    for variant, digest in require_verified(staged, packages.verified_programs(binaries)).items():
        if digest != named[f"{variant} image"].manifest["digest"]:
            raise CheckError(
                f"the archive of the {variant} image is not the validated image",
                f"run `invoke {variant.task} --force` and `invoke validate`",
            )
    manifest = binaries.manifest
    tag = tag_of(manifest["version"], options.revision)
    description: dict[str, Any] = {
        "release_version": 1,
        "tag": tag,
        "title": f"BuildKit {tag} for {options.target.arch}",
        **{key: manifest[key] for key in ("target", "version", "revision", "host")},
        "key": signer.fingerprint if signer else None,
        "files": files,
    }
    text = notes.render(description, named)
    (stage / NOTES).write_text(text, encoding="utf-8")
    if signer:
        (stage / PUBLIC_KEY).write_text(signer.public_key())
        files.append(
            {**dist.record(stage, [PUBLIC_KEY])[0], "what": "the public key of the signature"}
        )
    filesystem.write_json(stage / DESCRIPTION, description)
    own = {**dist.record(stage, [DESCRIPTION])[0], "what": "this list, as JSON"}
    (stage / dist.SUMS).write_text(dist.sums([*files, own]))
    if signer:
        signer.sign_detached(stage / dist.SUMS)
    return {**description, "files": [*files, own]}


def _digests(release: Mapping[str, Any]) -> dict[str, str]:
    """The sha256 of each file of a release on GitHub; empty when GitHub reports none."""
    return {
        asset["name"]: str(asset.get("digest") or "").removeprefix("sha256:")
        for asset in release["assets"]
        if not asset["name"].endswith(_DERIVED)
    }


def _compare(description: Mapping[str, Any], release: Mapping[str, Any]) -> None:
    """Check that an existing release has the same content."""
    files = description["files"]
    ours = {file["name"]: file["sha256"] for file in files if not file["name"].endswith(_DERIVED)}
    theirs = _digests(release)
    if ours == theirs:
        return
    other = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))  # fmt: skip
    tag = description["tag"]
    raise MismatchError(
        f"{tag} is already released with different content: {other[0]}"
        + (f" (and {count(len(other) - 1, 'more file')})" if len(other) > 1 else ""),
        "published files do not change: release these files with --revision",
    )


def _newest(tag: str, releases: Iterable[Mapping[str, Any]]) -> bool:
    """True when no stable release is newer than this one."""
    others = [
        number
        for one in releases
        if not one["draft"] and not one["prerelease"] and one["tag_name"] != tag
        if (number := order(one["tag_name"]))
    ]
    ours = order(tag)
    return ours is not None and all(ours > other for other in others)


def release(options: ReleaseOptions) -> ReleaseResult:
    """Collect, sign and publish a release; under `--dry`, only print it.

    Raises:
        CheckError: artifacts are missing or refused.
        MismatchError: this version is already released with different content.
        UsageError: the key or the repository is missing.
        NetworkError: GitHub does not answer, or refuses.
        MissingRequirementError: a tool is missing.
    """
    started = time.monotonic()
    # The lock, before the gate: what is published is what the gate has accepted.
    with _stage(options.target) as stage:
        phases = phase_status.phases(options.target)
        _refuse(gate.release_blockers(options.target, phases), options)
        _refuse_another_tag(options, phases)
        if not dry_run.active():
            apt.ensure_installed(["gpg", "gh", *contents.TOOLS], yes=options.yes)
            github.repository(options.repository)
        with step("collecting the release"):
            description = _signed(options, phases, stage)
        with github_client.Client.connected() as client:
            asked = _asked(options, client)
            # None: a dry run without GitHub.
            releases = asked or []
            published = _published(description["tag"], releases)
            if published:
                _compare(description, published)
            latest = None if asked is None else _newest(description["tag"], releases)
            if dry_run.active():
                state = "released before" if published else "would be released"
                return ReleaseResult(None, description, state, latest, time.monotonic() - started)
            if not published:
                _require_merged(options, client, description["tag"])
                _publish(options, client, description, stage, releases, latest=bool(latest))
        found = dist.publish_part(stage, options.target, dist.RELEASE)
    state = "released before" if published else "released"
    return ReleaseResult(found, description, state, latest, time.monotonic() - started)


@contextlib.contextmanager
def _stage(target: Target) -> Iterator[Path]:
    """A directory for the release: in `dist/`, or a temporary one under `--dry`."""
    if dry_run.active():
        with tempfile.TemporaryDirectory() as name:
            yield Path(name)
    else:
        with dist.lock(target), dist.staging(target, part=dist.RELEASE) as stage:
            yield stage


def _refuse(reasons: Sequence[str], options: ReleaseOptions) -> None:
    if not reasons:
        return
    for reason in reasons:
        log(f"refused: {reason}")
    more = f" (and {count(len(reasons) - 1, 'more reason')})" if len(reasons) > 1 else ""
    raise CheckError(
        f"{options.target.name} may not be released: {reasons[0]}{more}",
        f"invoke status --target {options.target.name}",
    )


def _refuse_another_tag(
    options: ReleaseOptions, phases: Sequence[phase_status.PhaseStatus]
) -> None:
    """Check that a pushed tag is the tag of these artifacts."""
    version = phases[0].manifest["version"]
    ours = tag_of(version, options.revision)
    if options.tag and options.tag != ours:
        raise CheckError(
            f"cannot release as {options.tag}: the artifacts in dist/ are {ours}",
            f"delete the tag, and tag a commit that pins {version} as {ours}",
        )


def _require_merged(options: ReleaseOptions, client: github_client.Client, tag: str) -> None:
    """Check that the tag exists, and that its commit was merged: only reviewed code is released."""
    name = github.repository(options.repository)
    repository = github.Repository(client, name)
    merged = repository.is_merged(tag)
    if merged is None:
        raise CheckError(
            f"{name} has no tag {tag}",
            f"tag the commit that built these artifacts: git tag {tag} && git push origin {tag}",
        )
    if not merged:
        raise CheckError(
            f"the tag {tag} of {name} is not on its branch {repository.default_branch()}",
            "merge the commit, then delete the tag and tag the merge",
        )


def _signed(
    options: ReleaseOptions, phases: Sequence[phase_status.PhaseStatus], stage: Path
) -> dict[str, Any]:
    """Collect and sign the release; a dry run does not sign and needs no key."""
    if dry_run.active():
        signing.check_given(options.key)
        log(f"would sign {dist.SUMS}, and add {SIGNATURE} and {PUBLIC_KEY}")
        return _gather(options, phases, None, stage)
    with signing.opened(options.key) as signer:
        return _gather(options, phases, signer, stage)


def _asked(options: ReleaseOptions, client: github_client.Client) -> list[dict[str, Any]] | None:
    """The existing releases; None when GitHub does not answer a dry run."""
    try:
        return github.Repository(client, github.repository(options.repository)).releases()
    except (NetworkError, UsageError) as error:
        if not dry_run.active():
            raise
        warn(f"cannot check existing releases: {error.brief}")
        return None


def _published(tag: str, releases: Iterable[dict[str, Any]]) -> dict[str, Any] | None:
    return next((one for one in releases if one["tag_name"] == tag and not one["draft"]), None)


def for_gh() -> dict[str, str]:
    """The environment of gh: the address of GitHub, and the token."""
    ours = {name: value for name, value in os.environ.items() if name.startswith("GH_")}
    return process.environment(
        {**ours, "GH_TOKEN": github_client.token(), "GH_PROMPT_DISABLED": "1"}
    )


def _publish(
    options: ReleaseOptions,
    client: github_client.Client,
    description: Mapping[str, Any],
    stage: Path,
    releases: Iterable[Mapping[str, Any]],
    *,
    latest: bool,
) -> None:
    """Publish with `gh release create`, which keeps a draft until every file is uploaded.

    Raises:
        NetworkError: gh failed; no partial release is public.
    """
    tag = description["tag"]
    name = github.repository(options.repository)
    for one in releases:
        if one["draft"] and one["tag_name"] == tag:
            log(f"deleting the draft of {tag} that an interrupted run left")
            client.send("DELETE", f"/repos/{name}/releases/{one['id']}")
    files = [stage / file["name"] for file in description["files"]]
    command = [
        "gh", "release", "create", tag, f"--repo={name}", f"--title={description['title']}",
        f"--notes-file={stage / NOTES}", f"--latest={str(latest).lower()}",
        *files, stage / dist.SUMS, stage / SIGNATURE,
    ]  # fmt: skip
    with step(f"publishing {tag} in {name}"):
        process.run(
            command, env=for_gh(), title=f"gh release create {tag}", error=NetworkError,
            hint="see gh's output above; nothing was published: run it again",
        )  # fmt: skip
