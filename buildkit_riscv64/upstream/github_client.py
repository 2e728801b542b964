"""Client of GitHub's REST API.

Repeated requests are conditional: an unchanged answer does not count towards the
rate limit. Failed requests are retried when that is safe. Rate limits of a few
minutes are waited for
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

import requests
import requests_cache
import tenacity

from ..core import documents, dry_run, project, schemas, values
from ..core.console import log
from ..core.errors import NetworkError, UsageError

#: The variable with the API's address; GitHub Actions sets it, for an Enterprise server too.
API = "GITHUB_API_URL"
#: Variables with the token; the first one set counts. Never log or cache the token.
TOKENS = ("GH_TOKEN", "GITHUB_TOKEN")
#: The permissions that a token needs, as workflows name them.
PERMISSIONS = "contents, issues, pull-requests and actions: write"

#: Attempts per request, and the seconds between them: half a minute in total.
ATTEMPTS = 6
BACKOFF = tenacity.wait_exponential(multiplier=1, max=16)
#: Longest wait for a rate limit, in seconds; the hourly limit may last longer.
LONGEST_WAIT = 300
#: Timeouts in seconds: to connect, and for the next byte.
TIMEOUT = (10, 60)
#: Most pages of one list, with a hundred entries each.
MOST_PAGES = 20
_ELSEWHERE = f"another server may answer: check {API} and the proxy settings"
# Longer numbers are invalid and would overflow.
_SECONDS = re.compile("[0-9]{1,10}")
# GitHub's messages, with code 422, for a change that is already done.
_CONFLICT = re.compile(r"already.exists|not a fast.forward|reference does not exist", re.I)


class _RetryError(Exception):
    """A request to retry, after `wait` seconds if known."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


class _Login(requests.auth.AuthBase):
    """Authorization by token; an explicit class keeps requests from reading ~/.netrc."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._token:
            request.headers["Authorization"] = f"Bearer {self._token}"
        return request


def token() -> str:
    """The token in the environment, or an empty string.

    Raises:
        UsageError: the token has invalid characters.
    """
    for name in TOKENS:
        if found := os.environ.get(name, "").strip():
            if not re.fullmatch(r"[\x21-\x7e]+", found):
                raise UsageError(
                    f"{name} contains characters that are not allowed in a token",
                    "set it to the token only",
                )
            return found
    return ""


def address() -> str:
    """The API's address.

    Raises:
        UsageError: the address would send the token unencrypted.
    """
    found = os.environ.get(API) or "https://api.github.com"
    parts = values.address(API, found)
    try:
        local = parts.hostname == "localhost" or ipaddress.ip_address(parts.hostname or "").is_loopback  # fmt: skip
    except ValueError:
        local = False
    if parts.scheme == "http" and not local:
        raise UsageError(
            f"{API} is {found!r}, not an https:// address", f"unset {API}, or correct it"
        )
    return found.rstrip("/")


def _cache() -> Path:
    return project.cache() / "github.sqlite"


def _session(login: str, *, persistent: bool = True) -> requests_cache.CachedSession:
    """A session that caches answers on disk if possible, otherwise in memory."""
    settings: dict[str, Any] = {
        # GitHub's answers may be reused for a minute, in which we may have changed something.
        "always_revalidate": True, "expire_after": requests_cache.EXPIRE_IMMEDIATELY,
        "serializer": "json",
    }  # fmt: skip
    session = None
    with contextlib.suppress(OSError, sqlite3.Error):
        if persistent and not dry_run.active():
            _cache().parent.mkdir(parents=True, exist_ok=True)
            # SQLite stores each answer atomically. fast_save: a cache that a power cut damages
            # is deleted.
            session = requests_cache.CachedSession(
                _cache(), backend="sqlite", fast_save=True, **settings
            )
    if session is None:
        if not dry_run.active():
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
    """GitHub's error message for a refused request."""
    try:
        answer = documents.parse_json(response.content)
        details = [str(e.get("message", e.get("code", ""))) for e in answer.get("errors", [])]
        return ": ".join([str(answer["message"]), *filter(None, details)])
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"HTTP {response.status_code} {response.reason}"


def _limit(response: requests.Response) -> float | None:
    """Seconds until a rate limit ends; None for other answers."""
    if response.status_code not in {403, 429}:
        return None
    headers = response.headers
    if _SECONDS.fullmatch(seconds := headers.get("retry-after", "")):
        return float(seconds)
    reset = headers.get("x-ratelimit-reset", "")
    if headers.get("x-ratelimit-remaining") == "0" and _SECONDS.fullmatch(reset):
        return max(0.0, int(reset) - time.time()) + 1
    # "Otherwise, wait for at least one minute."
    limited = response.status_code == 429 or "rate limit" in _message(response).lower()
    return 60.0 if limited else None


