from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from buildkit_riscv64.core import timestamps


@pytest.mark.parametrize(
    "moment",
    [
        datetime(2026, 8, 4, 12, 27, 40, 999_999, tzinfo=UTC),
        datetime(2026, 8, 4, 14, 27, 40, tzinfo=timezone(timedelta(hours=2))),
        datetime(2026, 8, 4, 12, 27, 40, tzinfo=UTC).timestamp(),
    ],
)
def test_utc(moment: datetime | float) -> None:
    assert timestamps.utc(moment) == "2026-08-04T12:27:40Z"


def test_now() -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    assert before <= datetime.fromisoformat(timestamps.now()) <= datetime.now(UTC)
