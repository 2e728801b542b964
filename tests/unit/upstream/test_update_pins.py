from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from buildkit_riscv64.binaries import bundle, toolchain
from buildkit_riscv64.core import dry_run, pins, process, project
from buildkit_riscv64.core.errors import (
    Failure,
    MissingRequirementError,
    NetworkError,
    SourceError,
    UsageError,
)
from buildkit_riscv64.upstream import update_pins

from ..factories import COMMIT, GO, SUM, Commands

URL = "https://github.com/moby/buildkit.git"
NEW = "1" * 40
OBJECT = "2" * 40
TAG = "v0.33.0"
#: The pins of upstream's Dockerfile at that tag.
PINNED = {"runc": "v1.5.0", "cni-plugins": "v1.9.1", "rootlesskit": "v4.0.0-rc.1"}
DOCKERFILE = """# syntax=docker/dockerfile-upstream:master

ARG RUNC_VERSION=v1.5.0
ARG ROOTLESSKIT_VERSION=v4.0.0-rc.1
ARG CNI_VERSION=v1.9.1
ARG DNSNAME_VERSION=v1.3.1

FROM scratch AS runc
ARG RUNC_VERSION
ADD "https://github.com/opencontainers/runc.git#$RUNC_VERSION" .
"""


@pytest.fixture
def upstream(
    checkout: Path, commands: Commands, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Commands:
    """Fake commands that succeed."""
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
            directory = options["cwd"]
            for one in bundle.COMPONENTS:
                if one.name == directory.name:
                    required = f"{one.module(PINNED[one.name])} {PINNED[one.name]}"
                    (directory / "go.sum").write_text(f"{required} {SUM}\n")
                    with (directory / "go.mod").open("a") as file:
                        file.write(f"\nrequire {required} // indirect\n")
            for name in ("go.mod", "go.sum"):
                path = directory / name
                path.write_text(path.read_text().replace("v0.32.2", TAG))
        return result

    monkeypatch.setattr(process, "probe", as_go_does)
    return commands


def module(commands: Commands, tmp_path: Path, **changes: Any) -> None:
    dockerfile(tmp_path, DOCKERFILE)
    reported = {
        "Sum": SUM, "Info": str(tmp_path / "info"), "Dir": str(tmp_path / "module"),
        "Origin": {"Hash": NEW},
    }  # fmt: skip
    commands.answer("mod", "download", stdout=json.dumps(reported | changes))


def dockerfile(tmp_path: Path, text: str) -> None:
    """Write the Dockerfile in upstream's module."""
    (tmp_path / "module").mkdir(exist_ok=True)
    (tmp_path / "module" / "Dockerfile").write_text(text)


def files() -> dict[str, str]:
    paths = [project.PINS, *project.UPSTREAM_MODULE.rglob("go.*")]
    return {str(path.relative_to(project.ROOT)): path.read_text() for path in paths}


def leftovers() -> list[Path]:
    return list(project.ROOT.glob(".update-*"))


def test_update(upstream: Commands) -> None:
    update_pins.update(TAG)
    updated = pins.load()
    assert (updated.version, updated.commit) == (TAG, NEW)
    assert updated.time.isoformat() == "2026-09-01T12:00:00+00:00"
    assert updated.go == "1.26.10", "the version in [go] stays"
    assert project.PINS.read_text().startswith("# A comment that stays.\n")
    assert f"github.com/moby/buildkit {TAG} // indirect" in files()["pins/upstream/go.mod"]
    assert f"github.com/moby/buildkit {TAG} {SUM}" in files()["pins/upstream/go.sum"]
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
    assert upstream.args[-1] == [
        "git", "-C", str(project.ROOT), "update-index", "--add", "--cacheinfo",
        f"160000,{NEW},buildkit",
    ]  # fmt: skip
    assert len(upstream.args) == 6 + 3 * len(bundle.COMPONENTS)
    assert upstream.calls[1].options["env"]["GIT_TERMINAL_PROMPT"] == "0"


def test_update_changes_shell_blocks_in_pages(upstream: Commands) -> None:
    docs = project.ROOT / "docs"
    (docs / "start").mkdir(parents=True)
    (project.ROOT / "README.md").write_text("v0.32.2 was measured\n")
    page = "v0.32.2:\n\n  ```sh\n  apt install ./x_0.32.2-1.deb\n  ```\n```\nv0.32.2\n```\n```sh\nv0.32.2\n```\n"
    (docs / "start" / "board.md").write_text(page)
    with dry_run.running(dry=True):
        update_pins.update(TAG)
    assert (docs / "start" / "board.md").read_text() == page
    update_pins.update(TAG)
    assert (project.ROOT / "README.md").read_text() == "v0.32.2 was measured\n"
    wanted = page.replace("x_0.32.2-1", f"x_{TAG[1:]}-1").replace("```sh\nv0.32.2", f"```sh\n{TAG}")
    assert (docs / "start" / "board.md").read_text() == wanted


def test_update_bundle(upstream: Commands, capsys: pytest.CaptureFixture[str]) -> None:
    update_pins.update(TAG)
    updated = pins.load().bundle
    assert {name: release.version for name, release in updated.items()} == PINNED
    assert {release.commit for release in updated.values()} == {NEW}
    assert [part.location for part in bundle.parts(pins.load())] == [
        "github.com/opencontainers/runc@v1.5.0",
        "github.com/containernetworking/plugins@v1.9.1",
        "github.com/rootless-containers/rootlesskit/v4@v4.0.0-rc.1",
    ]
    plugins = "github.com/containernetworking/plugins"
    gets = [call for call in upstream.calls if "-tool" in call.args]
    assert [call.args for call in gets] == [
        ["/go/bin/go", "get", "-tool", "github.com/opencontainers/runc@v1.5.0"],
        ["/go/bin/go", "get", "-tool", *(
            f"{plugins}/plugins/{name}@v1.9.1"
            for name in ("main/bridge", "meta/firewall", "ipam/host-local", "main/loopback")
        )],
        ["/go/bin/go", "get", "-tool", "github.com/rootless-containers/rootlesskit/v4/cmd/rootlesskit@v4.0.0-rc.1"],
    ]  # fmt: skip
    text = files()["pins/upstream/rootlesskit/go.mod"]
    assert "module buildkit-riscv64.invalid/upstream/rootlesskit\n" in text
    assert "do not edit by hand" in text
    output = capsys.readouterr().err
    assert "runc v1.4.3 -> v1.5.0" in output
    assert "rootlesskit v3.0.1 -> v4.0.0-rc.1" in output


def test_update_bundle_without_commits(upstream: Commands, tmp_path: Path) -> None:
    module(upstream, tmp_path, Origin=None)
    update_pins.update(TAG)
    assert {release.commit for release in pins.load().bundle.values()} == {""}
    assert project.PINS.read_text().count("commit = ") == 1


def test_update_adds_a_missing_bundle(
    upstream: Commands, capsys: pytest.CaptureFixture[str]
) -> None:
    project.PINS.write_text(project.PINS.read_text().partition("\n[bundle")[0] + "\n")
    update_pins.update(TAG)
    assert list(pins.load().bundle) == ["runc", "cni-plugins", "rootlesskit"]
    assert "runc none -> v1.5.0" in capsys.readouterr().err


def test_lightweight_tag(upstream: Commands) -> None:
    upstream.answer("ls-remote", stdout=f"{NEW}\trefs/tags/{TAG}\n")
    update_pins.update(TAG)
    assert pins.load().commit == NEW


def test_dry_writes_nothing(upstream: Commands, capsys: pytest.CaptureFixture[str]) -> None:
    before = files()
    with dry_run.running(dry=True):
        update_pins.update(TAG)
    assert files() == before
    assert leftovers() == []
    assert not [call for call in upstream.calls if call.verb == "run"]
    output = capsys.readouterr().err
    assert f"v0.32.2 ({COMMIT[:12]}) -> {TAG} ({NEW[:12]})" in output
    assert f"go get {pins.MODULE}/cmd/buildctl@{TAG}" in output
    assert "would write" in output


def test_older_release_is_noted(upstream: Commands, capsys: pytest.CaptureFixture[str]) -> None:
    upstream.answer("ls-remote", stdout=f"{NEW}\trefs/tags/v0.9.0\n")
    with dry_run.running(dry=True):
        update_pins.update("v0.9.0")
    assert "older release" in capsys.readouterr().err


@pytest.mark.parametrize(
    "tag", ["v0.33.0-rc1", "master", "dockerfile/1.0.0", "--help", "", "0.33.0"]
)
def test_invalid_release_is_refused(upstream: Commands, tag: str) -> None:
    with pytest.raises(UsageError, match="release tag"):
        update_pins.update(tag)
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
        (lambda c, _t: c.answer("get", code=1, stderr="go: x requires go >= 1.28"), MissingRequirementError, "newer Go"),
        (lambda c, _t: c.answer("tidy", code=1, stderr="toolchain not available"), MissingRequirementError, "needs a newer Go"),
        (lambda c, _t: c.answer("download", code=1, stderr="no such host"), NetworkError, "no such host"),
        (lambda c, t: module(c, t, Origin={"Hash": OBJECT}), SourceError, f"{TAG} .*{NEW} .*{OBJECT}"),
        (lambda c, _t: c.answer("update-index", code=128), SourceError, "update-index"),
        (lambda _c, t: dockerfile(t, DOCKERFILE.replace("CNI_VERSION=", "PLUGINS=")), SourceError, "CNI_VERSION"),
        (lambda _c, t: dockerfile(t, DOCKERFILE.replace("=v1.5.0", "=main")), SourceError, "RUNC_VERSION=main"),
        (lambda _c, t: dockerfile(t, DOCKERFILE.replace("=v1.5.0", "=v1.5.0;x")), SourceError, "RUNC_VERSION"),
        (lambda _c, t: (t / "module" / "Dockerfile").unlink(), SourceError, "cannot read upstream's Dockerfile"),
        (lambda c, _t: c.answer("get", "-tool", code=1, stderr="dial tcp: i/o timeout"), NetworkError, "cannot fetch github.com/opencontainers/runc v1.5.0: dial tcp"),
        (lambda c, _t: c.answer("get", "-tool", code=1, stderr="go: x requires go >= 1.28"), MissingRequirementError, "runc v1.5.0 needs a newer Go"),
    ],
)  # fmt: skip
def test_failed_update_changes_nothing(
    upstream: Commands, tmp_path: Path, breaks: Broken, error: type[Failure], message: str
) -> None:
    before = files()
    breaks(upstream, tmp_path)
    with pytest.raises(error, match=message.replace("(", r"\(")):
        update_pins.update(TAG)
    assert files() == before
    assert leftovers() == []


