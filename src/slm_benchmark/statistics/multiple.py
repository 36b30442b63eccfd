"""Several tests at once: p-values that hold for all of them together."""

from __future__ import annotations

from collections.abc import Sequence


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values.

    Where those below 5 % are called differences, the probability of one or more false calls is at
    most 5 %, whatever the dependence between the tests.

    Source: S. Holm, Scandinavian Journal of Statistics 6 (1979), 65–70.

    Args:
        p_values: One for each test, in any order.

    Returns:
        The adjusted p-values in the same order.
    """
    adjusted = [0.0] * len(p_values)
    reached = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        reached = max(reached, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = reached
    return adjusted
