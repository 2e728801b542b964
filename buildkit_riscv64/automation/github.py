"""GitHub's REST API: the only place that talks to it.

What has been asked before is asked conditionally, and an answer that says "as
before" counts towards no limit. What fails is tried again where that is safe, and
a rate limit is waited for where that is a matter of minutes
(https://docs.github.com/en/rest/using-the-rest-api/best-practices-for-using-the-rest-api).
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import socket
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import requests
import requests_cache
import tenacity

from .. import project
from ..console import say, warn
from ..errors import BusyError, NetworkError, UsageError

#: Where the API is; GitHub Actions sets it, for an Enterprise server too.
API = "GITHUB_API_URL"
#: Who we are to GitHub; the first that is set. Never on a command line, in a log or in the cache.
TOKENS = ("GH_TOKEN", "GITHUB_TOKEN")
#: What a token has to be allowed, by the names that workflows have for it.
PERMISSIONS = "contents, issues, pull-requests and actions: write"

#: Tries of one request, and the seconds between them: half a minute in all.
ATTEMPTS = 6
BACKOFF = tenacity.wait_exponential(multiplier=1, max=16)
#: Seconds that a rate limit is waited for; the hourly one may last longer.
LONGEST_WAIT = 300
#: Seconds to connect, and to the next byte.
TIMEOUT = (10, 60)
#: Pages of one list, of a hundred entries each: more is no answer to us.
MOST_PAGES = 20
#: How often, every two seconds, a run is looked for that was started: GitHub lists it later.
LISTED = 15
#: Seconds after which a lock belongs to a run that was killed.
LEASE = 3600

_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
# What GitHub says, with code 422, when what is to be made is there already.
_CONFLICT = re.compile(r"already.exists|not a fast.forward|reference does not exist", re.I)


class _AgainError(Exception):
    """Worth another try, after `wait` seconds where that is known."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


