"""`invoke check-binaries`: is what lies in `dist/` what it says it is, and does it run?"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import dist, pins, process, project, schemas, storage
from ..arch import Architecture, Target
from ..console import Status
from ..errors import CheckError
from ..findings import Finding, equal, judged, of_files, refuse_failed
from . import bundle as bundles
from . import compile as compiler
from . import toolchain
from .elf import read_build_info, read_elf
from .toolchain import Go

#: Seconds a command may take to answer; under emulation it takes about two.
ANSWER_SECONDS = 60.0

#: How our names of CNI plugins begin.
CNI = "buildkit-cni-"
#: What BuildKit's own configurations of bridges ask of them.
CNI_VERSION = "1.0.0"

#: What to do about binaries that were refused.
REMEDY = "run `invoke build-binaries --force` to make it anew"


def finished(target: Target) -> dist.Artifacts:
    """A target's binaries for a later phase, as they were when they were finished.

    Sizes and times tell; :func:`require_same_bytes` reads them.

    Raises:
        CheckError: there are none, or they are others.
    """
    found = dist.load(dist.folder(target))
    place = storage.shown(found.path)
    if wrong := schemas.objection(found.manifest, schemas.BINARIES):
        raise CheckError(f"{place / dist.MANIFEST}: {wrong}", REMEDY)
    if found.manifest["target"] != target.name:
        raise CheckError(f"{place} holds binaries for {found.manifest['target']}", REMEDY)
    if not found.unchanged():
        raise CheckError(f"the files in {place} are not those of its manifest", REMEDY)
    return found


def require_same_bytes(binaries: dist.Artifacts, names: Iterable[str]) -> None:
    """Read files once more: a bit that has fallen changes neither size nor time.

    Raises:
        CheckError: one is damaged.
    """
    for name in names:
        if storage.sha256(binaries.path / name) != binaries.files[name]["sha256"]:
            place = storage.shown(binaries.path / name)
            raise CheckError(f"{place} is not that of its manifest", REMEDY)


def _manifest(artifacts: dist.Artifacts, target: Target) -> Iterator[Finding]:
    if wrong := schemas.objection(artifacts.manifest, schemas.BINARIES):
        yield Finding(dist.MANIFEST, "schema", Status.FAIL, wrong)
        return
    yield Finding(dist.MANIFEST, "schema", Status.OK, f"version {dist.MANIFEST_VERSION}")
    manifest = artifacts.manifest
    yield equal(dist.MANIFEST, "target", manifest["target"], target.name)
    yield equal(dist.MANIFEST, "compiled natively on", manifest["host"]["arch"], str(target.arch))
    pinned = pins.load()
    if manifest["source"]["pinned"]:
        yield equal(dist.MANIFEST, "version", manifest["version"], pinned.version)
        yield equal(dist.MANIFEST, "revision", manifest["revision"], pinned.commit)
        if manifest["build"]["via"] == "go":
            yield equal(dist.MANIFEST, "Go", manifest["go"]["version"], pinned.go_version)
    else:
        yield Finding(
            dist.MANIFEST, "version", Status.WARN,
            f"{manifest['version']}: a development build, not the pinned {pinned.version}",
        )  # fmt: skip


def _bundle(artifacts: dist.Artifacts, target: Target) -> Iterator[Finding]:
    """What the manifest says of the bundle, against what is pinned."""
    bundle = artifacts.manifest.get("bundle")
    if not bundle:
        return
    name = f"{dist.MANIFEST}: bundle"
    yield equal(name, "compiled natively on", bundle["host"]["arch"], str(target.arch))
    pinned = pins.load()
    yield equal(name, "Go", bundle["go"]["version"], pinned.go_version)
    recorded = [
        {key: value for key, value in one.items() if key != "c"} for one in bundle["components"]
    ]
    wanted = [part.as_json(target) for part in bundles.parts(pinned)]
    for seen, one in zip(recorded, wanted, strict=False):
        what = f"{one['module']}@{one['version']}"
        yield judged(
            name, one["name"], seen == one,
            what if seen == one else f"{seen['module']}@{seen['version']}", f"{what} as it is pinned",
        )  # fmt: skip
    yield equal(name, "components", [c["name"] for c in recorded], [c["name"] for c in wanted])


def _files(artifacts: dist.Artifacts, target: Target) -> Iterator[Finding]:
    expected = {
        *map(dist.binary, artifacts.programs), *map(dist.sbom, artifacts.programs), dist.PROVENANCE,
        dist.tarball(artifacts.manifest["version"], target),
        *([dist.PROFILE] if target.pgo else []),
    }  # fmt: skip
    listed = artifacts.files
    yield equal(dist.MANIFEST, "files", sorted(listed), sorted(expected))
    # What was compiled with a profile never passes as what was not, nor the other way round.
    profile = listed.get(dist.PROFILE, {}).get("sha256", "")
    yield equal(dist.MANIFEST, "profile", artifacts.manifest["build"].get("pgo", ""), profile)
    yield from of_files(artifacts, [dist.VERDICT])


def _elf(path: Path, name: str, target: Target) -> Iterator[Finding]:
    elf = read_elf(path)
    yield equal(name, "ELF class", elf.bits, 64)
    yield equal(name, "machine", elf.machine, target.arch.elf_machine)
    linked = elf.interpreter or ", ".join(elf.needed) or "statically"
    yield equal(name, "linked", linked, "statically")


def _go(
    info: Mapping[str, Any], name: str, target: Target, *, version: str, package: str, cgo: str
) -> Iterator[Finding]:
    settings = info["Settings"]
    yield equal(name, "Go", info.get("GoVersion", "").partition(" ")[0], version)
    yield equal(name, "package", info.get("Path"), package)
    yield equal(name, "GOOS/GOARCH", f"{settings.get('GOOS')}/{settings.get('GOARCH')}", f"linux/{target.arch}")  # fmt: skip
    yield equal(name, "CGO_ENABLED", settings.get("CGO_ENABLED"), cgo)


def _flags(
    info: Mapping[str, Any], name: str, target: Target, *, profile: str, tags: Sequence[str],
    sum_: str,
) -> Iterator[Finding]:  # fmt: skip
    settings = info["Settings"]
    variable, level = target.arch.level_variable, target.level or target.arch.default_level
    yield equal(name, variable, settings.get(variable), level)
    yield equal(name, "profile", settings.get("-pgo", ""), profile)
    yield equal(name, "trimpath", settings.get("-trimpath"), "true")
    yield equal(name, "tags", settings.get("-tags", ""), ",".join(tags))
    yield equal(name, "module", info.get("Main", {}).get("Sum", ""), sum_)


def _bundled(folder: Path, command: str, manifest: Mapping[str, Any], target: Target, go: Go) -> Iterator[Finding]:  # fmt: skip
    name = dist.binary(command)
    path = folder / name
    yield from _elf(path, name, target)
    one = bundles.of(manifest, command)
    component = next(c for c in bundles.COMPONENTS if c.name == one["name"])
    info = read_build_info(path, go)
    yield from _go(
        info, name, target, version=manifest["bundle"]["go"]["version"],
        package=one["commands"][command], cgo=str(int(component.cgo)),
    )  # fmt: skip
    yield from _flags(info, name, target, profile="", tags=component.tags, sum_=one["sum"])
    if target.arch is not Architecture.here():
        yield Finding(name, "runs", Status.WARN, f"not run: this machine is {Architecture.here()}")
        return
    yield from _answers(path, command, one["version"])


def _answers(path: Path, command: str, version: str) -> Iterator[Finding]:
    """That a program of the bundle runs, and says what it is."""
    name = dist.binary(command)
    if plugin := command.removeprefix(CNI) if command.startswith(CNI) else "":
        # Without a command a plugin tells of itself; with this one it answers its runtime
        # (https://www.cni.dev/docs/spec/#version-probe-plugin-version-support).
        said = process.probe([path], timeout=ANSWER_SECONDS)
        seen = (said.stderr.strip().splitlines() or [""])[0]
        yield equal(name, "version", seen, f"CNI {plugin} plugin {version}")
        env = process.environment({"CNI_COMMAND": "VERSION"})
        answer = process.probe([path], env=env, timeout=ANSWER_SECONDS)
        good = answer.ok and CNI_VERSION in _supported(answer.stdout)
        yield judged(
            name, "VERSION", good, answer.stdout.strip() or answer.last_line, f"CNI {CNI_VERSION}"
        )
        return
    answer = process.probe([path, "--version"], timeout=ANSWER_SECONDS)
    lines = answer.stdout.splitlines() if answer.ok else []
    seen = lines[0] if lines else f"{process.describe_exit(answer.code)}: {answer.last_line}"
    program = command.removeprefix("buildkit-")
    yield equal(name, "--version", seen, f"{program} version {version.removeprefix('v')}")
    if program == "runc":
        seccomp = next((line for line in lines if line.startswith("libseccomp: ")), "")
        yield judged(name, "seccomp", bool(seccomp), seccomp or "not linked in", "libseccomp")


def _supported(answer: str) -> list[str]:
    try:
        return list(json.loads(answer)["supportedVersions"])
    except (ValueError, KeyError, TypeError):
        return []


def _program(folder: Path, command: str, manifest: Mapping[str, Any], target: Target, go: Go) -> Iterator[Finding]:  # fmt: skip
    name = dist.binary(command)
    path = folder / name
    yield from _elf(path, name, target)
    info = read_build_info(path, go)
    package = f"{pins.MODULE}/cmd/{command}"
    yield from _go(
        info, name, target, version=manifest["go"]["version"], package=package, cgo="0"
    )  # fmt: skip
    if manifest["build"]["via"] == "go":
        profile = dist.PROFILE if target.pgo else ""
        sum_ = manifest["source"]["sum"]
        yield from _flags(info, name, target, profile=profile, tags=compiler.TAGS, sum_=sum_)

    if target.arch is not Architecture.here():
        yield Finding(name, "runs", Status.WARN, f"not run: this machine is {Architecture.here()}")
        return
    answer = process.probe([path, "--version"], timeout=ANSWER_SECONDS)
    said = answer.stdout.strip() if answer.ok else f"{process.describe_exit(answer.code)}: {answer.last_line}"  # fmt: skip
    expected = f"{command} {pins.MODULE} {manifest['version']} {manifest['revision']}"
    yield equal(name, "--version", said, expected)
    answer = process.probe([path, "--help"], timeout=ANSWER_SECONDS)
    good = answer.ok and "USAGE:" in answer.stdout
    yield judged(name, "--help", good, "answers" if good else answer.last_line, "usage")


def examine(folder: Path, target: Target, go: Go) -> list[Finding]:
    """Look at everything in a target's folder.

    Args:
        folder: finished, or about to be.
        target: what it should be for.
        go: to read build information with.

    Raises:
        CheckError: there is nothing to look at.
    """
    artifacts = dist.load(folder)
    findings = list(_manifest(artifacts, target))
    if any(f.check == "schema" and f.status is Status.FAIL for f in findings):
        return findings
    findings += _bundle(artifacts, target)
    findings += _files(artifacts, target)
    for command in artifacts.programs:
        look = _program if command in dist.COMMANDS else _bundled
        try:
            findings += look(folder, command, artifacts.manifest, target, go)
        except CheckError as error:
            findings.append(Finding(dist.binary(command), "program", Status.FAIL, error.brief))
    return findings


def require_good(folder: Path, target: Target, go: Go) -> None:
    """Look at everything, and refuse it if anything is wrong.

    Raises:
        CheckError: naming what is wrong.
    """
    refuse_failed({target.name: examine(folder, target, go)}, REMEDY)


def chosen(target: str) -> list[Target]:
    """The targets that a command line means: one, or all in `dist/`.

    Raises:
        UsageError: it is no target.
        CheckError: `dist/` is empty.
    """
    if target:
        return [Target.parse(target)]
    found = dist.targets()
    if not found:
        raise CheckError(
            f"nothing in {storage.shown(project.DIST)}/", "run `invoke build-binaries` first"
        )
    return found


def examine_all(target: str = "") -> dict[str, list[Finding]]:
    """Look at one target's folder, or at all of them.

    Returns:
        The findings, by target.

    Raises:
        CheckError: there is nothing to look at.
        MissingRequirementError: there is no Go to read build information with.
    """
    targets = chosen(target)
    for one in targets:
        dist.load(dist.folder(one))
    go = toolchain.ensure(pins.load())
    return {one.name: examine(dist.folder(one), one, go) for one in targets}
