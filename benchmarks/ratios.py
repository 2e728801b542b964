"""How two ways compare, when they took turns.

Each run of one is paired with the run of the other beside it, so that what disturbs
the machine for longer than a run disturbs both. The ratio is the median of the pairs'
ratios. Its interval is a 95 % bootstrap: the pairs are drawn anew, with replacement,
two thousand times, and of the medians of those the middle 95 % are taken. The draws
are seeded, so the same samples give the same interval.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median, quantiles

DRAWS = 2000
#: Of equals, five pairs are all on one side more often than one time in twenty.
ENOUGH = 6
_SEED = 20


@dataclass(frozen=True)
class Ratio:
    """A ratio with its spread.

    Args:
        median: of the pairs' ratios.
        low: where its interval begins.
        high: where it ends.
        pairs: how many there were.
        exact: what was measured is the same each time, as a size.
    """

    median: float
    low: float
    high: float
    pairs: int
    exact: bool = False

    @property
    def verdict(self) -> str:
        """`less`, `more`, `none shown` where the interval has 1 in it, or `too few runs`."""
        if not self.exact and self.pairs < ENOUGH:
            return "too few runs"
        if self.low <= 1 <= self.high:
            return "none shown"
        return "less" if self.high < 1 else "more"

    def __str__(self) -> str:
        """As in `0.93 (0.90 to 0.97)`."""
        if self.exact:
            return f"{self.median:.3f}"
        if self.pairs == 1:
            return f"{self.median:.2f}"
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"


def of(ours: Sequence[float], theirs: Sequence[float], *, exact: bool = False) -> Ratio | None:
    """The ratio of ours to theirs, run by run; None where there is nothing to divide.

    Args:
        ours: one value for each run.
        theirs: the same, of the other way, in the same order.
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
