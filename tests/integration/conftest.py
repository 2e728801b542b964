"""What the integration tests share: the miniature upstream, and projects around it."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from buildkit_riscv64 import dist, pins
from buildkit_riscv64.arch import Target
from buildkit_riscv64.binaries import toolchain

from . import dockerd
from .keys import Keyring
from .miniature import (
    Project,
    Upstream,
    commit_checkout,
    copy_checkout,
    isolated,
    make_project,
    remove,
    succeeded,
)


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


@pytest.fixture(scope="session")
def upstream_project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A clone of this checkout, the user's own Go settings and caches, and no submodule."""
    folder = tmp_path_factory.mktemp("upstream")
    copy_checkout(folder / "checkout")
    git = isolated(folder)
    commit_checkout(folder / "checkout", pins.load().commit, git)
    # CI would install packages without asking.
    unwanted = {"CI", "GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY"}
    env = {name: value for name, value in os.environ.items() if name not in unwanted}
    yield Project(folder / "checkout", env)
    remove(folder)


@pytest.fixture(scope="session")
def upstream_target(upstream_project: Project) -> Path:
    """What a build of the real upstream makes; how much memory our own process took is told.

    With BUILDKIT_TEST_DIST it is taken from that dist/ instead: on a machine on which
    compiling takes an hour.
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
    """The folder with the real buildkitd and buildctl, for this machine."""
    return upstream_target / "bin"


@pytest.fixture(scope="session")
def ring(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keyring]:
    """A GnuPG home with keys that are nobody's."""
    with Keyring(tmp_path_factory.mktemp("ring")) as ring:
        yield ring


@pytest.fixture(scope="session")
def key(ring: Keyring) -> str:
    """An armored private key that signs."""
    return ring.private(ring.make("Signer <signer@example.org>"))


@pytest.fixture(scope="session")
def docker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """What the environment needs for a real docker engine."""
    with dockerd.engine(tmp_path_factory.mktemp("docker")) as access:
        yield access.env
