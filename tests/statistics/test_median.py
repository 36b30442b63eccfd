"""The distribution-free interval of a median."""

from __future__ import annotations

import random

import pytest

from slm_benchmark.statistics.median import median_coverage, median_interval


@pytest.mark.parametrize("n", [6, 10, 25])
def test_the_interval_covers_as_often_as_it_says(n: int) -> None:
    draw = random.Random(n)
    trials = 4000
    hits = 0
    for _ in range(trials):
        low, high = median_interval([draw.expovariate(1) for _ in range(n)])
        hits += low <= 0.6931471805599453 <= high
    assert median_coverage(n) >= 0.95
    assert hits / trials == pytest.approx(median_coverage(n), abs=0.015)


def test_the_interval_is_the_narrowest_that_covers() -> None:
    # Tabulated ranks for 95 %: the 2nd and 9th of 10, the 6th and 15th of 20.
    assert median_interval(list(range(1, 11))) == (2, 9)
    assert median_interval(list(range(20, 0, -1))) == (6, 15)


def test_few_values_give_their_range_and_admit_it() -> None:
    assert median_interval([3.0, 1.0, 2.0]) == (1.0, 3.0)
    assert median_coverage(3) == 0.75
    with pytest.raises(ValueError, match="two values"):
        median_interval([1.0])
