"""Fixtures of the integration tests: the miniature upstream, projects, the real upstream."""

from __future__ import annotations

import itertools
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks.checkout import copy_checkout
from buildkit_riscv64.binaries import toolchain
from buildkit_riscv64.core import dist, pins
from buildkit_riscv64.core.arch import Target
from buildkit_riscv64.testing.pytest_plugin import needs
from buildkit_riscv64.validation.environment import docker_engine

from .keys import Keyring
from .miniature import Project, Upstream, commit_checkout, isolated, make_project, remove, succeeded


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory for all files of a test run, removed at its end."""
    directory = tmp_path_factory.mktemp("miniature")
    yield directory
    remove(directory)


@pytest.fixture(scope="session")
@needs("go")
def pinned_go() -> Path:
    """The pinned Go; downloaded if it is missing."""
    return toolchain.ensure(pins.load()).command


@pytest.fixture(scope="session")
def upstream(workshop: Path) -> Upstream:
    return Upstream(workshop / "upstream")


@pytest.fixture(scope="session")
def _template(workshop: Path, upstream: Upstream, pinned_go: Path) -> Project:
    """A project with artifacts, built from the module."""
    env = isolated(workshop)
    env |= {
        "PATH": f"{pinned_go.parent}:{env['PATH']}",
        "GOPROXY": upstream.proxy.as_uri(),
        "GOSUMDB": "off",
        "GOMODCACHE": str(workshop / "modcache"),
        "GOCACHE": str(workshop / "gocache"),
        "XDG_CACHE_HOME": str(workshop / "cache"),
    }
    project = make_project(workshop / "template", upstream, env)
    project.build()
    return project


@pytest.fixture(scope="session")
def new_project(workshop: Path, _template: Project) -> Callable[..., Project]:
    """A function that copies the project, with or without its artifacts."""
    numbers = itertools.count(1)

    def make(*, built: bool) -> Project:
        directory = workshop / f"project-{next(numbers)}"
        ignored = None if built else shutil.ignore_patterns("dist")
        shutil.copytree(_template.root, directory / "checkout", symlinks=True, ignore=ignored)
        (directory / "tmp").mkdir()
        own = {"TMPDIR": str(directory / "tmp"), "XDG_CACHE_HOME": str(directory / "cache")}
        return Project(directory / "checkout", {**_template.env, **own})

    return make


@pytest.fixture
def project(new_project: Callable[..., Project]) -> Iterator[Project]:
    """A fresh clone of the project, without artifacts and submodule."""
    yield from _cleaned_up(new_project(built=False))


@pytest.fixture
def built(new_project: Callable[..., Project]) -> Iterator[Project]:
    """A project with artifacts that were built from the module."""
    yield from _cleaned_up(new_project(built=True))


def _cleaned_up(project: Project) -> Iterator[Project]:
    yield project
    project.no_strays()
    left = list(Path(project.env["TMPDIR"]).iterdir())
    remove(project.root.parent)
    assert not left, f"left behind: {left}"


@pytest.fixture(scope="session")
def upstream_project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A clone of this checkout with the user's Go settings and caches, without submodule."""
    directory = tmp_path_factory.mktemp("upstream")
    copy_checkout(directory / "checkout")
    git = isolated(directory)
    commit_checkout(directory / "checkout", pins.load().commit, git)
    # With CI set, tasks install packages without a question.
    unwanted = {"CI", "GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY"}
    env = {name: value for name, value in os.environ.items() if name not in unwanted}
    yield Project(directory / "checkout", env)
    remove(directory)


@pytest.fixture(scope="session")
@needs("compiling")
def upstream_target(upstream_project: Project) -> Path:
    """The artifacts of the real upstream; the build prints the peak memory of our own process.

    BUILDKIT_TEST_DIST names a dist/ to copy them from, for machines on which the build takes an
    hour.
    """
    target = upstream_project.dist / Target.here().name
    if ready := os.environ.get("BUILDKIT_TEST_DIST"):
        ignored = shutil.ignore_patterns(*dist.PARTS)
        shutil.copytree(Path(ready) / target.name, target, ignore=ignored)
        return target
    peak = "?"
    with upstream_project.started("build-binaries") as run:
        status = Path(f"/proc/{run.process.pid}/status")
        while run.process.poll() is None:
            for line in status.read_text().splitlines():
                if line.startswith("VmHWM:"):
                    peak = line.split(":")[1].strip()
            time.sleep(0.2)
        done = succeeded(run.wait())
    print(f"{done.stderr}\npeak memory of our own process: {peak}")
    return target


@pytest.fixture(scope="session")
def binaries(upstream_target: Path) -> Path:
    """The directory with the real buildkitd and buildctl."""
    return upstream_target / "bin"


@pytest.fixture(scope="session")
@needs("gpg")
def ring(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keyring]:
    """A GnuPG home with test keys."""
    with Keyring(tmp_path_factory.mktemp("ring")) as ring:
        yield ring


@pytest.fixture(scope="session")
def key(ring: Keyring) -> str:
    """An armored private signing key."""
    return ring.private(ring.make("Signer <signer@example.org>"))


@pytest.fixture(scope="session")
@needs("daemons", "debian", "mmdebstrap")
def docker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment for a real docker engine."""
    with docker_engine.engine(tmp_path_factory.mktemp("docker")) as access:
        yield access.env
