"""`invoke publish-repo`: signed repositories for apt and dnf of the packages in `dist/`.

    dist/repo/
        index.html                     install commands
        buildkit.asc                   the public key
        deb/buildkit.sources           for /etc/apt/sources.list.d
        deb/pool/, deb/dists/stable/   InRelease, Release.gpg, by-hash
        rpm/buildkit.repo              for /etc/yum.repos.d
        rpm/riscv64/repodata/          repomd.xml.asc; each .rpm is signed
        manifest.json, SHA256SUMS

Any web server can serve these files. Debian's tools write the indexes.
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

from ..core import cache_keys, dist, dry_run, filesystem, html, process
from ..core.arch import Target
from ..core.console import step
from ..core.errors import BuildError, CheckError, UsageError
from ..system import apt
from . import build, contents, signing

#: Increase when this code changes the repositories of the same packages.
RECIPE = 2
REPOSITORY_VERSION = 1
#: The apt repository's suite: one suite with the newest packages.
SUITE = "stable"
COMPONENT = "main"
PUBLIC_KEY = "buildkit.asc"
SOURCES = "deb/buildkit.sources"
REPO = "rpm/buildkit.repo"
_TEMPLATE = Path(__file__).with_name("repository.html.jinja")
_URL = re.compile(r"(https?://[\w.:\[\]-]+(/[\w./~%-]*)?|file:/[\w./~%-]*)")


@dataclass(frozen=True, kw_only=True)
class RepositoryOptions:
    """Options of `invoke publish-repo`.

    Args:
        targets: the packages' targets; empty for all.
        url: the repositories' address; for an unsigned test by default their directory.
        key: the signing key; empty for the key in the environment.
        unsigned: do not sign, for tests.
        force: build even if nothing changed.
        yes: install missing tools without asking.
    """

    targets: tuple[Target, ...] = ()
    url: str = ""
    key: str = ""
    unsigned: bool = False
    force: bool = False
    yes: bool = False

    @classmethod
    def parse(
        cls, *, target: str, url: str, key: str, unsigned: bool, **others: bool
    ) -> RepositoryOptions:
        """Parse the command line's options.

        Raises:
            UsageError: an option is invalid.
        """
        names = [name.strip() for name in target.split(",") if name.strip()]
        targets = tuple(dict.fromkeys(Target.parse(name) for name in names))
        if key and unsigned:
            raise UsageError("--unsigned and --key exclude each other", "leave one out")
        if url and not _URL.fullmatch(url):
            raise UsageError(
                f"--url {url!r} is not an address",
                "give one like https://packages.example.org/buildkit",
            )
        if not url and not unsigned:
            raise UsageError(
                "a signed repository contains its own address, and none is configured",
                "give --url, or set packages.url; for a test without an address: --unsigned",
            )
        url = url or dist.repository_directory().as_uri()
        return cls(targets=targets, url=url.rstrip("/"), key=key, unsigned=unsigned, **others)


@dataclass(frozen=True, kw_only=True)
class RepositoryResult(dist.BuildResult):
    """The result of publishing repositories.

    Args:
        published: the published packages, one entry per target.
    """

    published: Sequence[dist.Artifacts]


def _chosen(options: RepositoryOptions) -> list[Target]:
    """The targets to publish."""
    if options.targets:
        return list(options.targets)
    found = [one for one in dist.targets() if (dist.directory(one) / dist.PACKAGES).is_dir()]
    if not found:
        raise CheckError("no packages to publish in dist/", "run `invoke build-packages` first")
    return found


@contextlib.contextmanager
def _signer(options: RepositoryOptions) -> Iterator[signing.Signer | None]:
    """Yield the signer; None with --unsigned or under --dry."""
    if dry_run.active() and not options.unsigned:
        signing.check_given(options.key)
    if options.unsigned or dry_run.active():
        yield None
        return
    apt.ensure_installed(["gpg"], yes=options.yes)
    try:
        with signing.opened(options.key) as signer:
            yield signer
    except UsageError as error:
        if options.key or os.environ.get(signing.KEY):
            raise
        raise UsageError(
            error.brief, f"{error.hint}; for a test without a key: --unsigned"
        ) from error


def _inputs(
    options: RepositoryOptions, found: Sequence[dist.Artifacts], signer: signing.Signer | None
) -> str:
    """The cache key of the repositories."""
    decisive = [
        RECIPE, options.url, signer.fingerprint if signer else "",
        [[file["name"], file["sha256"]] for one in found for file in one.manifest["files"]],
    ]  # fmt: skip
    return cache_keys.inputs(decisive)


def publish(options: RepositoryOptions) -> RepositoryResult:
    """Check the packages again, and publish repositories of them.

    Raises:
        Failure: a step failed; dist/repo is unchanged.
    """
    started = time.time()
    targets = _chosen(options)
    apt.ensure_installed(contents.TOOLS, yes=options.yes)
    with _signer(options) as signer, contextlib.ExitStack() as stack:
        if not dry_run.active():
            for target in targets:
                stack.enter_context(dist.lock(target))
        found = [build.load(target) for target in targets]
        if dry_run.active():
            return RepositoryResult(
                None, up_to_date=False, seconds=time.time() - started, published=found
            )
        digest = _inputs(options, found, signer)
        previous = dist.find(dist.repository_directory())
        if previous and not options.force and previous.made_of(digest):
            filesystem.make_public(previous.path)
            return RepositoryResult(
                previous, up_to_date=True, seconds=time.time() - started, published=found
            )
        tools = ["apt-ftparchive", "createrepo_c", *(["rpmsign"] if signer else [])]
        apt.ensure_installed(tools, yes=options.yes)
        stage = stack.enter_context(dist.staging_repository())
        try:
            if signer:
                (stage / PUBLIC_KEY).write_text(signer.public_key())
            with step("writing the apt repository"):
                _apt(stage / "deb", found, signer)
            with step("writing the dnf repository"):
                _dnf(stage / "rpm", found, signer)
            _write_instructions(stage, options, found, signer)
            _describe(stage, options, found, signer, digest)
            artifacts = dist.publish_repository(stage)
        except OSError as error:
            raise filesystem.failure(error, stage) from error
    return RepositoryResult(
        artifacts, up_to_date=False, seconds=time.time() - started, published=found
    )


def _files(found: dist.Artifacts, form: str) -> Iterator[Path]:
    for record in found.manifest["files"]:
        if record["format"] == form:
            yield found.path / record["name"]


def _architectures(found: Sequence[dist.Artifacts], form: str) -> list[str]:
    """The packages' architectures, as the format names them."""
    return sorted(
        {file["arch"] for one in found for file in one.manifest["files"] if file["format"] == form}
    )


