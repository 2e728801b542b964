"""Ctrl-C, kill -9, SIGTERM: at any moment, and nothing half-made or running is left."""

from __future__ import annotations

import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .miniature import Project, refused, remove, succeeded

pytestmark = pytest.mark.integration

KILLS = 20
INTERRUPTS = 3


@pytest.fixture(scope="module")
def victim(new_project: Callable[..., Project]) -> Iterator[Project]:
    """A project that compiles everything each time: Go's cache would make it too quick to hit."""
    project = new_project(built=True)
    project.env["GOCACHE"] = str(project.root.parent / "gocache")
    yield project
    remove(project.root.parent)


def forget(project: Project) -> None:
    """Start the next build from nothing."""
    shutil.rmtree(project.root.parent / "gocache", ignore_errors=True)


@pytest.fixture(scope="module")
def durations(victim: Project) -> dict[bool, float]:
    """Seconds that a build takes here and now: True, compiling everything; False, nothing."""

    def measure(*, cold: bool) -> float:
        if cold:
            forget(victim)
        started = time.monotonic()
        victim.build("--force")
        return time.monotonic() - started

    return {cold: measure(cold=cold) for cold in (True, False)}


def assert_whole(project: Project) -> None:
    """What lies in dist/ is good, or there is nothing; and it can be built on."""
    project.no_strays()
    if any(project.dist.glob("linux-*")):
        succeeded(project.invoke("check-binaries"))
    project.build()
    assert [p.name for p in project.dist.iterdir() if not p.name.endswith(".lock")] == [
        project.target().name
    ]
    # A thing that killed it left would be below TMPDIR.
    assert not list(Path(project.env["TMPDIR"]).iterdir())


@pytest.mark.parametrize("number", range(KILLS))
def test_killed(victim: Project, durations: dict[bool, float], number: int) -> None:
    # Most of what could be half-done is done after compiling.
    cold = number in {6, 13, 19}
    # One moment in each twentieth of a build; the same in every run.
    moment = durations[cold] * (number + random.Random(number).random()) / KILLS
    if cold:
        forget(victim)
    if number % 2:
        # Without anything finished before, so that half of something would show.
        shutil.rmtree(victim.dist)
    with victim.started("build-binaries", "--force") as run:
        time.sleep(moment)
        done = run.end(signal.SIGKILL)
    assert done.code in {-signal.SIGKILL, 0}
    assert_whole(victim)


@pytest.mark.parametrize("number", range(INTERRUPTS))
def test_interrupted(victim: Project, durations: dict[bool, float], number: int) -> None:
    forget(victim)
    before = victim.files()
    with victim.started("build-binaries", "--force") as run:
        run.wait_for("BuildKit")
        time.sleep(durations[True] * 0.8 * (number + random.Random(number).random()) / INTERRUPTS)
        done = run.end(signal.SIGINT)
    if done.code:
        refused(done, 130, "interrupted")
        assert victim.files() == before
    assert_whole(victim)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_asked_to_end(victim: Project, number: signal.Signals) -> None:
    forget(victim)
    before = victim.files()
    with victim.started("build-binaries", "--force") as run:
        run.wait_for("BuildKit")
        time.sleep(0.5)
        refused(run.end(number), 130, "interrupted")
    assert victim.files() == before
    assert_whole(victim)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_verification_interrupted(victim: Project, number: signal.Signals) -> None:
    before = victim.files()
    with victim.started("verify-binaries", "--rebuild") as run:
        run.wait_for("compiling")
        time.sleep(1)
        assert run.end(number).code in {130, -signal.SIGKILL}
    victim.no_strays()
    assert victim.files() == before
    # kill -9 lets nobody clean up: what is left is outside dist/, and the next run removes it.
    place = Path(victim.env["XDG_CACHE_HOME"]) / "buildkit-riscv64" / "verification"
    assert not list(place.rglob("bin")) or number is signal.SIGKILL
    succeeded(victim.invoke("verify-binaries", "--rebuild"))
    assert not list(place.rglob("bin"))


def test_update_killed(victim: Project) -> None:
    """Whatever the moment, what is pinned is consistent or says that it is not."""
    before = victim.files()
    with victim.started("source.update", "v0.99.0") as run:
        time.sleep(0.5)
        run.end(signal.SIGKILL)
    victim.no_strays()
    if victim.files() != before:
        succeeded(victim.invoke("source.update", "v0.99.0"))
    succeeded(victim.invoke("source.update", "v0.98.0"))
    victim.build()
