from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from buildkit_riscv64 import pins, process, project
from buildkit_riscv64.automation import github, pinned, report, track
from buildkit_riscv64.automation.api import Client
from buildkit_riscv64.automation.github import Entry
from buildkit_riscv64.automation.pinned import Pin, State
from buildkit_riscv64.automation.track import Move, Outcome, Upstream
from buildkit_riscv64.errors import BusyError, NetworkError, SourceError, UsageError

from ... import hub as hubs
from ...hub import BASE, OURS, Hub, release
from ..making import Commands

NEW = release("v0.33.0", "2026-11-20T10:00:00Z")
PINNED = release("v0.32.2")
BRANCH = "track-releases/v0.33.0"
MOVED = [Entry("pins.toml", "100644", 'version = "v0.33.0"'), Entry("buildkit", "160000", "c" * 40)]
WHAT = ["issue", "branch", "pull request", "build"]


def judge(*releases: dict[str, Any], pinned: str = "v0.32.2") -> Upstream:
    return Upstream.judge(releases, pinned)


def newest(*releases: dict[str, Any]) -> str:
    found = judge(*releases)
    return found.new.tag if found.new else ""


def test_a_new_release() -> None:
    assert newest(NEW, PINNED) == "v0.33.0"


def test_none_new() -> None:
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
def test_what_is_no_stable_release(other: dict[str, Any]) -> None:
    assert newest(other, PINNED) == ""
    assert newest(other) == ""


def test_versions_are_compared_as_such() -> None:
    assert newest(release("v0.100.0"), release("v0.99.9"), PINNED) == "v0.100.0"
    assert newest(release("v0.32.10"), release("v0.32.9"), PINNED) == "v0.32.10"
    assert newest(release("v0.4.10"), PINNED) == ""


def test_a_backport_is_told_and_not_newer() -> None:
    backport = release("v0.31.5", "2026-11-01T00:00:00Z")
    found = judge(backport, PINNED, release("v0.31.4", "2026-06-01T00:00:00Z"))
    assert found.new is None
    assert [one.tag for one in found.backports] == ["v0.31.5"]
    # Beside a new release it is one still.
    found = judge(release("v0.32.3", "2026-11-21T00:00:00Z"), NEW, PINNED)
    assert found.new
    assert (found.new.tag, [one.tag for one in found.backports]) == ("v0.33.0", ["v0.32.3"])


def test_a_pinned_release_that_is_gone() -> None:
    found = judge(release("v0.32.1"))
    assert (found.new, found.listed) == (None, False)


def test_a_release_whose_name_nobody_gave() -> None:
    assert newest(release("v0.33.0", name=None), PINNED) == "v0.33.0"


SUBMODULE = "c" * 40
#: What git says of a commit that changes, adds and removes files and moves a submodule.
RAW = "\0".join((
    f":100644 100644 {'1' * 40} {'2' * 40} M", "pins.toml", f":000000 100755 {'0' * 40} {'3' * 40} A", "new file",
    f":100644 000000 {'4' * 40} {'0' * 40} D", "old", f":160000 160000 {'5' * 40} {SUBMODULE} M", "buildkit", "",
))  # fmt: skip


@pytest.fixture
def clone(checkout: Path, commands: Commands) -> Path:
    """Where this checkout would be cloned; a task then changes it as above."""
    place = project.cache() / "track"

    def make(_words: list[str]) -> None:
        assert not place.exists()
        place.mkdir(parents=True)
        (place / "pins.toml").write_text("é")
        (place / "new file").write_text("new")

    commands.answer("clone", does=make)
    commands.answer("diff", stdout=RAW)
    return place


