"""`invoke build-packages`: .deb and .rpm packages of the binaries in `dist/`.

`packaging/` declares their content and scripts. nfpm builds them, in the version that
packaging/go.mod pins, compiled by the pinned Go. nfpm compresses by itself, so the same
binaries give the same packages, and runs no binary, so any host can build packages for
riscv64.
"""

from __future__ import annotations

import json
import re
import shutil
import time
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..binaries import check, gotools, toolchain
from ..core import (
    cache_keys,
    dist,
    dry_run,
    durations,
    filesystem,
    host,
    pins,
    process,
    project,
    schemas,
    timestamps,
    values,
)
from ..core.arch import Target
from ..core.console import log, step
from ..core.errors import BuildError, CheckError, UsageError
from ..system import apt
from . import contents

#: Increase when this code changes the packages of the same inputs.
RECIPE = 1
#: Version of the manifest's format, as in `buildkit_riscv64/core/schemas/packages.schema.json`.
PACKAGES_VERSION = 1
#: The fix for refused packages.
REMEDY = "run `invoke build-packages --force` to rebuild them"

#: The packages, sorted.
NAMES = ("buildkit", "buildkit-rootless")
FORMATS = ("deb", "rpm")
#: Programs of the bundle that belong to the rootless package.
ROOTLESS = ("rootlesskit",)
_MODULE = "github.com/goreleaser/nfpm/v2/cmd/nfpm"
_MAINTAINER = re.compile(r"[^<>\n\"\\]+ <[^<>\s@]+@[^<>\s@]+>")


def declarations() -> Path:
    """The directory with the packages' declarations and nfpm's version."""
    return project.ROOT / "packaging"


def file_name(name: str, form: str, version: str, target: Target) -> str:
    """A package's file name, by Debian's or rpm's convention.

    Args:
        name: the package.
        form: `deb` or `rpm`.
        version: version and revision, as in `0.32.2-1`.
        target: the target.
    """
    if form == "deb":
        return f"{name}_{version}_{target.arch}.deb"
    return f"{name}-{version}.{target.arch.uname}.rpm"


@dataclass(frozen=True, kw_only=True)
class PackageOptions:
    """Options of `invoke build-packages`.

    Args:
        target: the binaries' target.
        revision: the packages' revision of this version, from 1.
        maintainer: the packages' maintainer, as in `NAME <ADDRESS>`.
        force: build even if nothing changed.
        yes: install missing tools without asking.
    """

    target: Target
    revision: str = "1"
    maintainer: str
    force: bool = False
    yes: bool = False

    @classmethod
    def parse(
        cls, *, target: str, revision: str, maintainer: str, **others: bool
    ) -> PackageOptions:
        """Parse the command line's options.

        Raises:
            UsageError: an option is invalid.
        """
        chosen = Target.parse(target) if target else Target.here()
        if not chosen.default:
            raise UsageError(
                f"cannot package {chosen.name}: it does not run on every {chosen.arch} machine",
                f"--target linux-{chosen.arch}",
            )
        counted = values.revision("--revision", revision)
        if not _MAINTAINER.fullmatch(maintainer):
            raise UsageError(
                f"{maintainer!r} is not a maintainer",
                "set packages.maintainer, or --maintainer, as in NAME <ADDRESS>",
            )
        return cls(target=chosen, revision=str(counted), maintainer=maintainer, **others)


def inputs(options: PackageOptions, binaries: dist.Artifacts, pinned: pins.Pins) -> str:
    """The cache key of the packages."""
    decisive = {
        "recipe": RECIPE,
        "declarations": cache_keys.of_directory(declarations()),
        "go": pinned.go_version,
        "files": [[file["name"], file["sha256"]] for file in binaries.manifest["files"]],
        "time": binaries.manifest["source"]["time"],
        "version": binaries.manifest["version"],
        "target": options.target.name,
        "revision": options.revision,
        "maintainer": options.maintainer,
    }
    return cache_keys.inputs(decisive)


