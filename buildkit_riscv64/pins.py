"""What is built and with what: the only place that knows versions."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from . import project
from .errors import SourceError, UsageError

#: The Go module, and import path, of upstream.
MODULE = "github.com/moby/buildkit"
#: The oldest Go that can fetch the pinned one (Debian 12's).
OLDEST_BOOTSTRAP_GO = "1.19"

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
class Pins:
    """The content of `pins.toml`."""

    version: str
    commit: str
    time: datetime
    go: str
    go_sums: Mapping[str, str]

    @property
    def go_version(self) -> str:
        """Go's own spelling of its version, as in `go1.26.10`."""
        return f"go{self.go}"


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
            commit=buildkit["commit"],
            time=buildkit["time"],
            go=go["version"],
            go_sums=go.get("sums", {}),
        )
        if not re.fullmatch(r"[0-9a-f]{40}", pins.commit):
            raise ValueError(f"{pins.commit!r} is not a full commit")
        if not re.fullmatch(r"\d+\.\d+\.\d+", pins.go):
            raise ValueError(f"{pins.go!r} is not a Go release")
        if not isinstance(pins.time, datetime) or pins.time.tzinfo is None:
            raise ValueError(f"{pins.time} is not a time with its zone")
        if not isinstance(pins.go_sums, dict):
            raise TypeError("[go.sums] is not a table")
    except (OSError, tomllib.TOMLDecodeError, KeyError, TypeError, ValueError, UsageError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else error
        raise SourceError(
            f"cannot read the pins in {path.name}: {reason}", f"git checkout {path.name}"
        ) from error
    return pins
