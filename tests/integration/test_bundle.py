"""`invoke build-binaries --bundle`: real C with the real libseccomp, in miniature."""

from __future__ import annotations

import signal
import subprocess
import tarfile
from pathlib import Path

import pytest

from .miniature import NEWER, PINNED, Project, path_with, refused, remove, succeeded

pytestmark = [pytest.mark.integration, pytest.mark.needs("c")]

PROGRAMS = [
    "buildkit-cni-bridge", "buildkit-cni-firewall", "buildkit-cni-host-local",
    "buildkit-cni-loopback", "buildkit-runc", "rootlesskit",
]  # fmt: skip


def first_line(program: Path, *args: str) -> str:
    done = subprocess.run([program, *args], capture_output=True, text=True, check=True)
    return (done.stdout + done.stderr).partition("\n")[0]


def test_added_bundle(built: Project) -> None:
    before = built.manifest()
    inode = (built.target() / "bin" / "buildkitd").stat().st_ino
    done = built.build("--bundle", "--json")
    assert "buildctl and buildkitd are up to date" in done.stderr
    manifest = built.manifest()
    assert done.json == {**manifest, "up_to_date": False}
    assert manifest["build"] == before["build"]
    directory = built.target() / "bin"
    assert (directory / "buildkitd").stat().st_ino == inode
    assert sorted(path.name for path in directory.iterdir()) == sorted(
        ["buildctl", "buildkitd", *PROGRAMS]
    )
    assert first_line(directory / "buildkit-runc", "--version") == "runc version 1.0.0"
    assert first_line(directory / "rootlesskit", "--version") == "rootlesskit version 3.0.0"
    assert first_line(directory / "buildkit-cni-firewall") == "CNI firewall plugin v1.1.0"
    with tarfile.open(built.target() / f"buildkit-{PINNED}.{built.target().name}.tar.gz") as tar:
        assert sorted(tar.getnames()) == sorted(
            f"bin/{name}" for name in ("buildctl", "buildkitd", *PROGRAMS)
        )
    runc, *others = manifest["bundle"]["components"]
    assert {library["file"] for library in runc["c"]["libraries"]} >= {"libc.a", "libseccomp.a"}
    assert not [one for one in others if "c" in one]
    assert "libseccomp" in (built.target() / "buildkit-runc.cdx.json").read_text()
    assert ", 0 warnings" in succeeded(built.invoke("check-binaries")).stderr
    # Now builds with and without it are up to date.
    files = built.files()
    for args in (["--bundle"], []):
        assert "is up to date" in built.build(*args).stderr
    assert built.files() == files


def test_rebuild_is_identical(built: Project) -> None:
    built.build("--bundle")
    (verdict,) = succeeded(built.invoke("verify-binaries", "--rebuild", "--json")).json
    assert verdict["identical"] is True
    assert [file["name"] for file in verdict["files"]][2:] == [
        f"bin/{name}" for name in ("buildkit-runc", *PROGRAMS[:4], "rootlesskit")
    ]
    assert verdict["compared_by_record"] == []
    # A changed program.
    program = built.target() / "bin" / "buildkit-runc"
    program.write_bytes(program.read_bytes() + b"x")
    refused(built.invoke("check-binaries"), 7, "buildkit-runc")
    refused(built.invoke("verify-binaries", "--rebuild"), 8, "bin/buildkit-runc")


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


def test_missing_c_toolchain(project: Project, pinned_go: Path, tmp_path: Path) -> None:
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
    # Other builds do not need it.
    project.build(env=env)


def test_changed_modules_are_refused(project: Project, tmp_path: Path) -> None:
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
            "module cache", "rootlesskit",
        )  # fmt: skip
        checksums = project.root / "pins" / "upstream" / "runc" / "go.sum"
        good = checksums.read_text()
        checksums.write_text(good.replace(" h1:", " h1:AAAA", 1))
        refused(project.invoke("build-binaries", "--bundle", env=env), 4, "checksum")
        checksums.write_text(good)
    finally:
        remove(cache)
    assert project.files() == before


def test_bundle_follows_the_release(built: Project) -> None:
    built.build("--bundle")
    succeeded(built.invoke("pins.update", NEWER))
    refused(built.invoke("check-binaries"), 7, PINNED, NEWER)
    refused(built.invoke("verify-binaries", "--rebuild"), 4, PINNED)
    built.build("--bundle")
    assert first_line(built.target() / "bin" / "buildkit-runc", "--version") == "runc version 1.0.1"
    # A build without --bundle removes the bundle of another release.
    succeeded(built.invoke("pins.update", PINNED))
    done = built.build()
    assert "existing bundle" in done.stderr
    assert not (built.target() / "bin" / "buildkit-runc").exists()
    assert "bundle" not in built.manifest()