def _binaries(target: Target) -> dist.Artifacts:
    """Load the binaries to package."""
    found = check.finished(target)
    try:
        pins.release_tag(found.manifest["version"])
    except UsageError as error:
        raise CheckError(
            f"cannot package {filesystem.display_path(found.path)}: {found.manifest['version']} is not a release",
            "build the pinned source: `invoke build-binaries`",
        ) from error
    return found


def build(options: PackageOptions) -> dist.BuildResult:
    """Build, check and publish the packages of a target.

    Raises:
        Failure: a step failed; `dist/` is unchanged.
    """
    started = time.time()
    pinned = pins.load()
    target = options.target
    binaries = _binaries(target)
    digest = inputs(options, binaries, pinned)
    directory = dist.directory(target) / dist.PACKAGES
    previous = dist.find(directory)
    if previous and not options.force and previous.made_of(digest):
        return dist.BuildResult(previous, up_to_date=True, seconds=time.time() - started)
    version = f"{binaries.manifest['version'].removeprefix('v')}-{options.revision}"
    files = [file_name(name, form, version, target) for name in NAMES for form in FORMATS]
    if dry_run.active():
        log(
            f"would package {', '.join(binaries.programs)} of {filesystem.display_path(binaries.path)} as:"
        )
        for file in files:
            log(f"  {filesystem.display_path(directory / file)}")
        return dist.BuildResult(None, up_to_date=False, seconds=time.time() - started)
    apt.ensure_installed(contents.TOOLS, yes=options.yes)
    with step("fetching Go and nfpm, if missing"):
        nfpm = gotools.compiled(toolchain.ensure(pinned), declarations(), _MODULE)
    with (
        dist.lock(target),
        dist.staging(target, part=dist.PACKAGES) as stage,
        durations.announced("packaging", "build-packages"),
    ):
        try:
            binaries = _binaries(target)
            check.require_same_bytes(binaries, binaries.files)
            scratch = stage / "scratch"
            _lay_out(scratch, options, binaries)
            for name in NAMES:
                for form in FORMATS:
                    with step(f"{name}.{form}"):
                        _package(nfpm, scratch, name, form, stage / file_name(name, form, version, target))  # fmt: skip
            shutil.rmtree(scratch)
            _require_verified((stage / file for file in files), binaries)
            _describe(stage, files, version, options, binaries, digest)
            artifacts = dist.publish_part(stage, target, dist.PACKAGES)
        except OSError as error:
            raise filesystem.failure(error, stage) from error
    return dist.BuildResult(artifacts, up_to_date=False, seconds=time.time() - started)


def gzipped(content: bytes) -> bytes:
    """Compress reproducibly: the same bytes with every Python version."""
    # gzip.compress writes the operating system into the header until Python 3.12.
    # wbits=31: zlib's gzip header and the largest window.
    return zlib.compress(content, 9, wbits=31)


def _documents(programs: Iterable[str]) -> list[str]:
    """The SBOMs and the provenance, for /usr/share/doc."""
    return [*map(dist.sbom, programs), dist.PROVENANCE]


def _lay_out(scratch: Path, options: PackageOptions, binaries: dist.Artifacts) -> None:
    """Fill the directory that the declarations refer to."""
    import jinja2

    manifest = binaries.manifest
    shutil.copytree(declarations(), scratch)
    shutil.copyfile(project.ROOT / "LICENSE", scratch / "LICENSE")
    (scratch / "bin").mkdir()
    for program in binaries.programs:
        (scratch / "bin" / program).hardlink_to(binaries.path / dist.binary(program))
    for name in _documents(binaries.programs):
        (scratch / name).hardlink_to(binaries.path / name)
    for page in (scratch / "man").iterdir():
        page.with_name(f"{page.name}.gz").write_bytes(gzipped(page.read_bytes()))
    (scratch / "changelog.yaml").write_text(json.dumps(_changelog(options, manifest)))
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(scratch), undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, autoescape=False,  # noqa: S701 - it is YAML
    )  # fmt: skip
    for name in NAMES:
        own = [p for p in binaries.programs if (p in ROOTLESS) is (name == "buildkit-rootless")]
        for form in FORMATS:
            text = environment.get_template(f"{name}.yaml.jinja").render(
                form=form,
                arch=str(options.target.arch),
                version=manifest["version"].removeprefix("v"),
                revision=options.revision,
                time=manifest["source"]["time"],
                maintainer=json.dumps(options.maintainer, ensure_ascii=False),
                programs=own,
                bundle=[program for program in own if program not in dist.COMMANDS],
                documents=_documents(own) if own else [],
            )
            (scratch / f"{name}.{form}.yaml").write_text(text)


