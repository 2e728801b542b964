"""What the integration tests share: the miniature upstream, and projects around it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from buildkit_riscv64 import pins
from buildkit_riscv64.binaries import toolchain

from .miniature import Project, Upstream, isolated, make_project, remove


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for everything that is made; nothing of it is left."""
    folder = tmp_path_factory.mktemp("miniature")
    yield folder
    remove(folder)


@pytest.fixture(scope="session")
def pinned_go() -> Path:
    """The pinned Go, fetched if need be as a build would."""
    return toolchain.ensure(pins.load()).command


@pytest.fixture(scope="session")
def upstream(workshop: Path) -> Upstream:
    return Upstream(workshop / "upstream")


@pytest.fixture(scope="session")
def _template(workshop: Path, upstream: Upstream, pinned_go: Path) -> Project:
    """A project that has been built once, from the module."""
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
    """Makes another copy of the project: with what has been built, or as cloned."""
    made = 0

    def make(*, built: bool) -> Project:
        nonlocal made
        made += 1
        folder = workshop / f"project-{made}"
        ignored = None if built else shutil.ignore_patterns("dist")
        shutil.copytree(_template.root, folder / "checkout", symlinks=True, ignore=ignored)
        (folder / "tmp").mkdir()
        own = {"TMPDIR": str(folder / "tmp"), "XDG_CACHE_HOME": str(folder / "cache")}
        return Project(folder / "checkout", {**_template.env, **own})

    return make


@pytest.fixture
def project(new_project: Callable[..., Project]) -> Iterator[Project]:
    """A fresh clone of the project; nothing is built, the submodule is not fetched."""
    yield from _cleaned_up(new_project(built=False))


@pytest.fixture
def built(new_project: Callable[..., Project]) -> Iterator[Project]:
    """A project that has been built from the module."""
    yield from _cleaned_up(new_project(built=True))


def _cleaned_up(project: Project) -> Iterator[Project]:
    yield project
    project.no_strays()
    left = list(Path(project.env["TMPDIR"]).iterdir())
    remove(project.root.parent)
    assert not left, f"left behind: {left}"
