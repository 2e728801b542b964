from __future__ import annotations

import re
import subprocess
import sys

import pytest

from buildkit_riscv64.core import project
from buildkit_riscv64.core.errors import UsageError
from buildkit_riscv64.system import apt
from buildkit_riscv64.validation import suites
from buildkit_riscv64.validation.suites import SUITES

REAL = project.ROOT


@pytest.mark.parametrize(
    ("only", "names"),
    [
        ("", list(SUITES)), ("buildx", ["buildx"]), ("buildx,standalone", ["standalone", "buildx"]),
        ("buildx,buildx", ["buildx"]), ("buildx,", ["buildx"]), (",", list(SUITES)),
    ],
)  # fmt: skip
def test_only(only: str, names: list[str]) -> None:
    assert [suite.name for suite in suites.parse(only)] == names


@pytest.mark.parametrize("only", ["all", "Buildx", "buildx standalone", "../unit", "-k"])
def test_unknown_suite(only: str) -> None:
    with pytest.raises(UsageError, match="--only") as caught:
        suites.parse(only)
    assert all(name in caught.value.hint for name in SUITES)


@pytest.mark.parametrize("name", SUITES)
def test_suite_has_a_directory_and_installable_tools(name: str) -> None:
    assert (REAL / SUITES[name].directory).is_dir()
    assert set(SUITES[name].tools) <= apt.PACKAGES.keys()


def test_every_directory_is_a_suite() -> None:
    directories = {path.parent.name for path in (REAL / suites.SCENARIOS).glob("*/__init__.py")}
    assert directories == SUITES.keys()


@pytest.mark.parametrize("name", SUITES)
def test_scenarios_of_this_checkout(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The same as pytest collects."""
    monkeypatch.setattr(project, "ROOT", REAL)
    collected = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider",
         SUITES[name].directory],
        cwd=REAL, check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    found = re.findall(r"test_(\w+)\.py::(\w+)", collected)
    assert found
    scenarios = SUITES[name].scenarios()
    assert scenarios.keys() == set(found)
    assert not all(scenarios.values())


def test_scenario_that_may_be_not_proven(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(project, "ROOT", REAL)
    scenarios = SUITES["standalone"].scenarios()
    assert scenarios["faults", "test_cgroups"] is True
    assert scenarios["dockerfile", "test_heredocs"] is False


def test_tools_are_unique() -> None:
    tools = suites.tools(SUITES.values())
    assert tools == sorted(set(tools))
    assert {"runc", "rootlesskit", "newuidmap"} <= set(tools)
    assert "rootlesskit" not in suites.tools([SUITES["standalone"]])
