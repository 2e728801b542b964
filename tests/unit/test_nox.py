"""`./nox`: the overview, and arguments."""

from __future__ import annotations

import collections
import re
import subprocess
import sys
from typing import Any

import nox.registry
import pytest

from buildkit_riscv64 import nox as front
from buildkit_riscv64.core import project


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The sessions of noxfile.py; nox has one registry for the whole process."""
    monkeypatch.setattr(nox.registry, "_REGISTRY", collections.OrderedDict())
    found = dict(front.sessions())
    monkeypatch.setattr(nox.registry, "_REGISTRY", collections.OrderedDict())
    return found


def test_overview(listed: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    front.print_overview()
    output = capsys.readouterr().out
    assert all(re.search(rf"^  {name}\b", output, re.MULTILINE) for name in listed)
    assert all(command in output for command, _ in front.FIRST)
    assert max(map(len, output.splitlines())) <= 88


def test_groups(listed: dict[str, Any]) -> None:
    tags = {tag for one in listed.values() for tag in one.tags or [""]}
    assert tags == set(front.GROUPS)


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *command], cwd=project.ROOT, capture_output=True, text=True,
        stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("module", ["nox", "buildkit_riscv64.nox"])
def test_no_arguments(module: str) -> None:
    done = run(module)
    assert done.returncode == 0
    assert "Running session" not in done.stderr
    assert "unit" in done.stdout


def test_arguments() -> None:
    done = run("buildkit_riscv64.nox", "--session", "nosuch")
    assert done.returncode != 0
    assert "nosuch" in done.stderr


def test_invoke_test_names_sessions(listed: dict[str, Any]) -> None:
    """Without session names, nox would run nothing and succeed."""
    done = run("buildkit_riscv64", "--dry", "test")
    assert done.returncode == 0
    words = done.stderr.split()
    named = words[words.index("--sessions") + 1 :]
    assert {"lint", "types", "tests", "validate"} <= set(named) <= listed.keys()
