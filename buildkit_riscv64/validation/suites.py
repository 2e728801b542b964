"""The suites: what each proves, and what it needs; and what becomes of a scenario."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from ..errors import UsageError

#: How others than root start them: what a shell has activated, root has not on its PATH.
AS_ROOT = "sudo .venv/bin/invoke validate"
#: A folder for each suite.
SCENARIOS = Path("tests/validation")

#: Commands that every suite calls. A docker engine and a registry are unpacked aside:
#: installed, these would be services on this machine.
_COMMON = ("git", "mmdebstrap", "openssl", "runc", "skopeo")


class Outcome(StrEnum):
    """What became of a scenario."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_PROVEN = "not proven"


def counts(scenarios: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """How many scenarios there are of each outcome."""
    seen = Counter(scenario["outcome"] for scenario in scenarios)
    return {str(outcome): seen[outcome] for outcome in Outcome}


@dataclass(frozen=True)
class Suite:
    """A folder of scenarios.

    Args:
        name: the folder's.
        proves: in a few words.
        tools: commands that its scenarios call.
        images: it uses the images, not the binaries alone.
        emulators: it runs programs of other platforms.
    """

    name: str
    proves: str
    tools: tuple[str, ...] = ()
    images: bool = False
    emulators: bool = False

    @property
    def folder(self) -> Path:
        """Where its scenarios are, from the checkout."""
        return SCENARIOS / self.name


#: All there are, in the order in which they run.
SUITES = {
    suite.name: suite
    for suite in (
        Suite("standalone", "the binaries alone", (*_COMMON, "ssh", "xz", "zstd")),
        Suite("buildx", "the image in docker, and remote builders", _COMMON, images=True),
        Suite(
            "rootless", "as an ordinary user",
            (*_COMMON, "fuse-overlayfs", "newuidmap", "rootlesskit", "slirp4netns"), images=True,
        ),
        Suite("platforms", "building for other architectures", (*_COMMON, "go", "umoci"), emulators=True),
    )
}  # fmt: skip


def parse(only: str) -> list[Suite]:
    """The suites that `--only` names, in their own order; all, if it names none.

    Raises:
        UsageError: there is no such suite.
    """
    wanted = {name for name in only.split(",") if name} or set(SUITES)
    if unknown := sorted(wanted - SUITES.keys()):
        raise UsageError(f"--only {only}: no suite {unknown[0]!r}", f"one of: {', '.join(SUITES)}")
    return [suite for name, suite in SUITES.items() if name in wanted]


def tools(suites: Iterable[Suite]) -> list[str]:
    """The commands that suites call."""
    return sorted({tool for suite in suites for tool in suite.tools})
