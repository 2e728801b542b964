"""`invoke pins.show` and `invoke pins.update`."""

from __future__ import annotations

import re
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
    reported = succeeded(project.invoke("pins.show", "--json")).json
    assert reported["version"] == PINNED
    assert reported["commit"] == upstream.commits[PINNED]
    assert reported["module"] == f"{MODULE}@{PINNED}"
    assert reported["module hash"].startswith("h1:")
    assert reported["repository"] == str(upstream.repository)
    assert reported["source auto takes"].startswith("module")
    table = succeeded(project.invoke("pins.show"))
    assert table.stdout == ""
    for fact in reported.values():
        assert fact in table.stderr


def test_show_names_changed_files(project: Project) -> None:
    submodule = project.fetch_submodule()
    reported = succeeded(project.invoke("pins.show", "--json")).json
    assert reported["source auto takes"].startswith("submodule")
    (submodule / "version" / "new.go").write_text("package version\n")
    reported = succeeded(project.invoke("pins.show", "--json")).json
    assert "version/new.go" in reported["source auto takes"]


def test_update(project: Project, upstream: Upstream) -> None:
    commit = upstream.commits[NEWER]
    done = succeeded(project.invoke("pins.update", NEWER))
    assert PINNED in done.stderr
    assert NEWER in done.stderr
    pins = tomllib.loads((project.root / "pins/pins.toml").read_text())
    assert pins["buildkit"]["version"] == NEWER
    # The annotated tag is an object that differs from the commit.
    assert pins["buildkit"]["commit"] == commit
    assert pins["buildkit"]["time"].isoformat() == "2026-01-02T03:04:05+00:00"
    assert pins["go"] == tomllib.loads(project.git("show", "HEAD:pins/pins.toml"))["go"]
    assert f"{MODULE} {NEWER}" in (project.root / "pins" / "upstream" / "go.mod").read_text()
    sums = (project.root / "pins" / "upstream" / "go.sum").read_text()
    assert f"{MODULE} {NEWER} h1:" in sums
    assert PINNED not in sums
    # The bundle gets the versions in upstream's Dockerfile of that release.
    assert re.search(rf"runc v1\.0\.0.*{re.escape(NEWER_RUNC)}", done.stderr)
    assert pins["bundle"]["runc"]["version"] == NEWER_RUNC
    assert pins["bundle"]["runc"]["commit"] == "1" * 40
    assert pins["bundle"]["rootlesskit"]["version"] == "v3.0.0"
    assert (
        f"runc {NEWER_RUNC} h1:"
        in (project.root / "pins" / "upstream" / "runc" / "go.sum").read_text()
    )
    assert project.git("ls-files", "--stage", "buildkit").split()[:2] == ["160000", commit]
    # The module and the submodule build the new release.
    project.build()
    assert project.manifest()["version"] == NEWER
    project.git("commit", "--quiet", "--all", "--message", "update")
    project.fetch_submodule()
    project.build()
    assert project.manifest()["source"]["kind"] == "submodule"
    assert project.manifest()["revision"] == commit
    # Back to the older release.
    done = succeeded(project.invoke("pins.update", PINNED))
    assert "older" in done.stderr
    assert project.git("diff", "HEAD^", "--", "pins") == ""


def test_old_artifacts_after_an_update(built: Project) -> None:
    succeeded(built.invoke("pins.update", NEWER))
    refused(built.invoke("check-binaries"), 7, PINNED, NEWER)
    refused(built.invoke("verify-binaries", "--rebuild"), 4, PINNED)
    built.build()
    succeeded(built.invoke("check-binaries"))


def test_dry(project: Project) -> None:
    before = project.files()
    assert "would " in succeeded(project.invoke("--dry", "pins.update", NEWER)).stderr
    assert project.files() == before


@pytest.mark.parametrize(
    ("tag", "code"),
    [
        (CANDIDATE, 2),
        (FRONTEND, 2),
        ("master", 2),
        ("0.99.0", 2),
        ("v9.9.9", 2),
        ("--upload-pack=evil", 2),
        (NOT_IN_PROXY, 10),
        (MOVED, 4),
        (NEEDS_NEWER_GO, 3),
    ],
)
def test_refused(project: Project, tag: str, code: int) -> None:
    before = project.files()
    done = project.invoke("pins.update", tag)
    refused(done, code, tag.partition("=")[0])
    assert project.files() == before


def test_missing_repository(project: Project, upstream: Upstream) -> None:
    modules = project.root / ".gitmodules"
    modules.write_text(modules.read_text().replace(str(upstream.repository), "/nonexistent"))
    before = project.files()
    refused(project.invoke("pins.update", NEWER), 10, "/nonexistent")
    assert project.files() == before


def test_missing_module_proxy(project: Project, tmp_path: Path) -> None:
    before = project.files()
    # An empty cache, because other tests have fetched the module.
    env = {"GOPROXY": "off", "GOMODCACHE": str(tmp_path / "modcache")}
    refused(project.invoke("pins.update", NEWER, env=env), 10, NEWER)
    assert project.files() == before


def test_git_lock(project: Project) -> None:
    before = project.files()
    (project.root / ".git" / "index.lock").write_text("")
    refused(project.invoke("pins.update", NEWER), 4, "git")
    (project.root / ".git" / "index.lock").unlink()
    assert project.files() == before


def test_update_names_the_submodule_command(project: Project, upstream: Upstream) -> None:
    submodule = project.fetch_submodule()
    assert "git submodule update" in succeeded(project.invoke("pins.update", NEWER)).stderr
    refused(project.invoke("build-binaries"), 4, upstream.commits[PINNED][:12])
    project.fetch_submodule()
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=submodule, env=project.env, capture_output=True,
        text=True, check=True,
    ).stdout.strip()  # fmt: skip
    assert head == upstream.commits[NEWER]
    project.build()
