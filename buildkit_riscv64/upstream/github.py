"""Repositories on GitHub: queries about ours and upstream's, changes to ours."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import quote

from ..core.console import warn
from ..core.errors import BusyError, NetworkError, UsageError
from .github_client import Client

#: Attempts, two seconds apart, to find a started run: GitHub lists it late.
LISTED = 15
#: Seconds after which a lock counts as left by a killed run.
LEASE = 3600

_REPOSITORY = re.compile(r"[\w.-]+/(?!\.\.?$)[\w.-]+", re.ASCII)


def repository(text: str = "") -> str:
    """Our repository on GitHub, as OWNER/NAME: the given one, or GITHUB_REPOSITORY.

    Raises:
        UsageError: the name is missing or invalid.
    """
    found = text or os.environ.get("GITHUB_REPOSITORY", "")
    if not found:
        raise UsageError(
            "no repository on GitHub given",
            "give --repository OWNER/NAME, or set GITHUB_REPOSITORY",
        )
    if not _REPOSITORY.fullmatch(found):
        raise UsageError(f"{found!r} is not a repository on GitHub", "give a name like OWNER/NAME")
    return found


@dataclass(frozen=True)
class Entry:
    """A file or submodule of a commit.

    Args:
        path: the path in the repository.
        mode: git's mode; 160000 is a submodule.
        content: the file's content, or the submodule's commit; None to delete.
    """

    path: str
    mode: str
    content: str | None

    def as_json(self) -> dict[str, Any]:
        """An entry of a tree in GitHub's API."""
        if self.content is None:
            return {"path": self.path, "mode": self.mode, "type": "blob", "sha": None}
        if self.mode == "160000":
            return {"path": self.path, "mode": self.mode, "type": "commit", "sha": self.content}
        return {"path": self.path, "mode": self.mode, "type": "blob", "content": self.content}


