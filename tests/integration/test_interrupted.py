"""Interruptions at any time (Ctrl-C, SIGKILL, SIGTERM) leave no partial output and no process."""

from __future__ import annotations

import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from buildkit_riscv64.validation.environment.waiting import eventually

from .miniature import Project, refused, remove, succeeded

pytestmark = pytest.mark.integration

KILLS = 20
INTERRUPTS = 3


@pytest.fixture(scope="module")
def victim(new_project: Callable[..., Project]) -> Iterator[Project]:
    """A project with its own Go cache, so that builds are slow enough to interrupt."""
    project = new_project(built=True)
    project.env["GOCACHE"] = str(project.root.parent / "gocache")
    yield project
    remove(project.root.parent)


def forget(project: Project) -> None:
    """Remove Go's cache."""
    shutil.rmtree(project.root.parent / "gocache", ignore_errors=True)


@pytest.fixture(scope="module")
def durations(victim: Project) -> dict[bool, float]:
    """The duration of a build in seconds: True without Go's cache, False with it."""

    def measure(*, cold: bool) -> float:
        if cold:
            forget(victim)
        started = time.monotonic()
        victim.build("--force")
        return time.monotonic() - started

    return {cold: measure(cold=cold) for cold in (True, False)}


def assert_usable(project: Project) -> None:
    """Assert that dist/ has valid artifacts or none, and that the next build succeeds."""
    project.no_strays()
    if any(project.dist.glob("linux-*")):
        succeeded(project.invoke("check-binaries"))
    project.build()
    assert [p.name for p in project.dist.iterdir() if not p.name.endswith(".lock")] == [
        project.target().name
    ]
    # Leftovers of a killed run would be in TMPDIR.
    assert not list(Path(project.env["TMPDIR"]).iterdir())


@pytest.mark.parametrize("number", range(KILLS))
def test_killed(victim: Project, durations: dict[bool, float], number: int) -> None:
    # Most steps that could leave partial output run after compiling.
    cold = number in {6, 13, 19}
    # One time in each twentieth of a build, the same in every test run.
    moment = durations[cold] * (number + random.Random(number).random()) / KILLS
    if cold:
        forget(victim)
    if number % 2:
        # Without finished artifacts, so that partial output is found.
        shutil.rmtree(victim.dist)
    with victim.started("build-binaries", "--force") as run:
        time.sleep(moment)
        done = run.end(signal.SIGKILL)
    assert done.code in {-signal.SIGKILL, 0}
    assert_usable(victim)


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
    assert_usable(victim)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_terminated(victim: Project, number: signal.Signals) -> None:
    forget(victim)
    before = victim.files()
    with victim.started("build-binaries", "--force") as run:
        assert eventually(
            lambda: (
                any("/compile" in one for one in victim.strays()) or run.process.poll() is not None
            )
        )
        refused(run.end(number), 130, "interrupted")
    assert victim.files() == before
    assert_usable(victim)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_verification_interrupted(victim: Project, number: signal.Signals) -> None:
    before = victim.files()
    with victim.started("verify-binaries", "--rebuild") as run:
        run.wait_for("compiling")
        assert run.end(number).code in {130, -signal.SIGKILL}
    victim.no_strays()
    assert victim.files() == before
    # After kill -9, leftovers are outside dist/, and the next run removes them.
    leftovers = Path(victim.env["XDG_CACHE_HOME"]) / "buildkit-riscv64" / "verification"
    assert not list(leftovers.rglob("bin")) or number is signal.SIGKILL
    succeeded(victim.invoke("verify-binaries", "--rebuild"))
    assert not list(leftovers.rglob("bin"))


def test_update_killed(victim: Project) -> None:
    """After a killed update, the next update succeeds."""
    before = victim.files()
    with victim.started("pins.update", "v0.99.0") as run:
        time.sleep(0.5)
        run.end(signal.SIGKILL)
    victim.no_strays()
    if victim.files() != before:
        succeeded(victim.invoke("pins.update", "v0.99.0"))
    succeeded(victim.invoke("pins.update", "v0.98.0"))
    victim.build()
