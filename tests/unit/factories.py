"""Factories of test objects: recorded commands, tiny ELF programs, sources, finished directories."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from buildkit_riscv64.binaries import build, bundle, check, source
from buildkit_riscv64.binaries import compile as compiler
from buildkit_riscv64.binaries.toolchain import Go
from buildkit_riscv64.core import dist, host, process
from buildkit_riscv64.core.arch import Target
from buildkit_riscv64.core.errors import BuildError
from buildkit_riscv64.core.pins import MODULE, PinnedRelease, Pins

COMMIT = "991535e0973488b6a429096d21fa13f81f2d89d8"
TIME = datetime(2026, 8, 4, 12, 27, 40, tzinfo=UTC)
SUM = "h1:Zm9yIHRlc3RzIG9ubHksIG5vdCBhIHJlYWwgaGFzaCE="
VERSIONS = {"runc": "v1.4.3", "cni-plugins": "v1.9.1", "rootlesskit": "v3.0.1"}
PINS = Pins(
    version="v0.32.2", commit=COMMIT, time=TIME, go="1.26.10", go_sums={"linux-amd64": "h1:pinned"},
    bundle={name: PinnedRelease(version=version, time=TIME) for name, version in VERSIONS.items()},
)  # fmt: skip
#: A manifest's record of the C toolchain.
C: dict[str, Any] = {
    "compiler": "gcc (Debian 14.2.0-19) 14.2.0",
    "linker": "GNU ld (GNU Binutils for Debian) 2.44",
    "libraries": [
        {"file": "libc.a", "sha256": "1" * 64, "package": "pkg:deb/debian/libc6-dev@2.41-12?arch=riscv64"},
        {"file": "libseccomp.a", "sha256": "2" * 64, "package": ""},
    ],
}  # fmt: skip
GO = Go(Path("/go/bin/go"), "go1.26.10", "system")
MACHINES = {"amd64": 62, "arm64": 183, "riscv64": 243}


@contextlib.contextmanager
def promptly(seconds: float = 20.0) -> Iterator[None]:
    """Fail the test, instead of hanging, when a call waits for a fifo's other end."""

    def expire(*_: object) -> None:
        pytest.fail(f"no end after {seconds} s")

    before = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _to_link(path: Path) -> None:
    """Move a file out of its directory, and leave a link to it."""
    outside = path.parents[2] / f"outside-{path.name}"
    shutil.move(path, outside)
    path.symlink_to(outside)


def _to_other(make: Callable[[Path], object]) -> Callable[[Path], None]:
    def replace(path: Path) -> None:
        path.unlink()
        make(path)

    return replace


#: Replace a file by something that is not a regular file.
IRREGULAR: dict[str, Callable[[Path], None]] = {
    "fifo": _to_other(os.mkfifo),
    "device": _to_other(lambda path: path.symlink_to("/dev/null")),
    "directory": _to_other(Path.mkdir),
    "link": _to_link,
    "loop": _to_other(lambda path: path.symlink_to(path.name)),
}


@dataclass(frozen=True)
class Call:
    """A recorded command."""

    verb: str
    args: list[str]
    options: Mapping[str, Any]


@dataclass
class Commands:
    """A fake of processes: records commands, and returns prepared results."""

    calls: list[Call] = field(default_factory=list)
    answers: list[tuple[list[str], process.Result, Callable[[list[str]], object]]] = field(
        default_factory=list
    )

    @property
    def args(self) -> list[list[str]]:
        return [call.args for call in self.calls]

    def answer(
        self,
        *contains: str,
        code: int = 0,
        stdout: str = "",
        stderr: str = "",
        does: Callable[[list[str]], object] = lambda _words: None,
    ) -> None:
        """Set the result of commands that contain these words in this order; the last call wins.

        `does` is called with the command, and may raise.
        """
        self.answers.insert(0, (list(contains), process.Result(code, stdout, stderr), does))

    def _record(
        self, verb: str, args: process.Arguments, options: Mapping[str, Any]
    ) -> process.Result:
        words = [os.fspath(arg) for arg in args]
        self.calls.append(Call(verb, words, options))
        for pattern, result, does in self.answers:
            rest = iter(words)
            if all(word in rest for word in pattern):
                does(words)
                return result
        return process.Result(0, "", "")

    def probe(self, args: process.Arguments, **options: Any) -> process.Result:
        return self._record("probe", args, options)

    def run(self, args: process.Arguments, **options: Any) -> None:
        result = self._record("run", args, options)
        if not result.ok:
            error = options.get("error", BuildError)
            raise error(process.show(args), options.get("hint", ""))

    def stream(
        self, args: process.Arguments, on_line: Callable[[str], None], **options: Any
    ) -> int:
        result = self._record("stream", args, options)
        for line in result.stdout.splitlines():
            on_line(line)
            options.get("on_tick", lambda: None)()
        return result.code


