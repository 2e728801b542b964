"""Outdated pins other than BuildKit's: Go, Debian, the actions of workflows.

This module only checks them; docs/automation.md lists how each is updated. The pins of
runc, CNI and RootlessKit follow upstream's release.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

import requests
from packaging.version import Version

from ..core import documents, pins, project, schemas
from ..core.errors import Failure, NetworkError
from ..system import debian
from .github import Repository
from .github_client import TIMEOUT, Client

#: The name of Go's pin.
GO = "Go"
#: Go's supported releases.
GO_RELEASES = "https://go.dev/dl/?mode=json"

_HINT = "check the network and the proxy settings"
_USES = re.compile(r"uses:\s*([\w.-]+/[\w.-]+)[\w./-]*@([0-9a-f]{40})\s+#\s*(v[\w.]+)")


class State(StrEnum):
    """The state of a pin."""

    CURRENT = "current"
    BEHIND = "behind"
    UNKNOWN = "unknown"
    SUSPECT = "suspect"


@dataclass(frozen=True)
class Pin:
    """A pinned dependency.

    Args:
        name: the dependency.
        pinned: the pinned version.
        newest: the newest suitable version; empty when unknown.
        state: the state.
        detail: the reason.
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
        raise NetworkError(f"no answer from {url}: {type(error).__name__}", _HINT) from error
    return response


def _go() -> Pin:
    """Compare Go with the newest release of the pinned minor version."""
    version = Version(pins.load().go)
    try:
        answer = documents.parse_json(_fetch(GO_RELEASES).content)
        documents.validate(answer, schemas.GITHUB, "go")
        stable = [Version(one["version"].removeprefix("go")) for one in answer if one["stable"]]
        oldest = min(stable)
    except ValueError as error:
        raise NetworkError(f"{GO_RELEASES}: not Go's list of releases: {error}", _HINT) from error
    same = [one for one in stable if one.release[:2] == version.release[:2]]
    if not same:
        return Pin(
            GO, str(version), "", State.BEHIND,
            f"no longer supported; the oldest supported release is {oldest}",
        )  # fmt: skip
    newest = max(same)
    return Pin(GO, str(version), str(newest), State.BEHIND if newest > version else State.CURRENT)


def _debian() -> Pin:
    """Compare Debian with the stable release in this machine's archive."""
    archive = debian.mirror()
    release = _fetch(f"{archive}/dists/{debian.ALIAS}/Release").text
    codename = re.search(r"^Codename: (\S+)$", release, re.M)
    if not codename:
        raise NetworkError(f"{archive}: its Release file has no codename", _HINT)
    state = State.CURRENT if codename[1] == debian.SUITE else State.BEHIND
    return Pin("Debian", debian.SUITE, codename[1], state)


def used() -> list[tuple[str, str, str]]:
    """The actions in workflows: name, commit, and the version in the comment."""
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
    except ValueError:  # InvalidVersion, or a number of thousands of digits
        return Pin(name, version, newest, State.UNKNOWN, "not a version")
    return Pin(name, version, newest, State.BEHIND if behind else State.CURRENT)


def examine(client: Client) -> Iterator[Pin]:
    """Check every pin; a failed check yields the state UNKNOWN."""
    checks = [(GO, pins.load().go, _go), ("Debian", debian.SUITE, _debian)]
    for name, version, check in checks:
        try:
            yield check()
        except Failure as error:
            yield Pin(name, version, "", State.UNKNOWN, error.brief)
    for name, commit, version in used():
        try:
            yield _action(client, name, commit, version)
        except NetworkError as error:
            yield Pin(name, version, "", State.UNKNOWN, error.brief)
