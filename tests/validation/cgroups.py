"""Control groups of a test's own, of either version; gone with all below them afterwards."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator
from pathlib import Path

from ..processes import eventually
from .scenario import not_proven

MOUNT = Path("/sys/fs/cgroup")
#: The version that this host has; a hybrid one has its limits in version 1.
VERSION = 2 if (MOUNT / "cgroup.controllers").exists() else 1


def require(*controllers: str) -> None:
    """End a scenario on a host whose control groups lack a controller, as some kernels' do."""
    if VERSION == 2:
        lacking = set(controllers) - set((MOUNT / "cgroup.controllers").read_text().split())
        if lacking:
            not_proven(
                f"the control groups of this machine do not limit {', '.join(sorted(lacking))}"
            )


class Cgroup:
    """A group below the root, with one below for builds, and one for what starts them.

    Args:
        name: of its own.
        pids: processes and threads that may be in it and below.
        memory: bytes that builds may use together; 0 for all that there are.
    """

    def __init__(self, name: str, pids: int, memory: int = 0) -> None:
        self._name = name
        #: What cgroup-parent is to be.
        self.builds = f"{name}/builds"
        (self._place("pids") / "daemon").mkdir(parents=True)
        (self._place("pids") / "pids.max").write_text(str(pids))
        if VERSION == 2:
            (self._place("pids") / "cgroup.subtree_control").write_text("+pids +memory")
        builds = self._place("memory") / "builds"
        builds.mkdir(parents=True)
        if memory:
            limit = builds / ("memory.max" if VERSION == 2 else "memory.limit_in_bytes")
            limit.write_text(str(memory))

    def _place(self, controller: str) -> Path:
        return MOUNT / self._name if VERSION == 2 else MOUNT / controller / self._name

    def _folders(self) -> list[Path]:
        """It and all below, in each hierarchy; the deepest first."""
        tops = MOUNT.glob(self._name if VERSION == 2 else f"*/{self._name}")
        found = [folder for top in tops for folder in (top, *top.rglob("*/")) if folder.is_dir()]
        return sorted(found, key=lambda folder: len(folder.parts), reverse=True)

    def joining(self) -> list[str]:
        """What to put before a command that is to be in it, though not in that for builds.

        In version 2 what has groups with limits below it has no processes of its own.
        """
        return [
            "sh", "-c", f'echo $$ >{self._place("pids")}/daemon/cgroup.procs && exec "$@"', "sh",
        ]  # fmt: skip

    def count(self) -> int:
        """How many processes and threads there are in it and below."""
        return int((self._place("pids") / "pids.current").read_text())

    def steps(self) -> list[Path]:
        """The groups of the builds' steps that there are, where processes are counted."""
        return list((self._place("pids") / "builds" / "buildkit").glob("*/"))

    def has(self, pid: int) -> bool:
        """True when its limit of processes holds for this one, as the kernel says."""
        groups = Path(f"/proc/{pid}/cgroup").read_text()
        hierarchy = ":" if VERSION == 2 else ":pids"
        return f"{hierarchy}:/{self._name}/" in groups

    def remove(self) -> None:
        """Remove it, as soon as what was in it has ended."""

        def gone() -> bool:
            for folder in self._folders():
                with contextlib.suppress(OSError):
                    folder.rmdir()
            return not self._folders()

        assert eventually(gone), f"left behind: {self._folders()}"


@contextlib.contextmanager
def cgroup(pids: int, memory: int = 0) -> Iterator[Cgroup]:
    """A group with limits, removed afterwards."""
    require("pids", "memory")
    made = Cgroup(f"validation-{secrets.token_hex(4)}", pids, memory)
    try:
        yield made
    finally:
        made.remove()
