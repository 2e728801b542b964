"""What every task has in common: errors in one line, exit codes, signals."""

from __future__ import annotations

import functools
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterable
from typing import Any

from invoke.tasks import task

from .console import annotate_failure
from .errors import Failure, InterruptedByUserError, MissingRequirementError

#: What flags mean that many tasks have.
YES = "Install missing packages without asking. Implied where CI is set."
TARGET = "As in linux-riscv64."


def _debugging() -> bool:
    return logging.getLogger("invoke").isEnabledFor(logging.DEBUG)


class _Interrupted(KeyboardInterrupt):
    """Not KeyboardInterrupt itself: CPython ends as if nobody caught that, if it passed an exec()."""


def _end(_number: int, _frame: object) -> None:
    raise _Interrupted


def _translate(error: BaseException) -> Failure:
    """Whatever went wrong, as one of our failures."""
    if isinstance(error, Failure):
        return error
    if isinstance(error, KeyboardInterrupt):
        return InterruptedByUserError(
            "interrupted; nothing half-made was left", "run it again: it goes on where it was"
        )
    if isinstance(error, OSError):
        from pathlib import Path

        from . import storage

        return storage.failure(error, Path(error.filename or "."))
    return Failure(
        f"unexpected {type(error).__name__}: {error}",
        "this is a defect: run it again as `invoke --debug …` and report what it prints",
    )


def _explain(asked: Iterable[object]) -> bool:
    """Show a task's help: Invoke takes `--help` for the value of a positional argument.

    Returns:
        False when nobody asked for it.
    """
    if {"-h", "--help"}.isdisjoint(word for word in asked if isinstance(word, str)):
        return False
    from invoke.main import program

    program.print_task_help(str(program.tasks[-1].name))
    return True


def command(**options: Any) -> Callable[[Callable[..., None]], Any]:
    """An Invoke task that ends in success or in one line that teaches.

    What is missing and can be installed is offered to be, and the task then
    starts again. Tracebacks are shown only under `invoke --debug`.

    Args:
        options: those of :func:`invoke.task`.
    """

    def decorate(function: Callable[..., None]) -> Any:
        @functools.wraps(function)
        def guarded(context: Any, *args: Any, **kwargs: Any) -> None:
            if _explain(kwargs.values()):
                return
            # SIGINT too: a shell that starts us in the background has it ignored.
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, _end)
            try:
                try:
                    function(context, *args, **kwargs)
                except MissingRequirementError as error:
                    from .apt import offer

                    yes = kwargs.get("yes") or context.config["yes"]
                    if context.config["run"]["dry"] or not offer(error, yes=yes):
                        raise
                    function(context, *args, **kwargs)
            except BrokenPipeError:
                # Whoever read our output has seen enough.
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                raise SystemExit(141) from None
            except (Exception, KeyboardInterrupt) as error:
                if _debugging() and not isinstance(error, KeyboardInterrupt):
                    raise
                failure = _translate(error)
                annotate_failure(failure.brief, failure.hint)
                raise failure from error

        return task(**options)(guarded)

    return decorate