class _Login(requests.auth.AuthBase):
    """The token, or nothing; without this, requests would look for a password in ~/.netrc."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._token:
            request.headers["Authorization"] = f"Bearer {self._token}"
        return request


def token() -> str:
    """The token in the environment, or nothing.

    Raises:
        UsageError: it is none.
    """
    for name in TOKENS:
        if found := os.environ.get(name, "").strip():
            if not re.fullmatch(r"[\x21-\x7e]+", found):
                raise UsageError(
                    f"{name} has characters that no token has", "set it to the token and no more"
                )
            return found
    return ""


def address() -> str:
    """Where the API is.

    Raises:
        UsageError: the token would go over the network for all to read.
    """
    found = os.environ.get(API) or "https://api.github.com"
    parts = urlsplit(found)
    try:
        local = parts.hostname == "localhost" or ipaddress.ip_address(parts.hostname or "").is_loopback  # fmt: skip
    except ValueError:
        local = False
    if not parts.hostname or parts.scheme not in {"https", "http"} or (parts.scheme == "http" and not local):  # fmt: skip
        raise UsageError(
            f"{API} is {found!r}, and must be an https:// address", f"unset {API}, or correct it"
        )
    return found.rstrip("/")


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


def _cache() -> Path:
    return project.cache() / "github.sqlite"


def _session(login: str, *, kept: bool = True) -> requests_cache.CachedSession:
    """What talks to GitHub; it remembers answers for the next run if it can, or for this one."""
    settings: dict[str, Any] = {
        # GitHub would let answers be taken as they are for a minute, in which we may have changed things.
        "always_revalidate": True, "expire_after": requests_cache.EXPIRE_IMMEDIATELY,
        "serializer": "json",
    }  # fmt: skip
    session = None
    with contextlib.suppress(OSError, sqlite3.Error):
        if kept:
            _cache().parent.mkdir(parents=True, exist_ok=True)
            # Each answer is kept whole or not at all, which is SQLite's doing. It does not wait for
            # the disk: what a power cut breaks is thrown away.
            session = requests_cache.CachedSession(
                _cache(), backend="sqlite", fast_save=True, **settings
            )
    if session is None:
        with contextlib.suppress(OSError):
            _cache().unlink()
        session = requests_cache.CachedSession(backend="memory", **settings)
    session.auth = _Login(login)
    session.headers.update(
        {
            "Accept": "application/vnd.github+json",
            "User-Agent": project.MAKER,
            "X-GitHub-Api-Version": "2022-11-28",
        }
    )
    return session


def _message(response: requests.Response) -> str:
    """What GitHub has to say of a request that it refused."""
    try:
        said = response.json()
        details = [str(e.get("message", e.get("code", ""))) for e in said.get("errors", [])]
        return ": ".join([str(said["message"]), *filter(None, details)])
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"HTTP {response.status_code} {response.reason}"


def _limit(response: requests.Response) -> float | None:
    """Seconds until a rate limit is over; None where it is not about one."""
    if response.status_code not in {403, 429}:
        return None
    told = response.headers
    if (seconds := told.get("retry-after", "")).isdecimal():
        return float(seconds)
    if told.get("x-ratelimit-remaining") == "0" and told.get("x-ratelimit-reset", "").isdecimal():
        return max(0.0, int(told["x-ratelimit-reset"]) - time.time()) + 1
    # "Otherwise, wait for at least one minute."
    about = response.status_code == 429 or "rate limit" in _message(response).lower()
    return 60.0 if about else None


class Client:
    """The API, for one run.

    Args:
        api: its address.
        login: the token, or nothing.
        dry: only ever ask.
    """

    def __init__(self, api: str, login: str = "", *, dry: bool = False) -> None:
        self._api = api
        self._login = login
        self._dry = dry
        self._session = _session(login)

    @classmethod
    @contextlib.contextmanager
    def connected(cls, *, dry: bool = False) -> Iterator[Client]:
        """As the environment has it.

        Raises:
            UsageError: what it has cannot be used.
        """
        client = cls(address(), token(), dry=dry)
        try:
            yield client
        finally:
            client._session.__exit__()

    def get(self, path: str, **params: str | int) -> Any:
        """What is there.

        Raises:
            NetworkError: nothing is, or GitHub does not say so.
        """
        return self._json(self._request("GET", path, params=params))

    def find(self, path: str, **params: str | int) -> Any | None:
        """What is there, or None.

        Raises:
            NetworkError: GitHub does not answer, or not to us.
        """
        response = self._request("GET", path, params=params, accepted=(404,))
        return None if response.status_code == 404 else self._json(response)

    def pages(self, path: str, **params: str | int) -> Iterator[Any]:
        """The entries of a list, of all its pages.

        Raises:
            NetworkError: GitHub does not answer, or not to us.
        """
        params = {"per_page": 100, **params}
        for _ in range(MOST_PAGES):
            response = self._request("GET", path, params=params)
            entries = self._json(response)
            if not isinstance(entries, list):
                raise NetworkError(f"{self._api}{path}: not a list", "see what answers there")
            yield from entries
            path, params = response.links.get("next", {}).get("url", ""), {}
            if not path.startswith(f"{self._api}/"):
                return
            path = path.removeprefix(self._api)

    def send(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any | None:
        """Change something; None where it is there already, or gone already.

        Args:
            method: of HTTP.
            path: below the API's address.
            body: sent as JSON.

        Raises:
            NetworkError: it was not done, or nobody knows.
        """
        assert not self._dry, f"{method} {path} under --dry"
        response = self._request(method, path, body=body, accepted=(422,))
        if response.status_code == 422:
            if _CONFLICT.search(_message(response)):
                return None
            raise self._failure(method, path, response)
        return self._json(response) if response.content else {}

    def _json(self, response: requests.Response) -> Any:
        try:
            return response.json()
        except ValueError as error:
            raise NetworkError(
                f"{response.url}: no JSON: {response.text[:60]!r}", f"check {API} and the proxy settings"
            ) from error  # fmt: skip

    def _request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str | int] | None = None,
        body: Mapping[str, Any] | None = None,
        accepted: Sequence[int] = (),
    ) -> requests.Response:
        def attempt() -> requests.Response:
            return self._once(method, path, params or {}, body)

        def wait(state: tenacity.RetryCallState) -> float:
            error = state.outcome.exception() if state.outcome else None
            told = error.wait if isinstance(error, _AgainError) else None
            return BACKOFF(state) if told is None else told

        def tell(state: tenacity.RetryCallState) -> None:
            reason = state.outcome.exception() if state.outcome else ""
            say(f"GitHub: {reason}; trying again in {wait(state):.0f} s")

        patiently = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(_AgainError),
            stop=tenacity.stop_after_attempt(ATTEMPTS),
            wait=wait, before_sleep=tell, sleep=time.sleep, reraise=True,
        )  # fmt: skip
        try:
            response = patiently(attempt)
        except _AgainError as error:
            raise NetworkError(
                f"GitHub does not answer {method} {path}: {error}",
                "check the network and https://www.githubstatus.com; then run it again",
            ) from error
        if not response.ok and response.status_code not in accepted:
            raise self._failure(method, path, response)
        return response

    def _once(
        self, method: str, path: str, params: Mapping[str, str | int], body: Any
    ) -> requests.Response:
        # What a second POST would do again is found by whoever runs us again.
        repeatable = method != "POST"
        try:
            response = self._session.request(
                method, f"{self._api}{path}", params=params, json=body, timeout=TIMEOUT
            )
        except sqlite3.Error as error:
            self._session.__exit__()
            self._session = _session(self._login, kept=False)
            raise _AgainError(f"what was kept of its answers is broken ({error})", 0) from error
        except (requests.RequestException, OSError) as error:
            # The address is in it, and what is in that; no token ever is.
            reason = f"{type(error).__name__}: {error}"
            if repeatable or isinstance(error, requests.ConnectTimeout):
                raise _AgainError(reason) from error
            raise self._unknown(method, path, reason) from error
        wait = _limit(response)
        if wait is not None:
            if wait > LONGEST_WAIT:
                raise self._exhausted(response, wait)
            raise _AgainError(_message(response), wait)
        if response.status_code >= 500:
            if not repeatable:
                raise self._unknown(method, path, _message(response))
            raise _AgainError(_message(response))
        return response

    @staticmethod
    def _unknown(method: str, path: str, reason: str) -> NetworkError:
        return NetworkError(
            f"GitHub may or may not have done {method} {path}: {reason}",
            "run it again: what was done is found, and not done again",
        )

    def _exhausted(self, response: requests.Response, wait: float) -> NetworkError:
        until = datetime.fromtimestamp(time.time() + wait, UTC)
        more = "" if self._login else f"; with a token in {TOKENS[0]} it allows more"
        return NetworkError(
            f"GitHub allows no more requests until {until:%H:%M} UTC: {_message(response)}",
            f"run it again then{more}",
        )

    def _failure(self, method: str, path: str, response: requests.Response) -> NetworkError:
        said = _message(response)
        if response.status_code == 401:
            return NetworkError(
                f"GitHub does not take the token: {said}",
                f"put a valid one into {TOKENS[0]}; `gh auth token` prints yours",
            )
        if response.status_code in {403, 404} and method != "GET":
            return NetworkError(
                f"GitHub does not let us {method} {path}: {said}",
                f"the token in {TOKENS[0]} needs {PERMISSIONS}",
            )
        return NetworkError(
            f"GitHub refuses {method} {path}: {said}", "check the name and what the token may read"
        )


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
