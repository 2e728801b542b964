"""`invoke check-binaries`: check that files in `dist/` match their manifest and run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..core import dist, documents, filesystem, pins, process, project
from ..core.arch import Architecture, Target
from ..core.check_results import Finding, equal, judged, of_damaged, of_files, refuse_failed
from ..core.console import Status
from ..core.errors import CheckError
from ..system import host_checks
from . import bundle as bundles
from . import compile as compiler
from . import toolchain
from .elf import read_build_info, read_elf
from .toolchain import Go

#: Timeout of a command's answer in seconds; under emulation it takes about two.
ANSWER_SECONDS = 60.0

#: Prefix of our names for CNI plugins.
CNI = "buildkit-cni-"
#: The version in BuildKit's own bridge configurations.
CNI_VERSION = "1.0.0"

#: How to fix refused binaries.
REMEDY = "run `invoke build-binaries --force` to rebuild it"


def finished(target: Target) -> dist.Artifacts:
    """A target's binaries, for a later phase.

    Compares sizes and times only; :func:`require_same_bytes` compares checksums.

    Raises:
        CheckError: no binaries, or they were modified.
    """
    found = dist.load(dist.directory(target))
    place = filesystem.display_path(found.path)
    if found.manifest["target"] != target.name:
        raise CheckError(f"{place} holds binaries for {found.manifest['target']}", REMEDY)
    if not found.unchanged():
        raise CheckError(f"the files in {place} do not match its manifest", REMEDY)
    return found


def require_same_bytes(binaries: dist.Artifacts, names: Iterable[str]) -> None:
    """Compare checksums: a flipped bit changes neither size nor time.

    Raises:
        CheckError: a file is damaged.
    """
    for name in names:
        if filesystem.sha256(binaries.path / name) != binaries.files[name]["sha256"]:
            place = filesystem.display_path(binaries.path / name)
            raise CheckError(f"{place} does not match its manifest", REMEDY)


def _manifest(artifacts: dist.Artifacts, target: Target) -> Iterator[Finding]:
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
    """Compare the manifest's bundle with the pins."""
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
            what if seen == one else f"{seen['module']}@{seen['version']}", f"{what} as pinned",
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
    # A build with a profile must not pass as one without, nor the reverse.
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
    yield equal(name, "Go", info.get("GoVersion", ""), version)
    yield equal(name, "package", info.get("Path"), package)
    yield equal(name, "GOOS/GOARCH", f"{settings.get('GOOS')}/{settings.get('GOARCH')}", f"linux/{target.arch}")  # fmt: skip
    yield equal(name, "CGO_ENABLED", settings.get("CGO_ENABLED"), cgo)


def _flags(
    info: Mapping[str, Any],
    name: str,
    target: Target,
    *,
    profile: str,
    tags: Sequence[str],
    sum_: str,
) -> Iterator[Finding]:
    settings = info["Settings"]
    variable, level = target.arch.level_variable, target.level or target.arch.default_level
    yield equal(name, variable, settings.get(variable), level)
    yield equal(name, "profile", settings.get("-pgo", ""), profile)
    yield equal(name, "trimpath", settings.get("-trimpath"), "true")
    yield equal(name, "tags", settings.get("-tags", ""), ",".join(tags))
    yield equal(name, "module", info.get("Main", {}).get("Sum", ""), sum_)


def _bundled(
    info: Mapping[str, Any], command: str, manifest: Mapping[str, Any], target: Target
) -> Iterator[Finding]:
    name = dist.binary(command)
    one = bundles.of(manifest, command)
    component = next(c for c in bundles.COMPONENTS if c.name == one["name"])
    yield from _go(
        info, name, target, version=manifest["bundle"]["go"]["version"],
        package=one["commands"][command], cgo=str(int(component.cgo)),
    )  # fmt: skip
    yield from _flags(info, name, target, profile="", tags=component.tags, sum_=one["sum"])


def _bundled_answers(path: Path, command: str, manifest: Mapping[str, Any]) -> Iterator[Finding]:
    """Run a program of the bundle and compare its version."""
    name, version = dist.binary(command), bundles.of(manifest, command)["version"]
    if plugin := command.removeprefix(CNI) if command.startswith(CNI) else "":
        # Without CNI_COMMAND a plugin prints its name and version; with VERSION it answers
        # in the protocol (https://www.cni.dev/docs/spec/#version-probe-plugin-version-support).
        about = process.probe([path], timeout=ANSWER_SECONDS)
        seen = (about.stderr.strip().splitlines() or [""])[0]
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
        return list(documents.parse_json(answer)["supportedVersions"])
    except (ValueError, KeyError, TypeError):
        return []


