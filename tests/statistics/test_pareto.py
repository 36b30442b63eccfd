"""Pareto fronts under uncertainty: against the definition itself, and what follows from it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from slm_benchmark.statistics.pareto import ON_FRONT, dominators, negated

Floats = NDArray[np.float64]

# Few distinct numbers, so that values and ends often coincide.
NUMBERS = st.integers(0, 6).map(float)
INTERVALS = st.lists(NUMBERS, min_size=3, max_size=3).map(sorted)
POINTS = st.lists(st.tuples(INTERVALS, INTERVALS), min_size=1, max_size=12)
WIDER = st.tuples(NUMBERS, NUMBERS)


def arrays(points: list[Any]) -> tuple[Floats, Floats]:
    first, second = zip(*points, strict=True)
    return np.array(first), np.array(second)


def front(points: list[Any]) -> set[int]:
    return set(np.flatnonzero(dominators(*arrays(points)) == ON_FRONT))


def dominates(one: Any, other: Any) -> bool:
    """The definition, word for word; each quantity is (low, value, high)."""
    not_worse = all(a[1] >= b[1] for a, b in zip(one, other, strict=True))
    return not_worse and any(a[0] > b[2] for a, b in zip(one, other, strict=True))


@given(POINTS)
def test_the_front_is_that_of_the_definition(points: list[Any]) -> None:
    for point, by in zip(points, dominators(*arrays(points)), strict=True):
        if by == ON_FRONT:
            assert not any(dominates(other, point) for other in points)
        else:
            assert dominates(points[by], point)


@given(POINTS)
def test_the_best_value_of_a_quantity_is_on_the_front(points: list[Any]) -> None:
    found = front(points)
    for first, second in ((0, 1), (1, 0)):
        best = max(range(len(points)), key=lambda i: (points[i][first][1], points[i][second][1]))
        assert best in found


@given(POINTS)
def test_what_no_value_dominates_is_on_the_front(points: list[Any]) -> None:
    """The front of the values alone is a part of the front with intervals."""
    exact = [tuple([q[1]] * 3 for q in point) for point in points]
    assert front(exact) <= front(points)


@pytest.mark.model
@given(st.lists(st.tuples(INTERVALS, INTERVALS, WIDER, WIDER), min_size=1, max_size=12))
def test_wider_intervals_never_take_a_point_off(points: list[Any]) -> None:
    narrow = [(a, b) for a, b, _, _ in points]
    wide = [
        ([a[0] - x[0], a[1], a[2] + x[1]], [b[0] - y[0], b[1], b[2] + y[1]])
        for a, b, x, y in points
    ]
    assert front(narrow) <= front(wide)


@given(POINTS, st.tuples(INTERVALS, INTERVALS))
def test_a_further_point_never_brings_one_back(points: list[Any], further: Any) -> None:
    assert front([*points, further]) - {len(points)} <= front(points)


@given(POINTS)
def test_less_of_a_cost_is_more(points: list[Any]) -> None:
    quality, cost = arrays(points)
    assert (negated(negated(cost)) == cost).all()
    by_hand = np.array([[-high, -value, -low] for low, value, high in cost])
    assert (dominators(quality, negated(cost)) == dominators(quality, by_hand)).all()


def test_a_point_within_the_interval_of_its_better_stays() -> None:
    quality = np.array([[0.50, 0.55, 0.60], [0.52, 0.57, 0.62]])
    speed = np.array([[90.0, 100.0, 110.0], [105.0, 120.0, 135.0]])
    assert dominators(quality, speed).tolist() == [ON_FRONT, ON_FRONT]
    speed[1] = [111.0, 120.0, 135.0]
    assert dominators(quality, speed).tolist() == [1, ON_FRONT]
    # It is faster beyond doubt and worse by its value: nobody dominates.
    assert dominators(quality[::-1], speed).tolist() == [ON_FRONT, ON_FRONT]


def test_no_points_have_no_front() -> None:
    nothing = np.zeros((0, 3))
    assert dominators(nothing, nothing).tolist() == []


@pytest.mark.parametrize("bad", [[2.0, 1.0, 3.0], [0.0, 4.0, 3.0], [0.0, float("nan"), 1.0]])
def test_a_value_outside_its_interval_is_refused(bad: list[float]) -> None:
    good = np.array([[0.0, 1.0, 2.0]])
    with pytest.raises(ValueError, match="outside its interval"):
        dominators(good, np.array([bad]))


def test_many_points_are_quick_to_compare_with_the_definition() -> None:
    """A board of thousands, checked on a sample of its points."""
    draw = np.random.default_rng(1)
    values = draw.normal(size=(5000, 2))
    half = draw.exponential(0.05, size=(5000, 2))
    quantities = [
        np.stack([values[:, i] - half[:, i], values[:, i], values[:, i] + half[:, i]], axis=1)
        for i in range(2)
    ]
    found = dominators(*quantities)
    points = list(zip(*(q.tolist() for q in quantities), strict=True))
    assert 0 < (found == ON_FRONT).sum() < 500
    for index in range(0, 5000, 50):
        expected = any(dominates(other, points[index]) for other in points)
        assert expected == (found[index] != ON_FRONT)
