"""Pinned versions: the only module that reads `pins/pins.toml`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from . import documents, project, timestamps
from .errors import SourceError, UsageError

#: Upstream's Go module and import path.
MODULE = "github.com/moby/buildkit"
#: The oldest Go that can download the pinned Go (Debian 12's).
OLDEST_BOOTSTRAP_GO = "1.19"

#: Releases that upstream pins may be release candidates.
_TAG = re.compile(r"v[0-9]{1,9}(\.[0-9]{1,9}){2}(-[0-9A-Za-z.-]+)?")
_RELEASE_TAG = re.compile(r"v(0|[1-9][0-9]{0,8})(\.(0|[1-9][0-9]{0,8})){2}")


def release_tag(text: str) -> str:
    """A text, if it is an upstream release tag.

    Raises:
        UsageError: it is a release candidate, a `dockerfile/*` tag, a branch or another text.
    """
    if not _RELEASE_TAG.fullmatch(text):
        raise UsageError(
            f"{text!r} is not a BuildKit release tag",
            "give one like v0.32.2 (no release candidate, branch or dockerfile/ tag)",
        )
    return text


@dataclass(frozen=True, kw_only=True)
class PinnedRelease:
    """A release of a program that upstream's Dockerfile pins.

    Args:
        version: the tag.
        time: the commit's time.
        commit: the commit; empty where the module proxy does not name it.
    """

    version: str
    time: datetime
    commit: str = ""


@dataclass(frozen=True, kw_only=True)
class Pins:
    """The content of `pins/pins.toml`."""

    version: str
    commit: str
    time: datetime
    go: str
    go_sums: Mapping[str, str]
    bundle: Mapping[str, PinnedRelease] = field(default_factory=dict)

    @property
    def go_version(self) -> str:
        """Go's own spelling of its version, as in `go1.26.10`."""
        return f"go{self.go}"


def _time(value: object) -> datetime:
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise ValueError(f"{value} is not a time with a zone")
    return value


def _commit(value: object) -> str:
    if not re.fullmatch(r"[0-9a-f]{40}", str(value)):
        raise ValueError(f"{value!r} is not a full commit")
    return str(value)


def _release(table: Mapping[str, Any]) -> PinnedRelease:
    if not _TAG.fullmatch(table["version"]):
        raise ValueError(f"{table['version']!r} is not a release tag")
    commit = _commit(table["commit"]) if "commit" in table else ""
    return PinnedRelease(version=table["version"], time=_time(table["time"]), commit=commit)


def others(dockerfile: str, argument: str) -> str:
    """The release that upstream's Dockerfile pins, as in `ARG RUNC_VERSION=v1.4.3`.

    Raises:
        SourceError: the argument is missing, or its value is not a release.
    """
    found = re.search(rf"^ARG {argument}=(\S+)$", dockerfile, re.M)
    if found is None or not _TAG.fullmatch(found[1]):
        raise SourceError(
            f"upstream's Dockerfile pins no release as {argument}: {found[0] if found else 'no such ARG'}",
            "update buildkit_riscv64/binaries/bundle.py to upstream's new Dockerfile",
        )
    return found[1]


def with_upstream(text: str, release: PinnedRelease) -> str:
    """The text of `pins/pins.toml` with another release of upstream."""
    for key, value in (
        ("version", f'"{release.version}"'),
        ("commit", f'"{release.commit}"'),
        ("time", timestamps.utc(release.time)),
    ):
        # [buildkit] is the first table with these keys.
        text = re.sub(rf"^{key} = .*$", f"{key} = {value}", text, count=1, flags=re.M)
    return text


def with_release(text: str, name: str, release: PinnedRelease) -> str:
    """The text of `pins/pins.toml` with another release of a program of the bundle."""
    lines = [f"[bundle.{name}]", f'version = "{release.version}"']
    if release.commit:
        lines.append(f'commit = "{release.commit}"')
    lines.append(f"time = {timestamps.utc(release.time)}")
    table = "\n".join(lines) + "\n"
    changed, found = re.subn(rf"^\[bundle\.{name}\]\n(?:\w+ = .*\n)*", table, text, flags=re.M)
    return changed if found else f"{text}\n{table}"


def load(path: Path | None = None) -> Pins:
    """Read the pins, by default of this checkout.

    Raises:
        SourceError: the file is missing or invalid.
    """
    path = path or project.PINS
    try:
        data = documents.parse_toml(path.read_bytes())
        buildkit, go = data["buildkit"], data["go"]
        pins = Pins(
            version=release_tag(buildkit["version"]),
            commit=_commit(buildkit["commit"]),
            time=_time(buildkit["time"]),
            go=go["version"],
            go_sums=go.get("sums", {}),
            bundle={name: _release(table) for name, table in data.get("bundle", {}).items()},
        )
        if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9}){2}", pins.go):
            raise ValueError(f"{pins.go!r} is not a Go release")
        if not isinstance(pins.go_sums, dict):
            raise TypeError("[go.sums] is not a table")
    except (
        OSError, KeyError, TypeError, ValueError, AttributeError, UsageError,
    ) as error:  # fmt: skip
        reason = error.brief if isinstance(error, UsageError) else error
        if isinstance(error, KeyError):
            reason = f"no {error}"
        raise SourceError(
            f"cannot read the pins in pins/{path.name}: {reason}", f"git checkout pins/{path.name}"
        ) from error
    return pins
