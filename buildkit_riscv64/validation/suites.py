"""The suites: what each one validates and needs; outcomes of scenarios."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from ..core import project
from ..core.errors import UsageError

#: The command for users other than root; root's PATH has no activated environment.
AS_ROOT = "sudo ./invoke validate"
#: The directory of the suites.
SCENARIOS = Path("buildkit_riscv64/validation/scenarios")

#: The pytest marker of a scenario that some machines cannot run. Every other scenario must run.
MAY_BE_NOT_PROVEN = "may_be_not_proven"

#: Commands that every suite calls. A docker engine and a registry are unpacked instead:
#: installed, they would be services on this machine.
_COMMON = ("git", "mmdebstrap", "openssl", "runc", "skopeo")


class ScenarioOutcome(StrEnum):
    """The result of a scenario."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_PROVEN = "not proven"


def counts(scenarios: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """The number of scenarios by outcome."""
    numbers = Counter(scenario["outcome"] for scenario in scenarios)
    return {str(outcome): numbers[outcome] for outcome in ScenarioOutcome}


@dataclass(frozen=True)
class Suite:
    """A directory of scenarios.

    Args:
        name: the name of the directory.
        proves: what the suite validates, in a few words.
        tools: commands that its scenarios call.
        images: whether it uses the images too.
        emulators: whether it runs programs of other platforms.
    """

    name: str
    proves: str
    tools: tuple[str, ...] = ()
    images: bool = False
    emulators: bool = False

    @property
    def directory(self) -> Path:
        """Its scenarios, relative to the checkout."""
        return SCENARIOS / self.name

    def scenarios(self) -> dict[tuple[str, str], bool]:
        """The scenarios of this checkout by group and function, without their parameters.

        Reads the source and imports nothing, so that `status` stays fast.

        Returns:
            For each scenario, whether it may end as not proven.
        """
        return {
            (group_of(path), node.name): any(
                MAY_BE_NOT_PROVEN in ast.unparse(one) for one in node.decorator_list
            )
            for path in sorted((project.ROOT / self.directory).glob("test_*.py"))
            for node in ast.parse(path.read_bytes()).body
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
        }


def group_of(path: Path) -> str:
    """The name of the scenarios in a file."""
    return path.stem.removeprefix("test_")


#: Every suite, in execution order.
SUITES = {
    suite.name: suite
    for suite in (
        Suite("standalone", "the binaries alone", (*_COMMON, "ssh", "xz", "zstd")),
        Suite("buildx", "the image in docker, and remote builders", _COMMON, images=True),
        Suite(
            "rootless", "as an ordinary user",
            (*_COMMON, "fuse-overlayfs", "ip", "newuidmap", "rootlesskit", "slirp4netns"), images=True,
        ),
        Suite("platforms", "building for other architectures", (*_COMMON, "go", "umoci"), emulators=True),
    )
}  # fmt: skip


def parse(only: str) -> list[Suite]:
    """The suites that `--only` names, in execution order; all suites if it is empty.

    Raises:
        UsageError: unknown suite.
    """
    wanted = {name for name in only.split(",") if name} or set(SUITES)
    if unknown := sorted(wanted - SUITES.keys()):
        raise UsageError(f"--only {only}: no suite {unknown[0]!r}", f"one of: {', '.join(SUITES)}")
    return [suite for name, suite in SUITES.items() if name in wanted]


def tools(suites: Iterable[Suite]) -> list[str]:
    """The commands that suites call."""
    return sorted({tool for suite in suites for tool in suite.tools})
