"""Every way a command can fail, with its exit code.

An error is one line that says what failed and why, and one that says what to
do next. `docs/exit-codes.md` lists the codes; a test keeps the two together.
"""

from __future__ import annotations

from typing import ClassVar

from invoke.exceptions import Exit


class Failure(Exit):
    """A failure that has been understood.

    Args:
        brief: what failed and why, in one line.
        hint: what to do next, in one line.
    """

    exit_code: ClassVar[int] = 1
    meaning: ClassVar[str] = "a defect of this project, or bad usage found by Invoke"

    def __init__(self, brief: str, hint: str = "") -> None:
        self.brief = " ".join(brief.split())
        self.hint = " ".join(hint.split())
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
        tool: a command that would mend it, if it were installed.
    """

    exit_code = 3
    meaning = "this machine lacks a tool, a package or a feature (see `invoke doctor`)"

    def __init__(self, brief: str, hint: str = "", tool: str = "") -> None:
        super().__init__(brief, hint)
        self.tool = tool


class SourceError(Failure):
    """The source is not what is pinned: wrong commit, dirty, tampered with."""

    exit_code = 4
    meaning = "the source is not what is pinned: wrong commit, changed files, wrong hash"


class NotNativeError(Failure):
    """The environment asks for another architecture than this machine's."""

    exit_code = 5
    meaning = "the environment asks for cross-compilation; artifacts are native only"


class BuildError(Failure):
    """A compiler or a build tool failed."""

    exit_code = 6
    meaning = "compiling failed"


class CheckError(Failure):
    """An artifact is not what it should be."""

    exit_code = 7
    meaning = "an artifact was refused by its checks, or is missing"


class MismatchError(Failure):
    """A second build of the same inputs gave other bytes."""

    exit_code = 8
    meaning = "verification found other bytes than the artifact's"


class StorageError(Failure):
    """No space left, or a place that cannot be written."""

    exit_code = 9
    meaning = "no space left, or a directory that cannot be written"


class NetworkError(Failure):
    """Something had to be fetched or sent, and could not be."""

    exit_code = 10
    meaning = "something had to be fetched or sent, and could not be"


class BusyError(Failure):
    """Another run holds what this one needs."""

    exit_code = 11
    meaning = "another run is at work on the same artifacts"


class DoctorError(Failure):
    """`invoke doctor` found at least one FAIL."""

    exit_code = 12
    meaning = "`invoke doctor` found something that must be fixed"


class MachineError(Failure):
    """A machine could not be made, started or reached, or went away."""

    exit_code = 13
    meaning = "a machine could not be made, started or reached, or went away"


class ConnectionLostError(MachineError):
    """A machine cannot be reached, or not any more."""


class InterruptedByUserError(Failure):
    """Ctrl-C, or a polite request to end."""

    exit_code = 130
    meaning = "interrupted (Ctrl-C, SIGTERM or SIGHUP)"


def documented() -> list[type[Failure]]:
    """Every class of failure that has an exit code of its own, by that code."""
    found: list[type[Failure]] = [Failure]
    for cls in found:
        found += cls.__subclasses__()
    return sorted((c for c in found if "exit_code" in vars(c)), key=lambda cls: cls.exit_code)