def _command(
    info: Mapping[str, Any], command: str, manifest: Mapping[str, Any], target: Target
) -> Iterator[Finding]:
    name = dist.binary(command)
    package = f"{pins.MODULE}/cmd/{command}"
    yield from _go(
        info, name, target, version=manifest["go"]["version"], package=package, cgo="0"
    )  # fmt: skip
    if manifest["build"]["via"] == "go":
        profile = dist.PROFILE if target.pgo else ""
        sum_ = manifest["source"]["sum"]
        yield from _flags(info, name, target, profile=profile, tags=compiler.TAGS, sum_=sum_)


def _command_answers(path: Path, command: str, manifest: Mapping[str, Any]) -> Iterator[Finding]:
    name = dist.binary(command)
    answer = process.probe([path, "--version"], timeout=ANSWER_SECONDS)
    reported = answer.stdout.strip() if answer.ok else f"{process.describe_exit(answer.code)}: {answer.last_line}"  # fmt: skip
    expected = f"{command} {pins.MODULE} {manifest['version']} {manifest['revision']}"
    yield equal(name, "--version", reported, expected)
    answer = process.probe([path, "--help"], timeout=ANSWER_SECONDS)
    good = answer.ok and "USAGE:" in answer.stdout
    yield judged(name, "--help", good, "answers" if good else answer.last_line, "usage")


def examine(directory: Path, target: Target, go: Go) -> list[Finding]:
    """Check every file in a target's directory.

    Args:
        directory: published, or about to be.
        target: the expected target.
        go: the toolchain that reads build information.

    Raises:
        CheckError: nothing to check.
    """
    try:
        artifacts = dist.load(directory, dist.Kind.BINARIES)
    except CheckError as error:
        return of_damaged(directory, error)
    findings = list(_manifest(artifacts, target))
    findings += _bundle(artifacts, target)
    findings += _files(artifacts, target)
    here = Architecture.here()
    for command in artifacts.programs:
        name, manifest = dist.binary(command), artifacts.manifest
        checks = (_bundled, _bundled_answers)
        if command in dist.COMMANDS:
            checks = (_command, _command_answers)
        try:
            findings += _elf(directory / name, name, target)
            info = read_build_info(directory / name, go)
            findings += checks[0](info, command, manifest, target)
            if target.arch is here:
                findings += checks[1](directory / name, command, manifest)
            else:
                findings.append(
                    Finding(name, "runs", Status.WARN, f"not run: this machine is {here}")
                )
        except CheckError as error:
            findings.append(Finding(name, "program", Status.FAIL, error.brief))
    return findings


def require_good(directory: Path, target: Target, go: Go) -> None:
    """Check every file, and raise if a check fails.

    Raises:
        CheckError: the message names the failed checks.
    """
    refuse_failed({target.name: examine(directory, target, go)}, REMEDY)


def chosen(target: str) -> list[Target]:
    """The targets to check: the given one, or every target in `dist/`.

    Raises:
        UsageError: invalid target.
        CheckError: `dist/` is empty.
    """
    if target:
        return [Target.parse(target)]
    found = dist.targets()
    if not found:
        raise CheckError(
            f"nothing in {filesystem.display_path(project.DIST)}/",
            "run `invoke build-binaries` first",
        )
    return found


def examine_all(target: str = "") -> dict[str, list[Finding]]:
    """Check the given target, or every target.

    Returns:
        Findings by target.

    Raises:
        CheckError: nothing to check.
        MissingRequirementError: no Go to read build information with.
        StorageError: programs in the directory cannot run (noexec).
    """
    targets = chosen(target)
    for one in targets:
        if not (dist.directory(one) / dist.MANIFEST).exists():
            dist.load(dist.directory(one))  # raises: names the missing file
        if one.arch is Architecture.here():
            host_checks.require_exec(dist.directory(one))
    go = toolchain.ensure(pins.load())
    return {one.name: examine(dist.directory(one), one, go) for one in targets}
