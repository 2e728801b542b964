"""What is built and with what: the only place that knows versions."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from . import project, timestamps
from .errors import SourceError, UsageError

#: The Go module, and import path, of upstream.
MODULE = "github.com/moby/buildkit"
#: The oldest Go that can fetch the pinned one (Debian 12's).
OLDEST_BOOTSTRAP_GO = "1.19"

#: What upstream pins of others may be a release candidate.
_TAG = re.compile(r"v\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?")
_RELEASE_TAG = re.compile(r"v(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)")


def release_tag(text: str) -> str:
    """`text`, if it has the form of an upstream release tag.

    Raises:
        UsageError: release candidates, `dockerfile/*` tags, branches, anything else.
    """
    if not _RELEASE_TAG.fullmatch(text):
        raise UsageError(
            f"{text!r} is not a BuildKit release tag",
            "give one like v0.32.2 (no release candidate, branch or dockerfile/ tag)",
        )
    return text


@dataclass(frozen=True, kw_only=True)
class Release:
    """A release of something that upstream's Dockerfile pins.

    Args:
        version: its tag.
        time: its commit's.
        commit: empty where the module proxy does not name it.
    """

    version: str
    time: datetime
    commit: str = ""


@dataclass(frozen=True, kw_only=True)
class Pins:
    """The content of `pins.toml`."""

    version: str
    commit: str
    time: datetime
    go: str
    go_sums: Mapping[str, str]
    bundle: Mapping[str, Release] = field(default_factory=dict)

    @property
    def go_version(self) -> str:
        """Go's own spelling of its version, as in `go1.26.10`."""
        return f"go{self.go}"


def _time(value: object) -> datetime:
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise ValueError(f"{value} is not a time with its zone")
    return value


def _commit(value: object) -> str:
    if not re.fullmatch(r"[0-9a-f]{40}", str(value)):
        raise ValueError(f"{value!r} is not a full commit")
    return str(value)


def _release(table: Mapping[str, Any]) -> Release:
    if not _TAG.fullmatch(table["version"]):
        raise ValueError(f"{table['version']!r} is not a release tag")
    commit = _commit(table["commit"]) if "commit" in table else ""
    return Release(version=table["version"], time=_time(table["time"]), commit=commit)


def others(dockerfile: str, argument: str) -> str:
    """The version that upstream's Dockerfile gives an argument, as in `ARG RUNC_VERSION=v1.4.3`.

    Raises:
        SourceError: it gives none, or no release.
    """
    found = re.search(rf"^ARG {argument}=(\S+)$", dockerfile, re.M)
    if found is None or not _TAG.fullmatch(found[1]):
        raise SourceError(
            f"upstream's Dockerfile pins no release as {argument}: {found[0] if found else 'no such ARG'}",
            "find out how upstream takes it now, and teach buildkit_riscv64/binaries/bundle.py",
        )
    return found[1]


def with_upstream(text: str, release: Release) -> str:
    """The text of `pins.toml` with another release of upstream in it."""
    for key, value in (
        ("version", f'"{release.version}"'),
        ("commit", f'"{release.commit}"'),
        ("time", timestamps.utc(release.time)),
    ):
        # The first of each name is [buildkit]'s.
        text = re.sub(rf"^{key} = .*$", f"{key} = {value}", text, count=1, flags=re.M)
    return text


def with_release(text: str, name: str, release: Release) -> str:
    """The text of `pins.toml` with a release of the bundle's in it."""
    lines = [f"[bundle.{name}]", f'version = "{release.version}"']
    if release.commit:
        lines.append(f'commit = "{release.commit}"')
    lines.append(f"time = {timestamps.utc(release.time)}")
    table = "\n".join(lines) + "\n"
    changed, found = re.subn(rf"^\[bundle\.{name}\]\n(?:\w+ = .*\n)*", table, text, flags=re.M)
    return changed if found else f"{text}\n{table}"


def load(path: Path | None = None) -> Pins:
    """Read the pins, of this checkout unless told otherwise.

    Raises:
        SourceError: the file is missing, or not as this project writes it.
    """
    path = path or project.PINS
    try:
        data = tomllib.loads(path.read_text())
        buildkit, go = data["buildkit"], data["go"]
        pins = Pins(
            version=release_tag(buildkit["version"]),
            commit=_commit(buildkit["commit"]),
            time=_time(buildkit["time"]),
            go=go["version"],
            go_sums=go.get("sums", {}),
            bundle={name: _release(table) for name, table in data.get("bundle", {}).items()},
        )
        if not re.fullmatch(r"\d+\.\d+\.\d+", pins.go):
            raise ValueError(f"{pins.go!r} is not a Go release")
        if not isinstance(pins.go_sums, dict):
            raise TypeError("[go.sums] is not a table")
    except (
        OSError, tomllib.TOMLDecodeError, KeyError, TypeError, ValueError, AttributeError, UsageError,
    ) as error:  # fmt: skip
        reason = f"no {error}" if isinstance(error, KeyError) else error
        raise SourceError(
            f"cannot read the pins in {path.name}: {reason}", f"git checkout {path.name}"
        ) from error
    return pins
