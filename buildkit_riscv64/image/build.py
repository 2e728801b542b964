"""`invoke build-image`: build, check and publish an image in `dist/`."""

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

from ..binaries import check as binaries_check
from ..binaries import toolchain
from ..core import (
    cache_keys,
    dist,
    dry_run,
    durations,
    filesystem,
    host,
    pins,
    project,
    timestamps,
)
from ..core.arch import Architecture, Target
from ..core.console import log, step
from ..core.errors import BuildError, CheckError, NotNativeError, UsageError
from ..system import apt, host_checks
from . import base_image, build_request, buildx_builder, check, container, engines, layout, sbom
from .build_request import Request
from .packages import Archive, Package
from .variants import Variant

#: Version of the manifest's format, as in `buildkit_riscv64/core/schemas/image.schema.json`.
MANIFEST_VERSION = 1
#: Upper bound of what a build writes: packages, the builder's state, layout, archive.
NEEDED_BYTES = 2 << 30
#: Below this, a failed write means a full disk.
_FULL_BYTES = 16 << 20
#: The repository of the revision.
SOURCE = f"https://{pins.MODULE}"


@dataclass(frozen=True, kw_only=True)
class ImageOptions:
    """Options of `invoke build-image`.

    Args:
        variant: root or rootless.
        engine: which engine builds.
        base: source of the base.
        target: the image's target; this machine must be able to run it.
        load: also load the image into docker.
        force: build even if nothing changed, and run every step again.
        yes: install missing packages without asking.
    """

    variant: Variant
    engine: engines.Name
    base: base_image.Origin
    target: Target
    load: bool = False
    force: bool = False
    yes: bool = False

    @classmethod
    def parse(
        cls, *, rootless: bool, engine: str, base: str, target: str, **others: bool
    ) -> ImageOptions:
        """Options from the command line.

        Raises:
            UsageError: unknown engine, base or target.
            NotNativeError: the target has another architecture than this machine.
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
            engine=engines.Name(engine), base=base_image.parse(base), target=wanted, **others,
        )  # fmt: skip


@dataclass(frozen=True)
class ImageResult(dist.BuildResult):
    """The result of a build.

    Args:
        loaded: the image's name in docker, if docker loaded it.
    """

    loaded: str = ""


def _binaries(target: Target) -> dist.Artifacts:
    """The binaries of phase 1, without checking the files.

    Raises:
        CheckError: no binaries, or an invalid manifest.
        NotNativeError: the binaries were cross-compiled.
    """
    artifacts = dist.load(dist.directory(target))
    compiled_on = artifacts.manifest["host"]["arch"]
    if compiled_on != str(target.arch):
        raise NotNativeError(
            f"the binaries for {target.name} were compiled on {compiled_on}",
            "build them natively: `invoke build-binaries`",
        )
    return artifacts


def _checked_binaries(target: Target) -> dist.Artifacts:
    """The binaries of phase 1, checked.

    Raises:
        CheckError: a check failed.
    """
    artifacts = _binaries(target)
    with step("checking the binaries"):
        binaries_check.require_good(artifacts.path, target, toolchain.ensure(pins.load()))
    return artifacts


def _inputs(
    options: ImageOptions, binaries: dist.Artifacts, packages: Sequence[Package], epoch: int
) -> str:
    """Cache key: a digest of everything that decides the image."""
    decisive = {
        "variant": options.variant,
        "binaries": [binaries.files[dist.binary(c)]["sha256"] for c in dist.COMMANDS],
        "version": [binaries.manifest["version"], binaries.manifest["revision"]],
        "packages": [package.as_json() for package in packages],
        "files": {
            # The executable bit, as in git: other mode bits depend on the umask.
            str(path.relative_to(build_request.CONTEXT)): [
                filesystem.sha256(path),
                path.stat().st_mode & 0o100,
            ]
            for path in sorted(build_request.CONTEXT.rglob("*"))
            if path.is_file()
        },
        "epoch": epoch,
    }
    return cache_keys.inputs(decisive)


def build(options: ImageOptions) -> ImageResult:
    """Build, check and publish an image.

    Raises:
        Failure: the class tells the cause; `dist/` is unchanged.
    """
    started = time.time()
    # Detect errors before slow steps.
    binaries = _binaries(options.target)
    by_docker = options.engine is engines.Name.DOCKER
    client = buildx_builder.connect(builds=by_docker) if options.load or by_docker else None
    if dry_run.active():
        _log_plan(options, binaries)
        return ImageResult(None, up_to_date=False, seconds=time.time() - started)
    host_checks.require_exec(project.DIST, project.cache())
    apt.ensure_installed(container.TOOLS, yes=options.yes)
    for place in (project.DIST, project.cache()):
        filesystem.require_space(place, NEEDED_BYTES, "an image takes up to", project.CACHE_HINT)
    binaries = _checked_binaries(options.target)
    with dist.lock(options.target):
        try:
            outcome = _build(options, binaries, started)
        except OSError as error:
            raise filesystem.failure(error, project.DIST) from error
    if client is None or not options.load or outcome.artifacts is None:
        return outcome
    name = _name(options, outcome.artifacts.manifest["version"])
    buildx_builder.load(client, outcome.artifacts.path / _archive(options, outcome.artifacts), name)
    return ImageResult(outcome.artifacts, outcome.up_to_date, time.time() - started, name)


def _archive(options: ImageOptions, artifacts: dist.Artifacts) -> str:
    version = artifacts.manifest["version"]
    return dist.image_archive(version, options.target, options.variant.suffix)


def _name(options: ImageOptions, version: str) -> str:
    """The image's name in docker."""
    return f"buildkit-riscv64:{version}{options.variant.suffix}"


