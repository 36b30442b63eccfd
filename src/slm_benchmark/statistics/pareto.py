"""Pareto fronts of points that are known with an uncertainty."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]

ON_FRONT = -1
"""In place of a dominating point where there is none."""


def dominators(first: Floats, second: Floats) -> Indices:
    """For each point one that dominates it beyond its interval.

    Point j dominates point i beyond its interval when j's value is at least as good as i's in both
    quantities, and in one of them the whole interval of j is better than the whole interval of i.
    A point that no other dominates so is on the front. It follows that the best value of a quantity
    is on the front (of several, the one that is best in the other quantity), that wider intervals
    never take a point off, and that a further point never brings one back.

    Two sorts decide it: among the points that are at least as good in one quantity, only the
    highest lower end in the other matters. The time grows as n log n.

    Args:
        first: A quantity, shape (n, 3): lower end, value, upper end of each point; more is better.
            A quantity that is known exactly has three equal numbers.
        second: Another; for a cost its `negated`.

    Returns:
        Shape (n,): the index of a dominating point, or ON_FRONT.

    Raises:
        ValueError: when a value lies outside its interval, or is no number.
    """
    for quantity in (first, second):
        if not ((quantity[:, 0] <= quantity[:, 1]) & (quantity[:, 1] <= quantity[:, 2])).all():
            raise ValueError("a value lies outside its interval")
    dominating = _beyond(first, second)
    return np.where(dominating == ON_FRONT, _beyond(second, first), dominating)


def negated(cost: Floats) -> Floats:
    """A quantity of which less is better, turned so that more is better."""
    return -cost[:, ::-1]


def _beyond(level: Floats, ahead: Floats) -> Indices:
    """A point with no smaller value in ``level`` whose interval in ``ahead`` lies above."""
    if not len(level):
        return np.zeros(0, dtype=np.intp)
    order = np.argsort(-level[:, 1], kind="stable")
    lower_ends = ahead[order, 0]
    highest = np.maximum.accumulate(lower_ends)
    is_new = np.r_[True, lower_ends[1:] > highest[:-1]]
    holder = order[np.maximum.accumulate(np.where(is_new, np.arange(len(order)), 0))]
    # Of each point, the last place in the order that is still as good in ``level``.
    last = np.searchsorted(-level[order, 1], -level[:, 1], side="right") - 1
    return np.where(highest[last] > ahead[:, 2], holder[last], ON_FRONT)
