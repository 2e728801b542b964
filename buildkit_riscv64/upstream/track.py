"""`invoke track-releases`: follow upstream's releases with an issue, a pull request and a build.

Each run looks up the present state: a branch by its name, a pull request by its branch,
an issue by its label and a mark in its text. So a run completes what an earlier run or a
person left unfinished. A lock allows one run at a time on all machines
(:meth:`github.Repository.locked`).
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

from ..core import console, dry_run, git, pins, process, project
from ..core.errors import BusyError, Failure, SourceError, UsageError
from . import github, outdated
from .github import Entry, Repository
from .github_client import Client
from .outdated import Pin, State

#: Upstream's repository on GitHub.
UPSTREAM = pins.MODULE.removeprefix("github.com/")
#: Prefix of our branches.
BRANCHES = "track-releases"
LOCK = f"{BRANCHES}/lock"
GO_BRANCHES = f"{BRANCHES}/go-"
#: Marks our issues: setting a label needs write access.
LABEL = "upstream-release"
#: The workflow that builds a branch.
WORKFLOW = "weekly-build.yml"

_MARK = re.compile(r"<!-- track-releases: (v[0-9]{1,9}(?:\.[0-9]{1,9}){2}) -->")
# The convention of keepachangelog.com; GitHub has no such state.
_WITHDRAWN = re.compile(r"\b(yanked|retracted|withdrawn)\b", re.I)


@dataclass(frozen=True)
class UpstreamRelease:
    """A stable upstream release.

    Args:
        tag: as in `v0.33.0`.
        published: the publication time.
        url: the release's page.
    """

    tag: str
    published: datetime
    url: str

    @property
    def version(self) -> Version:
        """The version, for comparisons."""
        return Version(self.tag)


def stable(releases: Iterable[Mapping[str, Any]]) -> list[UpstreamRelease]:
    """BuildKit's stable releases, the newest first.

    Leaves out drafts, pre-releases, withdrawn releases and the Dockerfile
    frontend's releases in the same repository.
    """
    found = []
    for one in releases:
        try:
            tag = pins.release_tag(str(one["tag_name"]))
        except UsageError:
            continue
        if one["draft"] or one["prerelease"] or _WITHDRAWN.search(one.get("name") or ""):
            continue
        if one["published_at"] is None:
            continue
        published = datetime.fromisoformat(one["published_at"])
        found.append(UpstreamRelease(tag, published, str(one["html_url"])))
    return sorted(found, key=lambda release: release.version, reverse=True)


@dataclass(frozen=True)
class Upstream:
    """Upstream's releases, compared with the pinned one.

    Args:
        pinned: the pinned release.
        newest: the newest stable release; None without a release.
        backports: releases of older versions, published after the newest.
        listed: True when upstream lists the pinned release.
    """

    pinned: str
    newest: UpstreamRelease | None
    backports: tuple[UpstreamRelease, ...]
    listed: bool

    @classmethod
    def judge(cls, releases: Iterable[Mapping[str, Any]], pinned_version: str) -> Upstream:
        """Compare by version, never by date: a backport is published late and is not newer."""
        found = stable(releases)
        newest = found[0] if found else None
        late = [one for one in found[1:] if newest and one.published > newest.published]
        listed = any(one.tag == pinned_version for one in found)
        return cls(pinned_version, newest, tuple(late), listed)

    @property
    def new(self) -> UpstreamRelease | None:
        """The release to update to, or None."""
        newest = self.newest
        return newest if newest and newest.version > Version(self.pinned) else None


@dataclass(frozen=True)
class Step:
    """A step of the plan.

    Args:
        what: branch, issue, pull request, build or close.
        detail: a description.
        act: executes the step.
    """

    what: str
    detail: str
    act: Callable[[], None] = field(compare=False, repr=False)


@dataclass(frozen=True)
class BranchPoint:
    """The branch and commit that our branches start from."""

    branch: str
    commit: str


@dataclass(frozen=True)
class PinUpdate:
    """An update of pins.

    Args:
        name: as in `BuildKit v0.33.0`.
        branch: the branch of the update.
        task: the task that updates the pins, with its argument.
        about: a link to the release, in Markdown.
    """

    name: str
    branch: str
    task: tuple[str, str]
    about: str

    @property
    def title(self) -> str:
        """Title of the commit and of the pull request."""
        return f"build: {self.name}"

    @property
    def command(self) -> str:
        """The task's command line."""
        return f"invoke {process.show(self.task)}"

    @classmethod
    def to(cls, release: UpstreamRelease) -> PinUpdate:
        """An update to an upstream release."""
        return cls(
            f"BuildKit {release.tag}", f"{BRANCHES}/{release.tag}", ("pins.update", release.tag),
            f"[{release.tag}]({release.url}), {release.published:%Y-%m-%d}",
        )  # fmt: skip

    @classmethod
    def to_go(cls, version: str) -> PinUpdate:
        """An update to a Go release."""
        return cls(
            f"Go {version}", f"{GO_BRANCHES}{version}", ("pins.update-go", version),
            "[Go's releases](https://go.dev/doc/devel/release)",
        )  # fmt: skip

    def entries(self) -> list[Entry]:
        """Run the task in a temporary clone of this checkout; return the changed files.

        Raises:
            SourceError: git or the task failed.
        """
        # The task must not see the token or the step summary.
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
        output: list[str] = []

        def on_line(line: str) -> None:
            output.append(line)
            console.log(f"  {line}")

        args = [sys.executable, "-m", "buildkit_riscv64", *self.task]
        if code := process.stream(args, on_line, cwd=clone, env=env):
            # A task's last lines: the error and the fix.
            last = [process.describe_exit(code), *filter(str.strip, output)][-1]
            reason = next((line for line in reversed(output) if line.startswith("error: ")), last)
            hint = next((line for line in reversed(output) if line.startswith("  fix: ")), "")
            raise SourceError(
                f"`{self.command}`: {reason.removeprefix('error: ')}", hint.removeprefix("  fix: ")
            )


