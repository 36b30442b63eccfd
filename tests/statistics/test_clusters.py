"""Documents in groups: against statsmodels, the matrices of the estimator, and known truths."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from benchmarks.coverage import coverage, grouped, translated
from slm_benchmark.statistics.bootstrap import expanded_bootstrap, mean, of_totals
from slm_benchmark.statistics.clusters import FEWEST, clustered_mean
from slm_benchmark.statistics.estimates import Sample, estimate
from slm_benchmark.statistics.proportion import standard_error
from slm_benchmark.tasks.clusters import cluster_ids

NUMBERS = st.floats(-100, 100, allow_nan=False).map(lambda value: round(value, 3))
GROUPED = st.lists(st.tuples(NUMBERS, st.integers(0, 5), st.sampled_from("ab")), min_size=6)


def reference_error(values: Any, clusters: Any, parts: Any) -> float:
    """CR2 of the mean of parts' means, as a regression on the parts, with matrices."""
    y = np.asarray(values, dtype=float)
    names = sorted(set(parts))
    x = np.array([[float(part == name) for name in names] for part in parts])
    inverse = np.linalg.inv(x.T @ x)
    residuals = y - x @ (inverse @ (x.T @ y))
    middle = np.zeros_like(inverse)
    for cluster in set(clusters):
        chosen = np.array([name == cluster for name in clusters])
        own = x[chosen]
        share, vectors = np.linalg.eigh(np.eye(len(own)) - own @ inverse @ own.T)
        root: NDArray[np.float64] = vectors @ np.diag(share**-0.5) @ vectors.T
        score = own.T @ root @ residuals[chosen]
        middle += np.outer(score, score)
    contrast = np.full(len(names), 1 / len(names))
    return math.sqrt(contrast @ inverse @ middle @ inverse @ contrast)


@pytest.mark.model
@given(GROUPED)
@settings(max_examples=200, deadline=None)
def test_the_error_is_that_of_the_matrices(documents: list[tuple[float, int, str]]) -> None:
    values, clusters, parts = zip(*documents, strict=True)
    found = clustered_mean(values, clusters, parts)
    alone = any(
        len({c for c, p in zip(clusters, parts, strict=True) if p == part}) < 2
        for part in set(parts)
    )
    assert (found.stderr is None) == alone
    if found.stderr is not None:
        expected = reference_error(values, clusters, parts)
        assert found.stderr == pytest.approx(expected, rel=1e-6, abs=1e-6)


@pytest.mark.model
@pytest.mark.parametrize("groups", [5, 12, 60])
def test_groups_of_one_size_give_statsmodels_error(groups: int) -> None:
    from statsmodels.api import OLS

    random = np.random.default_rng(groups)
    clusters = np.repeat(np.arange(groups), 7)
    values = random.normal(size=groups)[clusters] + random.normal(size=len(clusters))
    fitted = OLS(values, np.ones_like(values)).fit(
        cov_type="cluster", cov_kwds={"groups": clusters}, use_t=True
    )
    found = clustered_mean(values.tolist(), clusters.tolist())
    assert found.stderr == pytest.approx(float(fitted.bse[0]), rel=1e-9)
    assert found.degrees == pytest.approx(groups - 1)
    interval = estimate(Sample(values.tolist(), share=False, clusters=clusters.tolist()))
    assert interval.ci95 == pytest.approx(tuple(fitted.conf_int(0.05)[0]), rel=1e-9)
    assert (interval.method, interval.clusters) == ("cluster t", groups)


def test_unequal_groups_stay_near_statsmodels_error() -> None:
    """Its estimator is another one (CR1); both are consistent."""
    from statsmodels.api import OLS

    random = np.random.default_rng(1)
    clusters = np.repeat(np.arange(200), random.integers(1, 12, 200))
    values = random.normal(size=200)[clusters] + random.normal(size=len(clusters))
    fitted = OLS(values, np.ones_like(values)).fit(
        cov_type="cluster", cov_kwds={"groups": clusters}
    )
    found = clustered_mean(values.tolist(), clusters.tolist())
    assert found.stderr == pytest.approx(float(fitted.bse[0]), rel=0.02)
    assert found.degrees < 199


@given(st.lists(NUMBERS, min_size=2, max_size=40))
def test_groups_of_one_document_give_the_usual_error(values: list[float]) -> None:
    found = clustered_mean(values, range(len(values)))
    assert found.stderr == pytest.approx(standard_error(values), rel=1e-9, abs=1e-9)
    assert found.degrees == pytest.approx(len(values) - 1)


