"""`invoke publish-repo`: the packages in `dist/` as signed repositories for apt and dnf.

    dist/repo/
        index.html                     how one installs from it
        buildkit.asc                   the public key
        deb/buildkit.sources           for /etc/apt/sources.list.d
        deb/pool/, deb/dists/stable/   InRelease, Release.gpg, by-hash
        rpm/buildkit.repo              for /etc/yum.repos.d
        rpm/riscv64/repodata/          repomd.xml.asc; each .rpm is signed, too
        manifest.json, SHA256SUMS

They are files alone: any web server will do. Debian's own tools write the indexes.
"""

from __future__ import annotations

import contextlib
import lzma
import os
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from .. import apt, digests, dist, pages, process, storage
from ..arch import Target
from ..console import step, warn
from ..errors import BuildError, CheckError, UsageError
from . import packages, signing

#: Changes whenever this code would make something else of the same packages.
RECIPE = 2
REPOSITORY_VERSION = 1
#: Of the apt repository; there is one line of packages, the newest.
SUITE = "stable"
COMPONENT = "main"
PUBLIC_KEY = "buildkit.asc"
SOURCES = "deb/buildkit.sources"
REPO = "rpm/buildkit.repo"
_TEMPLATE = Path(__file__).with_name("repository.html.jinja")
#: Where it will be, as long as nobody has said.
PLACEHOLDER = "https://packages.example.org"
_URL = re.compile(r"(https?://[\w.:\[\]-]+(/[\w./~%-]*)?|file:/[\w./~%-]*)")


@dataclass(frozen=True, kw_only=True)
class Options:
    """What `invoke publish-repo` was asked.

    Args:
        targets: whose packages; none for all that are there.
        url: where people will find it.
        key: to sign with; by default what the environment has.
        unsigned: leave signatures out, for trying.
        force: make it even if nothing changed.
        dry: only say what would be done.
        yes: install what is missing without asking.
    """

    targets: tuple[Target, ...] = ()
    url: str = ""
    key: str = ""
    unsigned: bool = False
    force: bool = False
    dry: bool = False
    yes: bool = False

    @classmethod
    def parse(cls, *, target: str, url: str, key: str, unsigned: bool, **others: bool) -> Options:
        """Options as the command line has them.

        Raises:
            UsageError: one of them makes no sense.
        """
        names = [name.strip() for name in target.split(",") if name.strip()]
        targets = tuple(dict.fromkeys(Target.parse(name) for name in names))
        if key and unsigned:
            raise UsageError("--unsigned needs no --key", "leave one of them out")
        if url and not _URL.fullmatch(url):
            raise UsageError(
                f"--url {url!r} is no address of a repository",
                "give one like https://packages.example.org/buildkit",
            )
        return cls(targets=targets, url=url.rstrip("/"), key=key, unsigned=unsigned, **others)


@dataclass(frozen=True, kw_only=True)
class Outcome(dist.Outcome):
    """What became of it.

    Args:
        published: the packages in it, by target.
    """

    published: Sequence[dist.Artifacts]


def _chosen(options: Options) -> list[Target]:
    """The targets whose packages are published.

    Raises:
        CheckError: there are none.
    """
    if options.targets:
        return list(options.targets)
    found = [one for one in dist.targets() if (dist.folder(one) / dist.PACKAGES).is_dir()]
    if not found:
        raise CheckError("there are no packages to publish", "run `invoke build-packages` first")
    return found


@contextlib.contextmanager
def _signer(options: Options) -> Iterator[signing.Signer | None]:
    """Who signs; nobody, if that was asked for, or if nothing is done but said."""
    if options.dry and not (options.unsigned or options.key or os.environ.get(signing.KEY)):
        warn(f"there is no key in {signing.KEY}: without --dry this would be refused")
    if options.unsigned or options.dry:
        yield None
        return
    apt.provide(["gpg"], yes=options.yes)
    try:
        with signing.opened(options.key) as signer:
            yield signer
    except UsageError as error:
        if options.key or os.environ.get(signing.KEY):
            raise
        raise UsageError(error.brief, f"{error.hint}; to try without: --unsigned") from error


