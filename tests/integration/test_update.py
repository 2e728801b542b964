"""`invoke source.show` and `invoke source.update`."""

from __future__ import annotations

import subprocess
import tomllib
from pathlib import Path

import pytest

from .miniature import (
    CANDIDATE,
    FRONTEND,
    MODULE,
    MOVED,
    NEEDS_NEWER_GO,
    NEWER,
    NEWER_RUNC,
    NOT_IN_PROXY,
    PINNED,
    Project,
    Upstream,
    refused,
    succeeded,
)

pytestmark = pytest.mark.integration


def test_show(project: Project, upstream: Upstream) -> None:
    shown = succeeded(project.invoke("source.show", "--json")).json
    assert shown["version"] == PINNED
    assert shown["commit"] == upstream.commits[PINNED]
    assert shown["module"] == f"{MODULE}@{PINNED}"
    assert shown["module hash"].startswith("h1:")
    assert shown["repository"] == str(upstream.repository)
    assert shown["source auto takes"].startswith("module")
    table = succeeded(project.invoke("source.show"))
    assert table.stdout == ""
    for fact in shown.values():
        assert fact in table.stderr


def test_show_names_what_is_wrong_with_the_source(project: Project) -> None:
    submodule = project.fetch_submodule()
    shown = succeeded(project.invoke("source.show", "--json")).json
    assert shown["source auto takes"].startswith("submodule")
    (submodule / "version" / "new.go").write_text("package version\n")
    shown = succeeded(project.invoke("source.show", "--json")).json
    assert "version/new.go" in shown["source auto takes"]


def test_update_moves_everything_together(project: Project, upstream: Upstream) -> None:
    commit = upstream.commits[NEWER]
    done = succeeded(project.invoke("source.update", NEWER))
    assert PINNED in done.stderr
    assert NEWER in done.stderr
    pins = tomllib.loads((project.root / "pins.toml").read_text())
    assert pins["buildkit"]["version"] == NEWER
    # Its tag is an annotated one: an object that is not the commit.
    assert pins["buildkit"]["commit"] == commit
    assert pins["buildkit"]["time"].isoformat() == "2026-01-02T03:04:05+00:00"
    assert pins["go"] == tomllib.loads(project.git("show", "HEAD:pins.toml"))["go"]
    assert f"{MODULE} {NEWER}" in (project.root / "upstream" / "go.mod").read_text()
    sums = (project.root / "upstream" / "go.sum").read_text()
    assert f"{MODULE} {NEWER} h1:" in sums
    assert PINNED not in sums
    # What the bundle is made of goes where upstream's Dockerfile of that release points.
    assert "runc v1.0.0 -> v1.0.1" in done.stderr
    assert pins["bundle"]["runc"]["version"] == NEWER_RUNC
    assert pins["bundle"]["runc"]["commit"] == "1" * 40
    assert pins["bundle"]["rootlesskit"]["version"] == "v3.0.0"
    assert f"runc {NEWER_RUNC} h1:" in (project.root / "upstream" / "runc" / "go.sum").read_text()
    assert project.git("ls-files", "--stage", "buildkit").split()[:2] == ["160000", commit]
    # From the module and from the submodule, it is what is built now.
    project.build()
    assert project.manifest()["version"] == NEWER
    project.git("commit", "--quiet", "--all", "--message", "update")
    project.fetch_submodule()
    project.build()
    assert project.manifest()["source"]["kind"] == "submodule"
    assert project.manifest()["revision"] == commit
    # And back again.
    done = succeeded(project.invoke("source.update", PINNED))
    assert "older" in done.stderr
    assert project.git("diff", "HEAD^", "--", "pins.toml", "upstream") == ""


def test_artifacts_of_the_old_release_cannot_be_verified_as_the_new(built: Project) -> None:
    succeeded(built.invoke("source.update", NEWER))
    refused(built.invoke("check-binaries"), 7, PINNED, NEWER)
    refused(built.invoke("verify-binaries", "--rebuild"), 4, PINNED)
    built.build()
    succeeded(built.invoke("check-binaries"))


def test_dry(project: Project) -> None:
    before = project.files()
    assert "would write" in succeeded(project.invoke("--dry", "source.update", NEWER)).stderr
    assert project.files() == before


@pytest.mark.parametrize(
    ("tag", "code"),
    [
        (CANDIDATE, 2),
        (FRONTEND, 2),
        ("master", 2),
        ("0.99.0", 2),
        ("v9.9.9", 2),
        ("--upload-pack=evil", 1),
        (NOT_IN_PROXY, 10),
        (MOVED, 4),
        (NEEDS_NEWER_GO, 3),
    ],
)
def test_refused(project: Project, tag: str, code: int) -> None:
    before = project.files()
    done = project.invoke("source.update", tag)
    if code == 1:  # Invoke itself takes it for an option
        assert done.code == code
    else:
        refused(done, code, tag)
    assert project.files() == before


def test_repository_is_away(project: Project, upstream: Upstream) -> None:
    modules = project.root / ".gitmodules"
    modules.write_text(modules.read_text().replace(str(upstream.repository), "/nonexistent"))
    before = project.files()
    refused(project.invoke("source.update", NEWER), 10, "/nonexistent")
    assert project.files() == before


def test_module_proxy_is_away(project: Project, tmp_path: Path) -> None:
    before = project.files()
    # An empty cache: the other tests have fetched it by now.
    env = {"GOPROXY": "off", "GOMODCACHE": str(tmp_path / "modcache")}
    refused(project.invoke("source.update", NEWER, env=env), 10, NEWER)
    assert project.files() == before


def test_another_git_at_work(project: Project) -> None:
    before = project.files()
    (project.root / ".git" / "index.lock").write_text("")
    refused(project.invoke("source.update", NEWER), 4, "git")
    (project.root / ".git" / "index.lock").unlink()
    assert project.files() == before


def test_submodule_is_told_to_follow(project: Project, upstream: Upstream) -> None:
    submodule = project.fetch_submodule()
    assert "git submodule update" in succeeded(project.invoke("source.update", NEWER)).stderr
    refused(project.invoke("build-binaries"), 4, upstream.commits[PINNED][:12])
    project.fetch_submodule()
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=submodule, env=project.env, capture_output=True,
        text=True, check=True,
    ).stdout.strip()  # fmt: skip
    assert head == upstream.commits[NEWER]
    project.build()