class Repository:
    """A repository on GitHub.

    Args:
        client: the API.
        name: as in OWNER/NAME.
    """

    def __init__(self, client: Client, name: str) -> None:
        self.name = name
        self._client = client
        self._path = f"/repos/{name}"

    def default_branch(self) -> str:
        """The default branch's name."""
        return str(self._client.get("repository", self._path)["default_branch"])

    def tip(self) -> tuple[str, str]:
        """The default branch and its commit.

        Raises:
            UsageError: the repository has no commits.
        """
        branch = self.default_branch()
        commit = self.head(branch)
        if not commit:
            raise UsageError(f"{self.name} has no commits", "push this checkout to it first")
        return branch, commit

    def head(self, branch: str) -> str:
        """A branch's commit; empty when the branch does not exist."""
        found = self._client.find("ref", f"{self._path}/git/ref/heads/{quote(branch)}")
        return str(found["object"]["sha"]) if found else ""

    def commit_of(self, ref: str) -> str:
        """The commit of a tag or branch; empty when it does not exist."""
        found = self._client.find("object", f"{self._path}/commits/{quote(ref, safe='')}")
        return str(found["sha"]) if found else ""

    def is_merged(self, ref: str) -> bool | None:
        """Whether a tag or branch is part of the default branch; None when it does not exist."""
        range_ = f"{quote(self.default_branch(), safe='')}...{quote(ref, safe='')}"
        found = self._client.find("comparison", f"{self._path}/compare/{range_}")
        return found["status"] in {"behind", "identical"} if found else None

    def releases(self) -> list[dict[str, Any]]:
        """All releases, and the drafts that the token may see."""
        return list(self._client.pages("release", f"{self._path}/releases"))

    def newest_release(self) -> str:
        """The tag of GitHub's latest release; empty when there are no releases."""
        found = self._client.find("release", f"{self._path}/releases/latest")
        return str(found["tag_name"]) if found else ""

    def pulls(self, branch: str) -> list[dict[str, Any]]:
        """All pull requests from a branch of this repository, closed ones too."""
        owner = self.name.partition("/")[0]
        return list(
            self._client.pages("pull", f"{self._path}/pulls", head=f"{owner}:{branch}", state="all")
        )

    def open_pulls(self, prefix: str) -> list[dict[str, Any]]:
        """The open pull requests from this repository's branches with a prefix."""
        label = f"{self.name.partition('/')[0]}:{prefix}"
        found = self._client.pages("pull", f"{self._path}/pulls", state="open")
        return [one for one in found if (one["head"]["label"] or "").startswith(label)]

    def issues(self, label: str) -> list[dict[str, Any]]:
        """All issues with a label, closed ones too."""
        found = self._client.pages("issue", f"{self._path}/issues", labels=label, state="all")
        return [one for one in found if "pull_request" not in one]

    def runs(self, workflow: str, branch: str) -> int:
        """The number of a workflow's runs for a branch."""
        found = self._client.find(
            "runs", f"{self._path}/actions/workflows/{workflow}/runs", branch=branch, per_page=1
        )
        return int(found["total_count"]) if found else 0

    def jobs(self, run: str) -> list[dict[str, Any]]:
        """The jobs of a run, with their steps."""
        path = f"{self._path}/actions/runs/{run}/jobs"
        return list(self._client.get("jobs", path, per_page=100)["jobs"])

    def commit(self, message: str, parent: str, entries: Sequence[Entry] = ()) -> str:
        """Create a commit that no branch contains; return its hash."""
        tree = str(self._client.get("commit", f"{self._path}/git/commits/{parent}")["tree"]["sha"])
        if entries:
            body = {"base_tree": tree, "tree": [entry.as_json() for entry in entries]}
            tree = self._create_object("trees", body)
        return self._create_object(
            "commits", {"message": message, "tree": tree, "parents": [parent]}
        )

    def _create_object(self, kind: str, body: dict[str, Any]) -> str:
        answer = self._client.send("POST", f"{self._path}/git/{kind}", body, "object")
        return str(self._created(answer)["sha"])

    def create_branch(self, branch: str, commit: str) -> bool:
        """Create a branch atomically; return False when it exists."""
        body = {"ref": f"refs/heads/{branch}", "sha": commit}
        return self._client.send("POST", f"{self._path}/git/refs", body) is not None

    def open_pull(self, *, title: str, body: str, branch: str, base: str) -> int | None:
        """Open a pull request; return its number, or None when one is open."""
        created = self._client.send(
            "POST", f"{self._path}/pulls",
            {"title": title, "body": body, "head": branch, "base": base}, "numbered",
        )  # fmt: skip
        return int(created["number"]) if created else None

    def open_issue(self, *, title: str, body: str, label: str) -> int:
        """Open an issue; return its number."""
        created = self._client.send(
            "POST",
            f"{self._path}/issues",
            {"title": title, "body": body, "labels": [label]},
            "numbered",
        )
        return int(self._created(created)["number"])

    def comments(self, number: int) -> list[str]:
        """The comments of an issue or pull request."""
        found = self._client.pages("comment", f"{self._path}/issues/{number}/comments")
        return [one["body"] or "" for one in found]

    def close_issue(self, number: int, why: str, *, done: bool) -> None:
        """Comment with the reason, and close an issue."""
        self.comment(number, why)
        reason = "completed" if done else "not_planned"
        body = {"state": "closed", "state_reason": reason}
        self._client.send("PATCH", f"{self._path}/issues/{number}", body)

    def close_pull(self, number: int, why: str) -> None:
        """Comment with the reason, and close a pull request."""
        self.comment(number, why)
        self._client.send("PATCH", f"{self._path}/pulls/{number}", {"state": "closed"})

    def comment(self, number: int, text: str) -> None:
        """Comment on an issue or pull request."""
        self._client.send("POST", f"{self._path}/issues/{number}/comments", {"body": text})

    def start(self, workflow: str, branch: str) -> None:
        """Start a workflow for a branch, and wait until GitHub lists the run.

        An unlisted run would be started again.
        """
        path = f"{self._path}/actions/workflows/{workflow}/dispatches"
        before = self.runs(workflow, branch)
        self._client.send("POST", path, {"ref": branch})
        for _ in range(LISTED):
            if self.runs(workflow, branch) > before:
                return
            time.sleep(2)
        warn(f"GitHub does not list the run of {workflow} for {branch} yet")

    @contextlib.contextmanager
    def locked(self, branch: str, base: str) -> Iterator[None]:
        """Lock this repository against other runs on any machine, with a branch.

        Creating a branch is atomic: the second run gets an error. The commit's time is the
        lock's age. Taking over a stale lock is atomic, too: the new commit follows the old
        one, so a second takeover is not a fast-forward.

        Args:
            branch: the lock's name.
            base: any commit of the repository.

        Raises:
            BusyError: another run holds it.
        """
        holder = os.environ.get("GITHUB_RUN_ID", f"{socket.gethostname()}, pid {os.getpid()}")
        message = f"chore: held by {holder}"
        ours = self.commit(message, base)
        if not self.create_branch(branch, ours):
            theirs = self.head(branch)
            age = self._age(theirs) if theirs else 0.0
            if age < LEASE:
                raise self._busy(branch, age)
            ours = self.commit(message, theirs)
            taken = self._client.send(
                "PATCH", f"{self._path}/git/refs/heads/{branch}", {"sha": ours, "force": False}
            )
            if taken is None:
                raise self._busy(branch, 0.0)
        try:
            yield
        finally:
            if self.head(branch) == ours:
                self._client.send("DELETE", f"{self._path}/git/refs/heads/{branch}")

    def _age(self, commit: str) -> float:
        when = self._client.get("commit", f"{self._path}/git/commits/{commit}")["committer"]["date"]
        return time.time() - datetime.fromisoformat(when).timestamp()

    def _busy(self, branch: str, age: float) -> BusyError:
        return BusyError(
            f"another run has held the lock on {self.name} for {age / 60:.0f} min",
            f"wait for that run; if it was killed, delete the branch {branch}, or wait an hour",
        )

    @staticmethod
    def _created(answer: Any | None) -> Any:
        if answer is None:
            raise NetworkError("GitHub reports that a new object exists already", "run it again")
        return answer
