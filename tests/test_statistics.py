"""Intervals and standard errors, against scipy and against the binomial itself."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from slm_benchmark.statistics.proportion import (
    Z95,
    mean_interval,
    standard_error,
    wilson_interval,
)

COUNTS = st.integers(1, 20_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
VALUES = st.floats(-1e6, 1e6, allow_nan=False)


@given(COUNTS)
def test_wilson_is_scipy_s(counts: tuple[int, int]) -> None:
    successes, n = counts
    expected = stats.binomtest(successes, n).proportion_ci(0.95, method="wilson")
    low, high = wilson_interval(successes, n)
    assert low == pytest.approx(expected.low, rel=1e-9, abs=1e-12)
    assert high == pytest.approx(expected.high, rel=1e-9, abs=1e-12)
    assert 0 <= low <= successes / n <= high <= 1


@pytest.mark.parametrize("n", [1, 2, 10, 50, 1172])
def test_wilson_at_the_ends(n: int) -> None:
    """All wrong and all right mirror each other, end exactly at 0 and 1, and are no points."""
    low, high = wilson_interval(0, n)
    assert low == 0.0
    assert high == pytest.approx(Z95**2 / (n + Z95**2))
    mirrored = wilson_interval(n, n)
    assert mirrored[1] == 1.0
    assert mirrored[0] == pytest.approx(1 - high)


@pytest.mark.parametrize("n", [10, 50, 100, 817])
def test_wilson_covers_as_often_as_it_says(n: int) -> None:
    """The exact coverage, summed over the binomial, for true proportions from 2 % to 98 %."""
    intervals = [wilson_interval(k, n) for k in range(n + 1)]
    low, high = np.array(intervals).T
    coverage = []
    for p in np.linspace(0.02, 0.98, 193):
        covered = (low <= p) & (p <= high)
        coverage.append(float(stats.binom.pmf(np.arange(n + 1), n, p)[covered].sum()))
    assert 0.945 < np.mean(coverage) < 0.965
    assert min(coverage) > 0.83  # between the steps of a small n it dips; Wald's interval hits 0.18
    middle = coverage[36:157]  # 20 % to 80 %, where benchmark scores lie
    assert min(middle) > 0.92


@given(st.lists(VALUES, min_size=2, max_size=60))
def test_the_standard_error_is_scipy_s(values: list[float]) -> None:
    found = standard_error(values)
    assert found == pytest.approx(stats.sem(values), rel=1e-6, abs=1e-6)
    assert found == pytest.approx(
        np.std(values, ddof=1) / math.sqrt(len(values)), rel=1e-6, abs=1e-6
    )


def test_one_value_has_no_standard_error() -> None:
    assert standard_error([0.25]) is None


@given(st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=300))
def test_zeros_and_ones_get_wilson_s_interval(values: list[float]) -> None:
    interval, method = mean_interval(values)
    assert method == "wilson"
    assert interval == wilson_interval(sum(values), len(values))


@given(st.lists(VALUES, min_size=2, max_size=60).filter(lambda v: not set(v) <= {0.0, 1.0}))
def test_other_values_get_the_normal_interval(values: list[float]) -> None:
    interval, method = mean_interval(values)
    assert method == "normal"
    assert interval is not None
    error = stats.sem(values)
    low, high = stats.norm.interval(0.95, np.mean(values), error) if error else 2 * (values[0],)
    assert interval == pytest.approx((low, high), rel=1e-6, abs=1e-6)


def test_a_single_value_between_zero_and_one_gets_none() -> None:
    assert mean_interval([0.5]) == (None, None)
