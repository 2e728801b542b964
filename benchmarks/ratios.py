"""The ratio of two candidates that took turns.

Each run of one candidate is paired with the adjacent run of the other, so that noise
affects both. The ratio is the median of the ratios of the pairs. Its interval is a 95 %
bootstrap: the pairs are drawn two thousand times with replacement, and the interval holds
the middle 95 % of the medians. The draws are seeded, so the same samples give the same
interval.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median, quantiles

DRAWS = 2000
#: With five pairs of equal candidates, all are on one side more often than 1 in 20 times.
ENOUGH = 6
_SEED = 20


@dataclass(frozen=True)
class Ratio:
    """A ratio with its interval.

    Args:
        median: the median of the pairs' ratios.
        low: the lower end of the interval.
        high: the upper end of the interval.
        pairs: the number of pairs.
        exact: every run has the same value, as for a size.
    """

    median: float
    low: float
    high: float
    pairs: int
    exact: bool = False

    @property
    def verdict(self) -> str:
        """`less`, `more`, `none shown` if the interval contains 1, or `too few runs`."""
        if not self.exact and self.pairs < ENOUGH:
            return "too few runs"
        if self.low <= 1 <= self.high:
            return "none shown"
        return "less" if self.high < 1 else "more"

    @property
    def short(self) -> str:
        """The ratio without its interval, as in `0.93`."""
        return f"{self.median:.{3 if self.exact else 2}f}"

    def __str__(self) -> str:
        """Format it, as in `0.93 (0.90 to 0.97)`."""
        if self.exact or self.pairs == 1:
            return self.short
        return f"{self.short} ({self.low:.2f} to {self.high:.2f})"


def of(ours: Sequence[float], theirs: Sequence[float], *, exact: bool = False) -> Ratio | None:
    """The ratio of ours to the baseline; None if no pair has a ratio.

    Args:
        ours: one value for each run.
        theirs: the values of the baseline, in the same order.
        exact: as in :class:`Ratio`.
    """
    pairs = [a / b for a, b in zip(ours, theirs, strict=True) if b > 0 and math.isfinite(a / b)]
    if not pairs:
        return None
    middle = median(pairs)
    if len(pairs) == 1:
        return Ratio(middle, middle, middle, 1, exact)
    draw = random.Random(_SEED)
    medians = [median(draw.choices(pairs, k=len(pairs))) for _ in range(DRAWS)]
    cuts = quantiles(medians, n=40, method="inclusive")
    return Ratio(middle, cuts[0], cuts[-1], len(pairs), exact)
