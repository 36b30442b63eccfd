"""Intervals of weighted sums, recovered from the intervals of their terms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from slm_benchmark.statistics.proportion import Z95


class Term(NamedTuple):
    """A value, the ends of its 95 % interval around it, and its standard error, all in one unit."""

    value: float
    low: float
    high: float
    error: float

    @classmethod
    def of(cls, value: float, low: float, high: float, stderr: float) -> Term:
        """A term whose error is at least what its interval says.

        Where all documents agree the standard error is estimated as zero, and the interval still
        has its width; half of it over 1.96 then stands for the error.
        """
        low, high = min(low, value), max(high, value)
        return cls(value, low, high, max(stderr, (high - low) / 2 / Z95))

    def scaled(self, factor: float) -> Term:
        """The term times a factor that is not negative."""
        return Term(*(factor * number for number in self))


def weighted_sum(terms: Sequence[Term], weights: Sequence[float]) -> tuple[float, float, float]:
    """The sum of independent terms and the ends of its 95 % interval.

    By the method of variance estimates recovery (MOVER) the distances between a term's value and
    its limits add in squares, for each side apart, so that a lopsided interval, as that of a score
    near 0 or 1, leaves its mark on the sum. Taken as it is, the method carries over all of the
    lopsidedness, though a sum of m like terms is less skewed than one by √m: with 14 tasks the
    interval then holds the truth in as little as 91 %. So a term's distance lies between 1.96
    standard errors and its own limit, nearer to the limit the more of the sum's variance is the
    term's: the fraction is its part of the root of the summed squares, 1 for a single term, which
    keeps its interval, and 1/√m for m like ones. The sum ends where all terms are at their limits
    at the latest.

    Source: G. Y. Zou and A. Donner, Statistics in Medicine 27 (2008), 1693–1702, for the recovery;
    the fraction follows from how the skewness of a mean shrinks, and the coverage is simulated.

    Args:
        terms: Independent estimates.
        weights: One for each, not negative.

    Returns:
        Value, lower end, upper end.
    """
    scaled = [term.scaled(weight) for weight, term in zip(weights, terms, strict=True)]
    value = math.fsum(term.value for term in scaled)
    down = _distance([(term.error, term.value - term.low) for term in scaled])
    up = _distance([(term.error, term.high - term.value) for term in scaled])
    return value, value - down, value + up


def _distance(terms: Sequence[tuple[float, float]]) -> float:
    """How far a sum's limit lies from its value.

    Args:
        terms: Of each term the standard error, and how far its own limit lies from its value.
    """
    total = math.hypot(*(error for error, _ in terms))
    if total == 0:
        return 0.0
    moved = (Z95 * error + error / total * (distance - Z95 * error) for error, distance in terms)
    return min(math.hypot(*moved), math.fsum(distance for _, distance in terms))
