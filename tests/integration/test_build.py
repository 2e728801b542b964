"""`invoke build-binaries` from each kind of source."""

from __future__ import annotations

import hashlib
import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from buildkit_riscv64.validation.environment.scripts import script

from .miniature import PINNED, Project, Upstream, refused, succeeded

pytestmark = pytest.mark.integration


def version_of(project: Project, command: str) -> str:
    program = project.target() / "bin" / command
    return subprocess.run(
        [program, "--version"], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_module(project: Project, upstream: Upstream) -> None:
    done = project.build("--source", "module")
    assert f"BuildKit {PINNED} for linux-" in done.stderr
    assert f"from the module github.com/moby/buildkit@{PINNED}" in done.stderr
    for command in ("buildctl", "buildkitd"):
        expected = f"{command} github.com/moby/buildkit {PINNED} {upstream.commits[PINNED]}"
        assert version_of(project, command) == expected
    manifest = project.manifest()
    assert manifest["source"]["kind"] == "module"
    assert manifest["source"]["pinned"] is True
    assert manifest["source"]["sum"].startswith("h1:")
    for file in manifest["files"]:
        assert file["name"] in done.stderr
        assert file["sha256"] in done.stderr
    assert "all checks passed" in done.stderr
    assert done.stdout == ""
    assert ", 0 warnings" in succeeded(project.invoke("check-binaries")).stderr


def test_output_directory(built: Project) -> None:
    target = built.target()
    present = sorted(str(p.relative_to(target)) for p in target.rglob("*") if p.is_file())
    tarball = f"buildkit-{PINNED}.{target.name}.tar.gz"
    assert present == sorted(
        [
            "SHA256SUMS", "bin/buildctl", "bin/buildkitd", "buildctl.cdx.json", tarball,
            "buildkitd.cdx.json", "manifest.json", "provenance.intoto.json",
        ]
    )  # fmt: skip
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=target, check=True)
    with tarfile.open(target / tarball) as archive:
        members = archive.getmembers()
    assert [m.name for m in members] == ["bin/buildctl", "bin/buildkitd"]
    assert {(m.uid, m.gid, m.uname, m.gname, m.mode) for m in members} == {
        (0, 0, "root", "root", 0o755)
    }
    assert len({m.mtime for m in members}) == 1
    # The run leaves only its lock beside the target.
    assert [p.name for p in built.dist.iterdir() if p != target] == [f".{target.name}.lock"]


def test_submodule(project: Project, upstream: Upstream) -> None:
    project.fetch_submodule()
    done = project.build("--source", "submodule")
    assert "from the submodule buildkit" in done.stderr
    assert project.manifest()["source"]["kind"] == "submodule"
    assert project.manifest()["source"]["pinned"] is True
    assert version_of(project, "buildkitd").endswith(f"{PINNED} {upstream.commits[PINNED]}")


def test_path(project: Project, upstream: Upstream, tmp_path: Path) -> None:
    checkout = upstream.clone(tmp_path / "elsewhere")
    done = project.build("--source", str(checkout))
    assert f"from the path {checkout}" in done.stderr
    assert project.manifest()["source"]["kind"] == "path"


def test_path_beyond_a_release(project: Project, upstream: Upstream, tmp_path: Path) -> None:
    checkout = upstream.clone(tmp_path / "elsewhere")
    (checkout / "version" / "more.go").write_text("package version\n")
    for args in (["add", "--all"], ["commit", "--quiet", "--message", "more"]):
        subprocess.run(["git", *args], cwd=checkout, env=project.env, check=True)
    done = project.build("--source", str(checkout))
    manifest = project.manifest()
    assert manifest["version"].startswith(f"{PINNED}-1-g")
    assert manifest["source"]["pinned"] is False
    assert "a development build" in done.stderr
    assert "WARN" in succeeded(project.invoke("check-binaries")).stderr


def test_auto_uses_a_fetched_submodule(project: Project) -> None:
    assert "from the module" in project.build().stderr
    project.fetch_submodule()
    assert "from the submodule" in project.build().stderr


def test_second_run_does_not_start_go(built: Project, tmp_path: Path) -> None:
    before = built.files()
    record = tmp_path / "started"
    script(tmp_path / "bin" / "go", f'echo "$@" >> "{record}"; exit 1')
    env = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    done = built.build(env=env)
    assert "is up to date" in done.stderr
    assert not record.exists()
    assert built.files() == before


def test_damaged_artifacts_are_not_up_to_date(built: Project) -> None:
    program = built.target() / "bin" / "buildctl"
    whole = program.read_bytes()
    program.write_bytes(whole[:-1])
    assert "up to date" not in built.build().stderr
    assert program.read_bytes() == whole


