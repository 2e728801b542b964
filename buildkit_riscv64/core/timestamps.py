"""Timestamps in our documents."""

from __future__ import annotations

import time
from datetime import UTC, datetime


def utc(moment: datetime | float) -> str:
    """A time in UTC to the second, as in `2026-08-04T12:27:40Z` (RFC 3339).

    Args:
        moment: a time with a zone, or seconds since 1970.
    """
    if not isinstance(moment, datetime):
        moment = datetime.fromtimestamp(moment, UTC)
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def now() -> str:
    """The current time."""
    return utc(time.time())
