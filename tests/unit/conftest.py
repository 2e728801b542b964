"""What the unit tests share: a machine and a checkout that are nobody's."""

from __future__ import annotations

import functools
import json
import os
import platform
import re
import shutil
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import fastjsonschema
import pytest

from buildkit_riscv64 import dist, host, process, project
from buildkit_riscv64.arch import Target
from buildkit_riscv64.binaries import bundle, check, elf
from buildkit_riscv64.image.variants import Variant
from buildkit_riscv64.validation import evidence, subject, suites
from buildkit_riscv64.validation.subject import Subject

from . import making
from .image.picture import Picture
from .validation.scenes import TARGET, Publish


@pytest.fixture(autouse=True)
def _nobodys_machine(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:  # fmt: skip
    """No test sees the user's settings, or writes to the user's home."""
    for name in list(os.environ):
        if re.match(r"(GO|CI$|GITHUB_|INVOKE_|GIT_|XDG_|TMPDIR)", name):
            monkeypatch.delenv(name)
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "cache"))
    host.execution.cache_clear()


@pytest.fixture(scope="session", autouse=True)
def _schemas_are_compiled_once() -> Iterator[None]:
    """A build does it once, and the tests would do it a thousand times."""
    compile_ = fastjsonschema.compile
    compiled = functools.cache(lambda text: compile_(json.loads(text)))

    def validate(schema: Any, value: Any) -> Any:
        return compiled(json.dumps(schema))(value)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fastjsonschema, "validate", validate)
        yield


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long was waited; nobody waits."""
    seconds: list[float] = []
    monkeypatch.setattr(time, "sleep", seconds.append)
    return seconds


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The commands that are there."""
    there: set[str] = {"apt-get", "sudo"}
    monkeypatch.setattr(process, "which", lambda name: Path("/usr/bin", name) if name in there else None)  # fmt: skip
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return there


@pytest.fixture
def checkout(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A checkout of ours with pins and nothing built."""
    root = tmp_path / "checkout"
    (root / "upstream").mkdir(parents=True)
    (root / "buildkit").mkdir()
    (root / "pins.toml").write_text(
        f"""# A comment that stays.
[buildkit]
version = "v0.32.2"
commit = "{making.COMMIT}"
time = 2026-08-04T12:27:40Z

[go]
version = "1.26.10"
"""
        + "".join(
            f'\n[bundle.{name}]\nversion = "{version}"\ntime = 2026-08-04T12:27:40Z\n'
            for name, version in making.VERSIONS.items()
        )
    )
    for one in bundle.COMPONENTS:
        folder, version = root / "upstream" / one.name, making.VERSIONS[one.name]
        folder.mkdir()
        required = f"{one.module(version)} {version}"
        (folder / "go.mod").write_text(f"module x\n\nrequire (\n\t{required} // indirect\n)\n")
        (folder / "go.sum").write_text(f"{required} {making.SUM}\n")
    (root / "upstream" / "go.mod").write_text(
        "module buildkit-riscv64.invalid/upstream\n\n"
        "require github.com/moby/buildkit v0.32.2 // indirect\n"
    )
    (root / "upstream" / "go.sum").write_text(
        f"github.com/moby/buildkit v0.32.2 {making.SUM}\n"
        "github.com/moby/buildkit v0.32.2/go.mod h1:another=\n"
    )
    for name, path in {
        "ROOT": root, "PINS": root / "pins.toml", "UPSTREAM_MODULE": root / "upstream",
        "SUBMODULE": root / "buildkit", "DIST": root / "dist",
    }.items():  # fmt: skip
        monkeypatch.setattr(project, name, path)
    return root


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> making.Commands:
    """Nothing is started; what would have been is recorded."""
    recorded = making.Commands()
    for verb in ("probe", "run", "stream"):
        monkeypatch.setattr(process, verb, getattr(recorded, verb))
    return recorded


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Pretend to run on another machine, by its `uname -m`."""

    def pretend(machine: str) -> None:
        monkeypatch.setattr(platform, "machine", lambda: machine)

    return pretend


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = Target.parse("linux-riscv64")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(platform, "machine", lambda: "riscv64")
        patch.setattr(
            elf, "read_build_info", lambda path, _go: making.build_info(path.name, target)
        )
        return making.describe(tmp_path_factory.mktemp("finished") / target.name, target)


@pytest.fixture
def finished(
    checkout: Path, pristine: Path, monkeypatch: pytest.MonkeyPatch, on: Callable[[str], None]
) -> Path:
    """A finished dist/linux-riscv64, as a build on riscv64 makes it; this is that machine."""
    on("riscv64")
    for module in (elf, check):
        monkeypatch.setattr(
            module,
            "read_build_info",
            lambda path, _go: making.build_info(path.name, Target.parse("linux-riscv64")),
        )
    return Path(shutil.copytree(pristine, project.DIST / pristine.name))


@pytest.fixture
def complete_dist(finished: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """dist/linux-riscv64 with binaries and both images; this is that machine, and we are root."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(host, "execution", lambda: host.Execution.NATIVE)
    monkeypatch.chdir(project.ROOT)
    for variant in Variant:
        picture = Picture(dist.load(finished), variant)
        if variant is Variant.ROOTLESS:
            picture.layers = [*picture.layers[:2], [], *picture.layers[2:], []]
        picture.finish()
    return finished


@pytest.fixture
def found(complete_dist: Path) -> Subject:
    """What is validated: all of it."""
    return subject.find(TARGET, list(suites.SUITES.values()))


@pytest.fixture
def publish(found: Subject, tmp_path: Path) -> Publish:
    """Puts results of suites into dist/, after those that are there."""

    def put(results: Mapping[str, Any], made: Path = tmp_path / "nothing") -> dist.Artifacts:
        place = dist.evidence_folder(TARGET)
        previous = evidence.load(place) if place.exists() else None
        document, _ = evidence.assemble(found, results, previous.manifest if previous else None)
        with dist.lock(TARGET):
            return evidence.publish(found, document, made, previous.path if previous else None)

    return put


@pytest.fixture
def bundled(finished: Path) -> Path:
    """The same with a bundle."""
    shutil.rmtree(finished)
    return making.describe(finished, Target.parse("linux-riscv64"), bundled=True)


@pytest.fixture
def script(tmp_path: Path) -> Callable[[str, str], Path]:
    """Writes a shell script that plays a command."""

    def write(name: str, body: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return path

    return write
