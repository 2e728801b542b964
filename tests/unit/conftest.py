"""Fixtures of the unit tests: an isolated machine and checkout."""

from __future__ import annotations

import os
import platform
import shutil
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from buildkit_riscv64 import doctor  # noqa: F401 - it registers the checks of every phase
from buildkit_riscv64.binaries import bundle, check, elf
from buildkit_riscv64.core import dist, durations, host, process, project
from buildkit_riscv64.core.arch import Target
from buildkit_riscv64.image.variants import Variant
from buildkit_riscv64.system import apt, debian, host_checks
from buildkit_riscv64.validation import artifacts, evidence, suites
from buildkit_riscv64.validation.artifacts import Subject

from . import factories
from .image.fake_image import FakeImage
from .validation.factories import TARGET, Publish


@pytest.fixture(autouse=True)
def _nobodys_machine(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """Isolate tests from the user's settings and home."""
    for name in list(os.environ):
        if name != "PATH" and not name.startswith("PYTEST_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    umask = os.umask(0o022)
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "cache"))
    cached = (host.execution, debian.archives)
    for function in cached:
        function.cache_clear()
    yield
    # Other tests in this process use the real machine.
    for function in cached:
        function.cache_clear()
    os.umask(umask)


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The announced steps, each with a recorded duration."""
    found: list[str] = []
    announced = durations.announced

    def note(title: str, *names: str, **options: Any) -> AbstractContextManager[None]:
        found.extend(names)
        return announced(title, *names, **options)

    monkeypatch.setattr(durations, "announced", note)
    yield found
    assert set(found) <= durations.RECORDED.keys()


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The requested pauses, in seconds; `time.sleep` returns at once."""
    seconds: list[float] = []
    monkeypatch.setattr(time, "sleep", seconds.append)
    return seconds


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The installed commands."""
    names: set[str] = {"apt-get", "sudo"}
    monkeypatch.setattr(process, "which", lambda name: Path("/usr/bin", name) if name in names else None)  # fmt: skip
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(host_checks, "lacking_capabilities", list)
    return names


@pytest.fixture
def checkout(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A checkout of this project with pins and without artifacts."""
    root = tmp_path / "checkout"
    (root / "pins" / "upstream").mkdir(parents=True)
    (root / "buildkit").mkdir()
    (root / "pins/pins.toml").write_text(
        f"""# A comment that stays.
[buildkit]
version = "v0.32.2"
commit = "{factories.COMMIT}"
time = 2026-08-04T12:27:40Z

[go]
version = "1.26.10"
"""
        + "".join(
            f'\n[bundle.{name}]\nversion = "{version}"\ntime = 2026-08-04T12:27:40Z\n'
            for name, version in factories.VERSIONS.items()
        )
    )
    for one in bundle.COMPONENTS:
        directory, version = root / "pins" / "upstream" / one.name, factories.VERSIONS[one.name]
        directory.mkdir()
        required = f"{one.module(version)} {version}"
        (directory / "go.mod").write_text(f"module x\n\nrequire (\n\t{required} // indirect\n)\n")
        (directory / "go.sum").write_text(f"{required} {factories.SUM}\n")
    (root / "pins" / "upstream" / "go.mod").write_text(
        "module buildkit-riscv64.invalid/upstream\n\n"
        "require github.com/moby/buildkit v0.32.2 // indirect\n"
    )
    (root / "pins" / "upstream" / "go.sum").write_text(
        f"github.com/moby/buildkit v0.32.2 {factories.SUM}\n"
        "github.com/moby/buildkit v0.32.2/go.mod h1:another=\n"
    )
    for name, path in {
        "ROOT": root, "PINS": root / "pins/pins.toml", "UPSTREAM_MODULE": root / "pins" / "upstream",
        "SUBMODULE": root / "buildkit", "DIST": root / "dist",
    }.items():  # fmt: skip
        monkeypatch.setattr(project, name, path)
    return root


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> factories.Commands:
    """A fake of processes that records commands."""
    recorded = factories.Commands()
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
            elf, "read_build_info", lambda path, _go: factories.build_info(path.name, target)
        )
        return factories.describe(tmp_path_factory.mktemp("finished") / target.name, target)


@pytest.fixture
def finished(
    checkout: Path, pristine: Path, monkeypatch: pytest.MonkeyPatch, on: Callable[[str], None]
) -> Path:
    """A finished dist/linux-riscv64, on the riscv64 machine that built it."""
    on("riscv64")
    for module in (elf, check):
        monkeypatch.setattr(
            module,
            "read_build_info",
            lambda path, _go: factories.build_info(path.name, Target.parse("linux-riscv64")),
        )
    return Path(shutil.copytree(pristine, project.DIST / pristine.name))


@pytest.fixture
def complete_dist(finished: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """dist/linux-riscv64 with binaries and both images, for root on the machine that built it."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(host, "execution", lambda: host.Execution.NATIVE)
    monkeypatch.chdir(project.ROOT)
    for variant in Variant:
        fake = FakeImage(dist.load(finished), variant)
        if variant is Variant.ROOTLESS:
            fake.layers = [*fake.layers[:2], [], *fake.layers[2:], []]
        fake.finish()
    return finished


@pytest.fixture
def found(complete_dist: Path) -> Subject:
    """The artifacts of every suite."""
    return artifacts.find(TARGET, list(suites.SUITES.values()))


@pytest.fixture
def publish(found: Subject, tmp_path: Path) -> Publish:
    """Add results of suites to the evidence in dist/."""

    def put(results: Mapping[str, Any], logs: Path = tmp_path / "nothing") -> dist.Artifacts:
        directory = dist.evidence_directory(TARGET)
        previous = evidence.load(directory) if directory.exists() else None
        document, _ = evidence.assemble(found, results, previous.manifest if previous else None)
        with dist.lock(TARGET):
            return evidence.publish(found, document, logs, previous.path if previous else None)

    return put


@pytest.fixture
def bundled(finished: Path) -> Path:
    """A finished dist/linux-riscv64 with the bundle."""
    shutil.rmtree(finished)
    return factories.describe(finished, Target.parse("linux-riscv64"), bundled=True)


@pytest.fixture
def script(tmp_path: Path) -> Callable[[str, str], Path]:
    """Write a shell script that replaces a command."""

    def write(name: str, body: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return path

    return write


@pytest.fixture
def provided(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], bool]]:
    """The calls of a fake `apt.ensure_installed`: tools, and `yes`."""
    calls: list[tuple[list[str], bool]] = []
    monkeypatch.setattr(
        apt, "ensure_installed", lambda tools, yes: calls.append((list(tools), yes))
    )
    return calls