def test_force_gives_the_same_bytes(built: Project) -> None:
    def digests() -> dict[str, str]:
        # These contain timestamps.
        unlike = {"manifest.json", "provenance.intoto.json", "SHA256SUMS"}
        return {
            str(p.relative_to(built.dist)): hashlib.sha256(p.read_bytes()).hexdigest()
            for p in built.target().rglob("*")
            if p.is_file() and p.name not in unlike
        }

    before, started = digests(), built.manifest()["build"]["started"]
    assert "all checks passed" in built.build("--force").stderr
    assert digests() == before
    assert built.manifest()["build"]["started"] != started


def test_tarball_does_not_depend_on_the_run(project: Project, built: Project) -> None:
    project.build()
    (first,) = project.target().glob("*.tar.gz")
    (second,) = built.target().glob("*.tar.gz")
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize(
    "change", ["changed", "untracked", "ignored", "assume-unchanged", "skip-worktree", "deleted"]
)
def test_dirty_submodule(project: Project, change: str) -> None:
    submodule = project.fetch_submodule()
    name = {"untracked": "version/new.go", "ignored": "version/new.local.go"}.get(
        change, "version/version.go"
    )
    file = submodule / name
    if change == "deleted":
        name = "Makefile"
        (submodule / name).unlink()
    else:
        file.write_text(file.read_text() + "\n" if file.exists() else "package version\n")
    if change in {"assume-unchanged", "skip-worktree"}:
        project.git("-C", submodule, "update-index", f"--{change}", name)
    refused(project.invoke("build-binaries"), 4, "buildkit", name)
    assert not project.dist.exists()


def test_allow_dirty_marks_the_version(project: Project, upstream: Upstream) -> None:
    submodule = project.fetch_submodule()
    with (submodule / "version" / "version.go").open("a") as file:
        file.write("\nconst Mine = true\n")
    done = project.build("--allow-dirty")
    assert version_of(project, "buildkitd").endswith(f"{PINNED}.m {upstream.commits[PINNED]}.m")
    source = project.manifest()["source"]
    assert source["dirty"] is True
    assert source["pinned"] is False
    assert "a development build" in done.stderr
    assert "up to date" in project.build("--allow-dirty").stderr
    # A further change triggers a build.
    with (submodule / "version" / "version.go").open("a") as file:
        file.write("\nconst AndMine = true\n")
    assert "up to date" not in project.build("--allow-dirty").stderr


def test_submodule_at_another_commit(project: Project, upstream: Upstream) -> None:
    submodule = project.fetch_submodule()
    project.git("-C", submodule, "checkout", "--quiet", upstream.commits["v0.99.0"])
    done = project.invoke("build-binaries", "--allow-dirty")
    refused(done, 4, upstream.commits["v0.99.0"][:12], upstream.commits[PINNED][:12])
    assert not project.dist.exists()
    # As the hint says, an explicit path builds it.
    project.build("--source", "./buildkit")
    assert project.manifest()["version"] == "v0.99.0"


def test_failed_compilation_keeps_dist(built: Project, upstream: Upstream, tmp_path: Path) -> None:
    before = built.files()
    checkout = upstream.clone(tmp_path / "elsewhere")
    (checkout / "cmd" / "buildctl" / "main.go").write_text("package main\n\nfunc main() { oops }\n")
    done = built.invoke("build-binaries", "--allow-dirty", "--source", str(checkout))
    refused(done, 6, "oops")
    assert built.files() == before


def test_failed_checks_keep_dist(built: Project, upstream: Upstream, tmp_path: Path) -> None:
    before = built.files()
    checkout = upstream.clone(tmp_path / "elsewhere")
    (checkout / "cmd" / "buildctl" / "main.go").write_text(
        "package main\n\nfunc main() { panic(1) }\n"
    )
    done = built.invoke("build-binaries", "--allow-dirty", "--source", str(checkout))
    refused(done, 7, "bin/buildctl", "--version")
    assert built.files() == before


def test_dry_changes_nothing(project: Project) -> None:
    before = project.files()
    done = succeeded(project.invoke("--dry", "build-binaries"))
    assert "would run" in done.stderr
    assert "go build" in done.stderr
    assert project.files() == before
    assert not project.dist.exists()


def test_user_go_settings_do_not_change_the_output(project: Project, built: Project) -> None:
    go_env = Path(project.env["HOME"]) / "goenv"
    go_env.write_text("GOFLAGS=-tags=other\nGOEXPERIMENT=none\nCGO_ENABLED=1\n")
    env = {
        "GOENV": str(go_env), "GOFLAGS": "-ldflags=-X=a.b=c", "CGO_ENABLED": "1",
        "GOWORK": "/nonexistent", "GOTOOLCHAIN": "go1.20", "GOEXPERIMENT": "none",
    }  # fmt: skip
    project.build(env=env)
    for command in ("buildctl", "buildkitd"):
        first, second = (p.target() / "bin" / command for p in (project, built))
        assert first.read_bytes() == second.read_bytes()
