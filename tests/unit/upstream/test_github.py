from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from buildkit_riscv64.core.errors import BusyError, NetworkError, UsageError
from buildkit_riscv64.upstream import github
from buildkit_riscv64.upstream.github import Entry, Repository
from buildkit_riscv64.upstream.github_client import Client
from buildkit_riscv64.validation.environment.waiting import BOUND

from ... import fake_github as hubs
from ...fake_github import BASE, OURS, Hub, release


@pytest.mark.parametrize("bad", ["me", "me/", "/x", "me/x/y", "me/x y", "../x/", "https://github.com/me/x"])  # fmt: skip
def test_invalid_repository(bad: str) -> None:
    with pytest.raises(UsageError, match="not a repository"):
        github.repository(bad)


def test_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="no repository"):
        github.repository()
    monkeypatch.setenv("GITHUB_REPOSITORY", "a/b")
    assert github.repository() == "a/b"
    assert github.repository("c/d.e-f") == "c/d.e-f"


@pytest.mark.parametrize("bad", ["me/..", "me/."])
def test_repository_name_that_is_a_path(bad: str) -> None:
    with pytest.raises(UsageError):
        github.repository(bad)


@pytest.fixture
def ours(client: Client) -> Repository:
    return Repository(client, OURS)


def test_commit_with_files_and_a_submodule(hub: Hub, ours: Repository) -> None:
    entries = [
        Entry("pins/pins.toml", "100644", "new"), Entry("buildkit", "160000", "c" * 40),
        Entry("old", "100755", None),
    ]  # fmt: skip
    commit = hub.commits[ours.commit("a message", BASE, entries)]
    assert (commit["message"], commit["parents"]) == ("a message", [{"sha": BASE}])
    assert hub.trees[commit["tree"]["sha"]] == [
        {"path": "pins/pins.toml", "mode": "100644", "type": "blob", "content": "new"},
        {"path": "buildkit", "mode": "160000", "type": "commit", "sha": "c" * 40},
        {"path": "old", "mode": "100755", "type": "blob", "sha": None},
    ]


@pytest.mark.parametrize(
    ("status", "merged"),
    [("behind", True), ("identical", True), ("ahead", False), ("diverged", False), ("", None)],
)
def test_merged_tag(hub: Hub, ours: Repository, status: str, merged: bool | None) -> None:
    hub.ours.compared["v1"] = status
    assert ours.is_merged("v1") is merged


EMPTY: hubs.Answer = (409, {}, {"message": "Git Repository is empty.", "status": "409"})


def test_repository_without_commits(hub: Hub, ours: Repository) -> None:
    hub.moods += [("/git/ref/heads/main", EMPTY), ("/commits/v1", EMPTY)]
    with pytest.raises(UsageError, match="has no commits"):
        ours.tip()
    assert ours.commit_of("v1") == ""


@pytest.mark.parametrize(
    ("request_", "answer", "ask"),
    [
        ("GET /repos/[^/]+/[^/]+$", {"default_branch": None}, lambda one: one.default_branch()),
        ("/releases", [{**release("v0.1.0"), "assets": None}], lambda one: one.releases()),
        ("/releases", [None], lambda one: one.releases()),
        ("/releases", {"message": "x"}, lambda one: one.releases()),
        ("/releases/latest", [], lambda one: one.newest_release()),
        ("/git/ref", [], lambda one: one.head("main")),
        ("/git/ref", {"object": {"sha": "../.."}}, lambda one: one.head("main")),
        ("/pulls", [{"number": "1"}], lambda one: one.pulls("x")),
        ("/issues", [{"number": 1, "state": None, "body": None}], lambda one: one.issues("x")),
        ("/comments", [{"body": 5}], lambda one: one.comments(1)),
        ("/runs", {"total_count": "many"}, lambda one: one.runs("weekly-build.yml", "x")),
        ("/jobs", {"jobs": [{"name": "x", "steps": [{}]}]}, lambda one: one.jobs("1")),
    ],
)
def test_unexpected_answer(
    hub: Hub, ours: Repository, request_: str, answer: Any, ask: Callable[[Repository], object]
) -> None:
    hub.moods.append((request_, (200, {}, answer)))
    with pytest.raises(NetworkError) as caught:
        ask(ours)
    assert "GITHUB_API_URL" in caught.value.hint


def test_documented_nulls(hub: Hub, ours: Repository) -> None:
    draft = {**release("v0.1.0", draft=True), "published_at": None, "name": None}
    fork = {"number": 1, "state": "open", "head": {"label": None, "ref": "x"}}
    hub.moods += [("/releases", (200, {}, [draft])), ("/comments", (200, {}, [{"body": None}]))]
    hub.moods += [("/pulls", (200, {}, [fork])), ("/jobs", (200, {}, {"jobs": [{"name": "x", "steps": None}]}))]  # fmt: skip
    assert ours.releases() == [draft]
    assert ours.comments(1) == [""]
    assert ours.open_pulls("track") == []
    assert ours.jobs("1") == [{"name": "x", "steps": None}]


def test_create_branch_once(hub: Hub, ours: Repository) -> None:
    assert ours.head("x/y") == ""
    assert ours.create_branch("x/y", BASE)
    assert not ours.create_branch("x/y", BASE)
    assert ours.head("x/y") == BASE