def elf(arch: str = "riscv64", *, bits: int = 64, interpreter: str = "", needed: str = "") -> bytes:
    """A program that has only headers; `needed` is a shared library that it requires."""
    if bits == 32:
        ident = b"\x7fELF\x01\x01\x01" + bytes(9)
        return ident + struct.pack("<HHIIIIIHHHHHH", 2, MACHINES[arch], 1, 0, 52, 0, 0, 52, 32, 0, 40, 0, 0)  # fmt: skip
    segments: list[tuple[int, bytes]] = []
    if interpreter:
        segments.append((3, interpreter.encode() + b"\0"))
    strings = b"\0" + needed.encode() + b"\0"
    count = len(segments) + (2 if needed else 0)
    start = 64 + 56 * count
    headers, content = b"", b""
    for kind, data in segments:
        at = start + len(content)
        headers += struct.pack("<IIQQQQQQ", kind, 4, at, at, at, len(data), len(data), 1)
        content += data
    if needed:
        at = start + len(content)
        dynamic = struct.pack("<8Q", 1, 1, 5, at + 64, 10, len(strings), 0, 0)
        end = len(dynamic + strings)
        headers += struct.pack("<IIQQQQQQ", 2, 6, at, at, at, 64, 64, 8)
        headers += struct.pack("<IIQQQQQQ", 1, 6, at, at, at, end, end, 8)
        content += dynamic + strings
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    table = 64 if count else 0
    fields = (2, MACHINES[arch], 1, 0, table, 0, 0, 64, 56, count, 64, 0, 0)
    return ident + struct.pack("<HHIQQQIHHHHHH", *fields) + headers + content


def _bundled_info(command: str, target: Target, **settings: str) -> dict[str, Any]:
    (one,) = [c for c in bundle.COMPONENTS if command in c.packages]
    version = VERSIONS[one.name]
    tags = {"-tags": ",".join(one.tags)} if one.tags else {}
    return {
        "GoVersion": "go1.26.10",
        "Path": one.commands(version)[command],
        "Main": {"Path": one.module(version), "Version": version, "Sum": SUM},
        "Deps": [{"Path": "golang.org/x/sys", "Version": "v0.38.0", "Sum": SUM}],
        "Settings": {
            "GOOS": "linux", "GOARCH": str(target.arch), "CGO_ENABLED": str(int(one.cgo)),
            "-trimpath": "true", **tags,
            target.arch.level_variable: target.level or target.arch.default_level, **settings,
        },
    }  # fmt: skip


def build_info(command: str, target: Target, **settings: str) -> dict[str, Any]:
    """The build info that Go's linker records in a valid program."""
    if command in dist.BUNDLE:
        return _bundled_info(command, target, **settings)
    return {
        "GoVersion": "go1.26.10",
        "Path": f"{MODULE}/cmd/{command}",
        "Main": {"Path": MODULE, "Version": "v0.32.2", "Sum": SUM},
        "Deps": [
            {"Path": "github.com/Azure/azure-sdk", "Version": "v1.0.0", "Sum": SUM},
            {
                "Path": "example.com/old", "Version": "v1.0.0",
                "Replace": {"Path": "example.com/fork", "Version": "v1.0.1", "Sum": SUM},
            },
        ],
        "Settings": {
            "GOOS": "linux", "GOARCH": str(target.arch), "CGO_ENABLED": "0", "-trimpath": "true",
            target.arch.level_variable: target.level or target.arch.default_level,
            "-tags": ",".join(compiler.TAGS), **settings,
        },
    }  # fmt: skip


