"""`invoke build-image`: from the binaries of phase 1 to a finished image in `dist/`."""

from __future__ import annotations

import contextlib
import errno
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .. import apt, digests, dist, host, pins, project, schemas, storage, timestamps
from ..arch import Architecture, Target
from ..console import say, step
from ..errors import BuildError, CheckError, NotNativeError, UsageError
from ..validation import evidence
from . import check, container, docker, engines, layout, sbom, tools
from .packages import Archive, Package
from .variants import Variant

#: Version of the manifest's format, as in `schemas/image.schema.json`.
MANIFEST_VERSION = 1
#: What a build writes at most: packages, the builder's state, layout, archive.
NEEDED_BYTES = 2 << 30
#: Less than this is a full disk: what is left when the last write did not fit.
_FULL_BYTES = 16 << 20
#: Of what the revision is one.
SOURCE = f"https://{pins.MODULE}"


@dataclass(frozen=True, kw_only=True)
class Options:
    """What `invoke build-image` was asked.

    Args:
        variant: which image.
        engine: who builds it.
        base: where the base comes from.
        target: for what; this machine must be able to run it.
        load: have docker load it too.
        force: build even if nothing changed, and every step anew.
        dry: only say what would be done.
        yes: install what is missing without asking.
    """

    variant: Variant
    engine: engines.Name
    base: tools.Origin
    target: Target
    load: bool = False
    force: bool = False
    dry: bool = False
    yes: bool = False

    @classmethod
    def parse(
        cls, *, rootless: bool, engine: str, base: str, target: str, **others: bool
    ) -> Options:
        """Options as the command line has them.

        Raises:
            UsageError: there is no such engine, base or target.
            NotNativeError: the target is for another architecture than this machine's.
        """
        if engine not in list(engines.Name):
            raise UsageError(
                f"--engine {engine}: no such engine", f"one of: {', '.join(engines.Name)}"
            )
        wanted = Target.parse(target) if target else Target.here()
        if wanted.arch is not Architecture.here():
            raise NotNativeError(
                f"an image for {wanted.name} is built and tested on {wanted.arch},"
                f" and this machine is {Architecture.here()}",
                f"invoke on {wanted.arch} -- build-image",
            )
        return cls(
            variant=Variant.ROOTLESS if rootless else Variant.ROOT,
            engine=engines.Name(engine), base=tools.parse(base), target=wanted, **others,
        )  # fmt: skip


@dataclass(frozen=True)
class Outcome(dist.Outcome):
    """What became of a build.

    Args:
        loaded: what docker calls it, if docker was to load it.
    """

    loaded: str = ""


def _binaries(target: Target) -> dist.Artifacts:
    """The binaries of phase 1, by what their manifest says.

    Raises:
        CheckError: there are none, or the manifest is none.
        NotNativeError: they were not compiled on the architecture that they are for.
    """
    from ..binaries.check import REMEDY

    artifacts = dist.load(dist.folder(target))
    host_of = artifacts.manifest.get("host")
    compiled_on = host_of.get("arch") if isinstance(host_of, dict) else None
    if compiled_on != str(target.arch):
        raise NotNativeError(
            f"the binaries for {target.name} were compiled on {compiled_on or 'nobody knows what'}",
            "build them natively: `invoke build-binaries`",
        )
    if wrong := schemas.objection(artifacts.manifest, schemas.BINARIES):
        raise CheckError(f"{storage.shown(artifacts.path / dist.MANIFEST)}: {wrong}", REMEDY)
    return artifacts


def _checked_binaries(target: Target) -> dist.Artifacts:
    """The binaries of phase 1, looked at once more.

    Raises:
        CheckError: they are not what they should be.
    """
    from ..binaries import check as binaries_check
    from ..binaries import toolchain

    artifacts = _binaries(target)
    with step("checking the binaries"):
        binaries_check.require_good(artifacts.path, target, toolchain.ensure(pins.load()))
    return artifacts


def _inputs(
    options: Options, binaries: dist.Artifacts, packages: Sequence[Package], epoch: int
) -> str:
    """The digest of everything that decides the image."""
    decisive = {
        "variant": options.variant,
        "binaries": [binaries.files[dist.binary(c)]["sha256"] for c in dist.COMMANDS],
        "version": [binaries.manifest["version"], binaries.manifest["revision"]],
        "packages": [package.as_json() for package in packages],
        "files": {
            # Whether it can be executed, as in git: the rest of its mode is the umask's.
            str(path.relative_to(engines.CONTEXT)): [
                storage.sha256(path),
                path.stat().st_mode & 0o100,
            ]
            for path in sorted(engines.CONTEXT.rglob("*"))
            if path.is_file()
        },
        "epoch": epoch,
    }
    return digests.inputs(decisive)