def test_open_pull_request_once(hub: Hub, ours: Repository) -> None:
    ours.create_branch("x", BASE)
    words = {"title": "t", "body": "b", "branch": "x", "base": "main"}
    assert ours.open_pull(**words)
    assert ours.open_pull(**words) is None
    assert len(ours.pulls("x")) == 1


@pytest.mark.parametrize(("mood", "reason"), [(hubs.BROKEN, "HTTP 502"), (hubs.CUT, "Error")])
def test_failed_post_is_not_repeated(
    hub: Hub, ours: Repository, slept: list[float], mood: hubs.Answer, reason: str
) -> None:
    hub.moods.append(("POST", mood))
    with pytest.raises(NetworkError, match=f"POST .*{reason}") as caught:
        ours.open_issue(title="t", body="b", label="l")
    assert "run it again" in caught.value.hint
    assert (slept, hub.ours.issues) == ([], [])


def test_post_is_repeated_after_a_rate_limit(
    hub: Hub, ours: Repository, slept: list[float]
) -> None:
    hub.moods.append(("POST", hubs.secondary(2)))
    assert ours.open_issue(title="t", body="b", label="l")
    assert len(hub.ours.issues) == 1


@pytest.mark.parametrize("mood", [hubs.NOT_PERMITTED, (404, {}, {"message": "Not Found"})])
def test_token_without_permission(hub: Hub, ours: Repository, mood: hubs.Answer) -> None:
    hub.moods.append(("POST", mood))
    with pytest.raises(NetworkError, match="POST") as caught:
        ours.start("weekly-build.yml", "main")
    assert "actions: write" in caught.value.hint


def test_validation_errors_are_reported(hub: Hub, ours: Repository) -> None:
    errors = [{"resource": "Issue", "field": "title", "code": "missing_field"}, {"message": "no"}]
    hub.moods.append(("POST", (422, {}, {"message": "Validation Failed", "errors": errors})))
    with pytest.raises(NetworkError, match="Validation Failed: missing_field: no"):
        ours.open_issue(title="", body="b", label="l")


def test_run_that_is_listed_late(hub: Hub, ours: Repository, slept: list[float]) -> None:
    hub.late = 3
    ours.start("weekly-build.yml", "main")
    assert hub.ours.runs == ["main"]
    assert slept == [2, 2, 2]


def test_run_that_is_never_listed(
    hub: Hub, ours: Repository, slept: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    hub.late = 1000
    ours.start("weekly-build.yml", "main")
    logged = capsys.readouterr().err
    assert "warning: " in logged
    assert "weekly-build.yml" in logged
    assert len(slept) == github.LISTED


LOCK = "track-releases/lock"


def test_lock_is_released(hub: Hub, ours: Repository) -> None:
    with ours.locked(LOCK, BASE):
        assert hub.ours.refs[f"heads/{LOCK}"] != BASE
        with pytest.raises(BusyError, match="for 0 min") as caught, ours.locked(LOCK, BASE):
            pytest.fail("held twice")
        assert LOCK in caught.value.hint
    assert list(hub.ours.refs) == ["heads/main"]


def test_lock_is_released_after_a_failure(hub: Hub, ours: Repository) -> None:
    with pytest.raises(ZeroDivisionError), ours.locked(LOCK, BASE):
        _ = 1 / 0
    assert list(hub.ours.refs) == ["heads/main"]


def test_stale_lock_is_taken_over(hub: Hub, ours: Repository) -> None:
    hub.ours.refs[f"heads/{LOCK}"] = hub.know("d" * 40, when=time.time() - github.LEASE - 5)
    with ours.locked(LOCK, BASE), pytest.raises(BusyError), ours.locked(LOCK, BASE):
        pass
    assert list(hub.ours.refs) == ["heads/main"]


def test_one_run_takes_over_a_stale_lock(hub: Hub, ours: Repository) -> None:
    stale = hub.know("d" * 40, when=time.time() - github.LEASE - 5)
    hub.ours.refs[f"heads/{LOCK}"] = stale

    def overtake(request: str) -> None:
        if request.startswith("PATCH") and hub.ours.refs[f"heads/{LOCK}"] == stale:
            hub.ours.refs[f"heads/{LOCK}"] = hub.know("e" * 40, parents=(stale,))

    hub.before = overtake
    with pytest.raises(BusyError), ours.locked(LOCK, BASE):
        pytest.fail("taken over twice")
    assert hub.ours.refs[f"heads/{LOCK}"] == "e" * 40


def test_lock_of_another_run_is_left_alone(hub: Hub, ours: Repository) -> None:
    """Another run has taken over our lock."""
    with ours.locked(LOCK, BASE):
        hub.ours.refs[f"heads/{LOCK}"] = hub.know("e" * 40)
    assert hub.ours.refs[f"heads/{LOCK}"] == "e" * 40


def test_one_of_many_runs_holds_the_lock(hub: Hub) -> None:
    outcomes: list[Any] = []
    barrier = threading.Barrier(6)
    done = threading.Event()

    def run() -> None:
        with Client.connected() as client:
            barrier.wait()
            try:
                with Repository(client, OURS).locked(LOCK, BASE):
                    outcomes.append("held")
                    done.wait(BOUND)
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
