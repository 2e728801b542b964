"""Failures and their exit codes.

A failure has one line with what failed and why, and one line with what to do next.
`docs/exit-codes.md` lists the codes; a test compares it with this module.
"""

from __future__ import annotations

import re
from typing import ClassVar

try:
    from invoke.exceptions import Exit
except ModuleNotFoundError:
    # `./invoke test` examines the host before Invoke is installed.
    class Exit(Exception):  # type: ignore[no-redef]  # noqa: N818 - Invoke's name
        """The part of Invoke's exception that we use."""

        def __init__(self, message: str, code: int) -> None:
            super().__init__(message)
            self.message, self.code = message, code


#: Limit of a message's length; a message may quote a value of any length.
_MOST_CHARACTERS = 1200


#: Escape sequences and control characters, except tab and newline. A message quotes the output of
#: other programs and hosts, which must not change the user's terminal.
TERMINAL_CONTROLS = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")


def _one_line(text: str) -> str:
    line = " ".join(TERMINAL_CONTROLS.sub(" ", text).split())
    if len(line) <= _MOST_CHARACTERS:
        return line
    # The beginning names the failure, the end the reason.
    half = _MOST_CHARACTERS // 2
    return f"{line[:half]} … {line[-half:]}"


class Failure(Exit):
    """A failure with a message and an exit code.

    Args:
        brief: what failed and why, in one line.
        hint: what to do next, in one line.
    """

    exit_code: ClassVar[int] = 1
    meaning: ClassVar[str] = "a defect of this project"

    def __init__(self, brief: str, hint: str = "") -> None:
        self.brief = _one_line(brief)
        self.hint = _one_line(hint)
        #: True after the failure was reported as JSON and to GitHub.
        self.reported = False
        message = f"error: {self.brief}"
        if self.hint:
            message += f"\n  fix: {self.hint}"
        super().__init__(message, self.exit_code)


class UsageError(Failure):
    """An option or a configuration value is wrong."""

    exit_code = 2
    meaning = "an option, argument or configuration value is wrong"


class MissingRequirementError(Failure):
    """The machine lacks something: a tool, a package, memory, a kernel feature.

    Args:
        brief: what failed and why, in one line.
        hint: what to do next, in one line.
        tool: a command that fixes the error once it is installed.
    """

    exit_code = 3
    meaning = "this machine lacks a tool, a package or a feature (see `invoke doctor`)"

    def __init__(self, brief: str, hint: str = "", tool: str = "") -> None:
        super().__init__(brief, hint)
        self.tool = tool


class SourceError(Failure):
    """The source is not the pinned one: wrong commit, changed files, wrong hash."""

    exit_code = 4
    meaning = "the source is not the pinned one: wrong commit, changed files, wrong hash"


class NotNativeError(Failure):
    """The environment asks for another architecture than this machine's."""

    exit_code = 5
    meaning = "the environment asks for cross-compilation; artifacts are native only"


class BuildError(Failure):
    """A compiler or a build tool failed."""

    exit_code = 6
    meaning = "compiling failed"


class CheckError(Failure):
    """An artifact is missing, or a check refused it."""

    exit_code = 7
    meaning = "an artifact is missing, or a check refused it"


class MismatchError(Failure):
    """A second build of the same inputs differs from the artifact."""

    exit_code = 8
    meaning = "the rebuilt binary differs from the artifact"


class StorageError(Failure):
    """No space left, or a directory that cannot be written or run programs."""

    exit_code = 9
    meaning = "no space left, or a directory that cannot be written or run programs"


class NetworkError(Failure):
    """A download or an upload failed."""

    exit_code = 10
    meaning = "a download or an upload failed"


class BusyError(Failure):
    """Another run holds a lock."""

    exit_code = 11
    meaning = "another run is using the same artifacts"


class DoctorError(Failure):
    """`invoke doctor` found at least one FAIL."""

    exit_code = 12
    meaning = "`invoke doctor` found something that must be fixed"


class MachineError(Failure):
    """A machine could not be created, started or reached, or the connection was lost."""

    exit_code = 13
    meaning = "a machine could not be created, started or reached, or the connection was lost"


class ConnectionLostError(MachineError):
    """A machine cannot be reached."""


class InterruptedByUserError(Failure):
    """Ctrl-C, SIGTERM or SIGHUP."""

    exit_code = 130
    meaning = "interrupted (Ctrl-C, SIGTERM or SIGHUP)"


def documented() -> list[type[Failure]]:
    """Every class of failure with an exit code of its own, sorted by the code."""
    found: list[type[Failure]] = [Failure]
    for cls in found:
        found += cls.__subclasses__()
    return sorted((c for c in found if "exit_code" in vars(c)), key=lambda cls: cls.exit_code)
