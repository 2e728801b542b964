"""Fixtures of the machine tests: a base, a machine, recorded commands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from buildkit_riscv64.core import dist, process
from buildkit_riscv64.machine import base_disk as bases
from buildkit_riscv64.machine.base_disk import BaseDisk
from buildkit_riscv64.machine.machines import Machine

from ..factories import PINS, Call, Commands

#: Files of the emulator.
IN_EMULATOR = tuple(
    f"{bases.EMULATOR_DIRECTORY}/{name}"
    for name in (bases.LOADER, bases.PROGRAM, bases.FIRMWARE, "libz.so.1")
)
ID = "0123456789abcdef0123456789abcdef"


class MachineCommands(Commands):
    """Records the process functions that only machines use, too."""

    def attached(self, args: process.Arguments, **options: object) -> int:
        return self._record("attached", args, options).code

    def pipe_through(self, args: process.Arguments, data: bytes, **options: object) -> bytes:
        return self._record("pipe_through", args, {**options, "data": data}).stdout.encode()

    @property
    def last(self) -> Call:
        return self.calls[-1]


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> MachineCommands:
    recorded = MachineCommands()
    for verb in ("probe", "run", "stream", "attached", "pipe_through"):
        monkeypatch.setattr(process, verb, getattr(recorded, verb))
    return recorded


def make_base(path: Path) -> BaseDisk:
    """Create a base with placeholder content."""
    (path / bases.EMULATOR_DIRECTORY).mkdir(parents=True)
    for name in (*bases.FILES, *IN_EMULATOR):
        (path / name).write_bytes(f"content of {name}\n".encode())
    (path / dist.SUMS).write_text(BaseDisk(path).sums())
    return BaseDisk(path)


@pytest.fixture
def base() -> BaseDisk:
    """A cached base for the tests' pins."""
    return make_base(bases.bases() / bases.recipe_hash(PINS))


def make_machine(base: BaseDisk, name: str) -> Machine:
    """Create a machine that has never been started."""
    path = base.path.parents[1] / "machines" / name
    path.mkdir(mode=0o700, parents=True)
    for kind in ("host", "user"):
        (path / f"{kind}_key").write_text(f"{kind} private\n")
        (path / f"{kind}_key.pub").write_text(f"ssh-ed25519 {kind}public {kind} {name}\n")
    settings = {
        "id": ID, "base": base.path.name, "created": 1, "cpus": 2, "memory": "8G", "disk": "40G",
    }  # fmt: skip
    (path / "machine.json").write_text(json.dumps(settings))
    return Machine(path)


@pytest.fixture
def machine(base: BaseDisk) -> Machine:
    """A machine that has never been started."""
    return make_machine(base, "one")
