from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from buildkit_riscv64.binaries import toolchain
from buildkit_riscv64.core import dry_run, project
from buildkit_riscv64.core.errors import NetworkError, SourceError, UsageError
from buildkit_riscv64.upstream import update_go

from ..factories import GO, Commands

SUMS = """
[go.sums]
linux-amd64 = "h1:old-amd64="
linux-arm64 = "h1:old-arm64="
"""


@pytest.fixture
def pinned(checkout: Path, commands: Commands, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Pins with hashes; upstream needs Go 1.26.3; the proxy has 1.26.11."""
    monkeypatch.setattr(toolchain, "bootstrap", lambda _pins: GO)
    monkeypatch.setattr(toolchain, "_settings", lambda _command: {})
    project.PINS.write_text(project.PINS.read_text() + SUMS)
    with (checkout / "pins" / "upstream" / "go.mod").open("a") as file:
        file.write("\ngo 1.26.3\n")
    for platform in ("linux-amd64", "linux-arm64"):
        reported = {"Sum": f"h1:new-{platform}=", "Dir": "/x"}
        commands.answer(
            f"golang.org/toolchain@v0.0.1-go1.26.11.{platform}", stdout=json.dumps(reported)
        )
    return checkout


@pytest.mark.parametrize("version", ["1.26.11", "go1.26.11"])
def test_update_version_and_hashes(pinned: Path, version: str) -> None:
    before = tomllib.loads(project.PINS.read_text())
    update_go.update(version)
    after = tomllib.loads(project.PINS.read_text())
    assert after["go"] == {
        "version": "1.26.11",
        "sums": {"linux-amd64": "h1:new-linux-amd64=", "linux-arm64": "h1:new-linux-arm64="},
    }
    assert after["buildkit"] == before["buildkit"]
    assert "# A comment that stays." in project.PINS.read_text()


def test_dry(pinned: Path, commands: Commands, capsys: pytest.CaptureFixture[str]) -> None:
    before = project.PINS.read_text()
    with dry_run.running(dry=True):
        update_go.update("1.26.11")
    assert project.PINS.read_text() == before
    assert commands.calls == []
    output = capsys.readouterr().err
    assert output.count("would run: /go/bin/go mod download") == 2
    assert "would write" in output


@pytest.mark.parametrize(
    ("version", "message"),
    [
        ("1.26", "is not a release"), ("1.27rc1", "is not a release"), ("v1.26.11", "is not a release"),
        ("--help", "is not a release"), ("1.26.11\n", "is not a release"),
        ("1.26.2", "1.26.3"), ("1.9.9", "too old"),
    ],
)  # fmt: skip
def test_invalid_version(pinned: Path, commands: Commands, version: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        update_go.update(version)
    assert commands.calls == []


def test_failed_fetch_changes_nothing(pinned: Path, commands: Commands) -> None:
    before = project.PINS.read_text()
    error = json.dumps({"Error": "unexpected status: 404 Not Found: not found"})
    commands.answer("golang.org/toolchain@v0.0.1-go1.26.11.linux-arm64", code=1, stdout=error)
    with pytest.raises(NetworkError, match=r"cannot fetch go1.26.11 for linux-arm64"):
        update_go.update("1.26.11")
    assert project.PINS.read_text() == before


def test_older_release_is_noted(
    pinned: Path, commands: Commands, capsys: pytest.CaptureFixture[str]
) -> None:
    commands.answer("download", stdout=json.dumps({"Sum": "h1:x="}))
    update_go.update("1.26.9")
    assert "older release" in capsys.readouterr().err


def test_upstream_without_a_go_version(pinned: Path) -> None:
    (pinned / "pins" / "upstream" / "go.mod").write_text("module x\n")
    with pytest.raises(SourceError, match=r"go\.mod"):
        update_go.update("1.26.11")


def test_go_version_of_the_real_upstream() -> None:
    assert update_go.needed().startswith("1.")


def test_go_version_of_upstream_in_other_digits(pinned: Path) -> None:
    (pinned / "pins" / "upstream" / "go.mod").write_text("module x\n\ngo ٣.٢٦.٣\n")
    with pytest.raises(SourceError):
        update_go.needed()
