"""A fake GitHub on loopback: the part of the REST API that this project uses, with its errors.

It keeps state, as GitHub does: it refuses to create an existing branch and to move a branch
backwards, it splits lists into pages, and it does not send unchanged responses again.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

UPSTREAM = "moby/buildkit"
OURS = "me/buildkit-riscv64"
TOKEN = "ghp_0123456789abcdefABCDEF0123456789abcd"
BASE = "b" * 40

#: A header: its text, or a function that returns the text when the response is sent.
Header = str | Callable[[], str]
#: A response: code, headers, body; None cuts the connection within the body.
Answer = tuple[int, Mapping[str, Header], Any]


def release(tag: str, published: str = "2026-08-04T13:40:11Z", **other: Any) -> dict[str, Any]:
    """A release in GitHub's format."""
    page = f"https://github.com/{UPSTREAM}"
    api = f"https://api.github.com/repos/{UPSTREAM}"
    number = int(hashlib.sha256(tag.encode()).hexdigest()[:7], 16)
    return {
        "url": f"{api}/releases/{number}",
        "assets_url": f"{api}/releases/{number}/assets",
        "upload_url": f"https://uploads.github.com/repos/{UPSTREAM}/releases/{number}/assets{{?name,label}}",
        "html_url": f"{page}/releases/tag/{tag}",
        "id": number,
        "author": {"login": "github-actions[bot]", "id": 41898282, "type": "Bot"},
        "node_id": "RE_kwDOBbD_zM4",
        "tag_name": tag,
        "target_commitish": "master",
        "name": tag,
        "draft": False,
        "immutable": False,
        "prerelease": False,
        "created_at": published,
        "updated_at": published,
        "published_at": published,
        "assets": [],
        "tarball_url": f"{api}/tarball/{tag}",
        "zipball_url": f"{api}/zipball/{tag}",
        "body": "Welcome to the release",
        "reactions": {"total_count": 0},
        **other,
    }


def limited(seconds: float) -> Answer:
    """The response when the hourly limit is exceeded."""
    return (
        403,
        {
            "X-RateLimit-Limit": "60", "X-RateLimit-Remaining": "0", "X-RateLimit-Used": "60",
            "X-RateLimit-Reset": lambda: str(int(time.time() + seconds)),
            "X-RateLimit-Resource": "core",
        },
        {
            "message": "API rate limit exceeded for 192.0.2.1. (But here's the good news:"
            " Authenticated requests get a higher rate limit.)",
            "documentation_url": "https://docs.github.com/rest/overview/rate-limits-for-the-rest-api",
        },
    )  # fmt: skip


def secondary(seconds: int | None = 1) -> Answer:
    """The response when the secondary limit is exceeded, on GitHub not always with a time to wait."""
    return (
        403,
        {"X-RateLimit-Remaining": "4321"} | ({"Retry-After": str(seconds)} if seconds else {}),
        {
            "message": "You have exceeded a secondary rate limit. Please wait a few minutes before"
            " you try again.",
            "documentation_url": "https://docs.github.com/rest/overview/rate-limits-for-the-rest-api#about-secondary-rate-limits",
        },
    )


#: A response of GitHub during an outage.
BROKEN: Answer = (502, {"Content-Type": "text/html"}, "<html><title>Unicorn!</title></html>")
BAD_TOKEN: Answer = (
    401, {},
    {"message": "Bad credentials", "documentation_url": "https://docs.github.com/rest", "status": "401"},
)  # fmt: skip
NOT_PERMITTED: Answer = (
    403, {"X-RateLimit-Remaining": "4999"},
    {"message": "Resource not accessible by integration", "documentation_url": "https://docs.github.com/rest", "status": "403"},
)  # fmt: skip
CUT: Answer = (200, {}, None)


