"""Repositories on GitHub: what is asked about ours and about upstream's, and changed in ours."""

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

from ..console import warn
from ..errors import BusyError, NetworkError, UsageError
from .api import Client

#: How often, every two seconds, a run is looked for that was started: GitHub lists it later.
LISTED = 15
#: Seconds after which a lock belongs to a run that was killed.
LEASE = 3600

_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)


def repository(text: str = "") -> str:
    """The repository on GitHub that we are, as OWNER/NAME: as given, or as the environment has it.

    Raises:
        UsageError: there is none, or it is no name.
    """
    found = text or os.environ.get("GITHUB_REPOSITORY", "")
    if not found:
        raise UsageError(
            "which repository on GitHub is ours?",
            "give --repository OWNER/NAME, or set GITHUB_REPOSITORY",
        )
    if not _REPOSITORY.fullmatch(found):
        raise UsageError(f"{found!r} is not a repository on GitHub", "give one like OWNER/NAME")
    return found


@dataclass(frozen=True)
class Entry:
    """A file of a commit, or a submodule.

    Args:
        path: where, in the repository.
        mode: git's; 160000 is a submodule.
        content: the file's, or the submodule's commit; None where it is removed.
    """

    path: str
    mode: str
    content: str | None

    def as_json(self) -> dict[str, Any]:
        """For GitHub's trees."""
        if self.content is None:
            return {"path": self.path, "mode": self.mode, "type": "blob", "sha": None}
        if self.mode == "160000":
            return {"path": self.path, "mode": self.mode, "type": "commit", "sha": self.content}
        return {"path": self.path, "mode": self.mode, "type": "blob", "content": self.content}


