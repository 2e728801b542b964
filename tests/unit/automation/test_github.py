from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from buildkit_riscv64 import project
from buildkit_riscv64.automation import github
from buildkit_riscv64.automation.github import Client, Entry, Repository
from buildkit_riscv64.errors import BusyError, NetworkError, UsageError

from ... import hub as hubs
from ...hub import BASE, OURS, TOKEN, UPSTREAM, Hub, release


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long was waited; nobody waits."""
    seconds: list[float] = []
    monkeypatch.setattr(time, "sleep", seconds.append)
    return seconds


@pytest.fixture
def client(hub: Hub, slept: list[float]) -> Iterator[Client]:
    with Client.connected() as connected:
        yield connected


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
    assert len(hub.requests) == github.MOST_PAGES


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
        github.token()
    assert bad not in str(caught.value)


def test_the_first_token_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_TOKEN", "second")
    assert github.token() == "second"
    monkeypatch.setenv("GH_TOKEN", " first\n")
    assert github.token() == "first"


@pytest.mark.parametrize(
    ("told", "used"),
    [
        ("", "https://api.github.com"), ("https://ghe.example.org/api/v3/", "https://ghe.example.org/api/v3"),
        ("http://localhost:1", "http://localhost:1"), ("http://[::1]:1", "http://[::1]:1"),
    ],
)  # fmt: skip
def test_addresses(monkeypatch: pytest.MonkeyPatch, told: str, used: str) -> None:
    monkeypatch.setenv("GITHUB_API_URL", told)
    assert github.address() == used


@pytest.mark.parametrize("bad", ["http://api.github.com", "ftp://localhost", "api.github.com", "https://", "file:///etc"])  # fmt: skip
def test_an_address_where_others_could_read_along(monkeypatch: pytest.MonkeyPatch, bad: str) -> None:  # fmt: skip
    monkeypatch.setenv("GITHUB_API_URL", bad)
    with pytest.raises(UsageError, match="must be an https"):
        github.address()


@pytest.mark.parametrize("bad", ["me", "me/", "/x", "me/x/y", "me/x y", "../x/", "https://github.com/me/x"])  # fmt: skip
def test_what_is_no_repository(bad: str) -> None:
    with pytest.raises(UsageError, match="is not a repository"):
        github.repository(bad)


def test_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="which repository on GitHub"):
        github.repository()
    monkeypatch.setenv("GITHUB_REPOSITORY", "a/b")
    assert github.repository() == "a/b"
    assert github.repository("c/d.e-f") == "c/d.e-f"


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
    assert slept == [1.0] * (github.ATTEMPTS - 1)


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
    assert len(hub.requests) == github.ATTEMPTS
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


@pytest.fixture
def ours(client: Client) -> Repository:
    return Repository(client, OURS)


def test_a_commit_with_files_and_a_submodule(hub: Hub, ours: Repository) -> None:
    entries = [
        Entry("pins.toml", "100644", "new"), Entry("buildkit", "160000", "c" * 40),
        Entry("old", "100755", None),
    ]  # fmt: skip
    made = hub.commits[ours.commit("a message", BASE, entries)]
    assert (made["message"], made["parents"]) == ("a message", [{"sha": BASE}])
    assert hub.trees[made["tree"]["sha"]] == [
        {"path": "pins.toml", "mode": "100644", "type": "blob", "content": "new"},
        {"path": "buildkit", "mode": "160000", "type": "commit", "sha": "c" * 40},
        {"path": "old", "mode": "100755", "type": "blob", "sha": None},
    ]


def test_only_one_makes_a_branch(hub: Hub, ours: Repository) -> None:
    assert ours.head("x/y") == ""
    assert ours.create_branch("x/y", BASE)
    assert not ours.create_branch("x/y", BASE)
    assert ours.head("x/y") == BASE


def test_only_one_opens_a_pull_request(hub: Hub, ours: Repository) -> None:
    ours.create_branch("x", BASE)
    words = {"title": "t", "body": "b", "branch": "x", "base": "main"}
    assert ours.open_pull(**words)
    assert ours.open_pull(**words) is None
    assert len(ours.pulls("x")) == 1


@pytest.mark.parametrize(("mood", "reason"), [(hubs.BROKEN, "HTTP 502"), (hubs.CUT, "Error")])
def test_what_may_have_been_done_is_not_done_again(hub: Hub, ours: Repository, slept: list[float], mood: hubs.Answer, reason: str) -> None:  # fmt: skip
    hub.moods.append(("POST", mood))
    with pytest.raises(NetworkError, match=f"may or may not have done POST .*{reason}") as caught:
        ours.open_issue(title="t", body="b", label="l")
    assert "run it again" in caught.value.hint
    assert (slept, hub.ours.issues) == ([], [])


def test_what_a_limit_kept_from_being_done_is_done(hub: Hub, ours: Repository, slept: list[float]) -> None:  # fmt: skip
    hub.moods.append(("POST", hubs.secondary(2)))
    assert ours.open_issue(title="t", body="b", label="l")
    assert len(hub.ours.issues) == 1


@pytest.mark.parametrize("mood", [hubs.NOT_PERMITTED, (404, {}, {"message": "Not Found"})])
def test_a_token_that_may_not(hub: Hub, ours: Repository, mood: hubs.Answer) -> None:
    hub.moods.append(("POST", mood))
    with pytest.raises(NetworkError, match="does not let us POST") as caught:
        ours.start("weekly-build.yml", "main")
    assert "actions: write" in caught.value.hint


def test_what_github_finds_wrong_is_told(hub: Hub, ours: Repository) -> None:
    errors = [{"resource": "Issue", "field": "title", "code": "missing_field"}, {"message": "no"}]
    hub.moods.append(("POST", (422, {}, {"message": "Validation Failed", "errors": errors})))
    with pytest.raises(NetworkError, match="Validation Failed: missing_field: no"):
        ours.open_issue(title="", body="b", label="l")


def test_a_run_that_is_listed_late(hub: Hub, ours: Repository, slept: list[float]) -> None:
    hub.late = 3
    ours.start("weekly-build.yml", "main")
    assert hub.ours.runs == ["main"]
    assert slept == [2, 2, 2]


def test_a_run_that_is_never_listed(hub: Hub, ours: Repository, slept: list[float], capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    hub.late = 1000
    ours.start("weekly-build.yml", "main")
    assert "does not list it yet" in capsys.readouterr().err
    assert len(slept) == github.LISTED


LOCK = "track-releases/lock"


def test_a_lock_is_held_and_given_back(hub: Hub, ours: Repository) -> None:
    with ours.locked(LOCK, BASE):
        assert hub.ours.refs[f"heads/{LOCK}"] != BASE
        with pytest.raises(BusyError, match="for 0 min") as caught, ours.locked(LOCK, BASE):
            pytest.fail("held twice")
        assert LOCK in caught.value.hint
    assert list(hub.ours.refs) == ["heads/main"]


def test_a_lock_is_given_back_after_a_failure(hub: Hub, ours: Repository) -> None:
    with pytest.raises(ZeroDivisionError), ours.locked(LOCK, BASE):
        _ = 1 / 0
    assert list(hub.ours.refs) == ["heads/main"]


def test_a_killed_run_s_lock_is_taken_over(hub: Hub, ours: Repository) -> None:
    hub.ours.refs[f"heads/{LOCK}"] = hub.know("d" * 40, when=time.time() - github.LEASE - 5)
    with ours.locked(LOCK, BASE), pytest.raises(BusyError), ours.locked(LOCK, BASE):
        pass
    assert list(hub.ours.refs) == ["heads/main"]


def test_of_two_that_take_it_over_one_does(hub: Hub, ours: Repository) -> None:
    stale = hub.know("d" * 40, when=time.time() - github.LEASE - 5)
    hub.ours.refs[f"heads/{LOCK}"] = stale

    def overtake(request: str) -> None:
        if request.startswith("PATCH") and hub.ours.refs[f"heads/{LOCK}"] == stale:
            hub.ours.refs[f"heads/{LOCK}"] = hub.know("e" * 40, parents=(stale,))

    hub.before = overtake
    with pytest.raises(BusyError), ours.locked(LOCK, BASE):
        pytest.fail("taken over twice")
    assert hub.ours.refs[f"heads/{LOCK}"] == "e" * 40


def test_another_s_lock_is_left_alone(hub: Hub, ours: Repository) -> None:
    """Ours had become too old, and somebody took it over."""
    with ours.locked(LOCK, BASE):
        hub.ours.refs[f"heads/{LOCK}"] = hub.know("e" * 40)
    assert hub.ours.refs[f"heads/{LOCK}"] == "e" * 40


def test_of_many_at_once_one_holds_the_lock(hub: Hub) -> None:
    outcomes: list[Any] = []
    gate = threading.Barrier(6)
    done = threading.Event()

    def run() -> None:
        with Client.connected() as client:
            gate.wait()
            try:
                with Repository(client, OURS).locked(LOCK, BASE):
                    outcomes.append("held")
                    done.wait(20)
            except BusyError:
                outcomes.append("busy")
                if outcomes.count("busy") == 5:
                    done.set()

    threads = [threading.Thread(target=run) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["busy"] * 5 + ["held"]
