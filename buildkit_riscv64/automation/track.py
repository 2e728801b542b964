"""`invoke track-releases`: what upstream has released, and what that means for us.

What is to be done is found by looking, every time: a branch by its name, a pull
request by its branch, an issue by its label and a mark in its text. So it does not
matter who did what of it, nor where a run before this one ended. One run does it at
a time, wherever they run (:meth:`github.Repository.locked`).
"""

from __future__ import annotations

import contextlib
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from packaging.version import Version

from .. import console, pins, process, project
from ..errors import BusyError, Failure, SourceError, UsageError
from . import github, pinned
from .api import Client
from .github import Entry, Repository
from .pinned import Pin, State

#: Upstream's repository on GitHub.
UPSTREAM = pins.MODULE.removeprefix("github.com/")
#: Our branches are below this name.
BRANCHES = "track-releases"
LOCK = f"{BRANCHES}/lock"
GO_BRANCHES = f"{BRANCHES}/go-"
#: Issues with it are ours: only who may write to the repository can set a label.
LABEL = "upstream-release"
#: What builds a branch.
WORKFLOW = "weekly-build.yml"

_MARK = re.compile(r"<!-- track-releases: (v[\d.]+) -->")
# As keepachangelog.com has it; GitHub itself knows no such state.
_WITHDRAWN = re.compile(r"\b(yanked|retracted|withdrawn)\b", re.I)


@dataclass(frozen=True)
class Release:
    """A stable release of upstream's.

    Args:
        tag: as in `v0.33.0`.
        published: when.
        url: its page.
    """

    tag: str
    published: datetime
    url: str

    @property
    def version(self) -> Version:
        """To compare."""
        return Version(self.tag)


def stable(releases: Iterable[Mapping[str, Any]]) -> list[Release]:
    """The stable releases of BuildKit, the newest first.

    No drafts, no pre-releases, nothing that was withdrawn; and none of the
    Dockerfile frontend's, which the same repository has.
    """
    found = []
    for one in releases:
        try:
            tag = pins.release_tag(str(one["tag_name"]))
        except UsageError:
            continue
        if one["draft"] or one["prerelease"] or _WITHDRAWN.search(one.get("name") or ""):
            continue
        published = datetime.fromisoformat(one["published_at"])
        found.append(Release(tag, published, str(one["html_url"])))
    return sorted(found, key=lambda release: release.version, reverse=True)


@dataclass(frozen=True)
class Upstream:
    """What upstream has, against what is pinned.

    Args:
        pinned: the release that is pinned.
        newest: the newest stable one; None where there is none.
        backports: those of older lines that came out after the newest.
        listed: the pinned one is among the releases.
    """

    pinned: str
    newest: Release | None
    backports: tuple[Release, ...]
    listed: bool

    @classmethod
    def judge(cls, releases: Iterable[Mapping[str, Any]], pinned_version: str) -> Upstream:
        """Compare by version, never by date: a backport comes out late, and is not newer."""
        found = stable(releases)
        newest = found[0] if found else None
        late = [one for one in found[1:] if newest and one.published > newest.published]
        listed = any(one.tag == pinned_version for one in found)
        return cls(pinned_version, newest, tuple(late), listed)

    @property
    def new(self) -> Release | None:
        """The release to move to, if there is one."""
        newest = self.newest
        return newest if newest and newest.version > Version(self.pinned) else None


@dataclass(frozen=True)
class Step:
    """Something that is to be done.

    Args:
        what: branch, issue, pull request, build or close.
        detail: in words.
        act: does it.
    """

    what: str
    detail: str
    act: Callable[[], None] = field(compare=False, repr=False)


@dataclass(frozen=True)
class Base:
    """What our branches start from: a branch and its commit."""

    branch: str
    commit: str


