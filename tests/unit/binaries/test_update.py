from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from buildkit_riscv64 import pins, process, project
from buildkit_riscv64.binaries import toolchain, update
from buildkit_riscv64.errors import (
    Failure,
    MissingRequirementError,
    NetworkError,
    SourceError,
    UsageError,
)

from ..making import COMMIT, GO, SUM, Commands

URL = "https://github.com/moby/buildkit.git"
NEW = "1" * 40
OBJECT = "2" * 40
TAG = "v0.33.0"


@pytest.fixture
def upstream(checkout: Path, commands: Commands, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Commands:  # fmt: skip
    """A network on which all is well."""
    monkeypatch.setattr(toolchain, "ensure", lambda _pins: GO)
    monkeypatch.setattr(toolchain, "environment", lambda _go: {"GOENV": "off"})
    (tmp_path / "info").write_text(json.dumps({"Time": "2026-09-01T14:00:00+02:00"}))
    commands.answer("git", "config", stdout=f"{URL}\n")
    commands.answer("ls-remote", stdout=f"{OBJECT}\trefs/tags/{TAG}\n{NEW}\trefs/tags/{TAG}^{{}}\n")
    module(commands, tmp_path)
    probe = commands.probe

    def as_go_does(args: process.Arguments, **options: Any) -> process.Result:
        result = probe(args, **options)
        if "tidy" in args and result.ok:
            for name in ("go.mod", "go.sum"):
                path = options["cwd"] / name
                path.write_text(path.read_text().replace("v0.32.2", TAG))
        return result

    monkeypatch.setattr(process, "probe", as_go_does)
    return commands


def module(commands: Commands, tmp_path: Path, **changes: Any) -> None:
    told = {"Sum": SUM, "Info": str(tmp_path / "info"), "Origin": {"Hash": NEW}} | changes
    commands.answer("mod", "download", stdout=json.dumps(told))


def files() -> dict[str, str]:
    paths = [project.PINS, *project.UPSTREAM_MODULE.iterdir()]
    return {path.name: path.read_text() for path in paths}


def leftovers() -> list[Path]:
    return list(project.ROOT.glob(".update-*"))


def test_everything_moves_together(upstream: Commands) -> None:
    update.update(TAG)
    moved = pins.load()
    assert (moved.version, moved.commit) == (TAG, NEW)
    assert moved.time.isoformat() == "2026-09-01T12:00:00+00:00"
    assert moved.go == "1.26.10", "[go] has a version too, and it stays"
    assert project.PINS.read_text().startswith("# A comment that stays.\n")
    assert f"github.com/moby/buildkit {TAG} // indirect" in files()["go.mod"]
    assert f"github.com/moby/buildkit {TAG} {SUM}" in files()["go.sum"]
    assert leftovers() == []
    assert upstream.args[:2] == [
        ["git", "config", "--file", str(project.ROOT / ".gitmodules"), "submodule.buildkit.url"],
        ["git", "ls-remote", "--tags", URL, f"refs/tags/{TAG}", f"refs/tags/{TAG}^{{}}"],
    ]
    assert upstream.args[2:5] == [
        ["/go/bin/go", "get", f"{pins.MODULE}/cmd/buildctl@{TAG}", f"{pins.MODULE}/cmd/buildkitd@{TAG}"],
        ["/go/bin/go", "mod", "tidy"],
        ["/go/bin/go", "mod", "download", "-json", f"{pins.MODULE}@{TAG}"],
    ]  # fmt: skip
    assert upstream.args[5] == [
        "git", "-C", str(project.ROOT), "update-index", "--add", "--cacheinfo",
        f"160000,{NEW},buildkit",
    ]  # fmt: skip
    assert len(upstream.args) == 6
    assert upstream.calls[1].options["env"]["GIT_TERMINAL_PROMPT"] == "0"


def test_a_tag_that_is_no_object_of_its_own(upstream: Commands) -> None:
    upstream.answer("ls-remote", stdout=f"{NEW}\trefs/tags/{TAG}\n")
    update.update(TAG)
    assert pins.load().commit == NEW


def test_dry_writes_nothing(upstream: Commands, capsys: pytest.CaptureFixture[str]) -> None:
    before = files()
    update.update(TAG, dry=True)
    assert files() == before
    assert leftovers() == []
    assert not [call for call in upstream.calls if call.verb == "run"]
    said = capsys.readouterr().err
    assert f"v0.32.2 ({COMMIT[:12]}) -> {TAG} ({NEW[:12]}, 2026-09-01T12:00:00Z)" in said
    assert "would write" in said


def test_back_to_an_older_release_is_noted(upstream: Commands, capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    upstream.answer("ls-remote", stdout=f"{NEW}\trefs/tags/v0.9.0\n")
    update.update("v0.9.0", dry=True)
    assert "an older release than the pinned one" in capsys.readouterr().err


@pytest.mark.parametrize(
    "tag", ["v0.33.0-rc1", "master", "dockerfile/1.0.0", "--help", "", "0.33.0"]
)
def test_what_is_no_release_is_refused_at_once(upstream: Commands, tag: str) -> None:
    with pytest.raises(UsageError, match="is not a BuildKit release tag"):
        update.update(tag)
    assert upstream.calls == []


Broken = Callable[[Commands, Path], object]


@pytest.mark.parametrize(
    ("breaks", "error", "message"),
    [
        (lambda c, _t: c.answer("ls-remote"), UsageError, f"{TAG} is not a tag of {URL}"),
        (lambda c, _t: c.answer("ls-remote", code=128, stderr="Could not resolve host: github.com"), NetworkError, "Could not resolve host"),
        (lambda c, _t: c.answer("ls-remote", stdout=f"evil\trefs/tags/{TAG}\n"), Failure, "evil"),
        (lambda c, _t: c.answer("git", "config", code=1), SourceError, "git config"),
        (lambda c, _t: c.answer("get", code=1, stderr="dial tcp: i/o timeout"), NetworkError, "i/o timeout"),
        (lambda c, _t: c.answer("get", code=1, stderr="verifying: checksum mismatch"), SourceError, "checksum mismatch"),
        (lambda c, _t: c.answer("get", code=1, stderr="go: x requires go >= 1.28"), MissingRequirementError, "needs a newer Go"),
        (lambda c, _t: c.answer("tidy", code=1, stderr="toolchain not available"), MissingRequirementError, "needs a newer Go"),
        (lambda c, _t: c.answer("download", code=1, stderr="no such host"), NetworkError, "no such host"),
        (lambda c, t: module(c, t, Origin={"Hash": OBJECT}), SourceError, f"{TAG} is {NEW} in the repository and {OBJECT} in the module proxy"),
        (lambda c, _t: c.answer("update-index", code=128), SourceError, "update-index"),
    ],
)  # fmt: skip
def test_all_or_nothing(upstream: Commands, tmp_path: Path, breaks: Broken, error: type[Failure], message: str) -> None:  # fmt: skip
    before = files()
    breaks(upstream, tmp_path)
    with pytest.raises(error, match=message.replace("(", r"\(")):
        update.update(TAG)
    assert files() == before
    assert leftovers() == []


@pytest.mark.parametrize("origin", [None, {}])
def test_a_proxy_that_does_not_say_the_commit(upstream: Commands, tmp_path: Path, origin: object) -> None:  # fmt: skip
    module(upstream, tmp_path, Origin=origin)
    update.update(TAG)
    assert pins.load().commit == NEW


def test_show(upstream: Commands) -> None:
    assert update.show() == {
        "version": "v0.32.2", "commit": COMMIT, "commit time": "2026-08-04T12:27:40+00:00",
        "repository": URL, "module": "github.com/moby/buildkit@v0.32.2", "module hash": SUM,
        "Go": "go1.26.10", "source auto takes": "module (github.com/moby/buildkit@v0.32.2)",
    }  # fmt: skip


def test_show_says_what_is_wrong_with_the_source(upstream: Commands) -> None:
    (project.SUBMODULE / ".git").touch()
    upstream.answer("rev-parse", stdout=f"{NEW}\n")
    assert update.show()["source auto takes"].startswith("none: buildkit/ is at 111111111111")
