"""A quantity measured in several fresh processes: its value, and where a repeat would put it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from slm_benchmark.records.types import Interval, Quantity
from slm_benchmark.statistics.proportion import Z95

Floats = NDArray[np.float64]

SESSION_SD = 0.01
"""Standard deviation from session to session, as a share of the value, that prediction intervals
allow for: temperature, memory placement, neighbors on the same host. One session cannot show it,
so it is a stated assumption."""


class MedianOfMedians(TypedDict):
    """A quantity of a record, without the reason why there is none."""

    value: float
    ci95: Interval | None
    pi95: Interval | None
    n: int


def summarize(
    values_by_process: Sequence[Sequence[float]],
    *,
    session_sd: float = SESSION_SD,
    seed: int = 0,
    resamples: int = 2000,
) -> MedianOfMedians:
    """The median over processes of each process's median, with two intervals.

    ``ci95``, for the value itself: a percentile bootstrap that draws processes with replacement,
    and then repetitions within each drawn process. Resamples of k values vary less than samples,
    by √((k − 1) / k), and three processes lie on one side of their true median in one case of four,
    so that no percentile of them reaches it. The distances from the value are therefore stretched
    by √(k / (k − 1)) and by the ratio of Student's t to the normal quantile: 2.7 for three
    processes, 1.6 for five.

    ``pi95``, for the same quantity of one further process: mean ± Student's t with k − 1 degrees of
    freedom × standard deviation of the k processes' medians × √(1 + 1/k). The median of a repeated
    session varies less than one process, so the interval holds that median more often than it
    says. Two things widen it. The standard deviation is at least what the repetitions within a
    process lead to expect: three medians can lie close together by luck. And the session's own
    share, see SESSION_SD, is added in quadrature, once for each of the two sessions.

    Where all values are positive, both work on logarithms.

    Sources: G. J. Hahn and W. Q. Meeker, Statistical Intervals (Wiley 1991), chapter 4, for the
    prediction interval; A. C. Davison and D. V. Hinkley, Bootstrap Methods and their Application
    (Cambridge 1997), section 3.8, for resampling in two levels; T. C. Hesterberg, What Teachers
    Should Know About the Bootstrap, The American Statistician 69 (2015), 371–386, for its bias
    towards narrow intervals and the two factors.

    Args:
        values_by_process: The repetitions of each process, in one unit. Neither the order of
            processes nor that of repetitions matters.
        session_sd: Standard deviation from session to session, as a share of the value; 0 for
            what cannot vary, such as the size of a file.
        seed: Of the draws.
        resamples: How often they are drawn.

    Returns:
        ``value``, ``ci95`` and ``pi95`` as [low, high] in the unit of the values, and ``n``, the
        number of processes. With one process the intervals are None.

    Raises:
        ValueError: without processes, or for a process without repetitions.
    """
    if not values_by_process or not all(map(len, values_by_process)):
        raise ValueError("every process needs a value")
    processes = [
        np.array(values, dtype=np.float64) for values in sorted(map(sorted, values_by_process))
    ]
    medians = np.array([np.median(values) for values in processes])
    value, n = float(np.median(medians)), len(processes)
    if n == 1:
        return {"value": value, "ci95": None, "pi95": None, "n": n}
    chosen, redrawn = _redraw(processes, resamples, np.random.default_rng(seed))
    positive = min(values[0] for values in processes) > 0

    def distance(values: Floats) -> Floats:
        return np.log(values / value) if positive else values - value

    def at(distances: Iterable[float]) -> list[float]:
        return [value * math.exp(d) if positive else value + d for d in distances]

    t = float(stdtrit(n - 1, 0.975))
    stretch = t / Z95 * math.sqrt(n / (n - 1))
    ends = np.quantile(distance(np.median(redrawn, axis=1)), [0.025, 0.975]) * stretch
    within = [distance(redrawn[chosen == index]).var() for index in range(n)]
    sd = max(float(distance(medians).std(ddof=1)), math.sqrt(float(np.mean(within))))
    session = math.sqrt(2) * session_sd * (1 if positive else abs(value))
    half = math.hypot(t * sd * math.sqrt(1 + 1 / n), Z95 * session)
    centre = float(distance(medians).mean())
    return {
        "value": value,
        "ci95": at(ends.tolist()),
        "pi95": at([centre - half, centre + half]),
        "n": n,
    }


def quantity(
    values_by_process: Sequence[Sequence[float]],
    reason: str,
    *,
    session_sd: float = SESSION_SD,
    seed: int = 0,
) -> Quantity:
    """A quantity of a record: its summary, or the reason why there is none.

    Args:
        values_by_process: As for `summarize`; processes without values are left out.
        reason: Why there is nothing, for when no process has a value.
        session_sd: As for `summarize`.
        seed: As for `summarize`.

    Returns:
        ``value``, ``ci95``, ``pi95`` and ``n`` as `summarize` gives them, and ``reason``, which is
        None where there is a value.
    """
    known = [values for values in values_by_process if values]
    if not known:
        return {"value": None, "ci95": None, "pi95": None, "n": 0, "reason": reason}
    return {**summarize(known, session_sd=session_sd, seed=seed), "reason": None}


def _redraw(
    processes: Sequence[Floats], resamples: int, random: np.random.Generator
) -> tuple[NDArray[np.int64], Floats]:
    """Which process each resample drew in each place, and the median of its redrawn repetitions.

    Both have the shape (resamples, processes).
    """
    chosen = random.integers(len(processes), size=(resamples, len(processes)))
    medians = np.empty(chosen.shape)
    for index, values in enumerate(processes):
        here = chosen == index
        draws = random.integers(len(values), size=(int(here.sum()), len(values)))
        medians[here] = np.median(values[draws], axis=1)
    return chosen, medians