@dataclass(frozen=True)
class Move:
    """Pins that are to be moved, and what to call it.

    Args:
        name: as in `BuildKit v0.33.0`.
        branch: where it is done.
        task: ours that moves them, with its argument.
        about: what is to be read of it, in Markdown.
    """

    name: str
    branch: str
    task: tuple[str, str]
    about: str

    @property
    def title(self) -> str:
        """Of the commit and of the pull request."""
        return f"build: {self.name}"

    @property
    def command(self) -> str:
        """The task, as one types it."""
        return f"invoke {process.show(self.task)}"

    @classmethod
    def to(cls, release: Release) -> Move:
        """To a release of upstream's."""
        return cls(
            f"BuildKit {release.tag}", f"{BRANCHES}/{release.tag}", ("source.update", release.tag),
            f"[{release.tag}]({release.url}), {release.published:%Y-%m-%d}",
        )  # fmt: skip

    @classmethod
    def to_go(cls, version: str) -> Move:
        """To a release of Go."""
        return cls(
            f"Go {version}", f"{GO_BRANCHES}{version}", ("source.update-go", version),
            "[Go's releases](https://go.dev/doc/devel/release)",
        )  # fmt: skip

    def entries(self) -> list[Entry]:
        """What it changes, found out in a clone of this checkout that is then thrown away.

        Raises:
            SourceError: git or the task refused.
        """
        # Neither the token nor the page of the run is for what is fetched and run there.
        env = {
            name: value
            for name, value in process.whole_environment().items()
            if not name.startswith(("GH_", "GITHUB_"))
        }
        with _cloned() as clone:
            self._run(clone, env)
            process.run(["git", "-C", clone, "add", "--all"], error=SourceError)
            return _changes(clone)

    def _run(self, clone: Path, env: Mapping[str, str]) -> None:
        said: list[str] = []

        def tell(line: str) -> None:
            said.append(line)
            console.say(f"  {line}")

        args = [sys.executable, "-m", "invoke", *self.task]
        if code := process.stream(args, tell, cwd=clone, env=env):
            # As every task of ours ends: what and why, and what to do.
            last = [process.describe_exit(code), *filter(str.strip, said)][-1]
            reason = next((line for line in reversed(said) if line.startswith("error: ")), last)
            hint = next((line for line in reversed(said) if line.startswith("  fix: ")), "")
            raise SourceError(
                f"`{self.command}`: {reason.removeprefix('error: ')}", hint.removeprefix("  fix: ")
            )


@contextlib.contextmanager
def _cloned() -> Iterator[Path]:
    """A clone of this checkout; a killed run's is removed by the next."""
    clone = project.cache() / "track"
    try:
        shutil.rmtree(clone, ignore_errors=True)
        process.run(["git", "clone", "--quiet", project.ROOT, clone], error=SourceError)
        yield clone
    finally:
        shutil.rmtree(clone, ignore_errors=True)


def _changes(clone: Path) -> list[Entry]:
    told = process.read(
        ["git", "-C", clone, "diff", "--cached", "--raw", "--no-renames", "--no-abbrev", "-z", "HEAD"],
        error=SourceError,
    )  # fmt: skip
    # For each file ":old-mode new-mode old-object new-object status", NUL, path, NUL.
    words = told.split("\0")[:-1]
    found = []
    for about, path in zip(words[::2], words[1::2], strict=True):
        old, mode, _, new, status = about.removeprefix(":").split()
        if status == "D":
            found.append(Entry(path, old, None))
        else:
            found.append(Entry(path, mode, new if mode == "160000" else (clone / path).read_text()))
    if not found:
        raise SourceError("the pins are where they should be already", "look at pins.toml")
    return found


