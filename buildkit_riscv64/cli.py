"""The decorator of every task: errors, exit codes, signals, dry runs."""

from __future__ import annotations

import bdb
import functools
import inspect
import logging
import os
import signal
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

from invoke.parser.argument import Argument
from invoke.tasks import Task, task

from .core import console, dry_run, filesystem
from .core.console import annotate_failure
from .core.errors import Failure, InterruptedByUserError, MissingRequirementError
from .system import apt

#: `changes` of a task that only reads.
NOTHING = ""
#: Help of flags that many tasks have.
YES = "Install missing packages without asking. Implied where CI is set."
TARGET = "As in linux-riscv64."
VERBOSE = "Show every check, not a summary with the warnings and failures."


def _debugging() -> bool:
    return logging.getLogger("invoke").isEnabledFor(logging.DEBUG)


class _Interrupted(KeyboardInterrupt):
    """An interruption: CPython treats a KeyboardInterrupt that passed an exec() as uncaught."""


def _end(_number: int, _frame: object) -> None:
    raise _Interrupted


def _translate(error: BaseException) -> Failure:
    """Convert an exception to a failure."""
    if isinstance(error, Failure):
        return error
    if isinstance(error, KeyboardInterrupt):
        return InterruptedByUserError(
            "interrupted; no partial output left", "run the task again to continue"
        )
    if isinstance(error, OSError):
        return filesystem.failure(error, Path(error.filename or "."))
    return Failure(
        f"unexpected {type(error).__name__}: {error}",
        "run it again as `invoke --debug …` and report this defect with the output",
    )


def report_failure(failure: Failure, *, json: bool) -> None:
    """Report a failure to GitHub Actions and as JSON; Invoke prints its message.

    Args:
        failure: the failure.
        json: the task has the flag `--json`, so stdout must be JSON.
    """
    if failure.reported:
        return
    failure.reported = True
    annotate_failure(failure.brief, failure.hint)
    if json and not console.emitted():
        console.emit_json({"error": failure.brief, "fix": failure.hint, "code": failure.exit_code})


class _Task(Task[Any]):
    """A task with a single one-letter flag: `-y` for `--yes`."""

    def get_arguments(self, ignore_unknown_help: bool | None = None) -> list[Argument]:  # noqa: FBT001 - Invoke's signature
        """The arguments; keeps their help, which Invoke removes."""
        texts = self.help.copy()
        arguments = super().get_arguments(ignore_unknown_help)
        self.help = texts
        return arguments

    def arg_opts(self, name: str, default: str, taken_names: set[str]) -> dict[str, Any]:
        """The options of a flag."""
        options: dict[str, Any] = super().arg_opts(name, default, taken_names)
        if name == "yes":
            options["names"] = ("yes", "y")
        return options


def _documentation(documentation: str | None, changes: str) -> str:
    """A task's documentation with the list of its changes."""
    text = f"Changes: {changes}. `--dry` prints this and changes nothing." if changes else "Changes nothing."  # fmt: skip
    return f"{inspect.cleandoc(documentation or '')}\n\n{textwrap.fill(text, 78)}"


def command(*, changes: str, **options: Any) -> Callable[[Callable[..., None]], Any]:
    """Define an Invoke task that reports failures as :class:`.core.errors.Failure`.

    If a tool is missing, the task offers to install it and starts again. Tracebacks appear only
    under `invoke --debug`. `invoke --dry` refuses changes that the task does not announce
    (:mod:`.core.dry_run`).

    Args:
        changes: the task's changes, for its help; :data:`NOTHING` for a task that only reads.
        options: options of :func:`invoke.task`.
    """

    def decorate(function: Callable[..., None]) -> Any:
        @functools.wraps(function)
        def run(context: Any, *args: Any, **kwargs: Any) -> None:
            console.emitted(reset=True)
            # Also SIGINT: a shell ignores it for commands in the background.
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, _end)
            try:
                with dry_run.running(dry=bool(context.config["run"]["dry"])):
                    try:
                        function(context, *args, **kwargs)
                    except MissingRequirementError as error:
                        yes = kwargs.get("yes") or context.config["yes"]
                        if not apt.offer_install(error, yes=yes):
                            raise
                        function(context, *args, **kwargs)
            except dry_run.EndedError as end:
                console.log(f"{end}; the next steps depend on it")
            except bdb.BdbQuit:
                raise  # the user has left the debugger
            except BrokenPipeError:
                # The reader of our output has closed the pipe.
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                raise SystemExit(141) from None
            except (Exception, KeyboardInterrupt) as error:
                if _debugging() and not isinstance(error, KeyboardInterrupt):
                    raise
                failure = _translate(error)
                report_failure(failure, json=bool(kwargs.get("json")))
                raise failure from error
            if kwargs.get("json") and not console.emitted():
                console.emit_json({})

        run.__doc__ = _documentation(function.__doc__, changes)
        return task(klass=_Task, auto_shortflags=False, **options)(run)

    return decorate