def _inputs(options: Options, found: Sequence[dist.Artifacts], signer: signing.Signer | None) -> str:  # fmt: skip
    """The digest of everything that decides what is published."""
    decisive = [
        RECIPE, options.url, signer.fingerprint if signer else "",
        [[file["name"], file["sha256"]] for one in found for file in one.manifest["files"]],
    ]  # fmt: skip
    return digests.inputs(decisive)


def publish(options: Options) -> Outcome:
    """Look at the packages once more, and make repositories of them.

    Raises:
        Failure: whatever went wrong, as the class of what it was; dist/repo is then as
            it was before.
    """
    started = time.time()
    targets = _chosen(options)
    with _signer(options) as signer, contextlib.ExitStack() as stack:
        if not options.dry:
            for target in targets:
                stack.enter_context(dist.lock(target))
        found = [packages.load(target) for target in targets]
        if options.dry:
            return Outcome(None, up_to_date=False, seconds=time.time() - started, published=found)
        digest = _inputs(options, found, signer)
        previous = dist.find(dist.repository_folder())
        if previous and not options.force and previous.made_of(digest):
            return Outcome(
                previous, up_to_date=True, seconds=time.time() - started, published=found
            )
        tools = ["apt-ftparchive", "createrepo_c", *(["rpmsign"] if signer else [])]
        apt.provide(tools, yes=options.yes)
        stage = stack.enter_context(dist.staging_repository())
        try:
            if signer:
                (stage / PUBLIC_KEY).write_text(signer.public_key())
            with step("for apt"):
                _apt(stage / "deb", found, signer)
            with step("for dnf"):
                _dnf(stage / "rpm", found, signer)
            _explain(stage, options, found, signer)
            _describe(stage, options, found, signer, digest)
            artifacts = dist.publish_repository(stage)
        except OSError as error:
            raise storage.failure(error, stage) from error
    return Outcome(artifacts, up_to_date=False, seconds=time.time() - started, published=found)


def _files(found: dist.Artifacts, form: str) -> Iterator[Path]:
    for record in found.manifest["files"]:
        if record["format"] == form:
            yield found.path / record["name"]


def _architectures(found: Sequence[dist.Artifacts], form: str) -> list[str]:
    """By the format's own names."""
    return sorted(
        {file["arch"] for one in found for file in one.manifest["files"] if file["format"] == form}
    )


def _apt(folder: Path, found: Sequence[dist.Artifacts], signer: signing.Signer | None) -> None:
    """Write a repository as https://wiki.debian.org/DebianRepository/Format has it.

    There is no Valid-Until: nobody signs it anew before the next version is there.
    """
    pool = folder / "pool" / COMPONENT / "b" / "buildkit"
    pool.mkdir(parents=True)
    for one in found:
        for file in _files(one, "deb"):
            shutil.copyfile(file, pool / file.name)
    release = folder / "dists" / SUITE
    architectures = _architectures(found, "deb")
    # What is not SHA-2 nobody checks any more.
    modern = [word for name in ("MD5", "SHA1") for word in ("-o", f"APT::FTPArchive::{name}=false")]
    for arch in architectures:
        index = release / COMPONENT / f"binary-{arch}" / "Packages"
        index.parent.mkdir(parents=True)
        text = process.read(
            ["apt-ftparchive", *modern, "--arch", arch, "packages", "pool"], cwd=folder, timeout=None
        ).encode()  # fmt: skip
        index.write_bytes(text)
        index.with_name("Packages.gz").write_bytes(packages.gzipped(text))
        index.with_name("Packages.xz").write_bytes(lzma.compress(text))
    fields = {
        "Origin": "buildkit-riscv64", "Label": "BuildKit", "Suite": SUITE, "Codename": SUITE,
        "Architectures": " ".join(architectures), "Components": COMPONENT,
        "Description": "BuildKit, compiled natively", "Acquire-By-Hash": "yes",
    }  # fmt: skip
    options = [
        word for key, value in fields.items()
        for word in ("-o", f"APT::FTPArchive::Release::{key}={value}")
    ]  # fmt: skip
    (release / "Release").write_text(
        process.read(["apt-ftparchive", *modern, *options, "release", f"dists/{SUITE}"], cwd=folder)
    )
    # Under its hash an index stays whole for who has read another Release file.
    for index in list(release.glob(f"{COMPONENT}/*/Packages*")):
        by_hash = index.parent / "by-hash" / "SHA256"
        by_hash.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(index, by_hash / storage.sha256(index))
    if signer:
        signer.clearsign(release / "Release", release / "InRelease")
        signer.sign_detached(release / "Release", release / "Release.gpg")


