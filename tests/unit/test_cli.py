from __future__ import annotations

import bdb
import contextlib
import errno
import inspect
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from invoke.context import MockContext

from buildkit_riscv64 import cli
from buildkit_riscv64.core import config, console, dry_run, errors, project
from buildkit_riscv64.core.errors import Failure, MissingRequirementError
from buildkit_riscv64.system import apt

from .factories import Commands


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


def context(**changes: Any) -> MockContext:
    new = MockContext()
    new.config.update(config.DEFAULTS | changes)
    return new


def run(
    function: Callable[..., None],
    ctx: MockContext | None = None,
    *,
    changes: str = "a file",
    **flags: Any,
) -> None:
    """Run a function as a task."""

    def body(_context: Any, yes: bool = False) -> None:
        """A task."""
        function()

    cli.command(changes=changes)(body)(ctx or context(), **flags)


def fail(error: BaseException) -> Callable[[], None]:
    def function() -> None:
        raise error

    return function


def test_success() -> None:
    done = []
    run(lambda: done.append(1))
    assert done == [1]


def test_a_task_keeps_its_name_and_documentation() -> None:
    @cli.command(changes=cli.NOTHING, help={"flag": "A flag."})
    def some_task(_context: Any, flag: bool = False) -> None:
        """What it does."""

    assert some_task.name == "some_task"
    assert some_task.__doc__ == "What it does.\n\nChanges nothing."
    assert [argument.name for argument in some_task.get_arguments()] == ["flag"]


@pytest.mark.parametrize("cls", errors.documented())
def test_a_failure_keeps_its_exit_code(cls: type[Failure]) -> None:
    with pytest.raises(cls) as caught:
        run(fail(cls("what", "how")))
    assert caught.value.code == cls.exit_code


@pytest.mark.parametrize("error", [errors.CheckError("it is broken"), ValueError("it is broken"), KeyboardInterrupt()])  # fmt: skip
def test_failures_are_annotated_on_github(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: BaseException
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    with pytest.raises(Failure) as caught:
        run(fail(error))
    fix = f"%0Afix: {caught.value.hint}" if caught.value.hint else ""
    assert capsys.readouterr().err == f"::error::{caught.value.brief}{fix}\n"


def test_unexpected_exceptions() -> None:
    with pytest.raises(Failure) as caught:
        run(fail(ZeroDivisionError("division\nby zero")))
    assert caught.value.code == 1
    assert "ZeroDivisionError: division by zero" in caught.value.brief
    assert "invoke --debug" in caught.value.hint


def test_quitting_the_debugger_is_no_failure() -> None:
    with pytest.raises(bdb.BdbQuit):
        run(fail(bdb.BdbQuit()))


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("invoke"), "level", logging.DEBUG)
    logging.getLogger("invoke").manager._clear_cache()  # type: ignore[attr-defined]
    try:
        with pytest.raises(ZeroDivisionError):
            run(fail(ZeroDivisionError()))
        with pytest.raises(errors.InterruptedByUserError):
            run(fail(KeyboardInterrupt()))
    finally:
        monkeypatch.undo()
        logging.getLogger("invoke").manager._clear_cache()  # type: ignore[attr-defined]


def test_ctrl_c() -> None:
    with pytest.raises(errors.InterruptedByUserError) as caught:
        run(fail(KeyboardInterrupt()))
    assert caught.value.code == 130


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_signals_that_end_a_task(number: signal.Signals) -> None:
    with pytest.raises(errors.InterruptedByUserError) as caught:
        run(lambda: signal.raise_signal(number))
    assert caught.value.code == 130


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT, errno.EIO])
def test_os_errors(code: int) -> None:
    with pytest.raises(errors.StorageError) as caught:
        run(fail(OSError(code, os.strerror(code), "/place/file")))
    assert "/place/file" in caught.value.brief


