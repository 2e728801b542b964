"""What the tests of machines share: a base, a machine, processes that are only recorded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from buildkit_riscv64 import dist, process
from buildkit_riscv64.machine import base as bases
from buildkit_riscv64.machine.base import Base
from buildkit_riscv64.machine.machines import Machine

from ..making import PINS, Call, Commands

#: Files of the emulator.
IN_EMULATOR = tuple(
    f"{bases.EMULATOR_FOLDER}/{name}"
    for name in (bases.LOADER, bases.PROGRAM, bases.FIRMWARE, "libz.so.1")
)
ID = "0123456789abcdef0123456789abcdef"


class MachineCommands(Commands):
    """Records also what only machines start."""

    def attached(self, args: process.Arguments, **options: object) -> int:
        return self._record("attached", args, options).code

    def filtered(self, args: process.Arguments, data: bytes, **options: object) -> bytes:
        return self._record("filtered", args, {**options, "data": data}).stdout.encode()

    @property
    def last(self) -> Call:
        return self.calls[-1]


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> MachineCommands:
    recorded = MachineCommands()
    for verb in ("probe", "run", "stream", "attached", "filtered"):
        monkeypatch.setattr(process, verb, getattr(recorded, verb))
    return recorded


def make_base(path: Path) -> Base:
    """A folder as a base is, with other content."""
    (path / bases.EMULATOR_FOLDER).mkdir(parents=True)
    for name in (*bases.FILES, *IN_EMULATOR):
        (path / name).write_bytes(f"content of {name}\n".encode())
    (path / dist.SUMS).write_text(Base(path).sums())
    return Base(path)


@pytest.fixture
def base() -> Base:
    """The base of the tests' pins, in the cache."""
    return make_base(bases.bases() / bases.recipe_hash(PINS))


@pytest.fixture
def machine(base: Base) -> Machine:
    """A machine that has never been started."""
    path = base.path.parents[1] / "machines" / "one"
    path.mkdir(mode=0o700, parents=True)
    for kind in ("host", "user"):
        (path / f"{kind}_key").write_text(f"{kind} private\n")
        (path / f"{kind}_key.pub").write_text(f"ssh-ed25519 {kind}public {kind} one\n")
    settings = {
        "id": ID, "base": base.path.name, "created": 1, "cpus": 2, "memory": "8G", "disk": "40G",
    }  # fmt: skip
    (path / "machine.json").write_text(json.dumps(settings))
    return Machine(path)