class Client:
    """The API, for one run.

    Args:
        api: the API's address.
        login: the token, or an empty string.
    """

    def __init__(self, api: str, login: str = "") -> None:
        self._api = api
        self._login = login
        self._session = _session(login)

    @classmethod
    @contextlib.contextmanager
    def connected(cls) -> Iterator[Client]:
        """Connect with the address and token in the environment.

        Raises:
            UsageError: address or token is invalid.
        """
        client = cls(address(), token())
        try:
            yield client
        finally:
            client._session.__exit__()

    def get(self, kind: str, path: str, **params: str | int) -> Any:
        """Get an object.

        Args:
            kind: the answer's definition in `schemas/github.schema.json`.
            path: the path below the API's address.
            params: query parameters.

        Raises:
            NetworkError: the object is missing, or GitHub does not answer.
        """
        return self._json(kind, self._request("GET", path, params=params))

    def find(self, kind: str, path: str, **params: str | int) -> Any | None:
        """Get an object, or None when it is missing; arguments as for :meth:`get`.

        Raises:
            NetworkError: GitHub does not answer, or refuses.
        """
        # 409: "Git Repository is empty."
        missing = (404, 409)
        response = self._request("GET", path, params=params, accepted=missing)
        return None if response.status_code in missing else self._json(kind, response)

    def pages(self, kind: str, path: str, **params: str | int) -> Iterator[Any]:
        """Yield the entries of all pages of a list; arguments as for :meth:`get`.

        Raises:
            NetworkError: GitHub does not answer, or refuses.
        """
        params = {"per_page": 100, **params}
        for _ in range(MOST_PAGES):
            response = self._request("GET", path, params=params)
            entries = self._json("nothing", response)
            if not isinstance(entries, list):
                raise NetworkError(f"{self._api}{path}: not a list", _ELSEWHERE)
            for entry in entries:
                self._validate(kind, entry, response)
                yield entry
            path, params = response.links.get("next", {}).get("url", ""), {}
            if not path.startswith(f"{self._api}/"):
                return
            path = path.removeprefix(self._api)

    def send(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, kind: str = "nothing"
    ) -> Any | None:
        """Change something; return None when the change is already done.

        Args:
            method: the HTTP method.
            path: the path below the API's address.
            body: sent as JSON.
            kind: the answer's definition, as for :meth:`get`.

        Raises:
            NetworkError: the change failed, or its result is unknown.
        """
        dry_run.refuse(f"{method} {path}")
        response = self._request(method, path, body=body, accepted=(422,))
        if response.status_code == 422:
            if _CONFLICT.search(_message(response)):
                return None
            raise self._failure(method, path, response)
        return self._json(kind, response) if response.content or kind != "nothing" else {}

    def _json(self, kind: str, response: requests.Response) -> Any:
        try:
            found = documents.parse_json(response.content)
        except documents.InvalidDocumentError as error:
            raise NetworkError(
                f"{response.url}: not JSON but {documents.shown(response.text[:60])}: {error}",
                _ELSEWHERE,
            ) from error
        self._validate(kind, found, response)
        return found

    @staticmethod
    def _validate(kind: str, found: Any, response: requests.Response) -> None:
        try:
            documents.validate(found, schemas.GITHUB, kind)
        except documents.InvalidDocumentError as error:
            raise NetworkError(f"{response.url}: not GitHub's {kind}: {error}", _ELSEWHERE) from error  # fmt: skip

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
            wanted = error.wait if isinstance(error, _RetryError) else None
            return BACKOFF(state) if wanted is None else wanted

        def log_retry(state: tenacity.RetryCallState) -> None:
            reason = state.outcome.exception() if state.outcome else ""
            log(f"GitHub: {reason}; trying again in {wait(state):.0f} s")

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(_RetryError),
            stop=tenacity.stop_after_attempt(ATTEMPTS),
            wait=wait, before_sleep=log_retry, sleep=time.sleep, reraise=True,
        )  # fmt: skip
        try:
            response = retrying(attempt)
        except _RetryError as error:
            raise NetworkError(
                f"GitHub does not answer {method} {path}: {error}",
                "check the network and https://www.githubstatus.com, and run it again",
            ) from error
        if not response.ok and response.status_code not in accepted:
            raise self._failure(method, path, response)
        return response

    def _once(
        self, method: str, path: str, params: Mapping[str, str | int], body: Any
    ) -> requests.Response:
        # A repeated POST might act twice; the next run finds the result of the first.
        repeatable = method != "POST"
        try:
            response = self._session.request(
                method, f"{self._api}{path}", params=params, json=body, timeout=TIMEOUT
            )
        except sqlite3.Error as error:
            self._session.__exit__()
            self._session = _session(self._login, persistent=False)
            raise _RetryError(f"the cache of answers is damaged ({error})", 0) from error
        except (requests.RequestException, OSError) as error:
            # The message contains the address, never the token.
            reason = f"{type(error).__name__}: {error}"
            if repeatable or isinstance(error, requests.ConnectTimeout):
                raise _RetryError(reason) from error
            raise self._unknown(method, path, reason) from error
        wait = _limit(response)
        if wait is not None:
            if wait > LONGEST_WAIT:
                raise self._exhausted(response, wait)
            raise _RetryError(_message(response), wait)
        if response.status_code >= 500:
            if not repeatable:
                raise self._unknown(method, path, _message(response))
            raise _RetryError(_message(response))
        return response

    @staticmethod
    def _unknown(method: str, path: str, reason: str) -> NetworkError:
        return NetworkError(
            f"GitHub may or may not have executed {method} {path}: {reason}",
            "run it again: a finished change is not repeated",
        )

    def _exhausted(self, response: requests.Response, wait: float) -> NetworkError:
        until = datetime.fromtimestamp(time.time() + wait, UTC)
        more = "" if self._login else f", or set a token in {TOKENS[0]} for a higher limit"
        return NetworkError(
            f"GitHub allows no more requests until {until:%H:%M} UTC: {_message(response)}",
            f"run it again after that time{more}",
        )

    def _failure(self, method: str, path: str, response: requests.Response) -> NetworkError:
        reason = _message(response)
        if response.status_code == 401:
            return NetworkError(
                f"GitHub rejects the token: {reason}",
                f"set {TOKENS[0]} to a valid token; `gh auth token` prints yours",
            )
        if response.status_code in {403, 404} and method != "GET":
            return NetworkError(
                f"GitHub forbids {method} {path}: {reason}",
                f"the token in {TOKENS[0]} needs {PERMISSIONS}",
            )
        return NetworkError(
            f"GitHub refuses {method} {path}: {reason}",
            "check the name and the token's read permissions",
        )
