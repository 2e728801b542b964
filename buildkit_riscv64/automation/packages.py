"""`invoke build-packages`: .deb and .rpm of the binaries that are in `dist/`.

What is in them, and how they install, is declared in `packaging/`. nfpm makes them: the
version of it that packaging/go.mod pins, compiled by the pinned Go. It compresses by
itself, so the same binaries make the same bytes, and runs none of them, so packages for
riscv64 can be made anywhere.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
import tarfile
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import (
    apt,
    digests,
    dist,
    gotools,
    host,
    pins,
    process,
    project,
    schemas,
    storage,
    timestamps,
)
from ..arch import Target
from ..binaries import check, toolchain
from ..console import say, step
from ..errors import BuildError, CheckError, UsageError

#: Changes whenever this code would make something else of the same inputs.
RECIPE = 1
#: Version of the manifest's format, as in `schemas/packages.schema.json`.
PACKAGES_VERSION = 1
#: What to do about packages that were refused.
REMEDY = "run `invoke build-packages --force` to make them anew"

#: The packages, by Debian's order of names.
NAMES = ("buildkit", "buildkit-rootless")
FORMATS = ("deb", "rpm")
#: Of the bundle: what belongs to the package for users who are not root.
ROOTLESS = ("rootlesskit",)
_MODULE = "github.com/goreleaser/nfpm/v2/cmd/nfpm"
#: What dpkg and rpm take in a version without a meaning of its own: upstream's, without `v`.
_REVISION = re.compile(r"[1-9]\d{0,5}")
_MAINTAINER = re.compile(r"[^<>\n\"\\]+ <[^<>\s@]+@[^<>\s@]+>")


def declarations() -> Path:
    """The folder with the packages' declarations, and nfpm's version."""
    return project.ROOT / "packaging"


def file_name(name: str, form: str, version: str, target: Target) -> str:
    """A package's file, as Debian and rpm name theirs.

    Args:
        name: the package.
        form: `deb` or `rpm`.
        version: with its revision, as in `0.32.2-1`.
        target: what it is for.
    """
    if form == "deb":
        return f"{name}_{version}_{target.arch}.deb"
    return f"{name}-{version}.{target.arch.uname}.rpm"


@dataclass(frozen=True, kw_only=True)
class Options:
    """What `invoke build-packages` was asked.

    Args:
        target: whose binaries.
        revision: which packages of this version they are, from 1.
        maintainer: whom the packages name, as in `NAME <ADDRESS>`.
        force: make them even if nothing changed.
        dry: only say what would be done.
        yes: install what is missing without asking.
    """

    target: Target
    revision: str = "1"
    maintainer: str
    force: bool = False
    dry: bool = False
    yes: bool = False

    @classmethod
    def parse(cls, *, target: str, revision: str, maintainer: str, **others: bool) -> Options:
        """Options as the command line has them.

        Raises:
            UsageError: one of them makes no sense.
        """
        chosen = Target.parse(target) if target else Target.here()
        if not chosen.default:
            raise UsageError(
                f"{chosen.name} does not run on every {chosen.arch} machine, and packages have to",
                f"--target linux-{chosen.arch}",
            )
        if not _REVISION.fullmatch(revision):
            raise UsageError(
                f"--revision {revision!r} is no revision", "count from 1: --revision 2"
            )
        if not _MAINTAINER.fullmatch(maintainer):
            raise UsageError(
                f"{maintainer!r} is no maintainer",
                "give one as NAME <ADDRESS>: packages.maintainer",
            )
        return cls(target=chosen, revision=revision, maintainer=maintainer, **others)


def inputs(options: Options, binaries: dist.Artifacts, pinned: pins.Pins) -> str:
    """The digest of everything that decides the output."""
    decisive = {
        "recipe": RECIPE,
        "declarations": digests.of_folder(declarations()),
        "go": pinned.go_version,
        "files": [[file["name"], file["sha256"]] for file in binaries.manifest["files"]],
        "time": binaries.manifest["source"]["time"],
        "version": binaries.manifest["version"],
        "target": options.target.name,
        "revision": options.revision,
        "maintainer": options.maintainer,
    }
    return digests.inputs(decisive)


def _binaries(target: Target) -> dist.Artifacts:
    """The binaries to package.

    Raises:
        CheckError: there are none, or they are not what they were when they were finished.
    """
    found = check.finished(target)
    try:
        pins.release_tag(found.manifest["version"])
    except UsageError as error:
        raise CheckError(
            f"{storage.shown(found.path)} has {found.manifest['version']}, which is no release",
            "build the pinned source: `invoke build-binaries`",
        ) from error
    return found


def build(options: Options) -> dist.Outcome:
    """Make, check and publish the packages of a target.

    Raises:
        Failure: whatever went wrong, as the class of what it was; `dist/` is then as
            it was before.
    """
    started = time.time()
    pinned = pins.load()
    target = options.target
    binaries = _binaries(target)
    digest = inputs(options, binaries, pinned)
    place = dist.folder(target) / dist.PACKAGES
    previous = dist.find(place)
    if previous and not options.force and previous.made_of(digest):
        return dist.Outcome(previous, up_to_date=True, seconds=time.time() - started)
    version = f"{binaries.manifest['version'].removeprefix('v')}-{options.revision}"
    files = [file_name(name, form, version, target) for name in NAMES for form in FORMATS]
    if options.dry:
        say(f"would package {', '.join(binaries.programs)} of {storage.shown(binaries.path)} as")
        for file in files:
            say(f"  {storage.shown(place / file)}")
        return dist.Outcome(None, up_to_date=False, seconds=time.time() - started)
    apt.provide(["dpkg-deb"], yes=options.yes)
    with step("fetching Go and nfpm, where they are not there yet"):
        nfpm = gotools.compiled(toolchain.ensure(pinned), declarations(), _MODULE)
    with dist.lock(target), dist.staging(target, part=dist.PACKAGES) as stage:
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
            _require_same((stage / file for file in files if file.endswith(".deb")), binaries)
            _describe(stage, files, version, options, binaries, digest)
            artifacts = dist.publish_part(stage, target, dist.PACKAGES)
        except OSError as error:
            raise storage.failure(error, stage) from error
    return dist.Outcome(artifacts, up_to_date=False, seconds=time.time() - started)


def gzipped(content: bytes) -> bytes:
    """The same bytes of the same content, whichever Python packs it."""
    # The header that gzip.compress writes says which system it is, since 3.13 that it is
    # unknown. 31: zlib's own header, around the largest window.
    return zlib.compress(content, 9, wbits=31)


def _documents(programs: Iterable[str]) -> list[str]:
    """What goes to /usr/share/doc beside the programs: what they are made of, and how."""
    return [*map(dist.sbom, programs), dist.PROVENANCE]


def _lay_out(scratch: Path, options: Options, binaries: dist.Artifacts) -> None:
    """Fill the folder that declarations are relative to."""
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


def _changelog(options: Options, manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What nfpm writes changelogs from; its one entry is this very package."""
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
        cwd=scratch, timeout=None,
    )  # fmt: skip
    if not answer.ok:
        raise BuildError(
            f"nfpm cannot make {file.name}: {answer.last_line}",
            f"check packaging/{name}.yaml.jinja",
        )
    file.chmod(0o644)


