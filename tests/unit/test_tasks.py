"""`invoke --list` and `--help` are documentation, so they are checked like it."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from invoke.collection import Collection
from invoke.context import MockContext
from invoke.tasks import Task

from buildkit_riscv64 import config, house, pins, project
from buildkit_riscv64.binaries import toolchain

from .making import GO, Commands


def namespace() -> Collection:
    spec = importlib.util.spec_from_file_location("our_tasks", project.ROOT / "tasks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: Collection = module.ns
    return found


def all_tasks(collection: Collection) -> Iterator[tuple[str, Task[Any]]]:
    for name in collection.task_names:
        yield name, collection[name]


TASKS = dict(all_tasks(namespace()))


def test_the_names_of_phase_1() -> None:
    assert {
        "build-binaries", "check-binaries", "verify-binaries", "doctor", "test", "source.show",
        "source.update",
    } <= TASKS.keys()  # fmt: skip


def test_the_names_of_machines() -> None:
    verbs = ("create", "start", "stop", "status", "list", "ssh", "logs", "reset", "destroy")
    assert {"on", *(f"machine.{verb}" for verb in verbs)} == {
        name for name in TASKS if name == "on" or name.startswith("machine.")
    }


def test_the_defaults_are_ours() -> None:
    assert namespace().configuration() == config.DEFAULTS


@pytest.mark.parametrize("name", TASKS)
def test_a_task_says_what_it_does(name: str) -> None:
    first = inspect.cleandoc(TASKS[name].__doc__ or "").splitlines()[0]
    assert first.endswith("."), "the first line is what `invoke --list` shows"
    assert len(first) <= 90


@pytest.mark.parametrize("name", TASKS)
def test_each_option_says_what_it_does(name: str) -> None:
    task = TASKS[name]
    for argument in task.get_arguments():
        assert argument.help, f"{name} --{argument.name}"
        assert argument.help.rstrip().endswith((".", "?")), f"{name} --{argument.name}"


def context(**run: Any) -> MockContext:
    made = MockContext()
    made.config.update(config.DEFAULTS)
    made.config.run.update(run)
    return made


@pytest.mark.parametrize(
    ("session", "chosen"),
    [("", []), ("unit", ["--sessions", "unit"]), ("lint,unit", ["--sessions", "lint", "unit"])],
)
def test_the_tests_are_noxs(commands: Commands, monkeypatch: pytest.MonkeyPatch, session: str, chosen: list[str]) -> None:  # fmt: skip
    monkeypatch.setattr(toolchain, "ensure", lambda _pins: GO)
    house.test(context(), session=session)
    assert commands.args == [[sys.executable, "-m", "nox", *chosen]]
    options = commands.calls[0].options
    assert options["cwd"] == project.ROOT
    assert options["env"]["HOME"] == str(Path.home())


def test_dry_tests_fetch_no_go(commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain, "ensure", lambda _pins: pytest.fail("fetched"))
    house.test(context(dry=True))
    assert commands.calls[0].options["dry"] is True


def test_the_source_that_is_shown_is_the_pinned_one(capsys: pytest.CaptureFixture[str]) -> None:
    TASKS["source.show"](context())
    assert pins.load().commit in capsys.readouterr().err
