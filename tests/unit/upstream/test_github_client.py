from __future__ import annotations

import socket
from pathlib import Path

import pytest

from buildkit_riscv64.core import dry_run, project
from buildkit_riscv64.core.errors import Failure, NetworkError, UsageError
from buildkit_riscv64.upstream import github_client
from buildkit_riscv64.upstream.github import Repository
from buildkit_riscv64.upstream.github_client import Client

from ... import fake_github as hubs
from ...fake_github import TOKEN, UPSTREAM, Hub, release


def tags(client: Client) -> list[str]:
    return [one["tag_name"] for one in Repository(client, UPSTREAM).releases()]


def codes(hub: Hub) -> list[int]:
    return [code for _, code in hub.requests]


@pytest.mark.parametrize("number", [0, 1, 100, 101, 250])
def test_all_pages(hub: Hub, client: Client, number: int) -> None:
    hub.upstream.releases = [release(f"v0.{n}.0") for n in range(number)]
    assert tags(client) == [f"v0.{n}.0" for n in range(number)]
    assert len(hub.requests) == max(1, -(-number // 100))


def test_endless_list_is_cut(hub: Hub, client: Client) -> None:
    again = {"Link": f'<{hub.address}/repos/{UPSTREAM}/releases?page=2>; rel="next"'}
    hub.moods += [("releases", (200, again, []))] * 1000
    assert tags(client) == []
    assert len(hub.requests) == github_client.MOST_PAGES


def test_next_page_on_another_host_is_ignored(hub: Hub, client: Client) -> None:
    """Only GitHub gets our token."""
    elsewhere = {"Link": f'<{hub.address}.example.org/page=2>; rel="next"'}
    hub.moods.append(("releases", (200, elsewhere, [release("v0.1.0")])))
    assert tags(client) == ["v0.1.0"]
    assert len(hub.requests) == 1


def test_unchanged_answers_are_cached(hub: Hub, client: Client) -> None:
    hub.upstream.releases = [release(f"v0.{n}.0") for n in range(150)]
    first = tags(client)
    assert tags(client) == first
    assert codes(hub) == [200, 200, 304, 304]
    # Another run uses the cache, too.
    with Client.connected() as other:
        assert tags(other) == first
    assert codes(hub)[4:] == [304, 304]
    # GitHub allows the reuse of answers for a minute; we always revalidate.
    hub.upstream.releases.insert(0, release("v0.150.0"))
    assert tags(client) == ["v0.150.0", *first]


def test_cache_does_not_contain_the_token(hub: Hub, client: Client) -> None:
    hub.upstream.releases = [release("v0.32.2")]
    tags(client)
    assert hub.tokens == {f"Bearer {TOKEN}"}
    cached = [path for path in project.cache().rglob("*") if path.is_file()]
    assert cached
    assert not any(TOKEN.encode() in path.read_bytes() for path in cached)


@pytest.mark.parametrize("content", [b"", b"not a database", b"SQLite format 3\0" + bytes(4096)])
def test_damaged_cache_is_replaced(hub: Hub, content: bytes) -> None:
    hub.upstream.releases = [release("v0.32.2")]
    path = project.cache() / "github.sqlite"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    for _ in range(2):
        with Client.connected() as client:
            assert tags(client) == ["v0.32.2"]


def test_cache_that_is_damaged_during_a_run(
    hub: Hub, client: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.upstream.releases = [release("v0.32.2")]
    tags(client)
    path = project.cache() / "github.sqlite"
    path.write_bytes(path.read_bytes()[:100] + b"?" * 20000)
    for other in (f"{path}-wal", f"{path}-shm", f"{path}-journal"):
        Path(other).unlink(missing_ok=True)
    hub.upstream.releases.append(release("v0.32.1"))
    assert tags(client) == ["v0.32.2", "v0.32.1"]
    assert "cache" in capsys.readouterr().err
    with Client.connected() as another:
        assert tags(another) == ["v0.32.2", "v0.32.1"]


def test_cache_that_cannot_be_written(hub: Hub) -> None:
    hub.upstream.releases = [release("v0.32.2")]
    project.cache().parent.mkdir(parents=True, exist_ok=True)
    project.cache().write_text("a file")
    with Client.connected() as client:
        assert tags(client) == ["v0.32.2"]


def test_without_a_token(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client does not read ~/.netrc."""
    monkeypatch.delenv("GH_TOKEN")
    (Path.home() / ".netrc").write_text("machine 127.0.0.1 login me password secret\n")
    with Client.connected() as client:
        assert tags(client) == []
    assert hub.tokens == {""}


@pytest.mark.parametrize("bad", ["two words", "a\nb", "naïve", "\x1b[0m"])
def test_invalid_token_is_not_logged(monkeypatch: pytest.MonkeyPatch, bad: str) -> None:
    monkeypatch.setenv("GITHUB_TOKEN", bad)
    with pytest.raises(UsageError, match="GITHUB_TOKEN") as caught:
        github_client.token()
    assert bad not in str(caught.value)


def test_first_token_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_TOKEN", "second")
    assert github_client.token() == "second"
    monkeypatch.setenv("GH_TOKEN", " first\n")
    assert github_client.token() == "first"


@pytest.mark.parametrize(
    ("reported", "used"),
    [
        ("", "https://api.github.com"), ("https://ghe.example.org/api/v3/", "https://ghe.example.org/api/v3"),
        ("http://localhost:1", "http://localhost:1"), ("http://[::1]:1", "http://[::1]:1"),
    ],
)  # fmt: skip
def test_addresses(monkeypatch: pytest.MonkeyPatch, reported: str, used: str) -> None:
    monkeypatch.setenv("GITHUB_API_URL", reported)
    assert github_client.address() == used


@pytest.mark.parametrize("bad", ["http://api.github.com", "ftp://localhost", "api.github.com", "https://", "file:///etc", "https://[::1", "https://host:x", "https://a b", "https://me:secret@host"])  # fmt: skip
def test_invalid_or_unencrypted_address(monkeypatch: pytest.MonkeyPatch, bad: str) -> None:
    monkeypatch.setenv("GITHUB_API_URL", bad)
    with pytest.raises(UsageError, match="GITHUB_API_URL"):
        github_client.address()


def test_wait_for_the_hourly_limit(hub: Hub, client: Client, slept: list[float]) -> None:
    hub.moods.append(("releases", hubs.limited(seconds=200)))
    assert tags(client) == []
    assert codes(hub) == [403, 200]
    assert len(slept) == 1
    assert 199 <= slept[0] <= 202


def test_long_hourly_limit_is_an_error(
    hub: Hub, client: Client, slept: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.moods += [("releases", hubs.limited(seconds=3000))] * 2
    with pytest.raises(NetworkError, match=r"\d\d:\d\d UTC") as caught:
        tags(client)
    assert "GH_TOKEN" not in caught.value.hint
    assert (slept, codes(hub)) == ([], [403])
    monkeypatch.delenv("GH_TOKEN")
    with Client.connected() as anonymous, pytest.raises(NetworkError) as caught:
        tags(anonymous)
    assert "GH_TOKEN" in caught.value.hint


@pytest.mark.parametrize(("reported", "waited"), [(7, 7.0), (None, 60.0)])
def test_wait_for_the_secondary_limit(
    hub: Hub, client: Client, slept: list[float], reported: int | None, waited: float
) -> None:
    hub.moods.append(("releases", hubs.secondary(reported)))
    assert tags(client) == []
    assert slept == [waited]


def test_wait_after_too_many_requests(hub: Hub, client: Client, slept: list[float]) -> None:
    hub.moods.append(("releases", (429, {}, {"message": "slow down"})))
    assert tags(client) == []
    assert slept == [60.0]


def test_repeated_limit_is_an_error(hub: Hub, client: Client, slept: list[float]) -> None:
    hub.moods += [("releases", hubs.secondary(1))] * 100
    with pytest.raises(NetworkError, match="secondary rate limit"):
        tags(client)
    assert slept == [1.0] * (github_client.ATTEMPTS - 1)


@pytest.mark.parametrize("mood", [hubs.BROKEN, hubs.CUT, (500, {}, {"message": "Server Error"})])
def test_temporary_failure_is_retried(
    hub: Hub, client: Client, slept: list[float], mood: hubs.Answer
) -> None:
    hub.upstream.releases = [release("v0.32.2")]
    hub.moods += [("releases", mood)] * 3
    assert tags(client) == ["v0.32.2"]
    assert slept == [1, 2, 4]
    # The cache contains no failed answer.
    assert tags(client) == ["v0.32.2"]


@pytest.mark.parametrize(("mood", "reason"), [(hubs.BROKEN, "HTTP 502"), (hubs.CUT, "ChunkedEncodingError|ConnectionError")])  # fmt: skip
def test_permanent_failure(
    hub: Hub, client: Client, slept: list[float], mood: hubs.Answer, reason: str
) -> None:
    hub.moods += [("releases", mood)] * 100
    with pytest.raises(NetworkError, match=reason):
        tags(client)
    assert len(hub.requests) == github_client.ATTEMPTS
    assert sum(slept) == 31


def test_no_server(monkeypatch: pytest.MonkeyPatch, slept: list[float]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    monkeypatch.setenv("GITHUB_API_URL", f"http://127.0.0.1:{port}")
    with (
        Client.connected() as client,
        pytest.raises(NetworkError, match=f"GET /repos/{UPSTREAM}/releases"),
    ):
        tags(client)


@pytest.mark.parametrize(
    ("mood", "message", "fix"),
    [
        (hubs.BAD_TOKEN, "Bad credentials", "GH_TOKEN"),
        (hubs.NOT_PERMITTED, "Resource not accessible", "permissions"),
        ((404, {}, {"message": "Not Found"}), "Not Found", "permissions"),
        ((200, {}, {"message": "an object"}), "not a list", "GITHUB_API_URL"),
    ],
)
def test_refusal_is_not_retried(
    hub: Hub, client: Client, slept: list[float], mood: hubs.Answer, message: str, fix: str
) -> None:
    hub.moods.append(("releases", mood))
    with pytest.raises(NetworkError, match=message) as caught:
        tags(client)
    assert fix in caught.value.hint
    assert TOKEN not in str(caught.value)
    assert (slept, len(hub.requests)) == ([], 1)


def test_answer_that_is_not_json(hub: Hub, client: Client) -> None:
    hub.moods.append(
        ("releases", (200, {"Content-Type": "text/html"}, "<html>log in first</html>"))
    )
    with pytest.raises(NetworkError, match=r"not JSON.*log in first"):
        tags(client)


@pytest.mark.parametrize("value", ["9" * 400, "٣", "-1", "soon", "1e9", "9999999999"])
@pytest.mark.parametrize("header", ["Retry-After", "X-RateLimit-Reset"])
def test_invalid_waits(
    hub: Hub, client: Client, slept: list[float], header: str, value: str
) -> None:
    headers = {"X-RateLimit-Remaining": "0", header: value.encode().decode("latin-1")}
    hub.moods += [("releases", (429, headers, {"message": "rate limit"}))] * 9
    with pytest.raises(NetworkError):
        tags(client)
    assert all(0 <= seconds <= github_client.LONGEST_WAIT for seconds in slept)


def test_dry_client_sends_nothing(hub: Hub) -> None:
    with (
        dry_run.running(dry=True),
        Client.connected() as client,
        pytest.raises(Failure, match="--dry stopped"),
    ):
        client.send("POST", "/x")
    assert hub.requests == []
