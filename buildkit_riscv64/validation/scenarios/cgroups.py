"""Control groups of a test, version 1 or 2, removed afterwards."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator
from pathlib import Path

from buildkit_riscv64.validation.environment.waiting import eventually

from .scenario import not_proven

MOUNT = Path("/sys/fs/cgroup")
#: The control group version of this host; hybrid hosts set limits in version 1.
VERSION = 2 if (MOUNT / "cgroup.controllers").exists() else 1


def require(*controllers: str) -> None:
    """End a scenario as not proven if the host lacks a controller."""
    if VERSION == 2:
        lacking = set(controllers) - set((MOUNT / "cgroup.controllers").read_text().split())
        if lacking:
            not_proven(f"this machine's control groups do not limit {', '.join(sorted(lacking))}")


class Cgroup:
    """A control group below the root, with one child for builds and one for daemons.

    Args:
        name: its name.
        pids: the maximum of processes and threads in it and below.
        memory: the maximum of bytes for all builds; 0 for no limit.
    """

    def __init__(self, name: str, pids: int, memory: int = 0) -> None:
        self._name = name
        #: The value of cgroup-parent.
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

    def _directories(self) -> list[Path]:
        """The group and its descendants in each hierarchy, deepest first."""
        tops = MOUNT.glob(self._name if VERSION == 2 else f"*/{self._name}")
        found = [path for top in tops for path in (top, *top.rglob("*/")) if path.is_dir()]
        return sorted(found, key=lambda path: len(path.parts), reverse=True)

    def joining(self) -> list[str]:
        """A command prefix that starts a command in the group, outside the child for builds.

        In version 2, a group whose children have limits cannot have processes itself.
        """
        return [
            "sh", "-c", f'echo $$ >{self._place("pids")}/daemon/cgroup.procs && exec "$@"', "sh",
        ]  # fmt: skip

    def count(self) -> int:
        """The number of processes and threads in it and below."""
        return int((self._place("pids") / "pids.current").read_text())

    def steps(self) -> list[Path]:
        """The control groups of running build steps."""
        return list((self._place("pids") / "builds" / "buildkit").glob("*/"))

    def has(self, pid: int) -> bool:
        """Whether its process limit applies to a process."""
        groups = Path(f"/proc/{pid}/cgroup").read_text()
        hierarchy = ":" if VERSION == 2 else ":pids"
        return f"{hierarchy}:/{self._name}/" in groups

    def remove(self) -> None:
        """Remove it after its processes end."""

        def gone() -> bool:
            for directory in self._directories():
                with contextlib.suppress(OSError):
                    directory.rmdir()
            return not self._directories()

        assert eventually(gone), f"left behind: {self._directories()}"


@contextlib.contextmanager
def cgroup(pids: int, memory: int = 0) -> Iterator[Cgroup]:
    """Create a group with limits; remove it afterwards."""
    require("pids", "memory")
    group = Cgroup(f"validation-{secrets.token_hex(4)}", pids, memory)
    try:
        yield group
    finally:
        group.remove()
