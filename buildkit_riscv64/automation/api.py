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
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
import requests_cache
import tenacity

from .. import project
from ..console import say
from ..errors import NetworkError, UsageError

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
