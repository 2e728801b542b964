from __future__ import annotations

from typing import Any

import pytest

from buildkit_riscv64.automation import broken
from buildkit_riscv64.errors import BusyError, UsageError

from ...hub import BASE, OURS, Hub

JOBS: list[dict[str, Any]] = [
    {
        "name": "build",
        "conclusion": "failure",
        "steps": [
            {"name": "Run ./invoke build-binaries", "conclusion": "success"},
            {"name": "Run ./invoke validate --yes", "conclusion": "failure"},
            {"name": "later", "conclusion": "skipped"},
        ],
    },
    {"name": "queued", "conclusion": None, "steps": []},
]


@pytest.fixture
def place(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """A run of a workflow."""
    monkeypatch.setenv("GITHUB_WORKFLOW", "weekly-build")
    monkeypatch.setenv("GITHUB_SERVER_URL", "https://github.com")
    monkeypatch.setenv("GITHUB_RUN_ID", "77")
    monkeypatch.setenv("GITHUB_REF_NAME", "main")
    hub.ours.jobs = JOBS
    return hub


def report(result: str, *, dry: bool = False) -> str:
    return broken.report(result, "", dry=dry)


def test_what_broke_is_told_once(place: Hub) -> None:
    assert report("failure").startswith("open the issue “weekly-build for main fails”")
    [issue] = place.ours.issues
    assert issue["labels"] == [{"name": "broken-build"}]
    assert f"https://github.com/{OURS}/actions/runs/77" in issue["body"]
    assert "- build: Run ./invoke validate --yes\n" in issue["body"]
    assert "build-binaries" not in issue["body"]
    assert "later" not in issue["body"]
    assert report("failure") == f"nothing: #{issue['number']} tells of it"
    assert len(place.ours.issues) == 1
    assert list(place.ours.refs) == ["heads/main"]


def test_it_is_closed_when_it_works_again(place: Hub) -> None:
    assert report("success") == "nothing"
    report("failure")
    number = place.ours.issues[0]["number"]
    assert report("success") == f"close #{number}"
    assert place.ours.issues[0]["state"] == "closed"
    assert "It works again" in place.ours.comments[number][0]
    # And when it breaks again, that is another story.
    report("failure")
    assert [one["state"] for one in place.ours.issues] == ["closed", "open"]


def test_another_branch_is_another_story(place: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    report("failure")
    monkeypatch.setenv("GITHUB_REF_NAME", "track-releases/v0.33.0")
    assert report("success") == "nothing"
    report("failure")
    assert [one["state"] for one in place.ours.issues] == ["open", "open"]


def test_a_machine_that_went_away(place: Hub) -> None:
    place.ours.jobs = [{"name": "build", "conclusion": "failure", "steps": []}]
    report("failure")
    assert "may have gone away" in place.ours.issues[0]["body"]


@pytest.mark.parametrize("result", ["cancelled", "skipped"])
def test_what_says_nothing(place: Hub, result: str) -> None:
    assert report(result).startswith("nothing")
    assert place.requests == []


def test_dry(place: Hub) -> None:
    assert report("failure", dry=True).startswith("open")
    report("failure")
    assert report("success", dry=True).startswith("close")
    assert place.ours.issues[0]["state"] == "open"


@pytest.mark.parametrize("result", ["", "failed", "SUCCESS"])
def test_no_such_result(place: Hub, result: str) -> None:
    with pytest.raises(UsageError, match="no result of a run"):
        report(result)


def test_outside_a_workflow(hub: Hub) -> None:
    with pytest.raises(UsageError, match=r"GITHUB_WORKFLOW.*no run of a workflow"):
        report("failure")


def test_another_at_work(place: Hub) -> None:
    place.ours.refs[f"heads/{broken.LOCK}"] = place.know("d" * 40)
    with pytest.raises(BusyError):
        report("failure")
    assert place.ours.refs == {"heads/main": BASE, f"heads/{broken.LOCK}": "d" * 40}
