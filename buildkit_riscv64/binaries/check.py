"""`invoke check-binaries`: is what lies in `dist/` what it says it is, and does it run?"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .. import dist, pins, process, project
from ..arch import Architecture, Target
from ..console import Status
from ..errors import CheckError
from . import compile as compiler
from . import toolchain
from .elf import read_build_info, read_elf
from .toolchain import Go

#: Seconds a command may take to answer; under emulation it takes about two.
ANSWER_SECONDS = 60.0

SCHEMA = project.ROOT / "schemas" / "manifest.schema.json"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Args:
        subject: the file.
        check: what was looked at.
        status: how it ended.
        detail: what was seen, and for a failure what was expected.
    """

    subject: str
    check: str
    status: Status
    detail: str

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return asdict(self)


def _finding(subject: str, check: str, good: bool, seen: object, expected: object) -> Finding:  # noqa: FBT001
    if good:
        return Finding(subject, check, Status.OK, str(seen))
    return Finding(subject, check, Status.FAIL, f"{seen}, expected {expected}")


def _equal(subject: str, check: str, seen: object, expected: object) -> Finding:
    return _finding(subject, check, seen == expected, seen, expected)


def objection(manifest: Mapping[str, Any]) -> str:
    """What the schema has against a manifest; nothing when it is good."""
    import fastjsonschema

    try:
        # Formats are not validated: the library would need a regular expression for each.
        fastjsonschema.validate(json.loads(SCHEMA.read_text()), manifest)
    except fastjsonschema.JsonSchemaValueException as error:
        return str(error.message)
    return ""


def _manifest(artifacts: dist.Artifacts, target: Target) -> Iterator[Finding]:
    if wrong := objection(artifacts.manifest):
        yield Finding(dist.MANIFEST, "schema", Status.FAIL, wrong)
        return
    yield Finding(dist.MANIFEST, "schema", Status.OK, f"version {dist.MANIFEST_VERSION}")
    manifest = artifacts.manifest
    yield _equal(dist.MANIFEST, "target", manifest["target"], target.name)
    yield _equal(dist.MANIFEST, "compiled natively on", manifest["host"]["arch"], str(target.arch))
    pinned = pins.load()
    if manifest["source"]["pinned"]:
        yield _equal(dist.MANIFEST, "version", manifest["version"], pinned.version)
        yield _equal(dist.MANIFEST, "revision", manifest["revision"], pinned.commit)
        if manifest["build"]["via"] == "go":
            yield _equal(dist.MANIFEST, "Go", manifest["go"]["version"], pinned.go_version)
    else:
        yield Finding(
            dist.MANIFEST, "version", Status.WARN,
            f"{manifest['version']}: a development build, not the pinned {pinned.version}",
        )  # fmt: skip


def _files(artifacts: dist.Artifacts, target: Target) -> Iterator[Finding]:
    folder = artifacts.path
    expected = {
        *map(dist.binary, dist.COMMANDS), *map(dist.sbom, dist.COMMANDS), dist.PROVENANCE,
        dist.tarball(artifacts.manifest["version"], target),
    }  # fmt: skip
    listed = artifacts.files
    yield _equal(dist.MANIFEST, "files", sorted(listed), sorted(expected))
    for name, record in listed.items():
        try:
            seen = dist.sha256(folder / name)
        except OSError as error:
            yield Finding(name, "sha256", Status.FAIL, f"cannot be read: {error.strerror}")
            continue
        yield _equal(name, "sha256", seen, record["sha256"])
    sums = folder / dist.SUMS
    wanted = dist.sums([*listed.values(), *dist.record(folder, [dist.MANIFEST])])
    same = sums.is_file() and sums.read_bytes() == wanted.encode()
    yield _finding(
        dist.SUMS, "complete", same, "lists every file" if same else "differs", "all files"
    )
    present = {str(path.relative_to(folder)) for path in folder.rglob("*")}
    extra = sorted(present - expected - {"bin", dist.MANIFEST, dist.SUMS, dist.VERDICT})
    yield _finding(".", "nothing else", not extra, ", ".join(extra) or "nothing", "nothing")


