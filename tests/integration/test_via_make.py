"""`--via make`: upstream's `make binaries` in a real docker engine, and what can be missing.

The engine is the one that answers, or Debian's, unpacked aside. Nothing is pulled: the image to compile in is made of the
pinned Go.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from buildkit_riscv64.arch import Architecture

from .engine import engine_from_debian
from .miniature import IMAGE, PINNED, Project, Upstream, path_with, refused, script, succeeded

pytestmark = pytest.mark.integration


def docker(*args: str, env: dict[str, str]) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["docker", *args], env=env, capture_output=True, check=False)


def answers(env: dict[str, str]) -> bool:
    if shutil.which("docker", path=env["PATH"]) is None:
        return False
    return docker("version", "--format", "{{.Server.Version}}", env=env).returncode == 0


@pytest.fixture(scope="module")
def engine(pinned_go: Path) -> Iterator[dict[str, str]]:
    """The environment for talking to a docker engine: the one that answers, or one of our own."""
    known = ("DOCKER_HOST", "DOCKER_CONFIG", "DOCKER_CONTEXT", "PATH")
    env = {name: os.environ[name] for name in known if name in os.environ}
    if not answers(env):
        env |= engine_from_debian()
    with tempfile.TemporaryDirectory(prefix="dockerd-") as name:
        folder = Path(name)
        daemon = None
        if not answers(env):
            socket = f"unix://{folder}/docker.sock"
            with (folder / "log").open("wb") as log:
                daemon = subprocess.Popen(
                    ["dockerd", "--host", socket, "--data-root", folder / "data", "--exec-root",
                     folder / "exec", "--pidfile", folder / "pid", "--bridge", "none",
                     "--iptables=false", "--ip-forward=false"],
                    stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env,
                )  # fmt: skip
            env["DOCKER_HOST"] = socket
        try:
            deadline = time.monotonic() + 120
            while not answers(env):
                assert daemon, "no docker engine answers"
                said = (folder / "log").read_text()[-2000:]
                assert daemon.poll() is None, f"dockerd has ended: {said}"
                assert time.monotonic() < deadline, f"dockerd does not answer: {said}"
                time.sleep(0.2)
            _import_go(pinned_go, env)
            yield env
            docker("rmi", "--force", IMAGE, env=env)
            docker("builder", "prune", "--force", "--all", env=env) if daemon else None
        finally:
            if daemon:
                daemon.terminate()
                daemon.wait(60)
                _unmount_below(folder)


def _unmount_below(folder: Path) -> None:
    """What dockerd leaves mounted where it may not unmount it, as in a chroot."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    points = [line.split()[4] for line in lines]
    for point in sorted((p for p in points if Path(p).is_relative_to(folder)), reverse=True):
        subprocess.run(["umount", "--lazy", point], check=False)


def _import_go(go: Path, env: dict[str, str]) -> None:
    """Make an image of the pinned Go alone, which needs nothing but the kernel."""
    root = go.resolve().parent.parent
    with subprocess.Popen(
        ["tar", "-C", root, "--transform", "s,^,go/,", "-c", "bin", "pkg", "src", "go.env", "VERSION"],
        stdout=subprocess.PIPE,
    ) as tar:  # fmt: skip
        assert tar.stdout
        done = subprocess.run(
            ["docker", "import", "-", IMAGE], stdin=tar.stdout, env=env, capture_output=True,
            check=False,
        )  # fmt: skip
    assert tar.returncode == 0
    assert done.returncode == 0, done.stderr


def test_make(project: Project, engine: dict[str, str], pinned_go: Path) -> None:
    project.fetch_submodule()
    project.env |= {**engine, "PATH": f"{pinned_go.parent}:{engine['PATH']}"}
    done = project.build("--via", "make")
    assert "all checks passed" in done.stderr
    manifest = project.manifest()
    assert manifest["version"] == PINNED
    assert manifest["build"]["via"] == "make"
    assert manifest["go"]["origin"] == "container"
    assert "up to date" in project.build("--via", "make").stderr
    succeeded(project.invoke("check-binaries"))
    refused(project.invoke("verify-binaries", "--rebuild"), 2, "container build")
    # The other way makes other artifacts, and is not taken for the same.
    assert "up to date" not in project.build().stderr
    # Nothing of it is left in the submodule.
    assert project.git("-C", "buildkit", "status", "--porcelain", "--ignored") == ""


def test_make_fails(
    built: Project, upstream: Upstream, engine: dict[str, str], pinned_go: Path, tmp_path: Path
) -> None:
    checkout = upstream.clone(tmp_path / "elsewhere")
    (checkout / "version" / "version.go").write_text("package oops oops\n")
    built.env |= {**engine, "PATH": f"{pinned_go.parent}:{engine['PATH']}"}
    built.git("-C", checkout, "commit", "--quiet", "--all", "--message", "oops")
    before = built.files()
    done = built.invoke("build-binaries", "--via", "make", "--source", str(checkout))
    refused(done, 6, "make")
    assert built.files() == before


# What can be missing; nothing of this needs an engine.


def test_module(project: Project) -> None:
    done = project.invoke("build-binaries", "--via", "make", "--source", "module")
    refused(done, 4, "needs a git checkout")


def test_dirty(project: Project) -> None:
    submodule = project.fetch_submodule()
    (submodule / "new").write_text("")
    done = project.invoke("build-binaries", "--via", "make", "--allow-dirty")
    refused(done, 2, "commits only")


@pytest.mark.parametrize("missing", ["make", "docker"])
def test_no_tool(project: Project, tmp_path: Path, missing: str) -> None:
    project.fetch_submodule()
    path = path_with(tmp_path / "bin", "git", "sh")
    for tool in {"make", "docker"} - {missing}:
        script(tmp_path / "bin" / tool, "exit 0")
    done = project.invoke("build-binaries", "--via", "make", env={"PATH": path})
    refused(done, 3, missing)


@pytest.mark.parametrize(
    ("subcommand", "words"), [("buildx", "buildx plugin"), ("version", "docker engine")]
)
def test_docker_without(project: Project, tmp_path: Path, subcommand: str, words: str) -> None:
    project.fetch_submodule()
    path = path_with(tmp_path / "bin", "git", "sh")
    script(tmp_path / "bin" / "make", "exit 0")
    script(
        tmp_path / "bin" / "docker",
        f'if [ "$1" = {subcommand} ]; then echo "it is not there" >&2; exit 1; fi',
    )
    done = project.invoke("build-binaries", "--via", "make", env={"PATH": path})
    refused(done, 3, words, "it is not there")


def test_profile(project: Project) -> None:
    """Upstream's Makefile knows none; on other machines --goriscv64 is refused before that."""
    project.fetch_submodule()
    done = project.invoke("build-binaries", "--via", "make", "--goriscv64", "rva22u64")
    refused(done, 2, "rva22u64" if Architecture.here() is Architecture.RISCV64 else "--goriscv64")