def build(options: Options) -> Outcome:
    """Build, check and publish an image.

    Raises:
        Failure: whatever went wrong, as the class of what it was; `dist/` is
            then as it was before.
    """
    started = time.time()
    # What cannot work is told before anything slow starts.
    binaries = _binaries(options.target)
    by_docker = options.engine is engines.Name.DOCKER
    client = docker.connect(builds=by_docker) if options.load or by_docker else None
    if options.dry:
        _say_what_would_run(options, binaries)
        return Outcome(None, up_to_date=False, seconds=time.time() - started)
    apt.provide(container.TOOLS, yes=options.yes)
    for place in (project.DIST, project.cache()):
        storage.require_space(place, NEEDED_BYTES, "an image takes up to", project.CACHE_HINT)
    binaries = _checked_binaries(options.target)
    with dist.lock(options.target):
        try:
            outcome = _build(options, binaries, started)
        except OSError as error:
            raise storage.failure(error, project.DIST) from error
    if client is None or not options.load or outcome.artifacts is None:
        return outcome
    name = _name(options, outcome.artifacts.manifest["version"])
    docker.load(client, outcome.artifacts.path / _archive(options, outcome.artifacts), name)
    return Outcome(outcome.artifacts, outcome.up_to_date, time.time() - started, name)


def _archive(options: Options, artifacts: dist.Artifacts) -> str:
    version = artifacts.manifest["version"]
    return dist.image_archive(version, options.target, options.variant.suffix)


def _name(options: Options, version: str) -> str:
    """What docker calls it."""
    return f"buildkit-riscv64:{version}{options.variant.suffix}"


def _say_what_would_run(options: Options, binaries: dist.Artifacts) -> None:
    version = binaries.manifest["version"]
    say(f"would fetch Debian's packages named in {storage.shown(engines.CONTEXT)}/packages/")
    say(
        f"would build the target {options.variant} of {engines.DOCKERFILE} with {options.engine},"
        f" BuildKit {version}"
    )
    where = storage.shown(dist.image_folder(options.target, options.variant))
    say(f"would then check the result, run it, and publish it in {where}/")


@dataclass(frozen=True)
class _Known:
    """What Debian has of what images are made of and with.

    Args:
        updates: whether its archive of security updates has answered.
        root: packages of the one image.
        rootless: packages of the other, which has those of the first too.
        tools: packages that unpack those, where the base is made here.
        helpers: packages that complete the image and are not in it.
    """

    updates: bool
    root: Sequence[Package]
    rootless: Sequence[Package]
    tools: Sequence[Package]
    helpers: Sequence[Package]

    @classmethod
    def ask(cls, archive: Archive) -> _Known:
        with step("asking Debian for its packages"):
            return cls(
                updates=archive.update(),
                root=archive.resolve("root"),
                rootless=archive.resolve("root", "rootless"),
                tools=archive.resolve("tools"),
                helpers=archive.resolve("helpers"),
            )

    def fetch(self, archive: Archive, folder: Path) -> None:
        """Have all in the cache, and what the build unpacks in folders."""
        archive.fetch([*self.rootless, *self.tools, *self.helpers])
        archive.place(self.root, folder / "root")
        archive.place([one for one in self.rootless if one not in self.root], folder / "rootless")
        archive.place(self.helpers, folder / "helpers")


