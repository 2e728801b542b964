"""The tasks: names, help and flags."""

from __future__ import annotations

import copy
import importlib.util
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from invoke.collection import Collection
from invoke.context import MockContext
from invoke.tasks import Task

from buildkit_riscv64 import tasks
from buildkit_riscv64.core import config, pins, project
from buildkit_riscv64.core.check_results import Finding
from buildkit_riscv64.core.console import Status
from buildkit_riscv64.core.errors import CheckError, UsageError
from buildkit_riscv64.image import build, check, report
from buildkit_riscv64.testing import run
from buildkit_riscv64.validation import validate

from .factories import Commands


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
        "build-binaries", "check-binaries", "verify-binaries", "doctor", "test", "pins.show",
        "pins.update",
    } <= TASKS.keys()  # fmt: skip


def test_the_names_of_phase_2() -> None:
    assert {"build-image", "check-image"} <= TASKS.keys()


def test_the_names_of_phase_3() -> None:
    assert {"validate", "evidence.show"} <= TASKS.keys()


def test_the_names_of_phase_4() -> None:
    assert {
        "status", "build-packages", "publish-repo", "release", "verify-release", "track-releases", "notify-build",
        "pins.update-go",
    } <= TASKS.keys()  # fmt: skip


def test_the_names_of_machines() -> None:
    verbs = ("create", "start", "stop", "status", "list", "ssh", "logs", "reset", "destroy")
    assert {"on", *(f"machine.{verb}" for verb in verbs)} == {
        name for name in TASKS if name == "on" or name.startswith("machine.")
    }


def test_defaults() -> None:
    assert namespace().configuration() == config.DEFAULTS


@pytest.mark.parametrize("name", TASKS)
def test_documentation_of_tasks(name: str) -> None:
    first = inspect.cleandoc(TASKS[name].__doc__ or "").splitlines()[0]
    assert first.endswith("."), "the first line is what `invoke --list` shows"
    assert len(first) <= 90


@pytest.mark.parametrize("name", TASKS)
def test_documentation_of_flags(name: str) -> None:
    task = TASKS[name]
    for argument in task.get_arguments():
        assert argument.help, f"{name} --{argument.name}"
        assert argument.help.rstrip().endswith((".", "?")), f"{name} --{argument.name}"


def context(**run: Any) -> MockContext:
    new = MockContext()
    new.config.update(copy.deepcopy(config.DEFAULTS))
    new.config.run.update(run)
    return new


def test_flags_of_test(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[run.Request] = []
    monkeypatch.setattr(run, "run", calls.append)
    tasks.test(context())
    tasks.test(context(), session="lint,unit", all=True, yes=True)
    assert calls == [
        run.Request(), run.Request(sessions="lint,unit", all_=True, yes=True)
    ]  # fmt: skip


@pytest.mark.parametrize("name", sorted(TASKS))
def test_help_fits_80_columns(name: str) -> None:
    text = inspect.getdoc(TASKS[name].body) or ""
    assert max(map(len, text.splitlines())) <= 78


def test_pins_show(capsys: pytest.CaptureFixture[str]) -> None:
    TASKS["pins.show"](context())
    assert pins.load().commit in capsys.readouterr().err


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch, on: Callable[[str], None]) -> list[build.ImageOptions]:
    """The options of image builds; builds nothing."""
    on("riscv64")
    calls: list[build.ImageOptions] = []

    def record(options: build.ImageOptions) -> build.ImageResult:
        calls.append(options)
        return build.ImageResult(None, up_to_date=False, seconds=0.0)

    monkeypatch.setattr(build, "build", record)
    monkeypatch.setattr(report, "built", lambda outcome, json: None)
    return calls


@pytest.mark.parametrize(
    ("flags", "configured", "expected"),
    [
        ({}, {}, {}),
        ({"rootless": True, "force": True, "load": True, "yes": True}, {},
         {"rootless": True, "force": True, "load": True, "yes": True}),
        ({}, {"engine": "docker", "base": "rootfs"}, {"engine": "docker", "base": "rootfs"}),
        ({"engine": "buildkit", "base": "registry"}, {"engine": "docker", "base": "rootfs"},
         {"base": "registry"}),
    ],
    ids=["defaults", "flags", "configuration", "both"],
)  # fmt: skip
def test_flags_override_the_configuration(
    built: list[build.ImageOptions],
    flags: dict[str, Any],
    configured: dict[str, str],
    expected: dict[str, Any],
) -> None:
    ctx = context()
    ctx.config.image.update(configured)
    TASKS["build-image"](ctx, **flags)
    defaults: dict[str, Any] = {
        "rootless": False, "engine": "buildkit", "base": "auto", "target": ""
    }  # fmt: skip
    assert built == [build.ImageOptions.parse(**defaults | expected)]


@pytest.mark.parametrize("flags", [{"engine": "podman"}, {"base": "alpine"}, {"target": "linux-vax"}])  # fmt: skip
def test_invalid_flags_of_build_image(
    built: list[build.ImageOptions], commands: Commands, flags: dict[str, str]
) -> None:
    with pytest.raises(UsageError):
        TASKS["build-image"](context(), **flags)
    assert (built, commands.calls) == ([], [])


def test_check_image(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def examine_all(target: str, *, yes: bool) -> dict[str, list[Finding]]:
        calls.append((target, yes))
        return {"linux-riscv64 root": [Finding("image", "user", Status.FAIL, "1, expected 0")]}

    monkeypatch.setattr(check, "examine_all", examine_all)
    with pytest.raises(CheckError, match=r"linux-riscv64 root\b.*user\b.*1") as caught:
        TASKS["check-image"](context(), target="linux-riscv64", yes=True)
    assert caught.value.hint == check.REMEDY
    assert calls == [("linux-riscv64", True)]


@pytest.fixture
def validated(
    monkeypatch: pytest.MonkeyPatch, on: Callable[[str], None]
) -> list[validate.ValidationOptions]:
    """The options of validations; runs nothing."""
    on("riscv64")
    calls: list[validate.ValidationOptions] = []
    monkeypatch.setattr(validate, "validate", lambda options, _tell: calls.append(options))
    monkeypatch.setattr(
        "buildkit_riscv64.validation.report.validated", lambda _outcomes, json: None
    )
    return calls


def test_flags_of_validation(validated: list[validate.ValidationOptions]) -> None:
    TASKS["validate"](context())
    TASKS["validate"](context(), only="rootless,buildx", select="a or b", online=True, yes=True)
    TASKS["validate"](context(), target="linux-riscv64")
    defaults: dict[str, Any] = {"only": "", "target": "", "select": ""}
    nothing: dict[str, Any] = {"online": False, "yes": False}
    assert validated == [
        validate.ValidationOptions.parse(**defaults, **nothing),
        validate.ValidationOptions.parse(
            only="buildx,rootless", target="", select="a or b", online=True, yes=True
        ),
        validate.ValidationOptions.parse(**defaults, **nothing),
    ]


@pytest.mark.parametrize("flags", [{"only": "podman"}, {"target": "linux-vax"}])
def test_invalid_flags_of_validation(
    validated: list[validate.ValidationOptions], commands: Commands, flags: dict[str, str]
) -> None:
    with pytest.raises(UsageError):
        TASKS["validate"](context(), **flags)
    assert (validated, commands.calls) == ([], [])


def test_evidence_show(checkout: Path) -> None:
    with pytest.raises(CheckError, match="linux-arm64/evidence"):
        TASKS["evidence.show"](context(), target="linux-arm64")
