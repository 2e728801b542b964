"""The workflows of GitHub Actions: commands, pins and permissions."""

from __future__ import annotations

import collections
import copy
import json
import re
import runpy
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nox.registry
import pytest
from invoke.exceptions import ParseError
from invoke.parser import Parser
from invoke.program import Program
from ruamel.yaml import YAML

from buildkit_riscv64.core import project
from buildkit_riscv64.upstream import outdated, track

from .test_tasks import namespace

DIRECTORY = project.ROOT / ".github"
WORKFLOWS = sorted((DIRECTORY / "workflows").glob("*.yml"))


def load(path: Path) -> Any:
    return YAML(typ="safe").load(path)


@dataclass(frozen=True)
class Job:
    workflow: str
    name: str
    content: Any

    def __str__(self) -> str:
        return f"{self.workflow}/{self.name}"


JOBS = [
    Job(path.name, name, content)
    for path in WORKFLOWS
    for name, content in load(path)["jobs"].items()
]
STEPS = [(job, step) for job in JOBS for step in job.content["steps"]]
LINES = sorted({step["run"] for _, step in STEPS if "run" in step})
ACTIONS = [(job, step) for job, step in STEPS if "uses" in step]


@pytest.fixture(scope="session")
def sessions() -> set[str]:
    """The sessions of noxfile.py."""
    with pytest.MonkeyPatch.context() as patch:
        # Nox has one registry for the whole process; other tests use it too.
        patch.setattr(nox.registry, "_REGISTRY", collections.OrderedDict())
        runpy.run_path(str(project.ROOT / "noxfile.py"))
        return set(nox.registry.get())


def errors(line: str, sessions: set[str]) -> Iterator[str]:
    """The errors in a line of a workflow."""
    if "\n" in line.strip():
        yield "more than one line"
    words = shlex.split(line)
    if re.search(r"\$\{\{", line):
        yield "expression of GitHub in a command: pass it in `env`"
    match words:
        case ["./nox", "-s", *rest]:
            chosen = rest[: rest.index("--")] if "--" in rest else rest
            yield from (f"no session {one}" for one in chosen if one not in sessions)
        case ["./invoke", *args]:
            yield from _tasks(args, sessions)
        case _:
            yield "neither ./invoke nor ./nox"


def _tasks(args: list[str], sessions: set[str]) -> Iterator[str]:
    # Invoke removes a task's help when it first reads its options.
    collection = copy.deepcopy(namespace())
    parser = Parser(contexts=collection.to_contexts(), initial=Program().initial_context)
    try:
        _, *called = parser.parse_argv(args)
    except ParseError as error:
        yield str(error)
        return
    if parser.parse_argv(args).unparsed or not called:
        yield f"not understood: {args}"
    for task in called:
        if task.missing_positional_args:
            yield f"{task.name} lacks {task.missing_positional_args}"
        if task.name == "test":
            chosen = str(task.args["session"].value or "").split(",")
            yield from (f"no session {one}" for one in chosen if one and one not in sessions)


def test_workflows() -> None:
    names = {path.stem for path in WORKFLOWS}
    assert names == {"packages", "release", "track-releases", "validate", "weekly-build"}
    assert len(LINES) > 10


@pytest.mark.parametrize("line", LINES)
def test_each_line_is_a_task_or_a_session(line: str, sessions: set[str]) -> None:
    assert list(errors(line, sessions)) == []


@pytest.mark.parametrize(
    "line",
    [
        "./invoke build-everything", "./invoke build-binaries --bundel", "./invoke", "./invoke --list",
        "./invoke validate --only", "./invoke pins.update", "./invoke test --session nosuch",
        "./nox -s nosuch", "./nox -s lint nosuch", "./nox", "make", "python -m pytest", "sudo ./nox -s lint",
        "./invoke build-binaries\n./invoke build-image", "./invoke push-image --registry ${{ inputs.x }}",
        "./invoke build-image --rootless extra",
    ],
)  # fmt: skip
def test_errors(line: str, sessions: set[str]) -> None:
    assert list(errors(line, sessions))


@pytest.mark.parametrize(("job", "step"), ACTIONS, ids=str)
def test_actions_are_pinned_by_commit(job: Job, step: Any) -> None:
    assert re.fullmatch(r"actions/[\w-]+@[0-9a-f]{40}", step["uses"])


def test_each_pin_has_its_version() -> None:
    """`track-releases` compares the two, and Dependabot changes both."""
    found = {f"{name}@{commit}" for name, commit, _ in outdated.used()}
    assert found == {step["uses"] for _, step in ACTIONS}
    assert len(found) == len({name for name, _, _ in outdated.used()}), "one version of each"


@pytest.mark.parametrize(("job", "step"), ACTIONS, ids=str)
def test_credentials_are_not_kept(job: Job, step: Any) -> None:
    if step["uses"].startswith("actions/checkout@"):
        assert step["with"]["persist-credentials"] is False


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_permissions_of_workflows(path: Path) -> None:
    workflow = load(path)
    assert workflow["permissions"] == {"contents": "read"}
    assert workflow["concurrency"]["group"]
    assert "pull_request_target" not in workflow["on"]


@pytest.mark.parametrize("job", JOBS, ids=str)
def test_permissions_of_jobs(job: Job) -> None:
    triggers = load(DIRECTORY / "workflows" / job.workflow)["on"]
    board = "self-hosted" in job.content["runs-on"]
    assert 0 < job.content["timeout-minutes"] <= (1440 if board else 360)
    if "pull_request" in triggers:
        assert not board, "anybody's code would run on the board"
        assert "permissions" not in job.content
        assert "secrets" not in json.dumps(job.content)
    if board:
        assert "permissions" not in job.content
        assert "secrets" not in json.dumps(job.content), "the board signs nothing"
        declared = load(DIRECTORY / "actionlint.yaml")["self-hosted-runner"]["labels"]
        assert set(job.content["runs-on"]) == {"self-hosted", "linux", *declared}


def test_jobs_on_the_board_are_not_cancelled() -> None:
    """Each workflow has its own group: GitHub cancels all waiting runs of a group except one."""
    groups = {
        job.workflow: load(DIRECTORY / "workflows" / job.workflow)["concurrency"]
        for job in JOBS
        if "self-hosted" in job.content["runs-on"]
    }
    assert set(groups) == {"weekly-build.yml", "release.yml"}
    for name, one in groups.items():
        assert one["cancel-in-progress"] is False
        assert one["group"].startswith(f"{name.removesuffix('.yml')}-${{{{ ")


def test_track_releases_can_start_its_workflow() -> None:
    workflow = load(DIRECTORY / "workflows" / track.WORKFLOW)
    assert "workflow_dispatch" in workflow["on"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_path_filters_match_files(path: Path) -> None:
    """A renamed directory must not silence a workflow."""
    for event in load(path)["on"].values():
        for pattern in (event or {}).get("paths", []) if isinstance(event, dict) else []:
            assert any(project.ROOT.glob(pattern)), pattern