def _dnf(folder: Path, found: Sequence[dist.Artifacts], signer: signing.Signer | None) -> None:
    """Write a repository for each architecture, as `$basearch` names them."""
    for one in found:
        (arch,) = _architectures([one], "rpm")
        place = folder / arch
        (place / "Packages").mkdir(parents=True)
        files = [shutil.copyfile(file, place / "Packages" / file.name) for file in _files(one, "rpm")]  # fmt: skip
        if signer:
            _sign_rpms(files, signer)
        # gzip: what dnf on older distributions reads, too.
        process.read(
            ["createrepo_c", "--quiet", "--no-database", "--general-compress-type=gz",
             "--set-timestamp-to-revision", "--revision", _seconds(one), place],
            timeout=None,
        )  # fmt: skip
        if signer:
            signer.sign_detached(place / "repodata" / "repomd.xml")


def _seconds(found: dist.Artifacts) -> str:
    return str(int(datetime.fromisoformat(found.manifest["time"]).timestamp()))


def _sign_rpms(files: Sequence[Path], signer: signing.Signer) -> None:
    # A home without .rpmmacros: nobody's settings decide how it signs. Debian's rpm looks for
    # gpg2, which Debian has not had for years.
    macros = {
        "__gpg": process.which("gpg"), "_gpg_name": signer.fingerprint, "_gpg_path": signer.home,
    }  # fmt: skip
    defined = [w for name, value in macros.items() for w in ("--define", f"{name} {value}")]
    process.read(
        ["rpmsign", *defined, "--addsign", *files],
        env={**signer.env, "HOME": str(signer.home)}, timeout=None, error=BuildError,
        hint=f"rpm cannot sign with the key in {signing.KEY}; RSA with 3072 bits always works",
    )  # fmt: skip


def sources(url: str, architectures: Sequence[str], *, signed: bool) -> str:
    """The text of a .sources file (sources.list(5))."""
    trust = f"Signed-By: /etc/apt/keyrings/{PUBLIC_KEY}" if signed else "Trusted: yes"
    return (
        f"Types: deb\nURIs: {url}/deb\nSuites: {SUITE}\nComponents: {COMPONENT}\n"
        f"Architectures: {' '.join(architectures)}\n{trust}\n"
    )


def repo(url: str, *, signed: bool) -> str:
    """The text of a .repo file (dnf.conf(5))."""
    check = int(signed)
    key = f"gpgkey={url}/{PUBLIC_KEY}\n" if signed else ""
    return (
        f"[buildkit]\nname=BuildKit\nbaseurl={url}/rpm/$basearch\nenabled=1\n"
        f"gpgcheck={check}\nrepo_gpgcheck={check}\n{key}"
    )


def _explain(
    stage: Path, options: Options, found: Sequence[dist.Artifacts], signer: signing.Signer | None
) -> None:
    """Write what people read and paste."""
    url = options.url or PLACEHOLDER
    signed = signer is not None
    (stage / SOURCES).write_text(sources(url, _architectures(found, "deb"), signed=signed))
    (stage / REPO).write_text(repo(url, signed=signed))
    places = {path.name: path.relative_to(stage) for path in stage.rglob("*")}
    page = pages.render(
        _TEMPLATE, {}, url=url, placeholder=not options.url, signer=signer, key=PUBLIC_KEY,
        sources=SOURCES, repo=REPO,
        packages=[
            {**file, "path": places[file["name"]]} for one in found for file in one.manifest["files"]
        ],
    )  # fmt: skip
    (stage / pages.INDEX).write_text(page)


def _describe(
    stage: Path, options: Options, found: Sequence[dist.Artifacts],
    signer: signing.Signer | None, digest: str,
) -> None:  # fmt: skip
    names = sorted(str(path.relative_to(stage)) for path in stage.rglob("*") if path.is_file())
    manifest = {
        "repository_version": REPOSITORY_VERSION,
        "url": options.url,
        "signed_by": signer.fingerprint if signer else "",
        "packages": {one.manifest["target"]: one.manifest["package_version"] for one in found},
        "build": {"inputs": digest},
        "files": dist.record(stage, names),
    }
    dist.write_manifest(stage, manifest)