@given(st.lists(NUMBERS, min_size=5, max_size=20), st.integers(2, 6))
def test_copies_of_documents_add_nothing(values: list[float], copies: int) -> None:
    once = clustered_mean(values, range(len(values)))
    often = clustered_mean(values * copies, list(range(len(values))) * copies)
    assert often.stderr == pytest.approx(once.stderr, rel=1e-9, abs=1e-9)


def test_translations_are_one_group() -> None:
    """Ten languages that agree say as much as one; taken for independent they would say more."""
    values = [float(place % 2) for place in range(60)]
    parts = [f"{part}" for part in range(10) for _ in values]
    together = estimate(Sample(values * 10, parts=parts, clusters=list(range(60)) * 10))
    apart = estimate(Sample(values * 10, parts=parts))
    alone = estimate(Sample(values))
    assert together.method == "cluster wilson over parts"
    assert together.stderr == pytest.approx(alone.stderr)
    assert apart.method == "wilson over parts"
    assert together.stderr is not None
    assert apart.stderr == pytest.approx(together.stderr / math.sqrt(10), rel=0.01)
    assert together.ci95 is not None
    assert alone.ci95 is not None
    assert together.ci95 == pytest.approx(alone.ci95, abs=0.01)


def test_too_few_groups_have_no_interval_and_say_so() -> None:
    clusters = [place % (FEWEST - 1) for place in range(100)]
    for values in (
        [float(place % 3 == 0) for place in range(100)],
        [place / 7 for place in range(100)],
    ):
        found = estimate(Sample(values, clusters=clusters))
        assert (found.stderr, found.ci95, found.method) == (None, None, None)
        assert found.clusters == FEWEST - 1
        assert "4 groups" in str(found.reason)
        assert str(FEWEST) in str(found.reason)
    enough = [place % FEWEST for place in range(100)]
    assert estimate(Sample([float(p % 3 == 0) for p in range(100)], clusters=enough)).ci95


def test_one_large_group_among_many_small_ones_counts() -> None:
    clusters = [0] * 900 + list(range(1, 101))
    found = estimate(Sample([float(place % 2) for place in range(1000)], clusters=clusters))
    assert found.ci95 is None
    assert "101 groups, which weigh as 1.2" in str(found.reason)


def test_a_single_group_and_groups_of_one_are_plain_samples() -> None:
    values = [float(place % 2) for place in range(100)]
    plain = estimate(Sample(values))
    assert estimate(Sample(values, clusters=["a"] * 100)) == plain
    assert estimate(Sample(values, clusters=list(range(100)))) == plain
    assert plain.method == "wilson"


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_documents_that_agree_count_once_for_each_group(value: float) -> None:
    """400 right answers on ten passages are no more than ten: nothing shows them to differ."""
    found = estimate(Sample([value] * 400, clusters=[place % 10 for place in range(400)]))
    assert found.ci95 is not None
    assert found.method == "cluster clopper-pearson"
    assert 0.3 < found.ci95[1] - found.ci95[0] < 0.4


@st.composite
def answers(draw: st.DrawFn) -> Sample:
    n = draw(st.integers(5, 60))
    parts = draw(st.none() | st.lists(st.sampled_from("ab"), min_size=n, max_size=n))
    return Sample(
        draw(st.lists(st.sampled_from([0.0, 1.0]), min_size=n, max_size=n)),
        parts=parts,
        clusters=draw(st.none() | st.lists(st.integers(0, 8), min_size=n, max_size=n)),
    )


@pytest.mark.model
@given(answers())
@settings(max_examples=200, deadline=None)
def test_an_interval_of_a_share_holds_it_and_stays_within_0_and_1(sample: Sample) -> None:
    found = estimate(sample)
    assert (found.ci95 is None) == (found.reason is not None) == (found.method is None)
    if found.ci95 is not None:
        assert 0 <= found.ci95[0] <= found.value <= found.ci95[1] <= 1
        assert found.ci95[0] < found.ci95[1]


def samples(*docs: dict[str, Any], part: str = "") -> Any:
    return [{"part": part, "doc_id": place, "doc": doc} for place, doc in enumerate(docs)]