@contextlib.contextmanager
def _cloned() -> Iterator[Path]:
    """Yield a temporary clone of this checkout; remove the clone of a killed run."""
    clone = project.cache() / "track"
    try:
        shutil.rmtree(clone, ignore_errors=True)
        process.run(["git", "clone", "--quiet", project.ROOT, clone], error=SourceError)
        yield clone
    finally:
        shutil.rmtree(clone, ignore_errors=True)


def _changes(clone: Path) -> list[Entry]:
    output = process.read(
        ["git", "-C", clone, "diff", "--cached", "--raw", "--no-renames", "--no-abbrev", "-z", "HEAD"],
        error=SourceError,
    )  # fmt: skip
    # For each file ":old-mode new-mode old-object new-object status", NUL, path, NUL.
    words = output.split("\0")[:-1]
    found = []
    for about, path in zip(words[::2], words[1::2], strict=True):
        old, mode, _, new, status = about.removeprefix(":").split()
        if status == "D":
            found.append(Entry(path, old, None))
        else:
            found.append(Entry(path, mode, new if mode == "160000" else (clone / path).read_text()))
    if not found:
        raise SourceError(
            "the task changed no file: the pins are up to date", "check pins/pins.toml"
        )
    return found


class Change:
    """The steps of a pin update in our repository: branch, pull request, build.

    Args:
        ours: our repository.
        update: the pin update.
        base: the start of the branch.
    """

    def __init__(self, ours: Repository, update: PinUpdate, base: BranchPoint) -> None:
        self._ours = ours
        self._update = update
        self._base = base

    def steps(self) -> Iterator[Step]:
        """Yield the missing steps."""
        branch = self._update.branch
        pulls = self._ours.pulls(branch)
        # A person has closed the pull request: do not open another one.
        if pulls and not any(one["state"] == "open" for one in pulls):
            return
        if not self._ours.head(branch):
            yield Step(
                "branch",
                f"create the branch {branch} from {self._base.branch} ({self._base.commit[:12]})"
                f" with the changes of `{self._update.command}`",
                self._create_branch,
            )
        if not pulls:
            yield Step(
                "pull request",
                f"open a pull request from {branch} to {self._base.branch}",
                self._open_pull,
            )
        if not self._ours.runs(WORKFLOW, branch):
            yield Step("build", f"start {WORKFLOW} for {branch}", self._start)

    def _create_branch(self) -> None:
        commit = self._ours.commit(self._update.title, self._base.commit, self._update.entries())
        if not self._ours.create_branch(self._update.branch, commit):
            raise BusyError(
                f"the branch {self._update.branch} was created at the same time", "run it again"
            )

    def _description(self) -> str:
        return f"""The changes of `{self._update.command}`: {self._update.about}.

Merge this pull request when `{WORKFLOW}` has built and validated the branch on riscv64.
"""

    def _open_pull(self) -> None:
        self._ours.open_pull(
            title=self._update.title, body=self._description(),
            branch=self._update.branch, base=self._base.branch,
        )  # fmt: skip

    def _start(self) -> None:
        self._ours.start(WORKFLOW, self._update.branch)