def _changelog(options: PackageOptions, manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The changelog for nfpm, with one entry."""
    version = manifest["version"].removeprefix("v")
    commit = manifest["revision"][:12]
    return [
        {
            "semver": f"{version}-{options.revision}",
            "date": manifest["source"]["time"],
            "packager": options.maintainer,
            "deb": {"urgency": "medium", "distributions": ["stable"]},
            "changes": [
                {"note": f"BuildKit {version}, upstream's commit {commit}."},
                {"note": f"Compiled natively for {options.target.arch} by {manifest['go']['version']}."},
            ],
        }
    ]  # fmt: skip


def _package(nfpm: Path, scratch: Path, name: str, form: str, file: Path) -> None:
    answer = process.probe(
        [nfpm, "package", "--config", f"{name}.{form}.yaml", "--packager", form, "--target", file],
        cwd=scratch, timeout=None, changes=True,
    )  # fmt: skip
    if not answer.ok:
        raise BuildError(
            f"nfpm cannot build {file.name}: {answer.last_line}",
            f"check packaging/{name}.yaml.jinja",
        )
    file.chmod(0o644)


def verified_programs(binaries: dist.Artifacts) -> dict[str, str]:
    """The sha256 of each program of the binaries, by the program's name."""
    return {name: binaries.files[dist.binary(name)]["sha256"] for name in binaries.programs}


def _require_verified(files: Iterable[Path], binaries: dist.Artifacts) -> None:
    """Check that the packages of each format contain the binaries of `dist/`, all of them.

    Raises:
        CheckError: a program is missing or differs.
    """
    paths = list(files)
    for form in FORMATS:
        own = [path for path in paths if path.suffix == f".{form}"]
        contents.require_verified(own, verified_programs(binaries), REMEDY)


def _describe(
    stage: Path,
    files: list[str],
    version: str,
    options: PackageOptions,
    binaries: dist.Artifacts,
    digest: str,
) -> None:
    records = dist.record(stage, files)
    described = [(name, form) for name in NAMES for form in FORMATS]
    for record, (name, form) in zip(records, described, strict=True):
        arch = options.target.arch
        record |= {
            "package": name, "format": form, "version": version,
            "arch": str(arch) if form == "deb" else arch.uname,
        }  # fmt: skip
    manifest = {
        "packages_version": PACKAGES_VERSION,
        "target": options.target.name,
        "version": binaries.manifest["version"],
        "revision": binaries.manifest["revision"],
        "package_version": version,
        "pinned": binaries.manifest["source"]["pinned"],
        "time": binaries.manifest["source"]["time"],
        "binaries": verified_programs(binaries),
        "build": {"inputs": digest, "finished": timestamps.now()},
        "host": host.facts().as_json(),
        "files": records,
    }
    if wrong := schemas.validation_error(manifest, schemas.PACKAGES):
        raise CheckError(f"{dist.MANIFEST}: {wrong}", "this is a defect: report it")
    dist.write_manifest(stage, manifest)


def load(target: Target) -> dist.Artifacts:
    """Load the finished packages of a target.

    Raises:
        CheckError: the packages are missing, damaged, or of other binaries than `dist/` has.
    """
    found = dist.load(dist.directory(target) / dist.PACKAGES)
    directory = filesystem.display_path(found.path)
    for name, file in found.files.items():
        if (
            not (found.path / name).is_file()
            or filesystem.sha256(found.path / name) != file["sha256"]
        ):
            raise CheckError(f"{directory}/{name} is missing or damaged", REMEDY)
    binaries = _binaries(target)
    now = verified_programs(binaries)
    if found.manifest["target"] != target.name or found.manifest["binaries"] != now:
        raise CheckError(f"{directory} does not match the current binaries", "run `invoke build-packages`")  # fmt: skip
    _require_verified((found.path / name for name in found.files), binaries)
    return found