def _build(options: Options, binaries: dist.Artifacts, started: float) -> Outcome:
    manifest = binaries.manifest
    when = datetime.fromisoformat(manifest["source"]["time"])
    epoch = int(when.timestamp())
    archive = Archive(options.target.arch)
    previous = dist.find(dist.image_folder(options.target, options.variant))
    with (
        archive.locked(),
        dist.staging(options.target, part=f"{dist.IMAGE}/{options.variant}") as stage,
    ):
        known = _Known.ask(archive)
        packages = known.root if options.variant is Variant.ROOT else known.rootless
        digest = _inputs(options, binaries, packages, epoch)
        if previous and not options.force and previous.made_of(digest):
            return Outcome(previous, up_to_date=True, seconds=time.time() - started)
        scratch = stage / "scratch"
        with step("fetching what is missing"):
            known.fetch(archive, scratch)
            base = tools.ensure(options.base, archive, known.tools, yes=options.yes)
        created = manifest["source"]["time"]
        request = engines.Request(
            variant=options.variant, base=base, packages=scratch, binaries=binaries.path / "bin",
            arguments=_arguments(options, manifest, created),
            annotations=_annotations(options, manifest, created),
            epoch=epoch, cached=not options.force,
        )  # fmt: skip
        say(f"building the {options.variant} image with {options.engine}")
        with (
            _told_when_full(stage),
            engines.running(options.engine, request, yes=options.yes) as engine,
        ):
            engine.build(request, stage / dist.LAYOUT)
        # BuildKit's exporter leaves its empty work folder.
        shutil.rmtree(stage / dist.LAYOUT / "ingest", ignore_errors=True)
        shutil.rmtree(scratch)
        record = {
            "engine": str(options.engine),
            "base": {"origin": str(base.origin), "digest": base.digest},
            "inputs": digest,
            "started": timestamps.utc(started),
            "finished": timestamps.now(),
            "seconds": round(time.time() - started, 1),
        }
        _describe(options, stage, binaries, packages, record, epoch, updates=known.updates)
        with step("checking the image, and running it"), _told_when_full(stage):
            check.require_good(stage, options.variant, options.target)
        artifacts = dist.publish_part(stage, options.target, f"{dist.IMAGE}/{options.variant}")
        evidence.tell_stale(options.target)
    return Outcome(artifacts, up_to_date=False, seconds=time.time() - started)


@contextlib.contextmanager
def _told_when_full(stage: Path) -> Iterator[None]:
    """Say so when what failed in other programs was a full disk."""
    try:
        yield
    except (BuildError, CheckError) as error:
        if "no space left" in error.brief or host.free_bytes(stage) < _FULL_BYTES:
            raise storage.failure(OSError(errno.ENOSPC, "", str(stage)), stage) from error
        raise


def _title(options: Options) -> str:
    return "BuildKit, rootless" if options.variant.suffix else "BuildKit"


def _arguments(options: Options, manifest: Any, created: str) -> dict[str, str]:
    return {
        "TITLE": _title(options), "VERSION": manifest["version"], "SOURCE": SOURCE,
        "REVISION": manifest["revision"], "CREATED": created,
    }  # fmt: skip


def _annotations(options: Options, manifest: Any, created: str) -> dict[str, str]:
    # https://github.com/opencontainers/image-spec/blob/main/annotations.md
    values = {
        "title": _title(options), "version": manifest["version"], "created": created,
        "revision": manifest["revision"], "source": SOURCE, "licenses": "Apache-2.0",
    }  # fmt: skip
    return {f"org.opencontainers.image.{key}": value for key, value in values.items()}


def _describe(
    options: Options, stage: Path, binaries: dist.Artifacts, packages: Sequence[Package],
    record: dict[str, Any], epoch: int, *, updates: bool,
) -> None:  # fmt: skip
    """Write everything that goes with the layout: archive, SBOM, manifest, sums."""
    version = binaries.manifest["version"]
    image = layout.load(stage / dist.LAYOUT)
    contents = check.read(image)
    archive = dist.image_archive(version, options.target, options.variant.suffix)
    layout.archive(image, stage / archive, _name(options, version))
    sums = {c: binaries.files[dist.binary(c)]["sha256"] for c in dist.COMMANDS}
    when = datetime.fromtimestamp(epoch, UTC)
    text = sbom.bill_of_materials(
        _name(options, version).partition(":")[0], image.digest, version, sums, packages, when
    )
    (stage / dist.PACKAGES_SBOM).write_text(text)
    in_layout = sorted(
        str(path.relative_to(stage)) for path in (stage / dist.LAYOUT).rglob("*") if path.is_file()
    )
    manifest = {
        "manifest_version": MANIFEST_VERSION,
        "target": options.target.name,
        "variant": str(options.variant),
        "version": version,
        "revision": binaries.manifest["revision"],
        "pinned": binaries.manifest["source"]["pinned"],
        "created": binaries.manifest["source"]["time"],
        "epoch": epoch,
        "digest": image.digest,
        "layers": [
            {"digest": layer["digest"], "size": layer["size"], "unpacked": unpacked}
            for layer, unpacked in zip(image.manifest["layers"], contents.unpacked, strict=True)
        ],
        "size": image.size,
        "unpacked": sum(contents.unpacked),
        "binaries": sums,
        "packages": [package.as_json() for package in packages],
        "security_updates": updates,
        "build": record,
        "host": host.facts().as_json(),
        "files": dist.record(stage, [archive, dist.PACKAGES_SBOM, *in_layout]),
    }
    dist.write_manifest(stage, manifest)