def _apt(directory: Path, found: Sequence[dist.Artifacts], signer: signing.Signer | None) -> None:
    """Write an apt repository (https://wiki.debian.org/DebianRepository/Format).

    It has no Valid-Until: the indexes are signed again only for the next version.
    """
    pool = directory / "pool" / COMPONENT / "b" / "buildkit"
    pool.mkdir(parents=True)
    for one in found:
        for file in _files(one, "deb"):
            shutil.copyfile(file, pool / file.name)
    release = directory / "dists" / SUITE
    architectures = _architectures(found, "deb")
    # Clients check SHA-2 only.
    sha2_only = [
        word for name in ("MD5", "SHA1") for word in ("-o", f"APT::FTPArchive::{name}=false")
    ]
    for arch in architectures:
        index = release / COMPONENT / f"binary-{arch}" / "Packages"
        index.parent.mkdir(parents=True)
        text = process.read(
            ["apt-ftparchive", *sha2_only, "--arch", arch, "packages", "pool"], cwd=directory, timeout=None
        ).encode()  # fmt: skip
        index.write_bytes(text)
        index.with_name("Packages.gz").write_bytes(build.gzipped(text))
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
        process.read(
            ["apt-ftparchive", *sha2_only, *options, "release", f"dists/{SUITE}"], cwd=directory
        )
    )
    # by-hash: a client with an older Release file still finds the matching index.
    for index in list(release.glob(f"{COMPONENT}/*/Packages*")):
        by_hash = index.parent / "by-hash" / "SHA256"
        by_hash.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(index, by_hash / filesystem.sha256(index))
    if signer:
        signer.clearsign(release / "Release", release / "InRelease")
        signer.sign_detached(release / "Release", release / "Release.gpg")


def _dnf(directory: Path, found: Sequence[dist.Artifacts], signer: signing.Signer | None) -> None:
    """Write a dnf repository for each architecture, named as `$basearch`."""
    for one in found:
        (arch,) = _architectures([one], "rpm")
        root = directory / arch
        (root / "Packages").mkdir(parents=True)
        files = [shutil.copyfile(file, root / "Packages" / file.name) for file in _files(one, "rpm")]  # fmt: skip
        if signer:
            _sign_rpms(files, signer)
        # gzip: dnf on older distributions reads it.
        process.read(
            ["createrepo_c", "--quiet", "--no-database", "--general-compress-type=gz",
             "--set-timestamp-to-revision", "--revision", _seconds(one), root],
            timeout=None, changes=True,
        )  # fmt: skip
        if signer:
            signer.sign_detached(root / "repodata" / "repomd.xml")


def _seconds(found: dist.Artifacts) -> str:
    return str(int(datetime.fromisoformat(found.manifest["time"]).timestamp()))


def _sign_rpms(files: Sequence[Path], signer: signing.Signer) -> None:
    # HOME without .rpmmacros: no user settings. Debian's rpm looks for gpg2, which Debian no
    # longer has.
    macros = {
        "__gpg": process.which("gpg"), "_gpg_name": signer.fingerprint, "_gpg_path": signer.home,
    }  # fmt: skip
    defined = [w for name, value in macros.items() for w in ("--define", f"{name} {value}")]
    process.read(
        ["rpmsign", *defined, "--addsign", *files],
        env={**signer.env, "HOME": str(signer.home)}, timeout=None, changes=True, error=BuildError,
        hint=f"use another key in {signing.KEY}; RSA with 3072 bits works with every rpm",
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


def _write_instructions(
    stage: Path,
    options: RepositoryOptions,
    found: Sequence[dist.Artifacts],
    signer: signing.Signer | None,
) -> None:
    """Write index.html, and the files for sources.list.d and yum.repos.d."""
    url = options.url
    signed = signer is not None
    (stage / SOURCES).write_text(sources(url, _architectures(found, "deb"), signed=signed))
    (stage / REPO).write_text(repo(url, signed=signed))
    paths = {path.name: path.relative_to(stage) for path in stage.rglob("*")}
    page = html.render(
        _TEMPLATE, {}, url=url, signer=signer, key=PUBLIC_KEY,
        sources=SOURCES, repo=REPO,
        packages=[
            {**file, "path": paths[file["name"]]} for one in found for file in one.manifest["files"]
        ],
    )  # fmt: skip
    (stage / html.INDEX).write_text(page)


def _describe(
    stage: Path,
    options: RepositoryOptions,
    found: Sequence[dist.Artifacts],
    signer: signing.Signer | None,
    digest: str,
) -> None:
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
