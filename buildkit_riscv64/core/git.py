"""Read-only git commands in a checkout."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from . import process
from .errors import SourceError


def is_checkout(directory: Path) -> bool:
    """True for the top directory of a checkout; below, git would answer for a parent directory."""
    return (directory / ".git").exists()


def read(directory: Path, *args: str, settings: Iterable[str] = (), hint: str = "") -> str:
    """The output of a git command that only reads and must succeed.

    Args:
        directory: the checkout.
        args: the command and its arguments.
        settings: git settings for this command, as in `core.pager=cat`.
        hint: how to fix a failure.

    Raises:
        SourceError: the command fails.
        MissingRequirementError: git is not installed.
    """
    given = [word for setting in settings for word in ("-c", setting)]
    # Without it, `git status` writes the index.
    env = process.environment({"GIT_OPTIONAL_LOCKS": "0"})
    answer = process.probe(["git", "-C", directory, *given, *args], env=env)
    if answer.ok:
        return answer.stdout
    # Advice may follow the line with the reason.
    lines = answer.stderr.splitlines()
    reason = next((line for line in lines if line.startswith("fatal: ")), answer.last_line)
    if "dubious ownership" in reason:
        raise SourceError(
            f"git refuses {directory}: it belongs to another user (uid {directory.stat().st_uid})",
            hint or f"git config --global --add safe.directory {directory}",
        )
    raise SourceError(
        f"`{process.show(['git', *args])}` failed in {directory}: {reason.removeprefix('fatal: ')}",
        hint,
    )


def directories(checkout: Path) -> tuple[Path, Path]:
    """The git directories of a checkout.

    Args:
        checkout: its top directory.

    Returns:
        The directory with HEAD and the index, and the directory with objects and branches. They
        differ for a worktree.

    Raises:
        SourceError: git fails.
    """
    paths = read(checkout, "rev-parse", "--path-format=absolute", "--git-dir", "--git-common-dir")
    own, common = paths.splitlines()
    return Path(own), Path(common)