def _log_plan(options: ImageOptions, binaries: dist.Artifacts) -> None:
    version = binaries.manifest["version"]
    log(
        f"would fetch Debian's packages named in {filesystem.display_path(build_request.CONTEXT)}/packages/"
    )
    log(
        f"would build the target {options.variant} of {build_request.DOCKERFILE} with {options.engine},"
        f" BuildKit {version}"
    )
    where = filesystem.display_path(dist.image_directory(options.target, options.variant))
    log(f"would then check the result, run it, and publish it in {where}/")


@dataclass(frozen=True)
class _PackageSets:
    """Debian's current packages for the images.

    Args:
        updates: the archive of security updates answered.
        root: packages of the root image.
        rootless: packages of the rootless image, including those of the root image.
        tools: packages that unpack the others, for a base without a registry.
        helpers: packages that complete the image but are not in it.
    """

    updates: bool
    root: Sequence[Package]
    rootless: Sequence[Package]
    tools: Sequence[Package]
    helpers: Sequence[Package]

    @classmethod
    def resolve(cls, archive: Archive) -> _PackageSets:
        with step("resolving Debian's packages"):
            return cls(
                updates=archive.update(),
                root=archive.resolve("root"),
                rootless=archive.resolve("root", "rootless"),
                helpers=archive.resolve("helpers"),
                tools=archive.resolve("tools"),
            )

    def fetch(self, archive: Archive, directory: Path) -> None:
        """Fetch every package, and put the build's packages into `directory`."""
        archive.fetch([*self.rootless, *self.tools, *self.helpers])
        archive.place(self.root, directory / "root")
        archive.place(
            [one for one in self.rootless if one not in self.root], directory / "rootless"
        )
        archive.place(self.helpers, directory / "helpers")


def _step(options: ImageOptions) -> str:
    """The name of this build in :mod:`..core.durations`."""
    flags = [f"--engine {options.engine}"] if options.engine is not engines.Name.BUILDKIT else []
    return " ".join(["build-image", *flags, *(["--rootless"] if options.variant.suffix else [])])


