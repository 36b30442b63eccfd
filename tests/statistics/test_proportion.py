"""Intervals and standard errors, against scipy and against the binomial itself."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from benchmarks.coverage import proportion_grid, rule
from slm_benchmark.statistics.proportion import (
    PROPORTION_INTERVALS,
    Z95,
    exact_interval,
    proportion_method,
    standard_error,
    t_interval,
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


@given(COUNTS)
def test_the_exact_interval_is_scipy_s(counts: tuple[int, int]) -> None:
    successes, n = counts
    expected = stats.binomtest(successes, n).proportion_ci(0.95, method="exact")
    low, high = exact_interval(successes, n)
    assert low == pytest.approx(expected.low, rel=1e-6, abs=1e-9)
    assert high == pytest.approx(expected.high, rel=1e-6, abs=1e-9)
    assert 0 <= low <= successes / n <= high <= 1


@given(st.integers(1, 5000))
@settings(max_examples=50)
def test_one_success_more_never_lowers_an_end(n: int) -> None:
    """Also where the rule changes from the exact interval to Wilson's and back."""
    near = sorted({k for k in (*range(14), *range(n - 13, n + 1)) if 0 <= k <= n})
    ends = np.array([PROPORTION_INTERVALS[proportion_method(k, n)](k, n) for k in near])
    assert (np.diff(ends, axis=0) >= 0).all()


@pytest.mark.model
@pytest.mark.parametrize("n", [1, 2, 4, 7, 10, 20, 35, 50, 100, 300, 817, 2000])
def test_the_rule_covers_every_proportion(n: int) -> None:
    """Exact sums over the binomial, edges included."""
    ends = np.array([PROPORTION_INTERVALS[proportion_method(k, n)](k, n) for k in range(n + 1)])
    coverage = []
    for p in np.linspace(0.002, 0.998, 499):
        held = (ends[:, 0] <= p) & (p <= ends[:, 1])
        coverage.append(float(stats.binom.pmf(np.arange(n + 1), n, p)[held].sum()))
    assert min(coverage) > 0.925
    assert np.mean(coverage) > 0.945


@given(st.lists(VALUES, min_size=2, max_size=60))
def test_the_t_interval_is_scipy_s(values: list[float]) -> None:
    error = standard_error(values)
    assert error is not None
    degrees = len(values) - 1
    found = t_interval(float(np.mean(values)), error, degrees)
    expected = (np.mean(values),) * 2
    if error:
        expected = stats.t.interval(0.95, degrees, np.mean(values), stats.sem(values))
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-4)


def test_the_grid_of_the_page() -> None:
    """docs/methods/methodology.md: sums and simulation agree, and keep what is promised."""
    found = proportion_grid(rule, draws := 10_000)
    assert found.exact.mean() >= 0.945
    assert found.exact.min() >= 0.92
    assert np.abs(found.simulated - found.exact).max() < 5 * math.sqrt(0.07 * 0.93 / draws)
