from __future__ import annotations

import pytest

from buildkit_riscv64 import apt, project
from buildkit_riscv64.errors import UsageError
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
def test_no_such_suite(only: str) -> None:
    with pytest.raises(UsageError, match="no suite") as caught:
        suites.parse(only)
    assert caught.value.hint == "one of: standalone, buildx, rootless, platforms"


@pytest.mark.parametrize("name", SUITES)
def test_a_suite_is_a_folder_and_its_tools_can_be_installed(name: str) -> None:
    assert (REAL / SUITES[name].folder).is_dir()
    assert set(SUITES[name].tools) <= apt.PACKAGES.keys()


def test_every_folder_is_a_suite() -> None:
    folders = {path.parent.name for path in (REAL / suites.SCENARIOS).glob("*/__init__.py")}
    assert folders == SUITES.keys()


def test_tools_are_named_once() -> None:
    tools = suites.tools(SUITES.values())
    assert tools == sorted(set(tools))
    assert {"runc", "rootlesskit", "newuidmap"} <= set(tools)
    assert "rootlesskit" not in suites.tools([SUITES["standalone"]])
