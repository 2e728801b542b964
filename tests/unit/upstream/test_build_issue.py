from __future__ import annotations

from typing import Any

import pytest

from buildkit_riscv64.core import dry_run
from buildkit_riscv64.core.errors import BusyError, UsageError
from buildkit_riscv64.upstream import build_issue

from ...fake_github import BASE, OURS, Hub

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
def workflow(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """A run of a workflow."""
    monkeypatch.setenv("GITHUB_WORKFLOW", "weekly-build")
    monkeypatch.setenv("GITHUB_SERVER_URL", "https://github.com")
    monkeypatch.setenv("GITHUB_RUN_ID", "77")
    monkeypatch.setenv("GITHUB_REF_NAME", "main")
    hub.ours.jobs = JOBS
    return hub


def report(result: str, *, dry: bool = False) -> str:
    with dry_run.running(dry=dry):
        return build_issue.report(result, "")


def test_broken_build_is_reported_once(workflow: Hub) -> None:
    assert report("failure").startswith("open the issue “weekly-build for main fails”")
    [issue] = workflow.ours.issues
    assert issue["labels"] == [{"name": "broken-build"}]
    assert f"https://github.com/{OURS}/actions/runs/77" in issue["body"]
    assert "- build: Run ./invoke validate --yes\n" in issue["body"]
    assert "build-binaries" not in issue["body"]
    assert "later" not in issue["body"]
    assert report("failure").startswith("nothing")
    assert f"#{issue['number']}" in report("failure")
    assert len(workflow.ours.issues) == 1
    assert list(workflow.ours.refs) == ["heads/main"]


def test_issue_is_closed_when_the_build_succeeds(workflow: Hub) -> None:
    assert report("success") == "nothing"
    report("failure")
    number = workflow.ours.issues[0]["number"]
    assert report("success") == f"close #{number}"
    assert workflow.ours.issues[0]["state"] == "closed"
    assert "It works again" in workflow.ours.comments[number][0]
    # The next failure opens another issue.
    report("failure")
    assert [one["state"] for one in workflow.ours.issues] == ["closed", "open"]


def test_each_branch_has_its_own_issue(workflow: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    report("failure")
    monkeypatch.setenv("GITHUB_REF_NAME", "track-releases/v0.33.0")
    assert report("success") == "nothing"
    report("failure")
    assert [one["state"] for one in workflow.ours.issues] == ["open", "open"]


def test_failure_without_a_failed_step(workflow: Hub) -> None:
    workflow.ours.jobs = [{"name": "build", "conclusion": "failure", "steps": []}]
    report("failure")
    assert "no failed step" in workflow.ours.issues[0]["body"]


@pytest.mark.parametrize("result", ["cancelled", "skipped"])
def test_other_results_change_nothing(workflow: Hub, result: str) -> None:
    assert report(result).startswith("nothing")
    assert workflow.requests == []


def test_dry(workflow: Hub) -> None:
    assert report("failure", dry=True).startswith("open")
    report("failure")
    assert report("success", dry=True).startswith("close")
    assert workflow.ours.issues[0]["state"] == "open"


@pytest.mark.parametrize("result", ["", "failed", "SUCCESS"])
def test_unknown_result(workflow: Hub, result: str) -> None:
    with pytest.raises(UsageError, match="not a job's result"):
        report(result)


def test_outside_a_workflow(hub: Hub) -> None:
    with pytest.raises(UsageError, match="GITHUB_WORKFLOW"):
        report("failure")


def test_another_run_holds_the_lock(workflow: Hub) -> None:
    workflow.ours.refs[f"heads/{build_issue.LOCK}"] = workflow.know("d" * 40)
    with pytest.raises(BusyError):
        report("failure")
    assert workflow.ours.refs == {"heads/main": BASE, f"heads/{build_issue.LOCK}": "d" * 40}
