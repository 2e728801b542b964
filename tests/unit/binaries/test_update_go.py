from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from buildkit_riscv64 import project
from buildkit_riscv64.binaries import toolchain, update_go
from buildkit_riscv64.errors import NetworkError, SourceError, UsageError

from ..making import GO, Commands

SUMS = """
[go.sums]
linux-amd64 = "h1:old-amd64="
linux-arm64 = "h1:old-arm64="
"""


@pytest.fixture
def place(checkout: Path, commands: Commands, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Pins with hashes, upstream that needs 1.26.3, and a proxy that has 1.26.11."""
    monkeypatch.setattr(toolchain, "bootstrap", lambda _pins: GO)
    monkeypatch.setattr(toolchain, "_settings", lambda _command: {})
    project.PINS.write_text(project.PINS.read_text() + SUMS)
    with (checkout / "upstream" / "go.mod").open("a") as file:
        file.write("\ngo 1.26.3\n")
    for platform in ("linux-amd64", "linux-arm64"):
        told = {"Sum": f"h1:new-{platform}=", "Dir": "/x"}
        commands.answer(
            f"golang.org/toolchain@v0.0.1-go1.26.11.{platform}", stdout=json.dumps(told)
        )
    return checkout


@pytest.mark.parametrize("version", ["1.26.11", "go1.26.11"])
def test_version_and_hashes_move_together(place: Path, version: str) -> None:
    before = tomllib.loads(project.PINS.read_text())
    update_go.update(version)
    after = tomllib.loads(project.PINS.read_text())
    assert after["go"] == {
        "version": "1.26.11",
        "sums": {"linux-amd64": "h1:new-linux-amd64=", "linux-arm64": "h1:new-linux-arm64="},
    }
    assert after["buildkit"] == before["buildkit"]
    assert "# A comment that stays." in project.PINS.read_text()


def test_dry(place: Path, commands: Commands, capsys: pytest.CaptureFixture[str]) -> None:
    before = project.PINS.read_text()
    update_go.update("1.26.11", dry=True)
    assert project.PINS.read_text() == before
    assert len(commands.calls) == 2
    assert "would write pins.toml" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("version", "message"),
    [
        ("1.26", "is not a release"), ("1.27rc1", "is not a release"), ("v1.26.11", "is not a release"),
        ("--help", "is not a release"), ("1.26.11\n", "is not a release"),
        ("1.26.2", "too old for the pinned BuildKit, which needs 1.26.3"), ("1.9.9", "too old"),
    ],
)  # fmt: skip
def test_refused_at_once(place: Path, commands: Commands, version: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        update_go.update(version)
    assert commands.calls == []


def test_one_that_cannot_be_had_moves_nothing(place: Path, commands: Commands) -> None:
    before = project.PINS.read_text()
    error = json.dumps({"Error": "unexpected status: 404 Not Found: not found"})
    commands.answer("golang.org/toolchain@v0.0.1-go1.26.11.linux-arm64", code=1, stdout=error)
    with pytest.raises(NetworkError, match=r"cannot fetch go1.26.11 for linux-arm64"):
        update_go.update("1.26.11")
    assert project.PINS.read_text() == before


def test_an_older_one_is_told(place: Path, commands: Commands, capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    commands.answer("download", stdout=json.dumps({"Sum": "h1:x="}))
    update_go.update("1.26.9")
    assert "older release" in capsys.readouterr().err


def test_upstream_names_no_go(place: Path) -> None:
    (place / "upstream" / "go.mod").write_text("module x\n")
    with pytest.raises(SourceError, match="names no Go"):
        update_go.update("1.26.11")


def test_the_real_upstream_names_one() -> None:
    assert update_go.needed().startswith("1.")