class Change:
    """What a move means for our repository: a branch, a pull request, a build, maybe an issue.

    Args:
        ours: our repository.
        move: what is moved.
        base: what the branch starts from.
    """

    def __init__(self, ours: Repository, move: Move, base: Base) -> None:
        self._ours = ours
        self._move = move
        self._base = base

    def steps(self) -> Iterator[Step]:
        """What of it is not there yet."""
        branch = self._move.branch
        pulls = self._ours.pulls(branch)
        # One that was closed is somebody's decision.
        if pulls and not any(one["state"] == "open" for one in pulls):
            return
        if not self._ours.head(branch):
            yield Step(
                "branch",
                f"make the branch {branch} of {self._base.branch} ({self._base.commit[:12]})"
                f" with what `{self._move.command}` changes",
                self._make_branch,
            )
        if not pulls:
            yield Step(
                "pull request",
                f"open a pull request of {branch} to {self._base.branch}",
                self._open_pull,
            )
        if not self._ours.runs(WORKFLOW, branch):
            yield Step("build", f"start {WORKFLOW} for {branch}", self._start)

    def _make_branch(self) -> None:
        commit = self._ours.commit(self._move.title, self._base.commit, self._move.entries())
        if not self._ours.create_branch(self._move.branch, commit):
            raise BusyError(
                f"somebody has just made the branch {self._move.branch}", "run it again"
            )

    def _description(self) -> str:
        return f"""What `{self._move.command}` changes, and nothing else: {self._move.about}.

Merge it when `{WORKFLOW}` has built and validated this branch on riscv64.
"""

    def _open_pull(self) -> None:
        self._ours.open_pull(
            title=self._move.title, body=self._description(),
            branch=self._move.branch, base=self._base.branch,
        )  # fmt: skip

    def _start(self) -> None:
        self._ours.start(WORKFLOW, self._move.branch)


class ReleaseChange(Change):
    """What a new release of upstream's means: an issue tells of it until ours is out.

    Args:
        ours: our repository.
        release: upstream's.
        base: what the branch starts from.
        issue: the issue that there is, or 0.
    """

    def __init__(self, ours: Repository, release: Release, base: Base, issue: int) -> None:
        super().__init__(ours, Move.to(release), base)
        self._tag = release.tag
        self._issue = issue

    def steps(self) -> Iterator[Step]:
        """What of it is not there yet."""
        if not self._issue:
            yield Step(
                "issue", f"open the issue “{self._move.name}”, labelled {LABEL}", self._open_issue
            )
        yield from super().steps()

    def _open_issue(self) -> None:
        body = f"""<!-- track-releases: {self._tag} -->
Upstream has released {self._move.about}.

- the pins are moved in the branch `{self._move.branch}`, and there is a pull request of it
- `{WORKFLOW}` builds and validates that branch on riscv64
- once it is merged, the tag `{self._tag}` starts the release

This issue is closed when our release of {self._tag} is there. What stands in the way is told here.
"""
        self._issue = self._ours.open_issue(title=self._move.name, body=body, label=LABEL)

    def _description(self) -> str:
        return f"{super()._description()}\nTracked by #{self._issue}.\n"

    def _make_branch(self) -> None:
        try:
            super()._make_branch()
        except Failure as error:
            self._complain(error)
            raise

    def _complain(self, error: Failure) -> None:
        """Tell in the issue what stands in the way; once."""
        text = f"This stands in the way:\n\n```\n{error.message}\n```"
        if text not in self._ours.comments(self._issue):
            self._ours.comment(self._issue, text)