class Offers:
    """A fake of `apt.offer_install` that records its calls."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, answer: bool) -> None:
        self.calls: list[tuple[str, bool]] = []
        self.answer = answer
        monkeypatch.setattr(apt, "offer_install", self)

    def __call__(self, error: MissingRequirementError, *, yes: bool) -> bool:
        self.calls.append((error.tool, yes))
        return self.answer


def test_the_task_starts_again_after_an_installation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    offers = Offers(monkeypatch, True)
    attempts: list[int] = []

    def function() -> None:
        attempts.append(1)
        if len(attempts) == 1:
            raise MissingRequirementError("no git", tool="git")

    run(function)
    assert len(attempts) == 2
    assert offers.calls == [("git", False)]


def test_only_one_installation_is_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    offers = Offers(monkeypatch, True)
    with pytest.raises(MissingRequirementError, match="no git"):
        run(fail(MissingRequirementError("no git", tool="git")))
    assert len(offers.calls) == 1


def test_a_refused_offer(monkeypatch: pytest.MonkeyPatch) -> None:
    Offers(monkeypatch, False)
    with pytest.raises(MissingRequirementError, match="no git"):
        run(fail(MissingRequirementError("no git", tool="git")))


@pytest.mark.parametrize(
    ("ctx", "flags"), [(context(yes=True), {}), (context(), {"yes": True})], ids=["file", "flag"]
)
def test_yes_is_passed_on(
    monkeypatch: pytest.MonkeyPatch, ctx: MockContext, flags: dict[str, Any]
) -> None:
    offers = Offers(monkeypatch, False)
    with pytest.raises(MissingRequirementError):
        run(fail(MissingRequirementError("no git", tool="git")), ctx, **flags)
    assert offers.calls == [("git", True)]


def test_a_task_must_declare_its_changes() -> None:
    with pytest.raises(TypeError, match="changes"):
        cli.command(help={})  # type: ignore[call-arg]


def test_help_lists_changes() -> None:
    @cli.command(changes="a file")
    def some_task(_context: Any) -> None:
        """What it does."""

    assert "Changes: a file." in inspect.getdoc(some_task.body)  # type: ignore[operator]


@pytest.mark.parametrize("changes", [cli.NOTHING, "a file"])
def test_dry_refuses_changes(tmp_path: Path, changes: str) -> None:
    ctx = context()
    ctx.config.run.dry = True
    with pytest.raises(Failure, match="--dry") as caught:
        run((tmp_path / "file").touch, ctx, changes=changes)
    assert caught.value.code == 1
    assert not (tmp_path / "file").exists()
    run((tmp_path / "file").touch, changes=changes)
    assert (tmp_path / "file").exists()


@pytest.mark.usefixtures("installed")
def test_dry_installs_nothing(
    monkeypatch: pytest.MonkeyPatch, commands: Commands, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(apt, "confirm", lambda *_a, **_o: pytest.fail("calls"))
    ctx = context()
    ctx.config.run.dry = True
    # The dry run ends without a failure.
    run(fail(MissingRequirementError("no git", tool="git")), ctx)
    # Under --dry, `process.run` only prints.
    assert commands.args[-1][-1] == "git"
    assert {call.verb for call in commands.calls if "install" in call.args} == {"run"}
    assert "no git" in capsys.readouterr().err
    with pytest.raises(MissingRequirementError):
        run(fail(MissingRequirementError("no memory")), ctx)


def test_a_dry_run_can_end_early(
    capsys: pytest.CaptureFixture[str],
) -> None:
    ctx = context()
    ctx.config.run.dry = True
    run(fail(dry_run.EndedError("would fetch Go")), ctx)
    assert "would fetch Go" in capsys.readouterr().err


def test_interrupted_question(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        apt, "offer_install", lambda _error, **_options: fail(KeyboardInterrupt())()
    )
    with pytest.raises(errors.InterruptedByUserError):
        run(fail(MissingRequirementError("no git", tool="git")))


def whole(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the real command line in a separate process."""
    return subprocess.run(
        [sys.executable, "-m", "buildkit_riscv64", *arguments],
        cwd=project.ROOT, text=True, stderr=subprocess.PIPE, check=False,
        stdin=subprocess.DEVNULL, **options,
    )  # fmt: skip


def test_a_failure_of_the_whole_command() -> None:
    done = whole("doctor", "--phase", "none")
    assert done.returncode == 2
    error, fix = done.stderr.splitlines()
    assert error.startswith("error: --phase none")
    assert fix.startswith("  fix: ")
    assert "binaries, image" in fix


def test_closed_pipe() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = whole("pins.show", "--json", stdout=writer)
    finally:
        os.close(writer)
    assert done.returncode == 141
    assert done.stderr == ""


def test_wrong_target(tmp_path: Path) -> None:
    done = whole("check-binaries", "--target", "../../etc")
    assert done.returncode == 2
    assert "'../../etc'" in done.stderr


def test_json_is_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    """The task's document; an empty one if the task prints none; the error after a failure."""

    def emits(context: Any, json: bool = False) -> None:
        console.emit_json([1])

    def emits_and_fails(context: Any, json: bool = False) -> None:
        console.emit_json([1])
        raise errors.CheckError("bad", "fix it")

    def is_silent(context: Any, json: bool = False) -> None:
        pass

    def fails(context: Any, json: bool = False) -> None:
        raise errors.CheckError("bad", "fix it")

    expected = {
        emits: [1], emits_and_fails: [1], is_silent: {},
        fails: {"error": "bad", "fix": "fix it", "code": 7},
    }  # fmt: skip
    for body, document in expected.items():
        with contextlib.suppress(errors.CheckError):
            cli.command(changes=cli.NOTHING)(body)(context(), json=True)
        assert json.loads(capsys.readouterr().out) == document
        with contextlib.suppress(errors.CheckError):
            cli.command(changes=cli.NOTHING)(body)(context(), json=False)
        assert bool(capsys.readouterr().out) is (body in (emits, emits_and_fails))
