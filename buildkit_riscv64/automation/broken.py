"""`invoke report-build`: an issue about a build that broke; once, and closed when it works again."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from ..errors import UsageError
from . import github
from .api import Client
from .github import Repository

#: Issues with it are ours: only who may write to the repository can set a label.
LABEL = "broken-build"
LOCK = "track-releases/builds"


class Result(StrEnum):
    """How a job ended, in the words that `needs.JOB.result` has."""

    SUCCESS = "success"
    FAILURE = "failure"
    CANCELLED = "cancelled"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Run:
    """A run of a workflow on GitHub.

    Args:
        workflow: its name.
        number: its id.
        url: its page.
        branch: what it was run for.
    """

    workflow: str
    number: str
    url: str
    branch: str

    @classmethod
    def here(cls) -> Run:
        """The run that we are part of.

        Raises:
            UsageError: none.
        """
        names = (
            "GITHUB_WORKFLOW", "GITHUB_RUN_ID", "GITHUB_SERVER_URL", "GITHUB_REPOSITORY", "GITHUB_REF_NAME",
        )  # fmt: skip
        try:
            workflow, number, server, repository, branch = (os.environ[name] for name in names)
        except KeyError as error:
            raise UsageError(
                f"{error} is not set: this is no run of a workflow",
                "it is for GitHub Actions alone",
            ) from error
        return cls(workflow, number, f"{server}/{repository}/actions/runs/{number}", branch)

    @property
    def mark(self) -> str:
        """What makes an issue the one about it."""
        return f"<!-- report-build: {self.workflow} {self.branch} -->"


def _failed(jobs: list[dict[str, Any]]) -> Iterator[str]:
    """The steps that failed, each with its job."""
    for job in jobs:
        for step in job.get("steps") or []:
            if step["conclusion"] == Result.FAILURE:
                yield f"- {job['name']}: {step['name']}"


def _body(run: Run, jobs: list[dict[str, Any]]) -> str:
    failed = "\n".join(_failed(jobs)) or "- no step of it says so: the machine may have gone away"
    return f"""{run.mark}
[A run of {run.workflow}]({run.url}) for `{run.branch}` has failed:

{failed}

This is told once. The issue is closed by the next run for `{run.branch}` that succeeds.
"""


def report(result: str, repository: str, *, dry: bool) -> str:
    """Open the issue about a broken build, or close it.

    Args:
        result: how the run ended.
        repository: ours on GitHub, as OWNER/NAME.
        dry: only ask.

    Returns:
        What was done, or would be.

    Raises:
        UsageError: no such result, or this is no run of a workflow.
        NetworkError: GitHub does not answer, or not to us.
        BusyError: another run is at it.
    """
    if result not in list(Result):
        raise UsageError(f"{result!r} is no result of a run", f"give {', '.join(Result)}")
    name = github.repository(repository)
    run = Run.here()
    if result not in {Result.SUCCESS, Result.FAILURE}:
        return "nothing: it says nothing about the build"
    with Client.connected(dry=dry) as client:
        ours = Repository(client, name)
        if dry:
            return _settle(ours, run, result, dry=True)
        with ours.locked(LOCK, ours.head(ours.default_branch())):
            return _settle(ours, run, result, dry=False)


def _settle(ours: Repository, run: Run, result: str, *, dry: bool) -> str:
    known = [
        int(one["number"])
        for one in ours.issues(LABEL)
        if one["state"] == "open" and run.mark in (one["body"] or "")
    ]
    if result == Result.SUCCESS:
        for number in known:
            if not dry:
                ours.close_issue(number, f"[It works again]({run.url}).", done=True)
        return f"close {', '.join(f'#{number}' for number in known)}" if known else "nothing"
    if known:
        return f"nothing: #{known[0]} tells of it"
    title = f"{run.workflow} for {run.branch} fails"
    if not dry:
        ours.open_issue(title=title, body=_body(run, ours.jobs(run.number)), label=LABEL)
    return f"open the issue “{title}”, labelled {LABEL}"