def _marked(issues: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The issues about releases, with the release of each; the oldest first."""
    for issue in sorted(issues, key=lambda issue: int(issue["number"])):
        if found := _MARK.search(issue["body"] or ""):
            yield found[1], issue


def released(releases: Iterable[Mapping[str, Any]]) -> set[str]:
    """The versions of upstream's that we have released; `v0.33.0-2` is another one of v0.33.0."""
    published = (str(one["tag_name"]) for one in releases if not one["draft"])
    return {re.sub(r"-\d+$", "", tag) for tag in published}


def _close_issue(ours: Repository, number: int, why: str, *, done: bool) -> Step:
    return Step(
        "close", f"close #{number}: {why}", lambda: ours.close_issue(number, f"{why}.", done=done)
    )


def _close_pull(ours: Repository, number: int, why: str) -> Step:
    return Step(
        "close",
        f"close the pull request #{number}: {why}",
        lambda: ours.close_pull(number, f"{why}."),
    )


class Plan:
    """What is to be done on our repository, as it is now.

    Args:
        ours: our repository.
        upstream: what upstream has.
        go: how the pin of Go is.
    """

    def __init__(self, ours: Repository, upstream: Upstream, go: Pin | None = None) -> None:
        self._ours = ours
        self.base = Base(branch := ours.default_branch(), ours.head(branch))
        if not self.base.commit:
            raise UsageError(f"{ours.name} has no commits", "push this checkout to it first")
        self.steps = [*self._release(upstream), *(self._go(go) if go else [])]

    def _release(self, upstream: Upstream) -> Iterator[Step]:
        issues = list(_marked(self._ours.issues(LABEL)))
        done = released(self._ours.releases())
        new = upstream.new
        if new and new.tag not in done:
            known = [int(issue["number"]) for tag, issue in issues if tag == new.tag]
            issue = known[0] if known else 0
            yield from ReleaseChange(self._ours, new, self.base, issue).steps()
        for tag, one in issues:
            number = int(one["number"])
            if one["state"] != "open":
                continue
            if tag in done:
                yield _close_issue(self._ours, number, f"{tag} is released", done=True)
            elif upstream.newest and tag != upstream.newest.tag:
                newer = upstream.newest.version > Version(tag)
                why = f"{upstream.newest.tag} is newer" if newer else "upstream has withdrawn it"
                yield _close_issue(self._ours, number, why, done=False)
                for pull in self._ours.pulls(f"{BRANCHES}/{tag}"):
                    if pull["state"] == "open":
                        yield _close_pull(self._ours, int(pull["number"]), why)

    def _go(self, go: Pin) -> Iterator[Step]:
        if go.state is State.UNKNOWN:
            return
        wanted = Move.to_go(go.newest) if go.state is State.BEHIND and go.newest else None
        if wanted:
            yield from Change(self._ours, wanted, self.base).steps()
        for pull in self._ours.open_pulls(GO_BRANCHES):
            if not wanted or pull["head"]["ref"] != wanted.branch:
                why = f"Go {go.newest or go.pinned} is what is wanted now"
                yield _close_pull(self._ours, int(pull["number"]), why)

    def do(self) -> None:
        """Do it."""
        for step in self.steps:
            with console.step(step.detail):
                step.act()


@dataclass(frozen=True)
class Outcome:
    """What was found, and done or, under `--dry`, not done."""

    repository: str
    upstream: Upstream
    steps: Sequence[Step]
    others: Sequence[Pin]
    dry: bool

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        newest = self.upstream.newest
        return {
            "repository": self.repository,
            "pinned": self.upstream.pinned,
            "pinned_is_listed": self.upstream.listed,
            "newest": newest.tag if newest else None,
            "new": self.upstream.new is not None,
            "backports": [one.tag for one in self.upstream.backports],
            "steps": [
                {"what": one.what, "detail": one.detail, "done": not self.dry} for one in self.steps
            ],
            "others": [asdict(one) for one in self.others],
            "dry": self.dry,
        }


def _refuse_another_state(base: Base, name: str) -> None:
    """The pins are moved in what is checked out here, so it has to be what the branch starts from."""
    here = process.read(
        ["git", "-C", project.ROOT, "rev-parse", "--verify", "HEAD"], error=SourceError
    ).strip()
    if here != base.commit:
        raise SourceError(
            f"this checkout is at {here[:12]}, and {base.branch} of {name} at {base.commit[:12]}",
            f"check out {base.branch} as it is there, and run it again",
        )


def track(repository: str, *, dry: bool) -> Outcome:
    """Look what upstream has released, and do what follows from it.

    Args:
        repository: ours on GitHub, as OWNER/NAME.
        dry: only find out; nothing but GET requests.

    Raises:
        UsageError: no such repository, or the environment has something useless.
        NetworkError: GitHub does not answer, or not to us.
        BusyError: another run is at it.
        SourceError: this checkout is not the default branch's, or the pins cannot be moved.
    """
    repository = github.repository(repository)
    version = pins.load().version
    with Client.connected(dry=dry) as client:
        upstream = Upstream.judge(Repository(client, UPSTREAM).releases(), version)
        ours = Repository(client, repository)
        others = list(pinned.examine(client))
        go = next((pin for pin in others if pin.name == pinned.GO), None)
        plan = Plan(ours, upstream, go)
        if plan.steps and not dry:
            if any(step.what == "branch" for step in plan.steps):
                _refuse_another_state(plan.base, repository)
            with ours.locked(LOCK, plan.base.commit):
                # Another run may have been quicker.
                plan = Plan(ours, upstream, go)
                plan.do()
    return Outcome(repository, upstream, plan.steps, others, dry)
