"""Paired comparisons: intervals and tests against references, coverage and power by simulation."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import gammaln, xlogy
from scipy.stats import binomtest, permutation_test, ttest_rel
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from slm_benchmark.statistics.multiple import holm
from slm_benchmark.statistics.paired import (
    Paired,
    compare_paired,
    heterogeneity,
    mcnemar_exact,
    sign_flip_p,
    tango_interval,
    tango_statistic,
)
from slm_benchmark.statistics.power import (
    connor_documents,
    documents_needed,
    documents_needed_shift,
    mcnemar_power,
    smallest_detectable_loss,
    smallest_detectable_shift,
)
from slm_benchmark.statistics.proportion import Z95

flips = st.integers(0, 60)


def outcomes(both: int, lost: int, gained: int, neither: int) -> tuple[list[float], list[float]]:
    """Zeros and ones with so many documents of each kind."""
    first = [1.0] * (both + lost) + [0.0] * (gained + neither)
    second = [1.0] * both + [0.0] * lost + [1.0] * gained + [0.0] * neither
    return first, second


# ── tests ──


@settings(deadline=None)
@given(flips, flips)
def test_mcnemar_equals_statsmodels_and_the_binomial_test(lost: int, gained: int) -> None:
    table = [[30, lost], [gained, 12]]
    assert mcnemar_exact(lost, gained) == pytest.approx(mcnemar(table, exact=True).pvalue)
    if lost + gained:
        assert mcnemar_exact(lost, gained) == pytest.approx(
            binomtest(lost, lost + gained, 0.5).pvalue
        )


@settings(deadline=None)
@given(flips, flips)
def test_sign_flips_of_single_documents_are_mcnemars_test(lost: int, gained: int) -> None:
    differences = [-1.0] * lost + [1.0] * gained + [0.0] * 5
    assert sign_flip_p(differences) == pytest.approx(mcnemar_exact(lost, gained))


@settings(deadline=None)
@given(st.lists(st.integers(-3, 3), min_size=2, max_size=9))
def test_sign_flips_count_all_signs(sums: list[int]) -> None:
    totals = [sum(s * x for s, x in zip(signs, sums, strict=True)) for signs in _signs(len(sums))]
    expected = np.mean([abs(total) >= abs(sum(sums)) for total in totals])
    assert sign_flip_p(sums) == pytest.approx(expected)


def _signs(count: int) -> itertools.product[tuple[int, ...]]:
    return itertools.product((-1, 1), repeat=count)


def test_sign_flips_equal_scipys_permutations_for_fractions() -> None:
    differences = [0.3, -0.1, 0.25, 0.4, -0.05, 0.2]
    reference = permutation_test(
        (np.array(differences), np.zeros(6)),
        lambda x, y: np.sum(x - y),
        permutation_type="samples",
        n_resamples=np.inf,
    )
    assert sign_flip_p(differences) == pytest.approx(reference.pvalue)


@pytest.mark.parametrize(
    "p_values",
    [[0.04], [0.03, 0.01, 0.01, 0.2], [1.0, 0.0, 0.6, 0.5], [0.001 * i for i in range(20)]],
)
def test_holm_equals_statsmodels(p_values: list[float]) -> None:
    assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_is_the_least_that_keeps_the_order(p_values: list[float]) -> None:
    """Each is the largest of the products (how many are left × p) up to its place, at most 1."""
    ranked = sorted(p_values)
    products = [(len(ranked) - place) * p for place, p in enumerate(ranked)]
    expected = [min(1.0, max(products[: ranked.index(p) + p_values.count(p)])) for p in p_values]
    assert holm(p_values) == pytest.approx(expected)


def test_holm_of_nothing_is_nothing() -> None:
    assert holm([]) == []


# ── intervals ──


@pytest.mark.parametrize(
    ("lost", "gained", "n", "true"),
    [(5, 1, 50, -0.2), (0, 0, 50, 0.03), (0, 3, 20, -0.05), (12, 2, 80, 0.1), (2, 9, 30, 0.5)],
)
def test_the_score_is_that_of_the_likeliest_constrained_proportions(
    lost: int, gained: int, n: int, true: float
) -> None:
    """The closed form against a numerical search for the maximum of the likelihood."""

    def unlikely(losing: float) -> float:
        gaining = losing + true
        same = 1 - losing - gaining
        return -float(xlogy(lost, losing) + xlogy(gained, gaining) + xlogy(n - lost - gained, same))

    low, high = max(0.0, -true), (1 - true) / 2
    losing = float(minimize_scalar(unlikely, bounds=(low, high), method="bounded").x)
    variance = n * (2 * losing + true - true**2)
    expected = (gained - lost - n * true) / math.sqrt(variance)
    assert tango_statistic(lost, gained, n, true) == pytest.approx(expected, rel=1e-3)


@settings(deadline=None)
@given(flips, flips, st.integers(0, 200))
def test_tangos_limits_are_where_the_score_is_the_quantile(
    lost: int, gained: int, others: int
) -> None:
    n = lost + gained + others + 1
    low, high = tango_interval(lost, gained, n)
    assert -1 <= low <= (gained - lost) / n <= high <= 1
    assert low < high
    assert tango_statistic(lost, gained, n, low) == pytest.approx(Z95, abs=1e-3)
    assert tango_statistic(lost, gained, n, high) == pytest.approx(-Z95, abs=1e-3)
    mirrored = tango_interval(gained, lost, n)
    assert mirrored == pytest.approx((-high, -low), abs=1e-6)


def test_an_interval_without_flips_has_a_width() -> None:
    assert tango_interval(0, 0, 50) == pytest.approx((-0.07135, 0.07135), abs=1e-5)


@settings(deadline=None)
@given(flips, flips)
def test_where_the_exact_test_finds_a_difference_the_interval_leaves_zero_out(
    lost: int, gained: int
) -> None:
    low, high = tango_interval(lost, gained, lost + gained + 40)
    if mcnemar_exact(lost, gained) <= 0.05:
        assert low > 0 or high < 0


def exact_coverage(
    interval: Callable[[int, int, int], tuple[float, float]], n: int, losing: float, gaining: float
) -> float:
    """Probability that an interval holds the true difference, over all possible tables."""
    lost, gained = np.meshgrid(np.arange(n + 1), np.arange(n + 1), indexing="ij")
    same = n - lost - gained
    log_share = (
        gammaln(n + 1)
        - gammaln(lost + 1)
        - gammaln(gained + 1)
        - gammaln(np.maximum(same, 0) + 1)
        + xlogy(lost, losing)
        + xlogy(gained, gaining)
        + xlogy(np.maximum(same, 0), 1 - losing - gaining)
    )
    share = np.where(same >= 0, np.exp(log_share), 0.0)
    likely = np.argwhere(share > 1e-9)
    true = gaining - losing
    covered = 0.0
    for place in likely:
        low, high = interval(int(place[0]), int(place[1]), n)
        if low - 1e-9 <= true <= high + 1e-9:
            covered += float(share[tuple(place)])
    return covered


def wald(lost: int, gained: int, n: int) -> tuple[float, float]:
    mean = (gained - lost) / n
    half = Z95 * math.sqrt(((lost + gained) / n - mean**2) / n)
    return mean - half, mean + half


@pytest.mark.model
def test_tangos_interval_covers_where_flips_are_few_and_walds_does_not() -> None:
    grid = [
        (n, psi * share, psi * (1 - share))
        for n in (20, 50, 100)
        for psi in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
        for share in (0, 0.25, 0.5, 0.9)
    ]
    tango = [exact_coverage(tango_interval, *cell) for cell in grid]
    assert np.mean(tango) >= 0.945
    assert min(tango) >= 0.93
    assert min(exact_coverage(wald, *cell) for cell in grid) < 0.4


@pytest.mark.model
@pytest.mark.parametrize(("n", "changed"), [(30, 1.0), (200, 1.0), (60, 0.2), (200, 0.1)])
def test_intervals_of_fractions_cover(n: int, changed: float) -> None:
    """Some documents change, by amounts that are skewed to the left."""
    random = np.random.default_rng(n)
    hits, trials = 0, 1500
    first = np.full(n, 0.8)
    for _ in range(trials):
        shift = -0.8 * random.beta(1, 3, n) * (random.random(n) < changed)
        interval = compare_paired(first.tolist(), (first + shift).tolist()).ci95
        assert interval is not None
        hits += interval[0] <= -0.8 * 0.25 * changed <= interval[1]
    assert hits / trials >= 0.93


@pytest.mark.model
@pytest.mark.parametrize("binary", [True, False])
def test_intervals_of_clusters_cover_and_those_that_ignore_them_do_not(binary: bool) -> None:
    random = np.random.default_rng(1)
    names = [g for g in range(25) for _ in range(8)]
    hits, naive, alarms, trials = 0, 0, 0, 600
    for _ in range(trials):
        first, second = _clustered(random, binary)
        with_them = compare_paired(first, second, clusters=names)
        without = compare_paired(first, second)
        assert with_them.ci95
        assert without.ci95
        assert with_them.p is not None
        hits += with_them.ci95[0] <= 0 <= with_them.ci95[1]
        naive += without.ci95[0] <= 0 <= without.ci95[1]
        alarms += with_them.p <= 0.05
    assert hits / trials >= 0.93
    assert alarms / trials <= 0.07
    assert naive / trials < 0.85


def _clustered(random: np.random.Generator, binary: bool) -> tuple[list[float], list[float]]:
    """25 clusters of 8 documents that change together, up as often as down."""
    direction = np.repeat(random.choice([-1, 0, 1], 25, p=[0.3, 0.4, 0.3]), 8)
    moved = random.random(200) < 0.5
    if not binary:
        first = 0.5 + 0.05 * random.normal(size=200)
        return first.tolist(), (first + 0.2 * direction * moved).tolist()
    first = np.where(direction < 0, 1.0, 0.0)
    return first.tolist(), np.clip(first + direction * moved, 0, 1).tolist()


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=12, max_size=40))
def test_fractions_get_the_paired_t_test_of_scipy(pairs: list[tuple[float, float]]) -> None:
    first, second = map(list, zip(*pairs, strict=True))
    found = compare_paired(first, second)
    if found.p_method == "t" and found.sd > 1e-6:
        reference = ttest_rel(second, first)
        assert found.p == pytest.approx(reference.pvalue, abs=1e-9)
        assert found.ci95 == pytest.approx(tuple(reference.confidence_interval(0.95)), abs=1e-9)


def test_the_parts_of_a_comparison_are_counted() -> None:
    found = compare_paired(*outcomes(both=30, lost=8, gained=2, neither=10))
    assert (found.n, found.lost, found.gained, found.binary) == (50, 8, 2, True)
    assert (found.first, found.second) == (0.76, 0.64)
    assert found.difference == pytest.approx(-0.12)
    assert found.turnover == pytest.approx(0.2)
    assert found.ci95 == pytest.approx(tango_interval(8, 2, 50))
    assert (found.ci_method, found.p_method) == ("tango", "mcnemar exact")


def test_clusters_of_one_document_change_nothing() -> None:
    first, second = outcomes(30, 8, 2, 10)
    alone = compare_paired(first, second)
    assert compare_paired(first, second, clusters=range(50)) == alone


def test_one_cluster_tells_nothing_of_chance() -> None:
    found = compare_paired([1.0, 1.0, 0.0], [0.0, 0.0, 0.0], clusters=[0, 0, 0])
    assert (found.ci95, found.p) == (None, None)
    assert found.difference == pytest.approx(-2 / 3)


@pytest.mark.parametrize("values", [([], []), ([1.0], [1.0, 0.0])])
def test_values_that_are_no_pairs_are_refused(values: tuple[list[float], list[float]]) -> None:
    with pytest.raises(ValueError, match="two values"):
        compare_paired(*values)


def test_few_changes_of_fractions_are_judged_with_care() -> None:
    """Four equal losses look certain to a t test; four equal signs happen in one case of eight."""
    first = [0.5] * 200
    found = compare_paired(first, [0.25] * 4 + first[4:])
    assert found.p == pytest.approx(0.125)
    assert found.ci95 is not None
    assert found.ci95[0] < -0.005 < 0 < found.ci95[1]


# ── several tasks ──


def test_heterogeneity_is_as_frequent_as_it_says_where_tasks_are_alike() -> None:
    random = np.random.default_rng(3)
    trials, alarms = 2000, 0
    for _ in range(trials):
        tables = [(*_flips(random, n, 0.08, 0.05), n) for n in (50, 100, 200, 400)]
        found = heterogeneity(tables)
        assert found.df == 3
        assert found.p is not None
        alarms += found.p <= 0.05
    assert alarms / trials == pytest.approx(0.05, abs=0.02)


def test_heterogeneity_is_found_and_an_unchanged_task_does_not_outweigh_the_others() -> None:
    unlike = heterogeneity([(40, 5, 200), (2, 3, 200), (0, 0, 200)])
    assert unlike.p is not None
    assert unlike.p < 1e-4
    assert unlike.i2 > 0.5
    alike = heterogeneity([(4, 3, 200), (0, 0, 200), (3, 2, 200)])
    assert alike.p is not None
    assert alike.p > 0.5
    assert heterogeneity([(0, 0, 50)]).p is None


def _flips(
    random: np.random.Generator, n: int, losing: float, gaining: float
) -> tuple[float, float]:
    lost, gained, _ = random.multinomial(n, [losing, gaining, 1 - losing - gaining])
    return float(lost), float(gained)


# ── power ──


@pytest.mark.parametrize(("n", "psi", "loss"), [(12, 0.5, 0.4), (30, 0.3, 0.2), (200, 0.1, 0.06)])
def test_power_equals_its_definition_table_by_table(n: int, psi: float, loss: float) -> None:
    def found(lost: int, gained: int, _: int) -> tuple[float, float]:
        seen = lost > gained and mcnemar_exact(lost, gained) <= 0.05
        return (-1.0, 1.0) if seen else (2.0, 2.0)

    expected = exact_coverage(found, n, (psi + loss) / 2, (psi - loss) / 2)
    assert mcnemar_power(n, psi, loss) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("n", "psi"), [(50, 0.0), (50, 0.2), (200, 0.05), (200, 0.3), (1000, 0.1)])
def test_the_smallest_detectable_loss_is_found_in_eight_cases_of_ten(n: int, psi: float) -> None:
    loss = smallest_detectable_loss(n, psi)
    assert loss is not None
    assert _found(n, psi, loss) == pytest.approx(0.8, abs=0.02)
    assert _found(n, psi, 0.8 * loss) < 0.74


def _found(n: int, psi: float, loss: float, trials: int = 6000) -> float:
    """How often the exact McNemar test finds a simulated loss."""
    psi = max(psi, loss)
    random = np.random.default_rng(n)
    shares = [(psi + loss) / 2, (psi - loss) / 2, 1 - psi]
    tables: NDArray[np.int64] = random.multinomial(n, shares, trials)
    return float(np.mean([a > b and mcnemar_exact(int(a), int(b)) <= 0.05 for a, b, _ in tables]))


def test_too_few_documents_show_no_loss_at_all() -> None:
    assert smallest_detectable_loss(5, 0.0) is None
    assert smallest_detectable_loss(6, 0.0) is not None


@pytest.mark.parametrize(("loss", "psi"), [(0.05, 0.1), (0.02, 0.1), (0.1, 0.1), (0.01, 0.5)])
def test_the_documents_needed_are_the_fewest_and_near_connors(loss: float, psi: float) -> None:
    n = documents_needed(loss, psi)
    assert mcnemar_power(n, psi, loss) >= 0.8 > mcnemar_power(n - 1, psi, loss)
    if psi > loss:
        assert n == pytest.approx(connor_documents(loss, psi), rel=0.15)
        assert n >= connor_documents(loss, psi)


def test_one_side_needs_fewer_documents() -> None:
    assert documents_needed(0.05, 0.2, sides="one-sided") < documents_needed(0.05, 0.2)


@settings(deadline=None)
@given(st.integers(10, 400), st.floats(0, 0.5))
def test_detectable_loss_and_documents_needed_answer_each_other(n: int, psi: float) -> None:
    loss = smallest_detectable_loss(n, psi)
    assert loss is not None
    assert mcnemar_power(n, max(psi, loss), loss) == pytest.approx(0.8, abs=1e-3)
    assert documents_needed(1.001 * loss, psi) <= n if loss < 0.999 else True


@pytest.mark.parametrize("n", [5, 30, 400])
def test_the_detectable_shift_equals_statsmodels(n: int) -> None:
    reference = TTestPower().solve_power(nobs=n, alpha=0.05, power=0.8, alternative="two-sided")
    found = smallest_detectable_shift(n, 2.0)
    assert found is not None
    assert found / 2.0 == pytest.approx(reference, rel=1e-4)
    assert documents_needed_shift(found * 1.0001, 2.0) == n


def test_a_paired_result_keeps_its_types() -> None:
    assert isinstance(compare_paired([1.0], [0.0]), Paired)
