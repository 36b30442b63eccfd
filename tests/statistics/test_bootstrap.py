"""Bootstrap intervals: exact where they can be, against theory, and as often right as they say."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slm_benchmark.statistics.bootstrap import bootstrap_interval, estimate, mean, of_totals
from slm_benchmark.statistics.proportion import standard_error

NUMBERS = st.floats(-100, 100, allow_nan=False).map(lambda value: round(value, 3))
DOCUMENTS = st.lists(NUMBERS, min_size=2, max_size=30)
PAIRS = st.lists(st.tuples(st.integers(0, 50), st.integers(1, 50)).map(list), min_size=2)


@of_totals
def ratio(totals: Any, n: int) -> float:
    """A corpus metric in small: the sum of the first numbers over that of the second."""
    return float(totals[0] / totals[1])


def slow_ratio(values: Any) -> float:
    """The same, from the values of all documents."""
    return float(sum(first for first, _ in values) / sum(second for _, second in values))


def share_of_yes(values: Any) -> float:
    """Yes among all answers of all documents, which have different numbers of answers."""
    answers = [answer for document in values for answer in document]
    return float(sum(answers) / len(answers))


@given(PAIRS, st.integers(0, 5))
@settings(max_examples=30)
def test_sums_and_values_give_the_same_interval(values: list[list[int]], seed: int) -> None:
    """The matrix product is only a faster way to the numbers of the plain one."""
    fast = bootstrap_interval(values, ratio, seed=seed, resamples=50)
    slow = bootstrap_interval(values, slow_ratio, seed=seed, resamples=50)
    assert fast is not None
    assert slow is not None
    assert (fast.low, fast.high) == pytest.approx((slow.low, slow.high), rel=1e-12)
    assert fast.stderr == pytest.approx(slow.stderr, rel=1e-9, abs=1e-12)
    assert estimate(values, ratio) == pytest.approx(slow_ratio(values), rel=1e-12)


@given(NUMBERS, st.integers(2, 40))
@settings(max_examples=30)
def test_equal_documents_have_no_width(value: float, n: int) -> None:
    found = bootstrap_interval([value] * n, mean, resamples=50)
    assert found is not None
    assert found.low == pytest.approx(value)
    assert found.high == pytest.approx(value)
    assert found.stderr == pytest.approx(0, abs=1e-9)


@given(DOCUMENTS, st.randoms(use_true_random=False))
@settings(max_examples=30)
def test_the_order_of_documents_does_not_matter(values: list[float], random: Any) -> None:
    strata = ["ab"[place % 2] for place in range(len(values))]
    order = list(range(len(values)))
    random.shuffle(order)
    shuffled = [values[place] for place in order]
    assert bootstrap_interval(shuffled, mean, resamples=20) == bootstrap_interval(
        values, mean, resamples=20
    )
    assert bootstrap_interval(
        shuffled, mean, resamples=20, strata=[strata[place] for place in order]
    ) == bootstrap_interval(values, mean, resamples=20, strata=strata)


@given(DOCUMENTS, st.integers(0, 3))
@settings(max_examples=30)
def test_intervals_lie_within_the_documents(values: list[float], seed: int) -> None:
    found = bootstrap_interval(values, mean, seed=seed, resamples=100)
    assert found is not None
    assert min(values) - 1e-9 <= found.low <= found.high <= max(values) + 1e-9


def test_the_seed_decides() -> None:
    values = np.random.default_rng(1).normal(size=50).tolist()
    first = bootstrap_interval(values, mean, seed=1)
    assert first == bootstrap_interval(values, mean, seed=1)
    assert first != bootstrap_interval(values, mean, seed=2)


def test_blocks_of_resamples_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(1).normal(size=50).tolist()
    whole = bootstrap_interval(values, mean)
    monkeypatch.setattr("slm_benchmark.statistics.bootstrap._BLOCK_CELLS", 333)
    cut = bootstrap_interval(values, mean)
    assert whole is not None
    assert cut is not None
    assert (cut.low, cut.high) == pytest.approx((whole.low, whole.high), rel=1e-12)


def test_a_mean_has_its_known_standard_error() -> None:
    values = np.random.default_rng(3).normal(5, 2, size=2000).tolist()
    found = bootstrap_interval(values, mean, resamples=4000)
    known = standard_error(values)
    assert found is not None
    assert known is not None
    assert found.stderr == pytest.approx(known, rel=0.05)
    centre = float(np.mean(values))
    assert found.low == pytest.approx(centre - 1.96 * known, abs=0.1 * known)
    assert found.high == pytest.approx(centre + 1.96 * known, abs=0.1 * known)


def test_a_mean_over_parts_is_resampled_within_them() -> None:
    """Parts that differ make no uncertainty; a small part weighs as much as a large one."""
    random = np.random.default_rng(4)
    sizes = {"de": 1000, "en": 1000, "sw": 40}
    parts = {name: random.normal(level, 1, sizes[name]) for level, name in enumerate(sizes, 10)}
    values = np.concatenate(list(parts.values())).tolist()
    strata = [name for name, size in sizes.items() for _ in range(size)]
    found = bootstrap_interval(values, mean, strata=strata)
    assert found is not None
    assert estimate(values, mean, strata) == pytest.approx(
        np.mean([part.mean() for part in parts.values()])
    )
    known = np.sqrt(sum(part.var(ddof=1) / len(part) for part in parts.values())) / 3
    assert found.stderr == pytest.approx(known, rel=0.1)
    pooled = bootstrap_interval(values, mean)
    assert pooled is not None
    assert pooled.stderr < found.stderr


def test_lists_of_different_lengths() -> None:
    values = [[True, False], [True], [False, True, True], [True, True]] * 20
    found = bootstrap_interval(values, share_of_yes)
    assert found is not None
    assert 0.5 < found.low < estimate(values, share_of_yes) == 0.75 < found.high < 0.9


def test_a_single_document_has_no_interval() -> None:
    assert bootstrap_interval([1.0], mean) is None
    assert bootstrap_interval([1.0, 2.0, 3.0], mean, strata=["a", "a", "b"]) is None
    assert bootstrap_interval([1.0, 2.0], mean) is not None


@pytest.mark.parametrize(("values", "strata"), [([], None), ([], []), ([1.0, 2.0], ["a"])])
def test_bad_input_is_refused(values: list[float], strata: list[str] | None) -> None:
    with pytest.raises(ValueError, match=r"no documents|longer"):
        bootstrap_interval(values, mean, strata=strata)


def test_a_large_corpus_takes_seconds() -> None:
    """15,000 documents of 18 counts, 1000 resamples."""
    values = np.random.default_rng(5).integers(1, 200, size=(15_000, 18)).tolist()
    began = time.process_time()
    assert bootstrap_interval(values, ratio) is not None
    assert time.process_time() - began < 20


@pytest.mark.slow
@pytest.mark.parametrize(("n", "least"), [(20, 0.88), (100, 0.92), (400, 0.93)])
def test_intervals_cover_as_often_as_they_say(n: int, least: float) -> None:
    """A ratio of sums with a known true value, in 1000 drawn corpora."""
    random = np.random.default_rng(n)
    covered = 0
    for _ in range(1000):
        lengths = random.poisson(25, n) + 1
        hits = random.binomial(lengths, random.beta(6, 4, n))
        found = bootstrap_interval(np.stack([hits, lengths], axis=1).tolist(), ratio, resamples=500)
        assert found is not None
        covered += found.low <= 0.6 <= found.high
    assert least < covered / 1000 < 0.97