@dataclass
class Repository:
    """The state of a repository."""

    releases: list[dict[str, Any]] = field(default_factory=list)
    refs: dict[str, str] = field(default_factory=dict)
    issues: list[dict[str, Any]] = field(default_factory=list)
    pulls: list[dict[str, Any]] = field(default_factory=list)
    comments: dict[int, list[str]] = field(default_factory=dict)
    runs: list[str] = field(default_factory=list)
    jobs: list[dict[str, Any]] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)
    #: How tags compare with the default branch, by default as merged; empty: no such tag.
    compared: dict[str, str] = field(default_factory=dict)


class Hub:
    """The server and its state."""

    def __init__(self) -> None:
        self.repositories = {UPSTREAM: Repository(), OURS: Repository(refs={"heads/main": BASE})}
        self.commits: dict[str, dict[str, Any]] = {}
        self.trees: dict[str, list[dict[str, Any]]] = {}
        self.know(BASE)
        #: Prepared responses by a pattern for METHOD PATH; each is sent once.
        self.moods: list[tuple[str, Answer]] = []
        #: METHOD PATH, and the code of the response.
        self.requests: list[tuple[str, int]] = []
        self.tokens: set[str] = set()
        #: The files of releases, by name.
        self.uploaded: dict[str, bytes] = {}
        #: How many requests for runs get an empty list first.
        self.late = 0
        #: Called before each request is served.
        self.before: Callable[[str], None] = lambda _request: None
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            # Send the response in one piece: two pieces take forty milliseconds longer.
            wbufsize = -1

            def log_request(self, *args: Any) -> None:
                pass

            def _serve(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                # The body of an upload is not JSON.
                upload = re.search(r"/releases/\d+/assets", self.path)
                hub.serve(self, body if upload else json.loads(body) if body else None)

            do_GET = do_HEAD = do_POST = do_PATCH = do_DELETE = _serve  # noqa: N815

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True

    @property
    def upstream(self) -> Repository:
        return self.repositories[UPSTREAM]

    @property
    def ours(self) -> Repository:
        return self.repositories[OURS]

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def changes(self) -> list[str]:
        """The successful requests that change something."""
        return [one for one, code in self.requests if not one.startswith("GET") and code < 300]

    def environment(self, token: str = TOKEN) -> dict[str, str]:
        """The variables that GitHub Actions sets."""
        return {"GITHUB_API_URL": self.address, "GITHUB_REPOSITORY": OURS} | (
            {"GH_TOKEN": token} if token else {}
        )

    def know(
        self,
        commit: str,
        message: str = "",
        tree: str = "t" * 40,
        parents: tuple[str, ...] = (),
        when: float | None = None,
    ) -> str:
        """Add a commit."""
        date = datetime.fromtimestamp(when or time.time(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        who = {"name": "me", "email": "me@example.org", "date": date}
        self.commits[commit] = {
            "sha": commit, "message": message, "tree": {"sha": tree}, "author": who,
            "committer": who, "parents": [{"sha": one} for one in parents],
        }  # fmt: skip
        return commit

    def serve(self, handler: BaseHTTPRequestHandler, body: Any) -> None:
        request = f"{handler.command} {handler.path}"
        self.before(request)
        self.tokens.add(handler.headers.get("Authorization", ""))
        with self._lock:
            mood = next((m for m in self.moods if re.search(m[0], request)), None)
            if mood:
                self.moods.remove(mood)
                code, headers, answer = mood[1]
            else:
                code, headers, answer = self._answer(handler, body)
            sent = (answer if isinstance(answer, str) else json.dumps(answer)).encode()
            etag = f'W/"{hashlib.sha256(sent).hexdigest()}"'
            if mood is None and handler.command == "GET" and code == 200:
                headers = {**headers, "ETag": etag, "Cache-Control": "private, max-age=60, s-maxage=60"}  # fmt: skip
                if handler.headers.get("If-None-Match") == etag:
                    code, sent = 304, b""
            self.requests.append((request, code))
        handler.send_response(code)
        for name, value in {"Content-Type": "application/json; charset=utf-8", **headers}.items():
            handler.send_header(name, value if isinstance(value, str) else value())
        if answer is None and code == 200:  # send half of the body
            handler.send_header("Content-Length", "1000")
            handler.end_headers()
            handler.wfile.write(b'[{"tag_name": "v0.3')
            handler.wfile.flush()
            handler.close_connection = True
            return
        handler.send_header("Content-Length", str(len(sent)))
        handler.end_headers()
        if handler.command != "HEAD":
            handler.wfile.write(sent)

    def _answer(self, handler: BaseHTTPRequestHandler, body: Any) -> Answer:
        parts = urlsplit(handler.path)
        query = {key: values[-1] for key, values in parse_qs(parts.query).items()}
        found = re.fullmatch(r"/repos/([^/]+/[^/]+)(/.*)?", parts.path)
        repository = self.repositories.get(found[1]) if found else None
        if not found or repository is None:
            return self._missing()
        path = unquote(found[2] or "")
        method = handler.command
        if method != "GET" and not handler.headers.get("Authorization"):
            return (401, {}, {"message": "Requires authentication", "status": "401"})
        for pattern, (verb, act) in self._routes().items():
            verbs, route = pattern.split(" ", 1)
            if method == verbs and (match := re.fullmatch(route, path)):
                assert verb in {"one", "list"}
                answer = act(repository, body, query, *match.groups())
                if verb == "list":
                    return self._page(parts.path, query, answer)
                return answer if isinstance(answer, tuple) else (200, {}, answer)
        return self._missing()

    def _page(self, path: str, query: dict[str, str], entries: list[Any]) -> Answer:
        size, number = int(query.get("per_page", 30)), int(query.get("page", 1))
        headers = {}
        if len(entries) > size * number:
            rest = "&".join(f"{k}={v}" for k, v in query.items() if k != "page")
            last = -(-len(entries) // size)
            headers["Link"] = (
                f'<{self.address}{path}?{rest}&page={number + 1}>; rel="next",'
                f' <{self.address}{path}?{rest}&page={last}>; rel="last"'
            )
        return (200, headers, entries[size * (number - 1) : size * number])

    @staticmethod
    def _missing() -> Answer:
        return (404, {}, {"message": "Not Found", "documentation_url": "https://docs.github.com/rest", "status": "404"})  # fmt: skip

    @staticmethod
    def _refused(message: str, *errors: dict[str, str]) -> Answer:
        reported = {"message": message, "errors": list(errors)} if errors else {"message": message}
        return (422, {}, {**reported, "documentation_url": "https://docs.github.com/rest", "status": "422"})  # fmt: skip

    def _routes(self) -> dict[str, tuple[str, Callable[..., Any]]]:
        return {
            "GET ": ("one", lambda r, b, q: {"full_name": OURS, "default_branch": "main"}),
            "GET /releases": ("list", lambda r, b, q: r.releases),
            "GET /releases/latest": ("one", lambda r, b, q: next((o for o in r.releases if not o["prerelease"]), self._missing())),
            "HEAD /releases/tags/(.+)": ("one", lambda r, b, q, tag: next((o for o in r.releases if o["tag_name"] == tag and not o["draft"]), self._missing())),
            "POST /releases": ("one", self._create_release),
            "PATCH /releases/(.+)": ("one", self._change_release),
            "DELETE /releases/(.+)": ("one", self._delete_release),
            "POST /releases/(.+)/assets": ("one", self._upload),
            "GET /commits/(.+)": ("one", lambda r, b, q, tag: {"sha": r.tags[tag]} if tag in r.tags else self._missing()),
            "GET /compare/main\\.\\.\\.(.+)": ("one", self._compare),
            "GET /git/ref/(.+)": ("one", self._get_ref),
            "POST /git/refs": ("one", self._create_ref),
            "PATCH /git/refs/(.+)": ("one", self._move_ref),
            "DELETE /git/refs/(.+)": ("one", self._delete_ref),
            "GET /git/commits/(.+)": ("one", lambda r, b, q, sha: self.commits.get(sha) or self._missing()),
            "POST /git/commits": ("one", self._create_commit),
            "POST /git/trees": ("one", self._create_tree),
            "GET /issues": ("list", self._list_issues),
            "POST /issues": ("one", self._create_issue),
            "PATCH /issues/(.+)": ("one", lambda r, b, q, n: self._patch(r.issues, n, b)),
            "GET /issues/(.+)/comments": ("list", lambda r, b, q, n: [{"body": c} for c in r.comments.get(int(n), [])]),
            "POST /issues/(.+)/comments": ("one", self._comment),
            "GET /pulls": ("list", lambda r, b, q: [p for p in r.pulls if p["head"]["label"] == q.get("head", p["head"]["label"]) and (q.get("state") == "all" or p["state"] == "open")]),
            "POST /pulls": ("one", self._create_pull),
            "PATCH /pulls/(.+)": ("one", lambda r, b, q, n: self._patch(r.pulls, n, b)),
            "GET /actions/workflows/weekly-build.yml/runs": ("one", self._list_runs),
            "GET /actions/runs/(.+)/jobs": ("one", lambda r, b, q, n: {"total_count": len(r.jobs), "jobs": r.jobs}),
            "POST /actions/workflows/weekly-build.yml/dispatches": ("one", self._dispatch),
        }  # fmt: skip

    def _compare(self, repository: Repository, _body: Any, _query: Any, tag: str) -> Any:
        status = repository.compared.get(tag, "behind")
        return {"status": status} if status else self._missing()

    def _create_release(self, repository: Repository, body: Any, _query: Any) -> Answer:
        tag = body["tag_name"]
        if any(one["tag_name"] == tag and not one["draft"] for one in repository.releases):
            return self._refused("Validation Failed", {"resource": "Release", "code": "already_exists", "field": "tag_name"})  # fmt: skip
        one = release(tag, **{**body, "assets": []})
        # gh uploads files to another host name, as on GitHub.
        one["upload_url"] = f"http://uploads.github.localhost/repos/{OURS}/releases/{one['id']}/assets{{?name,label}}"  # fmt: skip
        one["url"] = f"http://api.github.localhost/repos/{OURS}/releases/{one['id']}"
        repository.releases.insert(0, one)
        return (201, {}, one)

    def _release(self, repository: Repository, number: str) -> dict[str, Any] | None:
        return next((one for one in repository.releases if one["id"] == int(number)), None)

    def _change_release(self, repository: Repository, body: Any, _query: Any, number: str) -> Any:
        if (one := self._release(repository, number)) is None:
            return self._missing()
        one.update(body)
        return one

    def _delete_release(
        self, repository: Repository, _body: Any, _query: Any, number: str
    ) -> Answer:
        if (one := self._release(repository, number)) is None:
            return self._missing()
        repository.releases.remove(one)
        return (204, {}, "")

    def _upload(
        self, repository: Repository, body: bytes, query: dict[str, str], number: str
    ) -> Answer:
        if (one := self._release(repository, number)) is None:
            return self._missing()
        self.uploaded[query["name"]] = body
        asset = {
            "id": next(self._numbers), "name": query["name"], "size": len(body), "state": "uploaded",
            "digest": f"sha256:{hashlib.sha256(body).hexdigest()}",
        }  # fmt: skip
        one["assets"].append(asset)
        return (201, {}, asset)

    def _get_ref(self, repository: Repository, _body: Any, _query: Any, name: str) -> Any:
        if name not in repository.refs:
            return self._missing()
        return {"ref": f"refs/{name}", "object": {"type": "commit", "sha": repository.refs[name]}}

    def _create_ref(self, repository: Repository, body: Any, _query: Any) -> Answer:
        name = body["ref"].removeprefix("refs/")
        if name in repository.refs:
            return self._refused("Reference already exists")
        assert body["sha"] in self.commits
        repository.refs[name] = body["sha"]
        return (201, {}, {"ref": body["ref"], "object": {"type": "commit", "sha": body["sha"]}})

    def _move_ref(self, repository: Repository, body: Any, _query: Any, name: str) -> Any:
        if name not in repository.refs:
            return self._refused("Reference does not exist")
        parents = [one["sha"] for one in self.commits[body["sha"]]["parents"]]
        if not body["force"] and repository.refs[name] not in [body["sha"], *parents]:
            return self._refused("Update is not a fast forward")
        repository.refs[name] = body["sha"]
        return {"ref": f"refs/{name}", "object": {"type": "commit", "sha": body["sha"]}}

    def _delete_ref(self, repository: Repository, _body: Any, _query: Any, name: str) -> Answer:
        if repository.refs.pop(name, None) is None:
            return self._refused("Reference does not exist")
        return (204, {}, "")

    def _create_commit(self, _repository: Repository, body: Any, _query: Any) -> Answer:
        sha = hashlib.sha1(f"{next(self._numbers)}{body}".encode()).hexdigest()
        self.know(sha, body["message"], body["tree"], tuple(body["parents"]))
        return (201, {}, self.commits[sha])

    def _create_tree(self, _repository: Repository, body: Any, _query: Any) -> Answer:
        sha = hashlib.sha1(json.dumps(body).encode()).hexdigest()
        self.trees[sha] = body["tree"]
        return (201, {}, {"sha": sha, "tree": []})

    def _list_issues(self, repository: Repository, _body: Any, query: dict[str, str]) -> list[Any]:
        assert query["state"] == "all"
        labelled = [
            o for o in repository.issues if query["labels"] in [la["name"] for la in o["labels"]]
        ]
        return labelled[::-1]

    def _create_issue(self, repository: Repository, body: Any, _query: Any) -> Answer:
        labels = [{"name": name} for name in body["labels"]]
        one = {**body, "number": next(self._numbers), "state": "open", "labels": labels}
        repository.issues.append(one)
        return (201, {}, one)

    def _create_pull(self, repository: Repository, body: Any, _query: Any) -> Answer:
        label = f"{OURS.partition('/')[0]}:{body['head']}"
        if any(
            one["head"]["label"] == label and one["state"] == "open" for one in repository.pulls
        ):
            message = f"A pull request already exists for {label}."
            return self._refused("Validation Failed", {"resource": "PullRequest", "code": "custom", "message": message})  # fmt: skip
        assert f"heads/{body['head']}" in repository.refs
        one = {
            **body, "number": next(self._numbers), "state": "open", "merged_at": None,
            "head": {"label": label, "ref": body["head"]},
        }  # fmt: skip
        repository.pulls.append(one)
        return (201, {}, one)

    def _patch(self, entries: list[dict[str, Any]], number: str, body: Any) -> Any:
        for one in entries:
            if one["number"] == int(number):
                one.update(body)
                return one
        return self._missing()

    def _comment(self, repository: Repository, body: Any, _query: Any, number: str) -> Answer:
        repository.comments.setdefault(int(number), []).append(body["body"])
        return (201, {}, {"id": next(self._numbers), **body})

    def _list_runs(self, repository: Repository, _body: Any, query: dict[str, str]) -> Any:
        if repository.runs and self.late:
            self.late -= 1
            return {"total_count": 0, "workflow_runs": []}
        return {"total_count": repository.runs.count(query["branch"]), "workflow_runs": []}

    def _dispatch(self, repository: Repository, body: Any, _query: Any) -> Answer:
        assert f"heads/{body['ref']}" in repository.refs
        repository.runs.append(body["ref"])
        return (204, {}, "")

    @contextlib.contextmanager
    def running(self) -> Iterator[Hub]:
        thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            thread.join()
            self._server.server_close()