def programs(deb: Path) -> Iterator[tuple[str, str]]:
    """Name and sha256 of each program in a .deb.

    Raises:
        CheckError: it cannot be read.
    """
    # dpkg knows every compression, and Python not all.
    content = process.filtered(["dpkg-deb", "--fsys-tarfile", "/dev/stdin"], deb.read_bytes(), error=CheckError)  # fmt: skip
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        for entry in tar:
            if entry.isfile() and entry.name.startswith(("./usr/bin/", "./usr/libexec/")):
                file = tar.extractfile(entry)
                assert file is not None
                yield Path(entry.name).name, hashlib.sha256(file.read()).hexdigest()


def _require_same(debs: Iterable[Path], binaries: dist.Artifacts) -> None:
    """See that the programs in packages are those that were proved, all of them.

    Raises:
        CheckError: one is missing, or another.
    """
    packed = {name: sha256 for deb in debs for name, sha256 in programs(deb)}
    for program in binaries.programs:
        if packed.get(program) != binaries.files[dist.binary(program)]["sha256"]:
            raise CheckError(f"the {program} in the packages is not that of dist/", REMEDY)


def _describe(
    stage: Path, files: list[str], version: str, options: Options, binaries: dist.Artifacts, digest: str
) -> None:  # fmt: skip
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
        "binaries": {
            program: binaries.files[dist.binary(program)]["sha256"] for program in binaries.programs
        },
        "build": {"inputs": digest, "finished": timestamps.now()},
        "host": host.facts().as_json(),
        "files": records,
    }
    if wrong := schemas.objection(manifest, schemas.PACKAGES):
        raise CheckError(f"{dist.MANIFEST}: {wrong}", "this is a defect: report it")
    dist.write_manifest(stage, manifest)


def load(target: Target) -> dist.Artifacts:
    """The finished packages of a target.

    Raises:
        CheckError: there are none, they are damaged, or of other binaries than those that
            are there now.
    """
    found = dist.load(dist.folder(target) / dist.PACKAGES)
    place = storage.shown(found.path)
    if wrong := schemas.objection(found.manifest, schemas.PACKAGES):
        raise CheckError(f"{place}/{dist.MANIFEST}: {wrong}", REMEDY)
    for name, file in found.files.items():
        if not (found.path / name).is_file() or storage.sha256(found.path / name) != file["sha256"]:
            raise CheckError(f"{place}/{name} is missing, or damaged", REMEDY)
    binaries = _binaries(target)
    now = {p: binaries.files[dist.binary(p)]["sha256"] for p in binaries.programs}
    if found.manifest["target"] != target.name or found.manifest["binaries"] != now:
        raise CheckError(f"{place} is of other binaries than those that are there now", "run `invoke build-packages`")  # fmt: skip
    return found