@pytest.mark.parametrize("origin", [None, {}])
def test_module_proxy_without_the_commit(
    upstream: Commands, tmp_path: Path, origin: object
) -> None:
    module(upstream, tmp_path, Origin=origin)
    update_pins.update(TAG)
    assert pins.load().commit == NEW


def test_show(upstream: Commands) -> None:
    assert update_pins.show() == {
        "version": "v0.32.2", "commit": COMMIT, "commit time": "2026-08-04T12:27:40+00:00",
        "repository": URL, "module": "github.com/moby/buildkit@v0.32.2", "module hash": SUM,
        "runc": "github.com/opencontainers/runc@v1.4.3", "runc hash": SUM,
        "cni-plugins": "github.com/containernetworking/plugins@v1.9.1", "cni-plugins hash": SUM,
        "rootlesskit": "github.com/rootless-containers/rootlesskit/v3@v3.0.1",
        "rootlesskit hash": SUM,
        "Go": "go1.26.10", "source auto takes": "module (github.com/moby/buildkit@v0.32.2)",
    }  # fmt: skip


def test_show_damaged_bundle(upstream: Commands) -> None:
    (project.UPSTREAM_MODULE / "runc" / "go.sum").write_text("")
    shown = update_pins.show()
    assert shown["bundle"].startswith("none: pins/upstream/runc/go.sum has no hash of")
    assert "runc" not in shown


def test_show_wrong_source(upstream: Commands) -> None:
    (project.SUBMODULE / ".git").touch()
    upstream.answer("rev-parse", stdout=f"{NEW}\n")
    assert update_pins.show()["source auto takes"].startswith("none: buildkit/ is at 111111111111")


@pytest.mark.parametrize(
    "info",
    [
        "", "[]", "{}", '{"Time": 5}', '{"Time": "today"}', '{"Time": "2026-11-27T12:00:00"}', "[" * 100_000,
        '{"Time": "0001-01-01T00:00:00+23:00"}',
    ],
)  # fmt: skip
def test_invalid_commit_time(upstream: Commands, tmp_path: Path, info: str) -> None:
    (tmp_path / "info").write_text(info)
    before = files()
    with pytest.raises(SourceError, match="time"):
        update_pins.update(TAG)
    assert files() == before
    assert leftovers() == []