def _build(options: ImageOptions, binaries: dist.Artifacts, started: float) -> ImageResult:
    manifest = binaries.manifest
    when = datetime.fromisoformat(manifest["source"]["time"])
    epoch = int(when.timestamp())
    archive = Archive(options.target.arch)
    previous = dist.find(dist.image_directory(options.target, options.variant))
    with (
        archive.locked(),
        dist.staging(options.target, part=f"{dist.IMAGE}/{options.variant}") as stage,
        contextlib.ExitStack() as stack,
    ):
        known = _PackageSets.resolve(archive)
        packages = known.root if options.variant is Variant.ROOT else known.rootless
        digest = _inputs(options, binaries, packages, epoch)
        if previous and not options.force and previous.made_of(digest):
            return ImageResult(previous, up_to_date=True, seconds=time.time() - started)
        stack.enter_context(durations.announced("the image", _step(options)))
        scratch = stage / "scratch"
        with step("fetching missing packages"):
            known.fetch(archive, scratch)
            base = base_image.ensure(options.base, archive, known.tools, yes=options.yes)
        created = manifest["source"]["time"]
        request = Request(
            variant=options.variant, base=base, packages=scratch, binaries=binaries.path / "bin",
            arguments=_arguments(options, manifest, created),
            annotations=_annotations(options, manifest, created),
            epoch=epoch, cached=not options.force,
        )  # fmt: skip
        log(f"building the {options.variant} image with {options.engine}")
        with (
            _full_disk_reported(stage),
            engines.running(options.engine, request, yes=options.yes) as engine,
        ):
            engine.build(request, stage / dist.LAYOUT)
        # BuildKit's exporter leaves its empty work directory.
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
        with step("checking the image"), _full_disk_reported(stage):
            check.require_good(stage, options.variant, options.target)
        artifacts = dist.publish_part(stage, options.target, f"{dist.IMAGE}/{options.variant}")
    return ImageResult(artifacts, up_to_date=False, seconds=time.time() - started)


@contextlib.contextmanager
def _full_disk_reported(stage: Path) -> Iterator[None]:
    """Report a full disk when it made another program fail."""
    try:
        yield
    except (BuildError, CheckError) as error:
        if "no space left" in error.brief or host.free_bytes(stage) < _FULL_BYTES:
            raise filesystem.failure(OSError(errno.ENOSPC, "", str(stage)), stage) from error
        raise


def _title(options: ImageOptions) -> str:
    return "BuildKit, rootless" if options.variant.suffix else "BuildKit"


def _arguments(options: ImageOptions, manifest: Any, created: str) -> dict[str, str]:
    return {
        "TITLE": _title(options), "VERSION": manifest["version"], "SOURCE": SOURCE,
        "REVISION": manifest["revision"], "CREATED": created,
    }  # fmt: skip


def _annotations(options: ImageOptions, manifest: Any, created: str) -> dict[str, str]:
    # https://github.com/opencontainers/image-spec/blob/main/annotations.md
    values = {
        "title": _title(options), "version": manifest["version"], "created": created,
        "revision": manifest["revision"], "source": SOURCE, "licenses": "Apache-2.0",
    }  # fmt: skip
    return {f"org.opencontainers.image.{key}": value for key, value in values.items()}


def _describe(
    options: ImageOptions,
    stage: Path,
    binaries: dist.Artifacts,
    packages: Sequence[Package],
    record: dict[str, Any],
    epoch: int,
    *,
    updates: bool,
) -> None:
    """Write archive, SBOM, manifest and checksums."""
    version = binaries.manifest["version"]
    image = layout.load(stage / dist.LAYOUT)
    contents = check.read(image)
    archive = dist.image_archive(version, options.target, options.variant.suffix)
    layout.archive(image, stage / archive, _name(options, version))
    checksums = {c: binaries.files[dist.binary(c)]["sha256"] for c in dist.COMMANDS}
    when = datetime.fromtimestamp(epoch, UTC)
    text = sbom.bill_of_materials(
        _name(options, version).partition(":")[0], image.digest, version, checksums, packages, when
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
        "binaries": checksums,
        "packages": [package.as_json() for package in packages],
        "security_updates": updates,
        "build": record,
        "host": host.facts().as_json(),
        "files": dist.record(stage, [archive, dist.PACKAGES_SBOM, *in_layout]),
    }
    dist.write_manifest(stage, manifest)
