from __future__ import annotations

import socket
from pathlib import Path

import pytest

from buildkit_riscv64 import project
from buildkit_riscv64.automation import api
from buildkit_riscv64.automation.api import Client
from buildkit_riscv64.automation.github import Repository
from buildkit_riscv64.errors import NetworkError, UsageError

from ... import hub as hubs
from ...hub import TOKEN, UPSTREAM, Hub, release


def tags(client: Client) -> list[str]:
    return [one["tag_name"] for one in Repository(client, UPSTREAM).releases()]


def codes(hub: Hub) -> list[int]:
    return [code for _, code in hub.requests]


@pytest.mark.parametrize("number", [0, 1, 100, 101, 250])
def test_all_pages(hub: Hub, client: Client, number: int) -> None:
    hub.upstream.releases = [release(f"v0.{n}.0") for n in range(number)]
    assert tags(client) == [f"v0.{n}.0" for n in range(number)]
    assert len(hub.requests) == max(1, -(-number // 100))


def test_a_list_without_end_has_one(hub: Hub, client: Client) -> None:
    again = {"Link": f'<{hub.address}/repos/{UPSTREAM}/releases?page=2>; rel="next"'}
    hub.moods += [("releases", (200, again, []))] * 1000
    assert tags(client) == []
    assert len(hub.requests) == api.MOST_PAGES


def test_a_next_page_elsewhere_is_not_asked_for(hub: Hub, client: Client) -> None:
    """Nobody else gets our token."""
    elsewhere = {"Link": f'<{hub.address}.example.org/page=2>; rel="next"'}
    hub.moods.append(("releases", (200, elsewhere, [release("v0.1.0")])))
    assert tags(client) == ["v0.1.0"]
    assert len(hub.requests) == 1


def test_what_has_not_changed_is_not_sent_again(hub: Hub, client: Client) -> None:
    hub.upstream.releases = [release(f"v0.{n}.0") for n in range(150)]
    first = tags(client)
    assert tags(client) == first
    assert codes(hub) == [200, 200, 304, 304]
    # Another run knows it too.
    with Client.connected() as other:
        assert tags(other) == first
    assert codes(hub)[4:] == [304, 304]
    # Within the minute for which GitHub would let answers be taken as they are.
    hub.upstream.releases.insert(0, release("v0.150.0"))
    assert tags(client) == ["v0.150.0", *first]


def test_the_cache_knows_no_token(hub: Hub, client: Client) -> None:
    hub.upstream.releases = [release("v0.32.2")]
    tags(client)
    assert hub.tokens == {f"Bearer {TOKEN}"}
    kept = [path for path in project.cache().rglob("*") if path.is_file()]
    assert kept
    assert not any(TOKEN.encode() in path.read_bytes() for path in kept)


@pytest.mark.parametrize("content", [b"", b"not a database", b"SQLite format 3\0" + bytes(4096)])
def test_a_broken_cache_is_no_obstacle(hub: Hub, content: bytes) -> None:
    hub.upstream.releases = [release("v0.32.2")]
    path = project.cache() / "github.sqlite"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    for _ in range(2):
        with Client.connected() as client:
            assert tags(client) == ["v0.32.2"]


def test_a_cache_that_breaks_is_no_obstacle(hub: Hub, client: Client, capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    hub.upstream.releases = [release("v0.32.2")]
    tags(client)
    path = project.cache() / "github.sqlite"
    path.write_bytes(path.read_bytes()[:100] + b"?" * 20000)
    for other in (f"{path}-wal", f"{path}-shm", f"{path}-journal"):
        Path(other).unlink(missing_ok=True)
    hub.upstream.releases.append(release("v0.32.1"))
    assert tags(client) == ["v0.32.2", "v0.32.1"]
    assert "is broken" in capsys.readouterr().err
    with Client.connected() as another:
        assert tags(another) == ["v0.32.2", "v0.32.1"]


def test_a_cache_that_cannot_be_written_is_no_obstacle(hub: Hub) -> None:
    hub.upstream.releases = [release("v0.32.2")]
    project.cache().parent.mkdir(parents=True, exist_ok=True)
    project.cache().write_text("a file")
    with Client.connected() as client:
        assert tags(client) == ["v0.32.2"]


def test_without_a_token(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even one that ~/.netrc has."""
    monkeypatch.delenv("GH_TOKEN")
    (Path.home() / ".netrc").write_text("machine 127.0.0.1 login me password secret\n")
    with Client.connected() as client:
        assert tags(client) == []
    assert hub.tokens == {""}


@pytest.mark.parametrize("bad", ["two words", "a\nb", "naïve", "\x1b[0m"])
def test_what_is_no_token_is_not_told(monkeypatch: pytest.MonkeyPatch, bad: str) -> None:
    monkeypatch.setenv("GITHUB_TOKEN", bad)
    with pytest.raises(UsageError, match="GITHUB_TOKEN") as caught:
        api.token()
    assert bad not in str(caught.value)


def test_the_first_token_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_TOKEN", "second")
    assert api.token() == "second"
    monkeypatch.setenv("GH_TOKEN", " first\n")
    assert api.token() == "first"


@pytest.mark.parametrize(
    ("told", "used"),
    [
        ("", "https://api.github.com"), ("https://ghe.example.org/api/v3/", "https://ghe.example.org/api/v3"),
        ("http://localhost:1", "http://localhost:1"), ("http://[::1]:1", "http://[::1]:1"),
    ],
)  # fmt: skip
def test_addresses(monkeypatch: pytest.MonkeyPatch, told: str, used: str) -> None:
    monkeypatch.setenv("GITHUB_API_URL", told)
    assert api.address() == used


@pytest.mark.parametrize("bad", ["http://api.github.com", "ftp://localhost", "api.github.com", "https://", "file:///etc"])  # fmt: skip
def test_an_address_where_others_could_read_along(monkeypatch: pytest.MonkeyPatch, bad: str) -> None:  # fmt: skip
    monkeypatch.setenv("GITHUB_API_URL", bad)
    with pytest.raises(UsageError, match="must be an https"):
        api.address()


def test_the_hourly_limit_is_waited_for(hub: Hub, client: Client, slept: list[float]) -> None:
    hub.moods.append(("releases", hubs.limited(seconds=200)))
    assert tags(client) == []
    assert codes(hub) == [403, 200]
    assert len(slept) == 1
    assert 199 <= slept[0] <= 202


def test_the_hourly_limit_is_not_waited_for_an_hour(hub: Hub, client: Client, slept: list[float], monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    hub.moods += [("releases", hubs.limited(seconds=3000))] * 2
    with pytest.raises(NetworkError, match=r"no more requests until \d\d:\d\d UTC") as caught:
        tags(client)
    assert caught.value.hint == "run it again then"
    assert (slept, codes(hub)) == ([], [403])
    monkeypatch.delenv("GH_TOKEN")
    with Client.connected() as nobody, pytest.raises(NetworkError) as caught:
        tags(nobody)
    assert "with a token in GH_TOKEN it allows more" in caught.value.hint


@pytest.mark.parametrize(("told", "waited"), [(7, 7.0), (None, 60.0)])
def test_the_secondary_limit_is_waited_for(hub: Hub, client: Client, slept: list[float], told: int | None, waited: float) -> None:  # fmt: skip
    hub.moods.append(("releases", hubs.secondary(told)))
    assert tags(client) == []
    assert slept == [waited]


def test_too_many_requests_is_a_limit_too(hub: Hub, client: Client, slept: list[float]) -> None:
    hub.moods.append(("releases", (429, {}, {"message": "slow down"})))
    assert tags(client) == []
    assert slept == [60.0]


def test_a_limit_for_good_ends(hub: Hub, client: Client, slept: list[float]) -> None:
    hub.moods += [("releases", hubs.secondary(1))] * 100
    with pytest.raises(NetworkError, match="secondary rate limit"):
        tags(client)
    assert slept == [1.0] * (api.ATTEMPTS - 1)


@pytest.mark.parametrize("mood", [hubs.BROKEN, hubs.CUT, (500, {}, {"message": "Server Error"})])
def test_a_bad_day_passes(hub: Hub, client: Client, slept: list[float], mood: hubs.Answer) -> None:
    hub.upstream.releases = [release("v0.32.2")]
    hub.moods += [("releases", mood)] * 3
    assert tags(client) == ["v0.32.2"]
    assert slept == [1, 2, 4]
    # Nothing of it was kept.
    assert tags(client) == ["v0.32.2"]


@pytest.mark.parametrize(("mood", "reason"), [(hubs.BROKEN, "HTTP 502"), (hubs.CUT, "ChunkedEncodingError|ConnectionError")])  # fmt: skip
def test_a_bad_day_that_does_not(hub: Hub, client: Client, slept: list[float], mood: hubs.Answer, reason: str) -> None:  # fmt: skip
    hub.moods += [("releases", mood)] * 100
    with pytest.raises(NetworkError, match=reason):
        tags(client)
    assert len(hub.requests) == api.ATTEMPTS
    assert sum(slept) == 31


def test_nobody_there(monkeypatch: pytest.MonkeyPatch, slept: list[float]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    monkeypatch.setenv("GITHUB_API_URL", f"http://127.0.0.1:{port}")
    with Client.connected() as client, pytest.raises(NetworkError, match="does not answer GET"):
        tags(client)


@pytest.mark.parametrize(
    ("mood", "message", "fix"),
    [
        (hubs.BAD_TOKEN, "does not take the token: Bad credentials", "GH_TOKEN"),
        (hubs.NOT_PERMITTED, "Resource not accessible", "may read"),
        ((404, {}, {"message": "Not Found"}), "Not Found", "may read"),
        ((200, {}, {"message": "an object"}), "not a list", "answers"),
    ],
)
def test_refused_at_once(hub: Hub, client: Client, slept: list[float], mood: hubs.Answer, message: str, fix: str) -> None:  # fmt: skip
    hub.moods.append(("releases", mood))
    with pytest.raises(NetworkError, match=message) as caught:
        tags(client)
    assert fix in caught.value.hint
    assert TOKEN not in str(caught.value)
    assert (slept, len(hub.requests)) == ([], 1)


def test_what_answers_is_no_github(hub: Hub, client: Client) -> None:
    hub.moods.append(
        ("releases", (200, {"Content-Type": "text/html"}, "<html>log in first</html>"))
    )
    with pytest.raises(NetworkError, match=r"no JSON.*log in first"):
        tags(client)


def test_a_dry_client_only_asks(hub: Hub) -> None:
    with Client.connected(dry=True) as client, pytest.raises(AssertionError, match="under --dry"):
        client.send("POST", "/x")
    assert hub.requests == []
