from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from buildkit_riscv64.automation import github
from buildkit_riscv64.automation.api import Client
from buildkit_riscv64.automation.github import Entry, Repository
from buildkit_riscv64.errors import BusyError, NetworkError, UsageError

from ... import hub as hubs
from ...hub import BASE, OURS, Hub


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
