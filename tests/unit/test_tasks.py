"""`invoke --list` and `--help` are documentation, so they are checked like it."""

from __future__ import annotations

import copy
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from invoke.collection import Collection
from invoke.context import MockContext
from invoke.tasks import Task

from buildkit_riscv64 import apt, config, house, pins, project
from buildkit_riscv64.binaries import cc, toolchain
from buildkit_riscv64.console import Status
from buildkit_riscv64.errors import CheckError, UsageError
from buildkit_riscv64.findings import Finding
from buildkit_riscv64.image import build, check, report
from buildkit_riscv64.validation import validate

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


def test_the_names_of_phase_2() -> None:
    assert {"build-image", "check-image"} <= TASKS.keys()


def test_the_names_of_phase_3() -> None:
    assert {"validate", "evidence.show"} <= TASKS.keys()


def test_the_names_of_phase_4() -> None:
    assert {
        "status", "build-packages", "publish-repo", "release", "track-releases", "report-build",
        "source.update-go",
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
    made.config.update(copy.deepcopy(config.DEFAULTS))
    made.config.run.update(run)
    return made


@pytest.mark.parametrize(
    ("session", "chosen"),
    [("", []), ("unit", ["--sessions", "unit"]), ("lint,unit", ["--sessions", "lint", "unit"])],
)
@pytest.mark.parametrize(("machine", "browser"), [("x86_64", [house.BROWSER]), ("riscv64", [])])
def test_the_tests_are_noxs(commands: Commands, monkeypatch: pytest.MonkeyPatch, on: Callable[[str], None], machine: str, browser: list[str], session: str, chosen: list[str]) -> None:  # fmt: skip
    on(machine)
    provided: list[str] = []

    def provide(tools: Sequence[str], *, yes: bool) -> None:
        provided.extend(tools)

    monkeypatch.setattr(apt, "provide", provide)
    monkeypatch.setattr(cc, "provide", lambda *, yes: provided.append("C"))
    monkeypatch.setattr(toolchain, "ensure", lambda _pins: GO)
    house.test(context(), session=session)
    assert provided == [*house.NEEDED_BY_TESTS, *browser, "C"]
    assert commands.args == [[sys.executable, "-m", "nox", *chosen]]
    options = commands.calls[0].options
    assert options["cwd"] == project.ROOT
    assert options["env"]["HOME"] == str(Path.home())


@pytest.mark.parametrize("name", sorted(TASKS))
def test_help_fits_80_columns(name: str) -> None:
    said = inspect.getdoc(TASKS[name].body) or ""
    assert max(map(len, said.splitlines())) <= 78


def test_dry_tests_fetch_no_go(commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain, "ensure", lambda _pins: pytest.fail("fetched"))
    house.test(context(dry=True))
    assert commands.calls[0].options["dry"] is True


def test_the_source_that_is_shown_is_the_pinned_one(capsys: pytest.CaptureFixture[str]) -> None:
    TASKS["source.show"](context())
    assert pins.load().commit in capsys.readouterr().err


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch, on: Callable[[str], None]) -> list[build.Options]:
    """What a build of the image would have been asked; nothing is built."""
    on("riscv64")
    asked: list[build.Options] = []
    monkeypatch.setattr(build, "build", asked.append)
    monkeypatch.setattr(report, "built", lambda outcome, json: None)
    return asked


@pytest.mark.parametrize(
    ("flags", "configured", "wanted"),
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
def test_flags_beat_the_configuration_of_the_image(built: list[build.Options], flags: dict[str, Any], configured: dict[str, str], wanted: dict[str, Any]) -> None:  # fmt: skip
    made = context()
    made.config.image.update(configured)
    TASKS["build-image"](made, **flags)
    defaults: dict[str, Any] = {
        "rootless": False, "engine": "buildkit", "base": "auto", "target": ""
    }  # fmt: skip
    assert built == [build.Options.parse(**defaults | wanted)]


def test_a_dry_image_is_only_said(built: list[build.Options]) -> None:
    TASKS["build-image"](context(dry=True))
    assert [options.dry for options in built] == [True]


@pytest.mark.parametrize("flags", [{"engine": "podman"}, {"base": "alpine"}, {"target": "linux-vax"}])  # fmt: skip
def test_bad_flags_of_the_image_start_nothing(built: list[build.Options], commands: Commands, flags: dict[str, str]) -> None:  # fmt: skip
    with pytest.raises(UsageError):
        TASKS["build-image"](context(), **flags)
    assert (built, commands.calls) == ([], [])


def test_checked_images_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def examine_all(target: str, *, yes: bool) -> dict[str, list[Finding]]:
        asked.append((target, yes))
        return {"linux-riscv64 root": [Finding("image", "user", Status.FAIL, "1, expected 0")]}

    monkeypatch.setattr(check, "examine_all", examine_all)
    with pytest.raises(CheckError, match="linux-riscv64 root: image: user: 1") as caught:
        TASKS["check-image"](context(), target="linux-riscv64", yes=True)
    assert caught.value.hint == check.REMEDY
    assert asked == [("linux-riscv64", True)]


@pytest.fixture
def validated(monkeypatch: pytest.MonkeyPatch, on: Callable[[str], None]) -> list[validate.Options]:
    """What would have been validated; nothing is run."""
    on("riscv64")
    asked: list[validate.Options] = []
    monkeypatch.setattr(validate, "validate", lambda options, _tell: asked.append(options))
    monkeypatch.setattr(
        "buildkit_riscv64.validation.report.validated", lambda _outcomes, json: None
    )
    return asked


def test_flags_of_validation(validated: list[validate.Options]) -> None:
    TASKS["validate"](context())
    TASKS["validate"](context(), only="rootless,buildx", select="a or b", online=True, yes=True)
    TASKS["validate"](context(dry=True), target="linux-riscv64")
    defaults: dict[str, Any] = {"only": "", "target": "", "select": ""}
    nothing: dict[str, Any] = {"online": False, "dry": False, "yes": False}
    assert validated == [
        validate.Options.parse(**defaults, **nothing),
        validate.Options.parse(
            only="buildx,rootless", target="", select="a or b", online=True, dry=False, yes=True
        ),
        validate.Options.parse(**defaults, **nothing | {"dry": True}),
    ]


@pytest.mark.parametrize("flags", [{"only": "podman"}, {"target": "linux-vax"}])
def test_bad_flags_of_validation_start_nothing(validated: list[validate.Options], commands: Commands, flags: dict[str, str]) -> None:  # fmt: skip
    with pytest.raises(UsageError):
        TASKS["validate"](context(), **flags)
    assert (validated, commands.calls) == ([], [])


def test_evidence_is_shown_of_a_target(checkout: Path) -> None:
    with pytest.raises(CheckError, match=r"no evidence in .*linux-arm64/evidence"):
        TASKS["evidence.show"](context(), target="linux-arm64")