def test_what_a_task_changes(clone: Path, commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    for name in ("GH_TOKEN", "GITHUB_TOKEN", "GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY"):
        monkeypatch.setenv(name, "secret")
    monkeypatch.setenv("GOPROXY", "https://proxy.example")
    (clone / "left by a killed run").mkdir(parents=True)
    assert Move.to_go("1.26.11").entries() == [
        Entry("pins.toml", "100644", "é"), Entry("new file", "100755", "new"),
        Entry("old", "100644", None), Entry("buildkit", "160000", SUBMODULE),
    ]  # fmt: skip
    [task] = [call for call in commands.calls if call.verb == "stream"]
    assert task.args[1:] == ["-m", "invoke", "source.update-go", "1.26.11"]
    assert task.options["cwd"] == clone
    assert task.options["env"]["GOPROXY"] == "https://proxy.example"
    assert "secret" not in task.options["env"].values()
    assert not clone.exists()


@pytest.mark.parametrize(
    ("said", "brief", "hint"),
    [
        ("working\nerror: no such tag\n  fix: see the list\n", "no such tag", "see the list"),
        ("working\nKilled\n\n", "Killed", ""), ("", "exit code 137", ""),
    ],
)  # fmt: skip
def test_a_task_that_refuses(clone: Path, commands: Commands, said: str, brief: str, hint: str) -> None:  # fmt: skip
    commands.answer("source.update", code=137, stdout=said)
    with pytest.raises(SourceError) as caught:
        Move.to(Upstream.judge([NEW], "v0.32.2").newest).entries()  # type: ignore[arg-type]
    assert caught.value.brief == f"`invoke source.update v0.33.0`: {brief}"
    assert caught.value.hint == hint
    assert not clone.exists()


def test_a_task_that_changes_nothing(clone: Path, commands: Commands) -> None:
    commands.answer("diff", stdout="")
    with pytest.raises(SourceError, match="where they should be already"):
        Move.to_go("1.26.11").entries()


@pytest.fixture
def place(checkout: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """A checkout with v0.32.2, and a GitHub that has v0.33.0; no other pins, and nothing is fetched."""
    hub.upstream.releases = [NEW, release("dockerfile/1.30.0"), PINNED]
    monkeypatch.setattr(Move, "entries", lambda _self: MOVED)
    monkeypatch.setattr(track, "_refuse_another_state", lambda _base, _name: None)
    monkeypatch.setattr(pinned, "examine", lambda _client: iter(()))
    return hub


def run(*, dry: bool = False) -> Outcome:
    return track.track("", dry=dry)


def what(outcome: Outcome) -> list[str]:
    return [step.what for step in outcome.steps]


def test_a_new_release_is_taken_up(place: Hub) -> None:
    assert what(run()) == WHAT
    ours = place.ours
    commit = place.commits[ours.refs[f"heads/{BRANCH}"]]
    assert (commit["message"], commit["parents"]) == ("build: BuildKit v0.33.0", [{"sha": BASE}])
    assert place.trees[commit["tree"]["sha"]] == [entry.as_json() for entry in MOVED]
    [issue], [pull] = ours.issues, ours.pulls
    assert issue["title"] == "BuildKit v0.33.0"
    assert issue["labels"] == [{"name": "upstream-release"}]
    assert "<!-- track-releases: v0.33.0 -->" in issue["body"]
    assert NEW["html_url"] in issue["body"]
    assert (pull["title"], pull["base"]) == ("build: BuildKit v0.33.0", "main")
    assert f"Tracked by #{issue['number']}." in pull["body"]
    assert ours.runs == [BRANCH]
    # Nothing else is there, and no lock.
    assert sorted(ours.refs) == ["heads/main", f"heads/{BRANCH}"]


def test_twice_does_nothing_twice(place: Hub) -> None:
    run()
    before = place.changes
    assert what(run()) == []
    assert place.changes == before


def test_dry_only_asks(place: Hub) -> None:
    outcome = run(dry=True)
    assert what(outcome) == WHAT
    assert [step.detail for step in outcome.steps] == [
        "open the issue “BuildKit v0.33.0”, labelled upstream-release",
        f"make the branch {BRANCH} of main (bbbbbbbbbbbb) with what `invoke source.update v0.33.0` changes",
        f"open a pull request of {BRANCH} to main",
        f"start weekly-build.yml for {BRANCH}",
    ]  # fmt: skip
    assert {request.split()[0] for request, _ in place.requests} == {"GET"}


@pytest.mark.parametrize(
    "releases",
    [
        [PINNED], [], [release("dockerfile/1.30.0")], [release("v0.33.0-rc1", prerelease=True), PINNED],
        [release("v0.31.5", "2026-11-01T00:00:00Z"), PINNED],
    ],
    ids=["none new", "none", "dockerfile only", "pre-release only", "backport"],
)  # fmt: skip
def test_nothing_to_do(place: Hub, releases: list[dict[str, Any]]) -> None:
    place.upstream.releases = releases
    assert what(run()) == []
    assert place.changes == []


@pytest.mark.parametrize("number", range(len(WHAT)))
def test_what_a_killed_run_left_undone_is_done(place: Hub, number: int) -> None:
    """Wherever it ended: what is there is found."""
    plan = run(dry=True).steps
    with Client.connected() as client:
        ours = github.Repository(client, OURS)
        started = track.Plan(ours, Upstream.judge(place.upstream.releases, "v0.32.2"))
        for step in started.steps[:number]:
            step.act()
    assert what(run()) == [step.what for step in plan[number:]]
    [_], [_], [_] = place.ours.issues, place.ours.pulls, place.ours.runs


def test_somebody_s_branch_is_not_made_anew(place: Hub) -> None:
    place.ours.refs[f"heads/{BRANCH}"] = place.know("f" * 40)
    assert what(run()) == ["issue", "pull request", "build"]
    assert place.ours.refs[f"heads/{BRANCH}"] == "f" * 40


@pytest.mark.parametrize("merged", [None, "2026-11-21T00:00:00Z"])
def test_a_closed_pull_request_is_somebody_s_decision(place: Hub, merged: str | None) -> None:
    run()
    place.ours.pulls[0] |= {"state": "closed", "merged_at": merged}
    del place.ours.refs[f"heads/{BRANCH}"]
    assert what(run()) == []


def test_a_fork_s_pull_request_is_not_ours(place: Hub) -> None:
    place.ours.pulls.append({"number": 99, "state": "open", "head": {"label": f"evil:{BRANCH}"}})
    assert what(run()) == WHAT


def test_an_issue_without_our_label_is_not_ours(place: Hub) -> None:
    """Anybody may write anything into one."""
    body = "<!-- track-releases: v0.33.0 -->"
    place.ours.issues.append({"number": 99, "state": "open", "body": body, "labels": []})
    assert "issue" in what(run())


def test_an_issue_without_a_text(place: Hub) -> None:
    labels = [{"name": "upstream-release"}]
    place.ours.issues.append({"number": 99, "state": "open", "body": None, "labels": labels})
    assert what(run()) == WHAT


def test_a_closed_issue_is_not_opened_again(place: Hub) -> None:
    run()
    place.ours.issues[0]["state"] = "closed"
    assert what(run()) == []


def pin(version: str) -> None:
    text = project.PINS.read_text().replace("v0.32.2", version)
    project.PINS.write_text(text)
    assert pins.load().version == version


@pytest.mark.parametrize("tag", ["v0.33.0", "v0.33.0-2"])
@pytest.mark.parametrize("pinned_version", ["v0.32.2", "v0.33.0"])
def test_the_issue_is_closed_when_our_release_is_there(place: Hub, tag: str, pinned_version: str) -> None:  # fmt: skip
    run()
    pin(pinned_version)
    number = place.ours.issues[0]["number"]
    assert what(run()) == []
    place.ours.releases.append(release(tag, draft=True))
    assert what(run()) == []
    place.ours.releases = [release(tag)]
    assert [step.detail for step in run().steps] == [f"close #{number}: v0.33.0 is released"]
    [issue] = place.ours.issues
    assert (issue["state"], issue["state_reason"]) == ("closed", "completed")
    assert place.ours.comments[number] == ["v0.33.0 is released."]
    assert place.ours.pulls[0]["state"] == "open"
    assert what(run()) == []


def test_a_newer_one_takes_the_place_of_the_old(place: Hub) -> None:
    run()
    place.upstream.releases.insert(0, release("v0.33.1", "2026-11-22T00:00:00Z"))
    assert what(run()) == [*WHAT, "close", "close"]
    old, new = place.ours.issues
    assert (old["state"], old["state_reason"], new["state"]) == ("closed", "not_planned", "open")
    assert [one["state"] for one in place.ours.pulls] == ["closed", "open"]
    assert place.ours.comments[old["number"]] == ["v0.33.1 is newer."]
    assert what(run()) == []


def test_what_upstream_withdraws_is_withdrawn(place: Hub) -> None:
    run()
    place.upstream.releases = [PINNED]
    number = place.ours.issues[0]["number"]
    assert [step.detail for step in run().steps] == [
        f"close #{number}: upstream has withdrawn it",
        f"close the pull request #{place.ours.pulls[0]['number']}: upstream has withdrawn it",
    ]
    assert what(run()) == []


def test_what_we_have_released_is_not_taken_up(place: Hub) -> None:
    place.ours.releases = [release("v0.33.0")]
    assert what(run()) == []


def test_two_at_once(place: Hub) -> None:
    gate = threading.Barrier(4)
    ended: list[str] = []

    def one() -> None:
        gate.wait()
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
    assert len(place.ours.issues) == len(place.ours.pulls) == len(place.ours.runs) == 1
    assert sorted(place.ours.refs) == ["heads/main", f"heads/{BRANCH}"]


def test_another_was_quicker_while_we_looked(place: Hub) -> None:
    """What was planned before the lock was held is not done after it."""

    def overtake(request: str) -> None:
        if request.startswith("POST"):
            place.before = lambda _request: None
            run()

    place.before = overtake
    assert what(run()) == []
    assert len(place.ours.issues) == len(place.ours.pulls) == len(place.ours.runs) == 1


def test_what_stands_in_the_way_is_told_once(place: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    reasons = iter([SourceError("v0.33.0 needs a newer Go", "move it")] * 2 + [SourceError("else")])

    def refuse(_move: Move) -> list[Entry]:
        raise next(reasons)

    monkeypatch.setattr(Move, "entries", refuse)
    for _ in range(3):
        with pytest.raises(SourceError):
            run()
    [issue] = place.ours.issues
    first, second = place.ours.comments[issue["number"]]
    assert "error: v0.33.0 needs a newer Go\n  fix: move it" in first
    assert "error: else" in second
    assert sorted(place.ours.refs) == ["heads/main"]
    # And mended, it goes on.
    monkeypatch.setattr(Move, "entries", lambda _self: MOVED)
    assert what(run()) == WHAT[1:]


def test_a_branch_that_appears_under_our_hands(place: Hub) -> None:
    def appear(request: str) -> None:
        if request.startswith("POST") and request.endswith("/trees"):
            place.ours.refs[f"heads/{BRANCH}"] = place.know("f" * 40)

    place.before = appear
    with pytest.raises(BusyError, match="somebody has just made the branch"):
        run()
    place.before = lambda _request: None
    assert what(run()) == ["pull request", "build"]


def test_an_action_whose_tag_was_moved_is_warned_of(place: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    pin = Pin("actions/checkout", "v7.0.1", "v7.0.2", State.SUSPECT, "v7.0.1 is gone")
    monkeypatch.setattr(pinned, "examine", lambda _client: iter([pin]))
    report.tracked(run(dry=True), json=False)
    assert "warning: actions/checkout: v7.0.1 is gone: find out why" in capsys.readouterr().err


@pytest.fixture
def go(place: Hub, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, State], None]:
    """Tells what there is of Go; of BuildKit there is nothing new."""
    place.upstream.releases = [PINNED]

    def tell(newest: str, state: State = State.BEHIND) -> None:
        pin = Pin(pinned.GO, "1.26.10", newest, state)
        monkeypatch.setattr(pinned, "examine", lambda _client: iter([pin]))

    return tell


def test_a_new_go_has_a_pull_request_of_its_own(place: Hub, go: Callable[..., None]) -> None:
    go("1.26.11")
    assert what(run()) == WHAT[1:]
    [pull] = place.ours.pulls
    assert pull["head"]["ref"] == "track-releases/go-1.26.11"
    assert pull["title"] == "build: Go 1.26.11"
    assert "invoke source.update-go 1.26.11" in pull["body"]
    assert place.ours.runs == ["track-releases/go-1.26.11"]
    assert place.ours.issues == []
    assert what(run()) == []


def test_a_newer_go_takes_its_place(place: Hub, go: Callable[..., None]) -> None:
    go("1.26.11")
    run()
    place.ours.pulls.append(
        {"number": 99, "state": "open", "head": {"label": "evil:track-releases/go-1.26.9", "ref": "x"}}
    )  # fmt: skip
    go("1.26.12")
    assert what(run()) == [*WHAT[1:], "close"]
    assert [one["state"] for one in place.ours.pulls] == ["closed", "open", "open"]
    assert what(run()) == []
    go("1.26.12", State.CURRENT)
    assert what(run()) == ["close"]


@pytest.mark.parametrize(("newest", "state"), [("", State.UNKNOWN), ("", State.BEHIND), ("1.26.10", State.CURRENT)])  # fmt: skip
def test_a_go_that_is_not_newer(place: Hub, go: Callable[..., None], newest: str, state: State) -> None:  # fmt: skip
    go(newest, state)
    assert what(run()) == []


def test_both_are_new(place: Hub, go: Callable[..., None]) -> None:
    go("1.26.11")
    place.upstream.releases.insert(0, NEW)
    assert what(run()) == [*WHAT, *WHAT[1:]]
    assert len(place.ours.pulls) == 2


def test_a_repository_without_commits(place: Hub) -> None:
    place.ours.refs.clear()
    with pytest.raises(UsageError, match="has no commits"):
        run()


@pytest.mark.parametrize(
    ("mood", "message"),
    [(hubs.BAD_TOKEN, "Bad credentials"), (hubs.limited(3000), "allows no more requests")],
)
def test_github_refuses(place: Hub, mood: hubs.Answer, message: str) -> None:
    place.moods.append(("/releases", mood))
    with pytest.raises(NetworkError, match=message):
        run()
    assert place.changes == []


def test_github_fails_in_the_middle(place: Hub) -> None:
    place.moods.append((r"POST .*/pulls", hubs.BROKEN))
    with pytest.raises(NetworkError, match="may or may not have done POST"):
        run()
    assert "heads/track-releases/lock" not in place.ours.refs
    assert what(run()) == ["pull request", "build"]


def test_another_state_than_the_branch_s_is_refused(place: Hub, monkeypatch: pytest.MonkeyPatch, commands: Commands) -> None:  # fmt: skip
    monkeypatch.undo()
    base = track.Base("main", BASE)
    monkeypatch.setattr(process, "read", lambda *_args, **_options: f"{'a' * 40}\n")
    with pytest.raises(SourceError, match="this checkout is at aaaaaaaaaaaa, and main of me/x at bbbb"):  # fmt: skip
        track._refuse_another_state(base, "me/x")
    monkeypatch.setattr(process, "read", lambda *_args, **_options: f"{BASE}\n")
    track._refuse_another_state(base, "me/x")


def test_json(place: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    place.upstream.releases.insert(1, release("v0.31.9", "2026-11-21T00:00:00Z"))
    report.tracked(run(dry=True), json=True)
    told = json.loads(capsys.readouterr().out)
    steps = told.pop("steps")
    assert told == {
        "repository": OURS, "pinned": "v0.32.2", "pinned_is_listed": True, "newest": "v0.33.0",
        "new": True, "backports": ["v0.31.9"], "others": [], "dry": True,
    }  # fmt: skip
    assert [step["what"] for step in steps] == WHAT
    assert not any(step["done"] for step in steps)


def test_the_report(place: Hub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:  # fmt: skip
    page = tmp_path / "page"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(page))
    report.tracked(run(dry=True), json=False)
    seen = capsys.readouterr()
    assert seen.out == ""
    assert "would start weekly-build.yml" in seen.err
    assert f"nothing was changed in {OURS}" in seen.err
    assert f"### {OURS}: would be done" in page.read_text()
    report.tracked(run(), json=False)
    assert "done: open the issue" in capsys.readouterr().err
    place.upstream.releases = [release("v0.31.9", "2026-11-21T00:00:00Z"), release("v0.32.1")]
    place.ours.issues.clear()
    report.tracked(run(), json=False)
    seen = capsys.readouterr()
    assert "v0.32.2, which is pinned, is not among upstream's stable releases" in seen.err
    assert "v0.31.9 is out since 2026-11-21, of an older line: not newer" in seen.err
    assert "nothing to do" in seen.err