def test_groups_join_what_agrees_in_any_key() -> None:
    english = samples({"premise": "a"}, {"premise": "a"}, {"premise": "b"}, part="en")
    german = samples({"premise": "x"}, {"premise": "y"}, {"premise": "z"}, part="de")
    found = cluster_ids([*english, *german], ["premise", "index"])
    assert found is not None
    one, two, other, *translated_ids = found
    assert one == two != other
    assert translated_ids == [one, one, other]
    assert all(name is not None and len(name) == 12 for name in found)
    by_part = cluster_ids([*english, *german], ["part"])
    assert by_part is not None
    assert by_part[:3] == [by_part[0]] * 3
    assert by_part[3:] == [by_part[3]] * 3
    assert by_part[0] != by_part[3]


def test_groups_do_not_depend_on_the_order_or_on_others() -> None:
    docs: Any = samples({"source": "a"}, {"source": "b"}, {"source": "a"})
    whole = cluster_ids(docs, ["source"])
    assert whole is not None
    assert cluster_ids(docs[::-1], ["source"]) == whole[::-1]
    assert cluster_ids(docs[1:], ["source"]) == whole[1:]


def test_a_field_that_is_missing_joins_nothing() -> None:
    assert cluster_ids(samples({"a": 1}, {"a": 1}), ["source"]) is None
    assert cluster_ids(samples({"source": 1}, {}, {"source": None}), ["source"])[1:] == [None, None]  # type: ignore[index]


@of_totals
def ratio(totals: Any, n: int) -> float:
    return float(totals[0] / totals[1])


def slow_ratio(values: Any) -> float:
    return float(sum(first for first, _ in values) / sum(second for _, second in values))


@given(
    st.lists(
        st.tuples(st.integers(0, 50), st.integers(1, 50), st.integers(0, 4), st.sampled_from("ab")),
        min_size=8,
    ),
    st.randoms(use_true_random=False),
)
@settings(max_examples=40, deadline=None)
def test_the_bootstrap_draws_whole_groups_in_any_order(
    documents: list[tuple[int, int, int, str]], random: Any
) -> None:
    def found(rows: list[tuple[int, int, int, str]], statistic: Any) -> Any:
        return expanded_bootstrap(
            [list(row[:2]) for row in rows],
            statistic,
            clusters=[row[2] for row in rows],
            strata=[row[3] for row in rows],
            resamples=30,
        )

    fast, slow = found(documents, ratio), found(documents, slow_ratio)
    shuffled = list(documents)
    random.shuffle(shuffled)
    assert found(shuffled, ratio) == fast
    if fast is not None:
        assert (fast.low, fast.high) == pytest.approx((slow.low, slow.high), rel=1e-9)


def test_the_bootstrap_of_a_mean_has_the_cluster_error() -> None:
    random = np.random.default_rng(3)
    clusters = np.repeat(np.arange(200), 5)
    values = (random.normal(size=200)[clusters] + random.normal(size=1000)).tolist()
    known = clustered_mean(values, clusters.tolist()).stderr
    found = expanded_bootstrap(values, mean, clusters=clusters.tolist(), resamples=4000)
    assert found is not None
    assert found.stderr == pytest.approx(known, rel=0.05)
    independent = expanded_bootstrap(values, mean)
    assert independent is not None
    assert independent.stderr < 0.7 * found.stderr


def test_few_documents_widen_the_bootstrap() -> None:
    """To about Student's width, and never beyond what the documents can make."""
    values = np.random.default_rng(0).normal(size=12).tolist()
    found = expanded_bootstrap(values, mean, resamples=4000)
    assert found is not None
    error = standard_error(values)
    assert error is not None
    assert (found.high - found.low) / 2 == pytest.approx(2.201 * error, rel=0.12)
    assert min(values) <= found.low <= found.high <= max(values)


@pytest.mark.model
def test_groups_cover_as_often_as_they_say() -> None:
    """A quick look, within three standard errors; benchmarks/coverage.py has the table."""
    for correlation in (0.0, 0.3):
        held = coverage(grouped(0.3, correlation, 20, 0.0), 0.3, 400).held
        assert held > 0.95 - 3 * 0.011
    draw = translated(0.5, 0.5, 100, 5)
    assert coverage(draw, 0.5, 200).held > 0.95 - 3 * 0.0155

    def alone(random: np.random.Generator) -> Sample:
        sample = draw(random)
        return Sample(sample.values, parts=sample.parts)

    assert coverage(alone, 0.5, 200).held < 0.9
