"""`--method make`: upstream's `make binaries` in a real docker engine, and missing requirements.

Nothing is pulled: the image for the compilation is imported from the pinned Go.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from buildkit_riscv64.core.arch import Architecture
from buildkit_riscv64.validation.environment.scripts import script

from .miniature import IMAGE, PINNED, Project, Upstream, command, path_with, refused, succeeded

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def engine(docker: dict[str, str], pinned_go: Path) -> Iterator[dict[str, str]]:
    """The environment of an engine with the image for the compilation."""
    env = {"PATH": os.environ["PATH"], **docker}
    _import_go(pinned_go, env)
    yield env
    command(["docker", "rmi", "--force", IMAGE], Path("/"), env)


def _import_go(go: Path, env: dict[str, str]) -> None:
    """Import the pinned Go as an image; it needs only the kernel."""
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
    done = project.build("--method", "make")
    assert "all checks passed" in done.stderr
    manifest = project.manifest()
    assert manifest["version"] == PINNED
    assert manifest["build"]["via"] == "make"
    assert manifest["go"]["origin"] == "container"
    assert "up to date" in project.build("--method", "make").stderr
    succeeded(project.invoke("check-binaries"))
    refused(project.invoke("verify-binaries", "--rebuild"), 2, "container build")
    # Artifacts of one method are not up to date for the other.
    assert "up to date" not in project.build().stderr
    # The submodule stays clean.
    assert project.git("-C", "buildkit", "status", "--porcelain", "--ignored") == ""


def test_make_fails(
    built: Project, upstream: Upstream, engine: dict[str, str], pinned_go: Path, tmp_path: Path
) -> None:
    checkout = upstream.clone(tmp_path / "elsewhere")
    (checkout / "version" / "version.go").write_text("package oops oops\n")
    built.env |= {**engine, "PATH": f"{pinned_go.parent}:{engine['PATH']}"}
    built.git("-C", checkout, "commit", "--quiet", "--all", "--message", "oops")
    before = built.files()
    done = built.invoke("build-binaries", "--method", "make", "--source", str(checkout))
    refused(done, 6, "make")
    assert built.files() == before


# Missing requirements, without an engine.


def test_module(project: Project) -> None:
    done = project.invoke("build-binaries", "--method", "make", "--source", "module")
    refused(done, 4, "git checkout")


def test_dirty(project: Project) -> None:
    submodule = project.fetch_submodule()
    (submodule / "new").write_text("")
    done = project.invoke("build-binaries", "--method", "make", "--allow-dirty")
    refused(done, 2, "commits only")


@pytest.mark.parametrize("missing", ["make", "docker"])
def test_no_tool(project: Project, tmp_path: Path, missing: str) -> None:
    project.fetch_submodule()
    path = path_with(tmp_path / "bin", "git", "sh")
    for tool in {"make", "docker"} - {missing}:
        script(tmp_path / "bin" / tool, "exit 0")
    done = project.invoke("build-binaries", "--method", "make", env={"PATH": path})
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
        f'if [ "$1" = {subcommand} ]; then echo "unavailable" >&2; exit 1; fi',
    )
    done = project.invoke("build-binaries", "--method", "make", env={"PATH": path})
    refused(done, 3, words, "unavailable")


def test_profile(project: Project) -> None:
    """Upstream's Makefile has no profiles; other machines refuse --goriscv64 earlier."""
    project.fetch_submodule()
    done = project.invoke("build-binaries", "--method", "make", "--goriscv64", "rva22u64")
    refused(done, 2, "rva22u64" if Architecture.here() is Architecture.RISCV64 else "--goriscv64")
