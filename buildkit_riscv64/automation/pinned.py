"""The pins that do not move with upstream's releases: Go, Debian, the actions of workflows.

They are only looked at here; who moves which is in docs/automation.md. What runc, CNI
and RootlessKit are follows from upstream's release, and moves with it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

import requests
from packaging.version import InvalidVersion, Version

from .. import debian, pins, project
from ..errors import Failure, NetworkError
from .api import TIMEOUT, Client
from .github import Repository

#: What the pin of Go is called.
GO = "Go"
#: Go's releases, of the lines that are supported.
GO_RELEASES = "https://go.dev/dl/?mode=json"

_USES = re.compile(r"uses:\s*([\w.-]+/[\w.-]+)[\w./-]*@([0-9a-f]{40})\s+#\s*(v[\w.]+)")


class State(StrEnum):
    """How a pin is."""

    CURRENT = "current"
    BEHIND = "behind"
    UNKNOWN = "unknown"
    SUSPECT = "suspect"


@dataclass(frozen=True)
class Pin:
    """Something that is pinned.

    Args:
        name: what.
        pinned: its version.
        newest: the newest that would do; empty where that is not known.
        state: what to think of it.
        detail: why, or who moves it.
    """

    name: str
    pinned: str
    newest: str
    state: State
    detail: str = ""


def _fetch(url: str) -> requests.Response:
    try:
        response = requests.get(url, timeout=TIMEOUT)
        response.raise_for_status()
    except (requests.RequestException, OSError) as error:
        raise NetworkError(f"no answer from {url}: {type(error).__name__}") from error
    return response


def _go() -> Pin:
    """Of Go, the newest of the pinned line: another line is a decision, or upstream's wish."""
    version = Version(pins.load().go)
    try:
        told = [
            Version(o["version"].removeprefix("go"))
            for o in _fetch(GO_RELEASES).json()
            if o["stable"]
        ]
        oldest = min(told)
    except (ValueError, KeyError, TypeError) as error:
        raise NetworkError(f"{GO_RELEASES}: not Go's list of releases: {error}") from error
    same = [one for one in told if one.release[:2] == version.release[:2]]
    if not same:
        return Pin(
            GO, str(version), "", State.BEHIND,
            f"its line is not supported any more; the oldest that is has {oldest}",
        )  # fmt: skip
    newest = max(same)
    return Pin(GO, str(version), str(newest), State.BEHIND if newest > version else State.CURRENT)


def _debian() -> Pin:
    """Of Debian, the release that is stable, as this machine's own archive has it."""
    archive = debian.mirror()
    told = _fetch(f"{archive}/dists/{debian.ALIAS}/Release").text
    codename = re.search(r"^Codename: (\S+)$", told, re.M)
    if not codename:
        raise NetworkError(f"{archive}: its Release file has no codename")
    state = State.CURRENT if codename[1] == debian.SUITE else State.BEHIND
    return Pin("Debian", debian.SUITE, codename[1], state)


def used() -> list[tuple[str, str, str]]:
    """The actions in workflows: each with its commit and the version that is said to be."""
    workflows = sorted((project.ROOT / ".github" / "workflows").glob("*.yml"))
    found = [_USES.findall(path.read_text()) for path in workflows]
    return sorted({(name, commit, version) for some in found for name, commit, version in some})


def _action(client: Client, name: str, commit: str, version: str) -> Pin:
    theirs = Repository(client, name)
    newest = theirs.newest_release()
    tagged = theirs.commit_of(version)
    if tagged != commit:
        now = f"is {tagged[:12]} now" if tagged else "is gone"
        return Pin(
            name, version, newest, State.SUSPECT, f"{version} {now}, pinned as {commit[:12]}"
        )
    try:
        behind = Version(newest) > Version(version)
    except InvalidVersion:
        return Pin(name, version, newest, State.UNKNOWN, "not a version")
    return Pin(name, version, newest, State.BEHIND if behind else State.CURRENT)


def examine(client: Client) -> Iterator[Pin]:
    """Look at each; what cannot be found out stands in nothing's way."""
    looks = [(GO, pins.load().go, _go), ("Debian", debian.SUITE, _debian)]
    for name, version, look in looks:
        try:
            yield look()
        except Failure as error:
            yield Pin(name, version, "", State.UNKNOWN, error.brief)
    for name, commit, version in used():
        try:
            yield _action(client, name, commit, version)
        except NetworkError as error:
            yield Pin(name, version, "", State.UNKNOWN, error.brief)
