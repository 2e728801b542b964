"""`invoke track-releases` in a checkout, with a fake GitHub on the loopback."""

from __future__ import annotations

import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from buildkit_riscv64.testing.pytest_plugin import needs
from buildkit_riscv64.validation.environment.waiting import BOUND

from .. import fake_github as hubs
from ..fake_github import OURS, TOKEN, Hub, release
from .miniature import (
    CANDIDATE,
    FRONTEND,
    MODULE,
    NEEDS_NEWER_GO,
    NEWER,
    PINNED,
    Done,
    Project,
    Upstream,
    refused,
    succeeded,
)

pytestmark = pytest.mark.integration

BRANCH = f"track-releases/{NEWER}"


@pytest.fixture
@needs("loopback")
def hub(project: Project) -> Iterator[Hub]:
    """A fake GitHub with the checkout's commit on main, and an upstream with a new release."""
    hub = Hub()
    head = project.git("rev-parse", "HEAD").strip()
    hub.ours.refs["heads/main"] = hub.know(head)
    hub.upstream.releases = [
        release(CANDIDATE, prerelease=True), release(FRONTEND),
        release(NEWER, "2026-11-20T10:00:00Z"), release(PINNED),
    ]  # fmt: skip
    # Go and Debian are unreachable.
    unreachable = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9", "no_proxy": "127.0.0.1"}  # fmt: skip
    project.env |= hub.environment() | unreachable
    with hub.running():
        yield hub
    assert not (Path(project.env["XDG_CACHE_HOME"]) / "buildkit-riscv64" / "track").exists()


def track(project: Project, *args: str, **options: Any) -> Done:
    return project.invoke("track-releases", *args, **options)


def test_new_release(project: Project, hub: Hub, upstream: Upstream) -> None:
    before = project.files()
    done = succeeded(track(project))
    assert TOKEN not in done.stdout + done.stderr
    assert f"done: start weekly-build.yml for {BRANCH}" in done.stderr
    # The commit has the changes of `pins.update`; the checkout is unchanged.
    assert project.files() == before
    commit = hub.commits[hub.ours.refs[f"heads/{BRANCH}"]]
    assert [one["sha"] for one in commit["parents"]] == [project.git("rev-parse", "HEAD").strip()]
    tree = {entry["path"]: entry for entry in hub.trees[commit["tree"]["sha"]]}
    assert (tree["buildkit"]["mode"], tree["buildkit"]["sha"]) == (
        "160000",
        upstream.commits[NEWER],
    )
    succeeded(project.invoke("pins.update", NEWER))
    project.git("add", "--all")
    changed = project.git("diff", "--cached", "--name-only", "HEAD").split()
    assert {"buildkit", "pins/pins.toml", "pins/upstream/go.mod", "pins/upstream/go.sum"} <= set(
        changed
    )
    assert sorted(tree) == sorted(changed)
    for name in tree.keys() - {"buildkit"}:
        assert tree[name]["content"] == (project.root / name).read_text()
    [_], [_], [_] = hub.ours.issues, hub.ours.pulls, hub.ours.runs
    assert sorted(hub.ours.refs) == ["heads/main", f"heads/{BRANCH}"]
    # A second run has nothing to do.
    changes = hub.changes
    project.git("reset", "--quiet", "--hard")
    assert "nothing to do" in succeeded(track(project)).stderr
    assert hub.changes == changes


@pytest.mark.parametrize("args", [("track-releases", "--dry"), ("--dry", "track-releases")])
def test_dry(project: Project, hub: Hub, args: tuple[str, ...]) -> None:
    before = project.files()
    done = succeeded(project.invoke(*args, "--json"))
    head = project.git("rev-parse", "HEAD").strip()
    assert [step["detail"] for step in done.json["steps"]] == [
        f"open the issue “BuildKit {NEWER}”, labelled upstream-release",
        f"create the branch {BRANCH} from main ({head[:12]}) with the changes of `invoke pins.update {NEWER}`",
        f"open a pull request from {BRANCH} to main",
        f"start weekly-build.yml for {BRANCH}",
    ]  # fmt: skip
    assert (done.json["pinned"], done.json["newest"], done.json["dry"]) == (PINNED, NEWER, True)
    assert {request.split()[0] for request, _ in hub.requests} == {"GET"}
    assert project.files() == before


def test_dry_run_needs_no_token(project: Project, hub: Hub) -> None:
    del project.env["GH_TOKEN"]
    succeeded(track(project, "--dry"))
    refused(track(project), 10, "Requires authentication")