class ReleaseChange(Change):
    """The steps of a new upstream release: an issue, and a pin update.

    Args:
        ours: our repository.
        release: upstream's release.
        base: the start of the branch.
        issue: the existing issue's number, or 0.
    """

    def __init__(
        self, ours: Repository, release: UpstreamRelease, base: BranchPoint, issue: int
    ) -> None:
        super().__init__(ours, PinUpdate.to(release), base)
        self._tag = release.tag
        self._issue = issue

    def steps(self) -> Iterator[Step]:
        """Yield the missing steps."""
        if not self._issue:
            yield Step(
                "issue", f"open the issue “{self._update.name}”, labelled {LABEL}", self._open_issue
            )
        yield from super().steps()

    def _open_issue(self) -> None:
        body = f"""<!-- track-releases: {self._tag} -->
Upstream has released {self._update.about}.

- the branch `{self._update.branch}` updates the pins, with a pull request
- `{WORKFLOW}` builds and validates the branch on riscv64
- after the merge, the tag `{self._tag}` starts the release

Our release of {self._tag} closes this issue. Blockers are reported here.
"""
        self._issue = self._ours.open_issue(title=self._update.name, body=body, label=LABEL)

    def _description(self) -> str:
        return f"{super()._description()}\nTracked by #{self._issue}.\n"

    def _create_branch(self) -> None:
        try:
            super()._create_branch()
        except Failure as error:
            self._report_blocker(error)
            raise

    def _report_blocker(self, error: Failure) -> None:
        """Comment on the issue about a blocker, once."""
        text = f"This blocks the update:\n\n```\n{error.message}\n```"
        if text not in self._ours.comments(self._issue):
            self._ours.comment(self._issue, text)


def _marked(issues: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the issues about releases with their tags, the oldest first."""
    for issue in sorted(issues, key=lambda issue: int(issue["number"])):
        if found := _MARK.search(issue["body"] or ""):
            yield found[1], issue


def released(releases: Iterable[Mapping[str, Any]]) -> set[str]:
    """The upstream versions that we have released; `v0.33.0-2` is a revision of v0.33.0."""
    published = (str(one["tag_name"]) for one in releases if not one["draft"])
    return {re.sub(r"-[0-9]+\Z", "", tag) for tag in published}


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
    """The steps for the present state of our repository.

    Args:
        ours: our repository.
        upstream: upstream's releases.
        go: the state of Go's pin.
    """

    def __init__(self, ours: Repository, upstream: Upstream, go: Pin | None = None) -> None:
        self._ours = ours
        self.base = BranchPoint(*ours.tip())
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
        wanted = PinUpdate.to_go(go.newest) if go.state is State.BEHIND and go.newest else None
        if wanted:
            yield from Change(self._ours, wanted, self.base).steps()
        for pull in self._ours.open_pulls(GO_BRANCHES):
            if not wanted or pull["head"]["ref"] != wanted.branch:
                why = f"replaced by Go {go.newest or go.pinned}"
                yield _close_pull(self._ours, int(pull["number"]), why)

    def do(self) -> None:
        """Execute the steps."""
        for step in self.steps:
            with console.step(step.detail):
                step.act()


@dataclass(frozen=True)
class TrackResult:
    """The findings, and the steps that were done, or under `--dry` planned."""

    repository: str
    upstream: Upstream
    steps: Sequence[Step]
    others: Sequence[Pin]
    dry: bool

    def as_json(self) -> dict[str, Any]:
        """The result as JSON."""
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


def _refuse_another_state(base: BranchPoint, name: str) -> None:
    """Check that this checkout, in which the pins are updated, is the start of the branch."""
    here = git.read(project.ROOT, "rev-parse", "--verify", "HEAD").strip()
    if here != base.commit:
        raise SourceError(
            f"this checkout is at {here[:12]}, but {base.branch} of {name} is at {base.commit[:12]}",
            f"check out {base.branch} of {name}, and run it again",
        )


def track(repository: str) -> TrackResult:
    """Compare upstream's releases with the pins, and execute the steps that follow; under `--dry`, only plan.

    Args:
        repository: our repository on GitHub, as OWNER/NAME.

    Raises:
        UsageError: the repository or a variable in the environment is invalid.
        NetworkError: GitHub does not answer, or refuses.
        BusyError: another run holds the lock.
        SourceError: this checkout is not the default branch's, or the pins cannot be updated.
    """
    repository = github.repository(repository)
    version = pins.load().version
    with Client.connected() as client:
        upstream = Upstream.judge(Repository(client, UPSTREAM).releases(), version)
        ours = Repository(client, repository)
        others = list(outdated.examine(client))
        go = next((pin for pin in others if pin.name == outdated.GO), None)
        plan = Plan(ours, upstream, go)
        if plan.steps and not dry_run.active():
            if any(step.what == "branch" for step in plan.steps):
                _refuse_another_state(plan.base, repository)
            with ours.locked(LOCK, plan.base.commit):
                # Another run may have changed the repository.
                plan = Plan(ours, upstream, go)
                plan.do()
    return TrackResult(repository, upstream, plan.steps, others, dry_run.active())
