"""`invoke build-binaries --bundle`: real C with the real libseccomp, in miniature."""

from __future__ import annotations

import signal
import subprocess
import tarfile
from pathlib import Path

import pytest

from .miniature import NEWER, PINNED, Project, path_with, refused, remove, succeeded

pytestmark = pytest.mark.integration

PROGRAMS = [
    "buildkit-cni-bridge", "buildkit-cni-firewall", "buildkit-cni-host-local",
    "buildkit-cni-loopback", "buildkit-runc", "rootlesskit",
]  # fmt: skip


def said(program: Path, *args: str) -> str:
    done = subprocess.run([program, *args], capture_output=True, text=True, check=True)
    return (done.stdout + done.stderr).partition("\n")[0]


def test_a_bundle_that_is_added_later(built: Project) -> None:
    before = built.manifest()
    inode = (built.target() / "bin" / "buildkitd").stat().st_ino
    done = built.build("--bundle", "--json")
    assert "buildctl and buildkitd stay as they are" in done.stderr
    manifest = built.manifest()
    assert done.json == {**manifest, "up_to_date": False}
    assert manifest["build"] == before["build"]
    folder = built.target() / "bin"
    assert (folder / "buildkitd").stat().st_ino == inode
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        ["buildctl", "buildkitd", *PROGRAMS]
    )
    assert said(folder / "buildkit-runc", "--version") == "runc version 1.0.0"
    assert said(folder / "rootlesskit", "--version") == "rootlesskit version 3.0.0"
    assert said(folder / "buildkit-cni-firewall") == "CNI firewall plugin v1.1.0"
    with tarfile.open(built.target() / f"buildkit-{PINNED}.{built.target().name}.tar.gz") as tar:
        assert sorted(tar.getnames()) == sorted(
            f"bin/{name}" for name in ("buildctl", "buildkitd", *PROGRAMS)
        )
    runc, *others = manifest["bundle"]["components"]
    assert {library["file"] for library in runc["c"]["libraries"]} >= {"libc.a", "libseccomp.a"}
    assert not [one for one in others if "c" in one]
    assert "libseccomp" in (built.target() / "buildkit-runc.cdx.json").read_text()
    assert ", 0 warnings" in succeeded(built.invoke("check-binaries")).stderr
    # With it or without, there is nothing to do now.
    files = built.files()
    for args in (["--bundle"], []):
        assert "is up to date" in built.build(*args).stderr
    assert built.files() == files


def test_the_same_bytes_again_also_of_c(built: Project) -> None:
    built.build("--bundle")
    (verdict,) = succeeded(built.invoke("verify-binaries", "--rebuild", "--json")).json
    assert verdict["identical"] is True
    assert [file["name"] for file in verdict["files"]][2:] == [
        f"bin/{name}" for name in ("buildkit-runc", *PROGRAMS[:4], "rootlesskit")
    ]
    assert verdict["compared_by_record"] == []
    # A program that somebody has changed, and described as if it were so.
    program = built.target() / "bin" / "buildkit-runc"
    program.write_bytes(program.read_bytes() + b"x")
    refused(built.invoke("check-binaries"), 7, "buildkit-runc")
    refused(built.invoke("verify-binaries", "--rebuild"), 8, "another bin/buildkit-runc")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_interrupted(built: Project, number: signal.Signals) -> None:
    before = built.files()
    with built.started("build-binaries", "--bundle", "--force") as run:
        run.wait_for("compiling github.com/containernetworking/plugins")
        run.end(number)
    built.no_strays()
    assert {n: d for n, d in built.files().items() if ".staging/" not in n} == before
    built.build("--bundle")
    assert not list(built.dist.glob(".*staging*"))
    assert ", 0 warnings" in succeeded(built.invoke("check-binaries")).stderr


def test_a_machine_without_what_c_needs(project: Project, pinned_go: Path, tmp_path: Path) -> None:
    tools = path_with(tmp_path / "bin", "apt-get", "git", "gcc", "sh")
    env = {"PATH": f"{tools}:{pinned_go.parent}"}
    before = project.files()
    done = project.invoke("build-binaries", "--bundle", env=env)
    refused(done, 3, "missing: pkg-config")
    assert "apt-get install pkg-config" in done.stderr
    done = succeeded(project.invoke("--dry", "build-binaries", "--bundle", env=env))
    assert "would install: pkg-config" in done.stderr
    assert "CGO_ENABLED=1 go build" in done.stderr
    assert project.files() == before
    # Nobody else needs it.
    project.build(env=env)


def test_what_is_not_pinned_is_not_compiled(project: Project, tmp_path: Path) -> None:
    cache = tmp_path / "modcache"
    env = {"GOMODCACHE": str(cache)}
    project.build("--bundle", env=env)
    before = project.files()
    try:
        main = (
            cache / "github.com/rootless-containers/rootlesskit/v3@v3.0.0/cmd/rootlesskit/main.go"
        )
        main.chmod(0o644)
        main.write_text(main.read_text().replace("3.0.0", "6.6.6"))
        refused(
            project.invoke("build-binaries", "--bundle", "--force", env=env), 4,
            "the module cache has been changed", "rootlesskit",
        )  # fmt: skip
        sums = project.root / "upstream" / "runc" / "go.sum"
        good = sums.read_text()
        sums.write_text(good.replace(" h1:", " h1:AAAA", 1))
        refused(project.invoke("build-binaries", "--bundle", env=env), 4, "checksum mismatch")
        sums.write_text(good)
    finally:
        remove(cache)
    assert project.files() == before


def test_a_bundle_moves_with_the_release(built: Project) -> None:
    built.build("--bundle")
    succeeded(built.invoke("source.update", NEWER))
    refused(built.invoke("check-binaries"), 7, PINNED, NEWER)
    refused(built.invoke("verify-binaries", "--rebuild"), 4, PINNED)
    built.build("--bundle")
    assert said(built.target() / "bin" / "buildkit-runc", "--version") == "runc version 1.0.1"
    # Of another release, and not asked for: it goes.
    succeeded(built.invoke("source.update", PINNED))
    done = built.build()
    assert "the bundle that is there is not made anew" in done.stderr
    assert not (built.target() / "bin" / "buildkit-runc").exists()
    assert "bundle" not in built.manifest()