def _program(folder: Path, command: str, manifest: dict[str, Any], target: Target, go: Go) -> Iterator[Finding]:  # fmt: skip
    name = dist.binary(command)
    path = folder / name
    elf = read_elf(path)
    yield _equal(name, "ELF class", elf.bits, 64)
    yield _equal(name, "machine", elf.machine, target.arch.elf_machine)
    linked = elf.interpreter or ", ".join(elf.needed) or "statically"
    yield _equal(name, "linked", linked, "statically")

    info = read_build_info(path, go)
    settings = info["Settings"]
    yield _equal(name, "Go", info.get("GoVersion", "").partition(" ")[0], manifest["go"]["version"])
    yield _equal(name, "package", info.get("Path"), f"{pins.MODULE}/cmd/{command}")
    yield _equal(name, "GOOS/GOARCH", f"{settings.get('GOOS')}/{settings.get('GOARCH')}", f"linux/{target.arch}")  # fmt: skip
    yield _equal(name, "CGO_ENABLED", settings.get("CGO_ENABLED"), "0")
    if manifest["build"]["via"] == "go":
        level = target.level or target.arch.default_level
        yield _equal(
            name, target.arch.level_variable, settings.get(target.arch.level_variable), level
        )
        yield _equal(name, "trimpath", settings.get("-trimpath"), "true")
        yield _equal(name, "tags", settings.get("-tags"), ",".join(compiler.TAGS))
        yield _equal(name, "module", info.get("Main", {}).get("Sum", ""), manifest["source"]["sum"])

    if target.arch is not Architecture.here():
        yield Finding(name, "runs", Status.WARN, f"not run: this machine is {Architecture.here()}")
        return
    answer = process.probe([path, "--version"], timeout=ANSWER_SECONDS)
    said = answer.stdout.strip() if answer.ok else f"{process.describe_exit(answer.code)}: {answer.last_line}"  # fmt: skip
    expected = f"{command} {pins.MODULE} {manifest['version']} {manifest['revision']}"
    yield _equal(name, "--version", said, expected)
    answer = process.probe([path, "--help"], timeout=ANSWER_SECONDS)
    good = answer.ok and "USAGE:" in answer.stdout
    yield _finding(name, "--help", good, "answers" if good else answer.last_line, "usage")


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
    findings += _files(artifacts, target)
    for command in dist.COMMANDS:
        try:
            findings += _program(folder, command, dict(artifacts.manifest), target, go)
        except CheckError as error:
            findings.append(Finding(dist.binary(command), "program", Status.FAIL, error.brief))
    return findings


def require_good(folder: Path, target: Target, go: Go) -> None:
    """Look at everything, and refuse it if anything is wrong.

    Raises:
        CheckError: naming what is wrong.
    """
    refuse_failed({target.name: examine(folder, target, go)})


def refuse_failed(findings: Mapping[str, list[Finding]]) -> None:
    """Fail if anything did.

    Raises:
        CheckError: naming the first, and how many more there are.
    """
    failed = [(t, f) for t, all_ in findings.items() for f in all_ if f.status is Status.FAIL]
    if failed:
        target, first = failed[0]
        more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
        raise CheckError(
            f"{target}: {first.subject}: {first.check}: {first.detail}{more}",
            "run `invoke build-binaries --force` to make it anew",
        )


def chosen(target: str) -> list[Target]:
    """The targets that a command line means: one, or all in `dist/`.

    Raises:
        UsageError: it is no target.
        CheckError: `dist/` is empty.
    """
    if target:
        return [Target.parse(target)]
    found = [Target.parse(path.name) for path in dist.targets()]
    if not found:
        raise CheckError(
            f"nothing in {dist.shown(project.DIST)}/", "run `invoke build-binaries` first"
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
