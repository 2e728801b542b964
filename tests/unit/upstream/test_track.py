from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from buildkit_riscv64.core import dry_run, git, pins, project
from buildkit_riscv64.core.errors import BusyError, NetworkError, SourceError, UsageError
from buildkit_riscv64.upstream import github, outdated, report, track
from buildkit_riscv64.upstream.github import Entry
from buildkit_riscv64.upstream.github_client import Client
from buildkit_riscv64.upstream.outdated import Pin, State
from buildkit_riscv64.upstream.track import PinUpdate, TrackResult, Upstream

from ... import fake_github as hubs
from ...fake_github import BASE, OURS, Hub, release
from ..factories import Commands

NEW = release("v0.33.0", "2026-11-20T10:00:00Z")
PINNED = release("v0.32.2")
BRANCH = "track-releases/v0.33.0"
UPDATED = [
    Entry("pins/pins.toml", "100644", 'version = "v0.33.0"'),
    Entry("buildkit", "160000", "c" * 40),
]
WHAT = ["issue", "branch", "pull request", "build"]


def judge(*releases: dict[str, Any], pinned: str = "v0.32.2") -> Upstream:
    return Upstream.judge(releases, pinned)


def newest(*releases: dict[str, Any]) -> str:
    found = judge(*releases)
    return found.new.tag if found.new else ""


def test_new_release() -> None:
    assert newest(NEW, PINNED) == "v0.33.0"


def test_no_new_release() -> None:
    assert newest(PINNED, release("v0.32.1")) == ""
    assert newest() == ""


@pytest.mark.parametrize(
    "other",
    [
        release("v0.33.0-rc1", prerelease=True), release("v0.33.0-rc2"), release("v0.33.0", prerelease=True),
        release("v0.33.0", draft=True, published_at=None), release("dockerfile/1.99.0"),
        release("dockerfile/1.99.0-labs"), release("v0.33"), release("buildx-v0.33.0"),
        release("v0.33.0", name="v0.33.0 [YANKED]"), release("v0.33.0", name="Retracted: v0.33.0"),
        release("v00.33.0"), release("v0.33.0\n"), release("v0.33.0; rm -rf /"),
    ],
    ids=lambda one: repr((one["tag_name"], one["name"])),
)  # fmt: skip
def test_not_a_stable_release(other: dict[str, Any]) -> None:
    assert newest(other, PINNED) == ""
    assert newest(other) == ""


def test_release_without_a_date() -> None:
    assert newest(release("v0.33.0", published_at=None), release("v0.32.2")) == ""


def test_versions_are_not_compared_as_text() -> None:
    assert newest(release("v0.100.0"), release("v0.99.9"), PINNED) == "v0.100.0"
    assert newest(release("v0.32.10"), release("v0.32.9"), PINNED) == "v0.32.10"
    assert newest(release("v0.4.10"), PINNED) == ""


def test_backport_is_reported_and_not_newer() -> None:
    backport = release("v0.31.5", "2026-11-01T00:00:00Z")
    found = judge(backport, PINNED, release("v0.31.4", "2026-06-01T00:00:00Z"))
    assert found.new is None
    assert [one.tag for one in found.backports] == ["v0.31.5"]
    # Also when upstream has a new release.
    found = judge(release("v0.32.3", "2026-11-21T00:00:00Z"), NEW, PINNED)
    assert found.new
    assert (found.new.tag, [one.tag for one in found.backports]) == ("v0.33.0", ["v0.32.3"])


def test_pinned_release_is_missing() -> None:
    found = judge(release("v0.32.1"))
    assert (found.new, found.listed) == (None, False)


def test_release_without_a_name() -> None:
    assert newest(release("v0.33.0", name=None), PINNED) == "v0.33.0"


SUBMODULE = "c" * 40
#: git's diff of a commit that changes, adds and removes files and updates a submodule.
RAW = "\0".join((
    f":100644 100644 {'1' * 40} {'2' * 40} M", "pins/pins.toml", f":000000 100755 {'0' * 40} {'3' * 40} A", "new file",
    f":100644 000000 {'4' * 40} {'0' * 40} D", "old", f":160000 160000 {'5' * 40} {SUBMODULE} M", "buildkit", "",
))  # fmt: skip