class Repository:
    """A repository of ours on GitHub.

    Args:
        client: the API.
        name: as in OWNER/NAME.
    """

    def __init__(self, client: Client, name: str) -> None:
        self.name = name
        self._client = client
        self._path = f"/repos/{name}"

    def default_branch(self) -> str:
        """The branch that pull requests are for."""
        return str(self._client.get(self._path)["default_branch"])

    def head(self, branch: str) -> str:
        """A branch's commit; nothing where there is no such branch."""
        found = self._client.find(f"{self._path}/git/ref/heads/{quote(branch)}")
        return str(found["object"]["sha"]) if found else ""

    def commit_of(self, ref: str) -> str:
        """The commit of a tag or branch; nothing where there is none."""
        found = self._client.find(f"{self._path}/commits/{quote(ref, safe='')}")
        return str(found["sha"]) if found else ""

    def releases(self) -> list[dict[str, Any]]:
        """All releases, drafts included where we may see them."""
        return list(self._client.pages(f"{self._path}/releases"))

    def newest_release(self) -> str:
        """The tag of the release that GitHub shows first; nothing where there is none."""
        found = self._client.find(f"{self._path}/releases/latest")
        return str(found["tag_name"]) if found else ""

    def pulls(self, branch: str) -> list[dict[str, Any]]:
        """The pull requests of a branch of this very repository, closed ones too."""
        owner = self.name.partition("/")[0]
        return list(
            self._client.pages(f"{self._path}/pulls", head=f"{owner}:{branch}", state="all")
        )

    def open_pulls(self, prefix: str) -> list[dict[str, Any]]:
        """The open pull requests of this very repository's branches that begin so."""
        label = f"{self.name.partition('/')[0]}:{prefix}"
        found = self._client.pages(f"{self._path}/pulls", state="open")
        return [one for one in found if one["head"]["label"].startswith(label)]

    def issues(self, label: str) -> list[dict[str, Any]]:
        """The issues with a label, closed ones too."""
        found = self._client.pages(f"{self._path}/issues", labels=label, state="all")
        return [one for one in found if "pull_request" not in one]

    def runs(self, workflow: str, branch: str) -> int:
        """How often a workflow has run for a branch."""
        found = self._client.find(
            f"{self._path}/actions/workflows/{workflow}/runs", branch=branch, per_page=1
        )
        return int(found["total_count"]) if found else 0

    def jobs(self, run: str) -> list[dict[str, Any]]:
        """The jobs of a run, with their steps."""
        path = f"{self._path}/actions/runs/{run}/jobs"
        return list(self._client.get(path, per_page=100)["jobs"])

    def commit(self, message: str, parent: str, entries: Sequence[Entry] = ()) -> str:
        """Make a commit that nothing names yet; its hash."""
        tree = str(self._client.get(f"{self._path}/git/commits/{parent}")["tree"]["sha"])
        if entries:
            body = {"base_tree": tree, "tree": [entry.as_json() for entry in entries]}
            tree = self._made(self._client.send("POST", f"{self._path}/git/trees", body))["sha"]
        body = {"message": message, "tree": tree, "parents": [parent]}
        made = self._made(self._client.send("POST", f"{self._path}/git/commits", body))
        return str(made["sha"])

    def create_branch(self, branch: str, commit: str) -> bool:
        """Make a branch; False where there is one of that name, which GitHub decides."""
        body = {"ref": f"refs/heads/{branch}", "sha": commit}
        return self._client.send("POST", f"{self._path}/git/refs", body) is not None

    def open_pull(self, *, title: str, body: str, branch: str, base: str) -> int | None:
        """Open a pull request; its number, or None where there is one."""
        made = self._client.send(
            "POST", f"{self._path}/pulls",
            {"title": title, "body": body, "head": branch, "base": base},
        )  # fmt: skip
        return int(made["number"]) if made else None

    def open_issue(self, *, title: str, body: str, label: str) -> int:
        """Open an issue; its number."""
        made = self._client.send(
            "POST", f"{self._path}/issues", {"title": title, "body": body, "labels": [label]}
        )
        return int(self._made(made)["number"])

    def comments(self, number: int) -> list[str]:
        """What has been said of an issue or pull request."""
        found = self._client.pages(f"{self._path}/issues/{number}/comments")
        return [str(one["body"]) for one in found]

    def close_issue(self, number: int, why: str, *, done: bool) -> None:
        """Say why, and close an issue."""
        self.comment(number, why)
        reason = "completed" if done else "not_planned"
        body = {"state": "closed", "state_reason": reason}
        self._client.send("PATCH", f"{self._path}/issues/{number}", body)

    def close_pull(self, number: int, why: str) -> None:
        """Say why, and close a pull request."""
        self.comment(number, why)
        self._client.send("PATCH", f"{self._path}/pulls/{number}", {"state": "closed"})

    def comment(self, number: int, text: str) -> None:
        """Say something of an issue or pull request."""
        self._client.send("POST", f"{self._path}/issues/{number}/comments", {"body": text})

    def start(self, workflow: str, branch: str) -> None:
        """Start a workflow for a branch, and see that it is listed: else somebody starts it again."""
        path = f"{self._path}/actions/workflows/{workflow}/dispatches"
        before = self.runs(workflow, branch)
        self._client.send("POST", path, {"ref": branch})
        for _ in range(LISTED):
            if self.runs(workflow, branch) > before:
                return
            time.sleep(2)
        warn(f"{workflow} was started for {branch}, and GitHub does not list it yet")

    @contextlib.contextmanager
    def locked(self, branch: str, base: str) -> Iterator[None]:
        """Hold this repository for one run, wherever the others run: by a branch.

        Making one is atomic: of two, one is told that it exists. Its commit's time says
        how old it is, and one that a killed run left is taken over in one step too, for
        then the new commit follows the old one, and the second that tries it does not.

        Args:
            branch: the lock's name.
            base: any commit of the repository.

        Raises:
            BusyError: another run holds it.
        """
        who = os.environ.get("GITHUB_RUN_ID", f"{socket.gethostname()}, pid {os.getpid()}")
        message = f"chore: held by {who}"
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
        when = self._client.get(f"{self._path}/git/commits/{commit}")["committer"]["date"]
        return time.time() - datetime.fromisoformat(when).timestamp()

    def _busy(self, branch: str, age: float) -> BusyError:
        return BusyError(
            f"another run has been at work on {self.name} for {age / 60:.0f} min",
            f"wait for it; if it was killed, delete the branch {branch}, or wait an hour",
        )

    @staticmethod
    def _made(answer: Any | None) -> Any:
        if answer is None:
            raise NetworkError("GitHub says that a new object exists", "run it again")
        return answer
