"""`invoke notify-build`: one issue per broken build, closed when the build succeeds again."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from ..core import dry_run
from ..core.errors import UsageError
from . import github
from .github import Repository
from .github_client import Client

#: Marks our issues: setting a label needs write access.
LABEL = "broken-build"
LOCK = "track-releases/builds"


class Result(StrEnum):
    """A job's result, as in `needs.JOB.result`."""

    SUCCESS = "success"
    FAILURE = "failure"
    CANCELLED = "cancelled"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Run:
    """A run of a workflow on GitHub.

    Args:
        workflow: the workflow's name.
        number: the run's id.
        url: the run's page.
        branch: the branch that was built.
    """

    workflow: str
    number: str
    url: str
    branch: str

    @classmethod
    def here(cls) -> Run:
        """The current run.

        Raises:
            UsageError: this process is not part of a run.
        """
        names = (
            "GITHUB_WORKFLOW", "GITHUB_RUN_ID", "GITHUB_SERVER_URL", "GITHUB_REPOSITORY", "GITHUB_REF_NAME",
        )  # fmt: skip
        try:
            workflow, number, server, repository, branch = (os.environ[name] for name in names)
        except KeyError as error:
            raise UsageError(
                f"{error} is not set: not a workflow run",
                "run this task in GitHub Actions only",
            ) from error
        return cls(workflow, number, f"{server}/{repository}/actions/runs/{number}", branch)

    @property
    def mark(self) -> str:
        """The mark of the issue about this workflow and branch."""
        return f"<!-- notify-build: {self.workflow} {self.branch} -->"


def _failed(jobs: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the failed steps, each with its job."""
    for job in jobs:
        for step in job.get("steps") or []:
            if step["conclusion"] == Result.FAILURE:
                yield f"- {job['name']}: {step['name']}"


def _body(run: Run, jobs: list[dict[str, Any]]) -> str:
    failed = "\n".join(_failed(jobs)) or "- no failed step: the machine may have disappeared"
    return f"""{run.mark}
[A run of {run.workflow}]({run.url}) for `{run.branch}` failed:

{failed}

The next successful run for `{run.branch}` closes this issue.
"""


def report(result: str, repository: str) -> str:
    """Open the issue about a broken build, or close it.

    Args:
        result: the run's result.
        repository: our repository on GitHub, as OWNER/NAME.

    Returns:
        The change, done or under `--dry` planned.

    Raises:
        UsageError: the result is unknown, or this process is not part of a workflow run.
        NetworkError: GitHub does not answer, or refuses.
        BusyError: another run holds the lock.
    """
    if result not in list(Result):
        raise UsageError(f"{result!r} is not a job's result", f"give {', '.join(Result)}")
    name = github.repository(repository)
    run = Run.here()
    if result not in {Result.SUCCESS, Result.FAILURE}:
        return f"nothing: the run was {result}"
    with Client.connected() as client:
        ours = Repository(client, name)
        if dry_run.active():
            return _settle(ours, run, result)
        with ours.locked(LOCK, ours.tip()[1]):
            return _settle(ours, run, result)


def _settle(ours: Repository, run: Run, result: str) -> str:
    known = [
        int(one["number"])
        for one in ours.issues(LABEL)
        if one["state"] == "open" and run.mark in (one["body"] or "")
    ]
    if result == Result.SUCCESS:
        for number in known:
            if not dry_run.active():
                ours.close_issue(number, f"[It works again]({run.url}).", done=True)
        return f"close {', '.join(f'#{number}' for number in known)}" if known else "nothing"
    if known:
        return f"nothing: reported in #{known[0]}"
    title = f"{run.workflow} for {run.branch} fails"
    if not dry_run.active():
        ours.open_issue(title=title, body=_body(run, ours.jobs(run.number)), label=LABEL)
    return f"open the issue “{title}”, labelled {LABEL}"