@pytest.fixture
def clone(checkout: Path, commands: Commands) -> Path:
    """The clone's path; a fake task changes the clone as in RAW."""
    directory = project.cache() / "track"

    def make(_words: list[str]) -> None:
        assert not directory.exists()
        (directory / "pins").mkdir(parents=True)
        (directory / "pins/pins.toml").write_text("é")
        (directory / "new file").write_text("new")

    commands.answer("clone", does=make)
    commands.answer("diff", stdout=RAW)
    return directory


def test_entries(clone: Path, commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GH_TOKEN", "GITHUB_TOKEN", "GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY"):
        monkeypatch.setenv(name, "secret")
    monkeypatch.setenv("GOPROXY", "https://proxy.example")
    (clone / "left by a killed run").mkdir(parents=True)
    assert PinUpdate.to_go("1.26.11").entries() == [
        Entry("pins/pins.toml", "100644", "é"), Entry("new file", "100755", "new"),
        Entry("old", "100644", None), Entry("buildkit", "160000", SUBMODULE),
    ]  # fmt: skip
    [task] = [call for call in commands.calls if call.verb == "stream"]
    assert task.args[1:] == ["-m", "buildkit_riscv64", "pins.update-go", "1.26.11"]
    assert task.options["cwd"] == clone
    assert task.options["env"]["GOPROXY"] == "https://proxy.example"
    assert "secret" not in task.options["env"].values()
    assert not clone.exists()


@pytest.mark.parametrize(
    ("output", "brief", "hint"),
    [
        ("working\nerror: no such tag\n  fix: see the list\n", "no such tag", "see the list"),
        ("working\nKilled\n\n", "Killed", ""), ("", "exit code 137", ""),
    ],
)  # fmt: skip
def test_entries_of_a_failed_task(
    clone: Path, commands: Commands, output: str, brief: str, hint: str
) -> None:
    commands.answer("pins.update", code=137, stdout=output)
    with pytest.raises(SourceError) as caught:
        PinUpdate.to(Upstream.judge([NEW], "v0.32.2").newest).entries()  # type: ignore[arg-type]
    assert caught.value.brief == f"`invoke pins.update v0.33.0`: {brief}"
    assert caught.value.hint == hint
    assert not clone.exists()


def test_entries_without_changes(clone: Path, commands: Commands) -> None:
    commands.answer("diff", stdout="")
    with pytest.raises(SourceError, match="no file"):
        PinUpdate.to_go("1.26.11").entries()


@pytest.fixture
def fake(checkout: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """A checkout with v0.32.2, and a fake GitHub with v0.33.0; no other pins, no fetches."""
    hub.upstream.releases = [NEW, release("dockerfile/1.30.0"), PINNED]
    monkeypatch.setattr(PinUpdate, "entries", lambda _self: UPDATED)
    monkeypatch.setattr(track, "_refuse_another_state", lambda _base, _name: None)
    monkeypatch.setattr(outdated, "examine", lambda _client: iter(()))
    return hub


def run(*, dry: bool = False) -> TrackResult:
    with dry_run.running(dry=dry):
        return track.track("")


def what(outcome: TrackResult) -> list[str]:
    return [step.what for step in outcome.steps]


def test_steps_of_a_new_release(fake: Hub) -> None:
    assert what(run()) == WHAT
    ours = fake.ours
    commit = fake.commits[ours.refs[f"heads/{BRANCH}"]]
    assert (commit["message"], commit["parents"]) == ("build: BuildKit v0.33.0", [{"sha": BASE}])
    assert fake.trees[commit["tree"]["sha"]] == [entry.as_json() for entry in UPDATED]
    [issue], [pull] = ours.issues, ours.pulls
    assert issue["title"] == "BuildKit v0.33.0"
    assert issue["labels"] == [{"name": "upstream-release"}]
    assert "<!-- track-releases: v0.33.0 -->" in issue["body"]
    assert NEW["html_url"] in issue["body"]
    assert (pull["title"], pull["base"]) == ("build: BuildKit v0.33.0", "main")
    assert f"Tracked by #{issue['number']}." in pull["body"]
    assert ours.runs == [BRANCH]
    # No other branch, and no lock.
    assert sorted(ours.refs) == ["heads/main", f"heads/{BRANCH}"]


def test_second_run_does_nothing(fake: Hub) -> None:
    run()
    before = fake.changes
    assert what(run()) == []
    assert fake.changes == before


def test_dry(fake: Hub) -> None:
    outcome = run(dry=True)
    assert what(outcome) == WHAT
    assert [step.detail for step in outcome.steps] == [
        "open the issue “BuildKit v0.33.0”, labelled upstream-release",
        f"create the branch {BRANCH} from main (bbbbbbbbbbbb) with the changes of `invoke pins.update v0.33.0`",
        f"open a pull request from {BRANCH} to main",
        f"start weekly-build.yml for {BRANCH}",
    ]  # fmt: skip
    assert {request.split()[0] for request, _ in fake.requests} == {"GET"}


@pytest.mark.parametrize(
    "releases",
    [
        [PINNED], [], [release("dockerfile/1.30.0")], [release("v0.33.0-rc1", prerelease=True), PINNED],
        [release("v0.31.5", "2026-11-01T00:00:00Z"), PINNED],
    ],
    ids=["none new", "none", "dockerfile only", "pre-release only", "backport"],
)  # fmt: skip
def test_nothing_to_do(fake: Hub, releases: list[dict[str, Any]]) -> None:
    fake.upstream.releases = releases
    assert what(run()) == []
    assert fake.changes == []


@pytest.mark.parametrize("number", range(len(WHAT)))
def test_next_run_completes_a_killed_one(fake: Hub, number: int) -> None:
    """The next run completes the steps of a killed run."""
    plan = run(dry=True).steps
    with Client.connected() as client:
        ours = github.Repository(client, OURS)
        started = track.Plan(ours, Upstream.judge(fake.upstream.releases, "v0.32.2"))
        for step in started.steps[:number]:
            step.act()
    assert what(run()) == [step.what for step in plan[number:]]
    [_], [_], [_] = fake.ours.issues, fake.ours.pulls, fake.ours.runs


def test_existing_branch_is_kept(fake: Hub) -> None:
    fake.ours.refs[f"heads/{BRANCH}"] = fake.know("f" * 40)
    assert what(run()) == ["issue", "pull request", "build"]
    assert fake.ours.refs[f"heads/{BRANCH}"] == "f" * 40


@pytest.mark.parametrize("merged", [None, "2026-11-21T00:00:00Z"])
def test_closed_pull_request_is_not_opened_again(fake: Hub, merged: str | None) -> None:
    run()
    fake.ours.pulls[0] |= {"state": "closed", "merged_at": merged}
    del fake.ours.refs[f"heads/{BRANCH}"]
    assert what(run()) == []


def test_pull_request_of_a_fork_is_ignored(fake: Hub) -> None:
    fake.ours.pulls.append({"number": 99, "state": "open", "head": {"label": f"evil:{BRANCH}"}})
    assert what(run()) == WHAT


def test_issue_without_our_label_is_ignored(fake: Hub) -> None:
    """Anyone can write the mark into an issue."""
    body = "<!-- track-releases: v0.33.0 -->"
    fake.ours.issues.append({"number": 99, "state": "open", "body": body, "labels": []})
    assert "issue" in what(run())


def test_issue_without_a_text(fake: Hub) -> None:
    labels = [{"name": "upstream-release"}]
    fake.ours.issues.append({"number": 99, "state": "open", "body": None, "labels": labels})
    assert what(run()) == WHAT


def test_closed_issue_is_not_opened_again(fake: Hub) -> None:
    run()
    fake.ours.issues[0]["state"] = "closed"
    assert what(run()) == []


def pin(version: str) -> None:
    text = project.PINS.read_text().replace("v0.32.2", version)
    project.PINS.write_text(text)
    assert pins.load().version == version


@pytest.mark.parametrize("tag", ["v0.33.0", "v0.33.0-2"])
@pytest.mark.parametrize("pinned_version", ["v0.32.2", "v0.33.0"])
def test_our_release_closes_the_issue(fake: Hub, tag: str, pinned_version: str) -> None:
    run()
    pin(pinned_version)
    number = fake.ours.issues[0]["number"]
    assert what(run()) == []
    fake.ours.releases.append(release(tag, draft=True))
    assert what(run()) == []
    fake.ours.releases = [release(tag)]
    assert [step.detail for step in run().steps] == [f"close #{number}: v0.33.0 is released"]
    [issue] = fake.ours.issues
    assert (issue["state"], issue["state_reason"]) == ("closed", "completed")
    assert fake.ours.comments[number] == ["v0.33.0 is released."]
    assert fake.ours.pulls[0]["state"] == "open"
    assert what(run()) == []


def test_newer_release_replaces_the_old_one(fake: Hub) -> None:
    run()
    fake.upstream.releases.insert(0, release("v0.33.1", "2026-11-22T00:00:00Z"))
    assert what(run()) == [*WHAT, "close", "close"]
    old, new = fake.ours.issues
    assert (old["state"], old["state_reason"], new["state"]) == ("closed", "not_planned", "open")
    assert [one["state"] for one in fake.ours.pulls] == ["closed", "open"]
    assert fake.ours.comments[old["number"]] == ["v0.33.1 is newer."]
    assert what(run()) == []


def test_withdrawn_release(fake: Hub) -> None:
    run()
    fake.upstream.releases = [PINNED]
    number = fake.ours.issues[0]["number"]
    assert [step.detail for step in run().steps] == [
        f"close #{number}: upstream has withdrawn it",
        f"close the pull request #{fake.ours.pulls[0]['number']}: upstream has withdrawn it",
    ]
    assert what(run()) == []


def test_released_version_has_no_steps(fake: Hub) -> None:
    fake.ours.releases = [release("v0.33.0")]
    assert what(run()) == []


def test_overlapping_runs(fake: Hub) -> None:
    barrier = threading.Barrier(4)
    ended: list[str] = []

    def one() -> None:
        barrier.wait()
        try:
            run()
            ended.append("done")
        except BusyError:
            ended.append("busy")

    threads = [threading.Thread(target=one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ended) == 4
    assert "done" in ended
    assert len(fake.ours.issues) == len(fake.ours.pulls) == len(fake.ours.runs) == 1
    assert sorted(fake.ours.refs) == ["heads/main", f"heads/{BRANCH}"]


def test_another_run_was_faster(fake: Hub) -> None:
    """The run plans again under the lock."""

    def overtake(request: str) -> None:
        if request.startswith("POST"):
            fake.before = lambda _request: None
            run()

    fake.before = overtake
    assert what(run()) == []
    assert len(fake.ours.issues) == len(fake.ours.pulls) == len(fake.ours.runs) == 1


def test_blocker_is_reported_once(fake: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    reasons = iter([SourceError("v0.33.0 needs a newer Go", "move it")] * 2 + [SourceError("else")])

    def refuse(_move: PinUpdate) -> list[Entry]:
        raise next(reasons)

    monkeypatch.setattr(PinUpdate, "entries", refuse)
    for _ in range(3):
        with pytest.raises(SourceError):
            run()
    [issue] = fake.ours.issues
    first, second = fake.ours.comments[issue["number"]]
    assert "error: v0.33.0 needs a newer Go\n  fix: move it" in first
    assert "error: else" in second
    assert sorted(fake.ours.refs) == ["heads/main"]
    # Without the blocker, the run continues.
    monkeypatch.setattr(PinUpdate, "entries", lambda _self: UPDATED)
    assert what(run()) == WHAT[1:]


def test_branch_is_created_at_the_same_time(fake: Hub) -> None:
    def appear(request: str) -> None:
        if request.startswith("POST") and request.endswith("/trees"):
            fake.ours.refs[f"heads/{BRANCH}"] = fake.know("f" * 40)

    fake.before = appear
    with pytest.raises(BusyError, match=BRANCH):
        run()
    fake.before = lambda _request: None
    assert what(run()) == ["pull request", "build"]


def test_warning_about_a_moved_tag(
    fake: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pin = Pin("actions/checkout", "v7.0.1", "v7.0.2", State.SUSPECT, "v7.0.1 is gone")
    monkeypatch.setattr(outdated, "examine", lambda _client: iter([pin]))
    report.tracked(run(dry=True), json=False)
    assert "warning: actions/checkout: v7.0.1 is gone" in capsys.readouterr().err


@pytest.fixture
def go(fake: Hub, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, State], None]:
    """Set the state of Go's pin; BuildKit has no new release."""
    fake.upstream.releases = [PINNED]

    def set_state(newest: str, state: State = State.BEHIND) -> None:
        pin = Pin(outdated.GO, "1.26.10", newest, state)
        monkeypatch.setattr(outdated, "examine", lambda _client: iter([pin]))

    return set_state


def test_new_go_has_its_own_pull_request(fake: Hub, go: Callable[..., None]) -> None:
    go("1.26.11")
    assert what(run()) == WHAT[1:]
    [pull] = fake.ours.pulls
    assert pull["head"]["ref"] == "track-releases/go-1.26.11"
    assert pull["title"] == "build: Go 1.26.11"
    assert "invoke pins.update-go 1.26.11" in pull["body"]
    assert fake.ours.runs == ["track-releases/go-1.26.11"]
    assert fake.ours.issues == []
    assert what(run()) == []


def test_newer_go_replaces_the_old_one(fake: Hub, go: Callable[..., None]) -> None:
    go("1.26.11")
    run()
    fake.ours.pulls.append(
        {"number": 99, "state": "open", "head": {"label": "evil:track-releases/go-1.26.9", "ref": "x"}}
    )  # fmt: skip
    go("1.26.12")
    assert what(run()) == [*WHAT[1:], "close"]
    assert [one["state"] for one in fake.ours.pulls] == ["closed", "open", "open"]
    assert what(run()) == []
    go("1.26.12", State.CURRENT)
    assert what(run()) == ["close"]


@pytest.mark.parametrize(("newest", "state"), [("", State.UNKNOWN), ("", State.BEHIND), ("1.26.10", State.CURRENT)])  # fmt: skip
def test_go_that_is_not_newer(
    fake: Hub, go: Callable[..., None], newest: str, state: State
) -> None:
    go(newest, state)
    assert what(run()) == []


def test_new_buildkit_and_new_go(fake: Hub, go: Callable[..., None]) -> None:
    go("1.26.11")
    fake.upstream.releases.insert(0, NEW)
    assert what(run()) == [*WHAT, *WHAT[1:]]
    assert len(fake.ours.pulls) == 2


def test_repository_without_commits(fake: Hub) -> None:
    fake.ours.refs.clear()
    with pytest.raises(UsageError, match="has no commits"):
        run()


@pytest.mark.parametrize(
    ("mood", "message"),
    [(hubs.BAD_TOKEN, "Bad credentials"), (hubs.limited(3000), "UTC")],
)
def test_fakerefuses(fake: Hub, mood: hubs.Answer, message: str) -> None:
    fake.moods.append(("/releases", mood))
    with pytest.raises(NetworkError, match=message):
        run()
    assert fake.changes == []


def test_fakefails_between_steps(fake: Hub) -> None:
    fake.moods.append((r"POST .*/pulls", hubs.BROKEN))
    with pytest.raises(NetworkError, match="POST"):
        run()
    assert "heads/track-releases/lock" not in fake.ours.refs
    assert what(run()) == ["pull request", "build"]


def test_checkout_of_another_commit_is_refused(
    fake: Hub, monkeypatch: pytest.MonkeyPatch, commands: Commands
) -> None:
    monkeypatch.undo()
    base = track.BranchPoint("main", BASE)
    monkeypatch.setattr(git, "read", lambda *_args: f"{'a' * 40}\n")
    with pytest.raises(SourceError, match=r"a{12}, .*me/x .* b{4}"):  # fmt: skip
        track._refuse_another_state(base, "me/x")
    monkeypatch.setattr(git, "read", lambda *_args: f"{BASE}\n")
    track._refuse_another_state(base, "me/x")


def test_json(fake: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    fake.upstream.releases.insert(1, release("v0.31.9", "2026-11-21T00:00:00Z"))
    report.tracked(run(dry=True), json=True)
    reported = json.loads(capsys.readouterr().out)
    steps = reported.pop("steps")
    assert reported == {
        "repository": OURS, "pinned": "v0.32.2", "pinned_is_listed": True, "newest": "v0.33.0",
        "new": True, "backports": ["v0.31.9"], "others": [], "dry": True,
    }  # fmt: skip
    assert [step["what"] for step in steps] == WHAT
    assert not any(step["done"] for step in steps)


def test_report(
    fake: Hub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    page = tmp_path / "page"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(page))
    report.tracked(run(dry=True), json=False)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "would start weekly-build.yml" in captured.err
    assert f"nothing was changed in {OURS}" in captured.err
    assert f"### {OURS}: would be done" in page.read_text()
    report.tracked(run(), json=False)
    assert "done: open the issue" in capsys.readouterr().err
    fake.upstream.releases = [release("v0.31.9", "2026-11-21T00:00:00Z"), release("v0.32.1")]
    fake.ours.issues.clear()
    report.tracked(run(), json=False)
    captured = capsys.readouterr()
    assert "warning: the pinned v0.32.2" in captured.err
    assert "v0.31.9 (2026-11-21) is a backport" in captured.err
    assert "nothing to do" in captured.err


def test_released_versions() -> None:
    tags = ["v0.33.0", "v0.33.1-2", "v0.33.2-٢", "v0.33.3-2\n", "v0.33.4-rc1"]
    found = track.released([release(tag) for tag in tags] + [release("v0.33.5", draft=True)])
    assert found == {"v0.33.0", "v0.33.1", *tags[2:]}