def make_source(**changes: Any) -> source.Source:
    """The pinned module as a source, with changes."""
    values: dict[str, Any] = {
        "kind": source.Kind.MODULE, "directory": Path("/upstream"),
        "location": f"{MODULE}@v0.32.2", "version": "v0.32.2", "revision": COMMIT, "time": TIME,
        "dirty": False, "pinned": True, "sum": SUM, "state": "state",
    }  # fmt: skip
    return source.Source(**values | changes)


def record_of_build(digest: str = f"sha256:{'0' * 64}") -> dict[str, Any]:
    """The value of `build` in a manifest."""
    return {
        "via": "go", "flags": ["-trimpath"], "environment": {"CGO_ENABLED": "0"},
        "inputs": digest, "started": "2026-08-05T00:00:00Z", "finished": "2026-08-05T00:01:40Z",
        "seconds": 100.0,
    }  # fmt: skip


def record_of_bundle(target: Target) -> dict[str, Any]:
    """The value of `bundle` in a manifest."""
    state = f"{SUM} state"
    parts = [
        bundle.Part(component=one, release=PINS.bundle[one.name], sum=SUM, state=state)
        for one in bundle.COMPONENTS
    ]
    return {
        "components": [
            {**part.as_json(target), **({"c": C} if part.component.cgo else {})} for part in parts
        ],
        "go": {"version": GO.version, "origin": GO.origin, "sum": GO.sum},
        "host": host.facts().as_json(),
        "inputs": bundle.inputs(parts, target, PINS),
        "started": "2026-08-05T00:00:00Z", "finished": "2026-08-05T00:01:40Z", "seconds": 100.0,
    }  # fmt: skip


def answers(commands: Commands, directory: Path) -> None:
    """Prepare valid output of the bundle's programs in a directory."""
    for command in dist.BUNDLE:
        path = str(directory / dist.binary(command))
        if command.startswith(check.CNI):
            about = f"CNI {command.removeprefix(check.CNI)} plugin v1.9.1\nCNI protocol versions\n"
            supported = json.dumps({"cniVersion": "1.1.0", "supportedVersions": ["0.4.0", "1.0.0"]})
            commands.answer(path, stdout=supported, stderr=about)
    runc, rootlesskit = (str(directory / "bin" / name) for name in ("buildkit-runc", "rootlesskit"))
    commands.answer(runc, "--version", stdout="runc version 1.4.3\nspec: 1\nlibseccomp: 2.6.0\n")
    commands.answer(rootlesskit, "--version", stdout="rootlesskit version 3.0.1\n")


def describe(stage: Path, target: Target, *, bundled: bool = False, **changes: Any) -> Path:
    """Fill a directory as a build does, with programs that have only headers."""
    (stage / "bin").mkdir(parents=True)
    for command in (*dist.COMMANDS, *(dist.BUNDLE if bundled else ())):
        path = stage / dist.binary(command)
        path.write_bytes(elf(target.arch) + command.encode())
        path.chmod(0o755)
    upstream = make_source(**changes)
    digest = build.inputs(upstream, target, build.BuildMethod.GO, PINS)
    head = build._head(upstream, GO, record_of_build(digest), target)
    if bundled:
        head["bundle"] = record_of_bundle(target)
    build._describe(stage, head, GO, target, None)
    return stage


def edit_manifest(directory: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Change a manifest, and update the checksums."""
    path = directory / dist.MANIFEST
    manifest = json.loads(path.read_text())
    edit(manifest)
    path.write_text(json.dumps(manifest))
    if all(isinstance(file, dict) and file.keys() >= {"name", "sha256"} for file in manifest.get("files", [])):  # fmt: skip
        files: Sequence[Any] = [
            *manifest.get("files", []),
            *dist.record(directory, [dist.MANIFEST]),
        ]
        (directory / dist.SUMS).write_text(dist.sums(files))


def fake_file(monkeypatch: pytest.MonkeyPatch, files: dict[str, str]) -> None:
    """Replace all files by these."""
    monkeypatch.setattr(Path, "exists", lambda self: str(self) in files)

    def read(self: Path) -> str:
        if str(self) not in files:
            raise FileNotFoundError(2, "No such file or directory", str(self))
        return files[str(self)]

    monkeypatch.setattr(Path, "read_text", read)