def test_overlapping_runs(project: Project, hub: Hub) -> None:
    command = [sys.executable, "-m", "buildkit_riscv64", "track-releases"]
    runs = [
        subprocess.Popen(command, cwd=project.root, env=project.env, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]  # fmt: skip
    output = [one.communicate(timeout=BOUND)[1] for one in runs]
    codes = sorted(one.returncode for one in runs)
    assert codes in ([0, 0], [0, 11]), output
    [_], [_], [_] = hub.ours.issues, hub.ours.pulls, hub.ours.runs
    assert sorted(hub.ours.refs) == ["heads/main", f"heads/{BRANCH}"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted(project: Project, hub: Hub, number: signal.Signals) -> None:
    with project.started("track-releases") as run:
        run.wait_for("create the branch")
        done = run.end(number)
    assert done.code == 130
    assert "heads/track-releases/lock" not in hub.ours.refs
    succeeded(track(project))
    [_], [_], [_] = hub.ours.issues, hub.ours.pulls, hub.ours.runs


def test_killed(project: Project, hub: Hub) -> None:
    with project.started("track-releases") as run:
        run.wait_for("create the branch")
        run.end(signal.SIGKILL)
    project.no_strays()
    # The next run takes over the lock after an hour.
    refused(track(project), 11, OURS)
    lock = hub.ours.refs["heads/track-releases/lock"]
    hub.commits[lock]["committer"]["date"] = "2026-01-02T03:04:05Z"
    succeeded(track(project))
    [_], [_], [_] = hub.ours.issues, hub.ours.pulls, hub.ours.runs
    assert sorted(hub.ours.refs) == ["heads/main", f"heads/{BRANCH}"]


def test_pins_that_cannot_be_updated(project: Project, hub: Hub) -> None:
    hub.upstream.releases.insert(0, release(NEEDS_NEWER_GO, "2026-11-21T00:00:00Z"))
    for _ in range(2):
        done = track(project)
        assert done.code == 4, done
        error, fix = done.stderr.splitlines()[-2:]
        assert error.startswith(f"error: `invoke pins.update {NEEDS_NEWER_GO}`: ")
        assert "needs a newer Go" in error
        assert "invoke pins.update-go" in fix
        [issue] = hub.ours.issues
        [comment] = hub.ours.comments[issue["number"]]
        assert error in comment
        assert list(hub.ours.refs) == ["heads/main"]


def test_checkout_of_another_commit(project: Project, hub: Hub) -> None:
    hub.ours.refs["heads/main"] = hub.know("f" * 40)
    refused(track(project), 4, "ffffffffffff")
    assert hub.changes == []


def test_uncommitted_changes_are_left_out(project: Project, hub: Hub) -> None:
    (project.root / "README.md").write_text("changed\n")
    (project.root / "new").write_text("new\n")
    succeeded(track(project))
    commit = hub.commits[hub.ours.refs[f"heads/{BRANCH}"]]
    names = {entry["path"] for entry in hub.trees[commit["tree"]["sha"]]}
    assert "pins/pins.toml" in names
    assert not names & {"README.md", "new"}


@pytest.mark.parametrize(
    ("mood", "code", "word"),
    [
        (hubs.BAD_TOKEN, 10, "Bad credentials"), (hubs.limited(3000), 10, "UTC"),
        (hubs.NOT_PERMITTED, 10, "not accessible"),
    ],
)  # fmt: skip
def test_github_refuses(
    project: Project, hub: Hub, mood: hubs.Answer, code: int, word: str
) -> None:
    hub.moods.append(("/releases", mood))
    refused(track(project), code, word)


def test_temporary_failures_are_retried(project: Project, hub: Hub) -> None:
    """A limit of one second, an error, and a closed connection."""
    for mood in (hubs.limited(1), hubs.BROKEN, hubs.CUT):
        hub.moods.append((f"/repos/{MODULE.removeprefix('github.com/')}/releases", mood))
    done = succeeded(track(project, "--dry"))
    assert done.stderr.count("trying again in") == 3


@pytest.mark.parametrize(
    ("env", "args", "word"),
    [
        ({"GITHUB_REPOSITORY": ""}, (), "repository"),
        ({}, ("--repository", "me"), "'me'"),
        ({"GITHUB_API_URL": "http://api.github.com"}, (), "GITHUB_API_URL"),
        ({"GH_TOKEN": "two words"}, (), "GH_TOKEN"),
    ],
)  # fmt: skip
def test_invalid_input_is_refused_first(
    project: Project, hub: Hub, env: dict[str, str], args: tuple[str, ...], word: str
) -> None:
    refused(track(project, *args, env=env), 2, word)
    assert hub.requests == []


def test_release_closes_the_issue(project: Project, hub: Hub) -> None:
    succeeded(track(project))
    hub.ours.releases = [release(NEWER)]
    done = succeeded(track(project))
    assert f"{NEWER} is released" in done.stderr
    [issue] = hub.ours.issues
    assert issue["state"] == "closed"
    assert (
        tomllib.loads((project.root / "pins/pins.toml").read_text())["buildkit"]["version"]
        == PINNED
    )
