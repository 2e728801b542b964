from __future__ import annotations

import errno
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

from buildkit_riscv64 import apt, cli, config, errors, project
from buildkit_riscv64.errors import Failure, MissingRequirementError


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


def context(**changes: Any) -> MockContext:
    made = MockContext()
    made.config.update(config.DEFAULTS | changes)
    return made


def run(function: Callable[..., None], made: MockContext | None = None, **flags: Any) -> None:
    """Run a function as a task."""

    def body(_context: Any, yes: bool = False) -> None:
        """A task."""
        function()

    cli.command()(body)(made or context(), **flags)


def fail(error: BaseException) -> Callable[[], None]:
    def function() -> None:
        raise error

    return function


def test_success() -> None:
    done = []
    run(lambda: done.append(1))
    assert done == [1]


def test_a_task_keeps_its_name_and_its_words() -> None:
    @cli.command(help={"flag": "A flag."})
    def some_task(_context: Any, flag: bool = False) -> None:
        """What it does."""

    assert some_task.name == "some_task"
    assert some_task.__doc__ == "What it does."
    assert [argument.name for argument in some_task.get_arguments()] == ["flag"]


@pytest.mark.parametrize("cls", errors.documented())
def test_a_failure_keeps_its_exit_code(cls: type[Failure]) -> None:
    with pytest.raises(cls) as caught:
        run(fail(cls("what", "how")))
    assert caught.value.code == cls.exit_code


@pytest.mark.parametrize("error", [errors.CheckError("it is broken"), ValueError("it is broken"), KeyboardInterrupt()])  # fmt: skip
def test_github_shows_a_failure_on_its_page(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: BaseException) -> None:  # fmt: skip
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    with pytest.raises(Failure) as caught:
        run(fail(error))
    fix = f"%0Afix: {caught.value.hint}" if caught.value.hint else ""
    assert capsys.readouterr().err == f"::error::{caught.value.brief}{fix}\n"


def test_an_unexpected_exception_is_one_line() -> None:
    with pytest.raises(Failure) as caught:
        run(fail(ZeroDivisionError("division\nby zero")))
    assert caught.value.code == 1
    assert caught.value.brief == "unexpected ZeroDivisionError: division by zero"
    assert "invoke --debug" in caught.value.hint


def test_debugging_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_a_polite_request_to_end(number: signal.Signals) -> None:
    with pytest.raises(errors.InterruptedByUserError) as caught:
        run(lambda: signal.raise_signal(number))
    assert caught.value.code == 130


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT, errno.EIO])
def test_a_full_disk_anywhere(code: int) -> None:
    with pytest.raises(errors.StorageError) as caught:
        run(fail(OSError(code, os.strerror(code), "/place/file")))
    assert "/place/file" in caught.value.brief


class Offers:
    """Stands in for the doctor, and notes what it was asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, answer: bool) -> None:
        self.asked: list[tuple[str, bool]] = []
        self.answer = answer
        monkeypatch.setattr(apt, "offer", self)

    def __call__(self, error: MissingRequirementError, *, yes: bool) -> bool:
        self.asked.append((error.tool, yes))
        return self.answer


def test_what_is_missing_is_offered_and_the_task_starts_again(monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    offers = Offers(monkeypatch, True)
    attempts: list[int] = []

    def function() -> None:
        attempts.append(1)
        if len(attempts) == 1:
            raise MissingRequirementError("no git", tool="git")

    run(function)
    assert len(attempts) == 2
    assert offers.asked == [("git", False)]


def test_a_second_lack_is_not_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    offers = Offers(monkeypatch, True)
    with pytest.raises(MissingRequirementError, match="no git"):
        run(fail(MissingRequirementError("no git", tool="git")))
    assert len(offers.asked) == 1


def test_a_refused_offer(monkeypatch: pytest.MonkeyPatch) -> None:
    Offers(monkeypatch, False)
    with pytest.raises(MissingRequirementError, match="no git"):
        run(fail(MissingRequirementError("no git", tool="git")))


@pytest.mark.parametrize(
    ("made", "flags"), [(context(yes=True), {}), (context(), {"yes": True})], ids=["file", "flag"]
)
def test_yes_is_passed_on(monkeypatch: pytest.MonkeyPatch, made: MockContext, flags: dict[str, bool]) -> None:  # fmt: skip
    offers = Offers(monkeypatch, False)
    with pytest.raises(MissingRequirementError):
        run(fail(MissingRequirementError("no git", tool="git")), made, **flags)
    assert offers.asked == [("git", True)]


def test_dry_installs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    offers = Offers(monkeypatch, True)
    made = context()
    made.config.run.dry = True
    with pytest.raises(MissingRequirementError):
        run(fail(MissingRequirementError("no git", tool="git")), made)
    assert offers.asked == []


def test_an_interrupted_question_is_an_interruption(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apt, "offer", lambda _error, **_options: fail(KeyboardInterrupt())())
    with pytest.raises(errors.InterruptedByUserError):
        run(fail(MissingRequirementError("no git", tool="git")))


def whole(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """The real command line, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "invoke", *arguments],
        cwd=project.ROOT, text=True, stderr=subprocess.PIPE, check=False,
        stdin=subprocess.DEVNULL, **options,
    )  # fmt: skip


def test_a_failure_of_the_whole_command() -> None:
    done = whole("doctor", "--phase", "none")
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    assert lines[0] == "error: --phase none: no such phase"
    assert lines[1].startswith("  fix: one of: binaries, image")
    assert len(lines) == 2


def test_a_reader_who_left() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = whole("source.show", "--json", stdout=writer)
    finally:
        os.close(writer)
    assert done.returncode == 141
    assert done.stderr == ""


def test_a_task_in_a_wrong_place_is_told(tmp_path: Path) -> None:
    done = whole("check-binaries", "--target", "../../etc")
    assert done.returncode == 2
    assert "'../../etc' is not a target" in done.stderr


@pytest.mark.parametrize("flag", ["-h", "--help"])
@pytest.mark.parametrize("name", ["on", "source.update", "source.update-go", "doctor"])
def test_help_of_a_task(name: str, flag: str) -> None:
    done = whole(name, flag, stdout=subprocess.PIPE)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Usage: ")
    assert f"] {name} [--options]" in done.stdout
