from __future__ import annotations

import random

import pytest

from benchmarks import ratios


def test_noise_of_both_does_not_change_the_ratio() -> None:
    load = [1, 9, 2, 30, 4, 3]
    ratio = ratios.of([0.9 * one for one in load], load)
    assert ratio is not None
    assert (ratio.median, ratio.low, ratio.high) == pytest.approx((0.9, 0.9, 0.9))
    assert (ratio.pairs, ratio.verdict, str(ratio)) == (6, "less", "0.90 (0.90 to 0.90)")


@pytest.mark.parametrize(
    ("ours", "verdict"),
    [([11, 12, 13, 11, 12, 14], "more"), ([8, 7, 9, 8, 7, 8], "less"),
     ([9, 11, 10, 12, 8, 10], "none shown"), ([10] * 6, "none shown"),
     ([1, 1, 1, 1, 1], "too few runs")],
)  # fmt: skip
def test_verdicts(ours: list[float], verdict: str) -> None:
    ratio = ratios.of(ours, [10] * len(ours))
    assert ratio is not None
    assert ratio.low <= ratio.median <= ratio.high
    assert ratio.verdict == verdict


def test_one_pair_is_enough_only_for_exact_values() -> None:
    for exact, verdict, text in ((False, "too few runs", "0.90"), (True, "less", "0.900")):
        ratio = ratios.of([9], [10], exact=exact)
        assert ratio is not None
        assert (ratio.verdict, str(ratio)) == (verdict, text)
    same = ratios.of([10], [10], exact=True)
    assert same is not None
    assert same.verdict == "none shown"


def test_interval_is_reproducible() -> None:
    ours, theirs = [3.0, 1.0, 4.0, 1.5, 9.0], [2.0, 7.0, 1.0, 8.0, 2.5]
    first = ratios.of(ours, theirs)
    random.seed()
    assert ratios.of(ours, theirs) == first


def test_interval_contains_the_true_ratio() -> None:
    """Few of a hundred comparisons of equal candidates show a difference."""
    draw = random.Random(1)
    wrong = 0
    for _ in range(100):
        noise = [[draw.lognormvariate(0, 0.1) for _ in range(9)] for _ in range(2)]
        ratio = ratios.of(*noise)
        assert ratio is not None
        wrong += ratio.verdict != "none shown"
    assert wrong <= 12


@pytest.mark.parametrize(("ours", "theirs"), [([], []), ([1.0], [0.0]), ([float("inf")], [1.0])])
def test_no_ratio(ours: list[float], theirs: list[float]) -> None:
    assert ratios.of(ours, theirs) is None


def test_unequal_numbers_of_runs() -> None:
    with pytest.raises(ValueError, match="zip"):
        ratios.of([1, 2], [1])
