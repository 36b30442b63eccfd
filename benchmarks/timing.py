"""Timing several ways of doing the same work in turn, and comparing their medians."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from slm_benchmark.statistics.median import median_coverage, median_interval


class Contender(Protocol):
    """One way of doing a piece of work."""

    def prepare(self) -> None:
        """Get ready for one run; not timed."""

    def run(self) -> list[Any]:
        """Do the work; timed. Returns the answers, one for each request, or none at all."""

    def tokens(self) -> dict[str, int]:
        """Counts of the last run by name, such as forwarded_tokens."""

    def close(self) -> None:
        """Give back all memory."""


@dataclass
class Runs:
    """What the runs of one contender gave.

    Attributes:
        seconds: Duration of each run.
        answers: Answers of the first run.
        repeatable: Whether all later runs gave the very same answers.
        tokens: Counts of the last run.
    """

    seconds: list[float] = field(default_factory=list)
    answers: list[Any] = field(default_factory=list)
    repeatable: bool = True
    tokens: dict[str, int] = field(default_factory=dict)

    @property
    def median_s(self) -> float:
        return statistics.median(self.seconds)

    def add(self, contender: Contender) -> None:
        """Run ``contender`` once more."""
        contender.prepare()
        gc.collect()
        began = time.perf_counter()
        answers = contender.run()
        self.seconds.append(time.perf_counter() - began)
        if len(self.seconds) == 1:
            self.answers = answers
        self.repeatable &= answers == self.answers
        self.tokens = contender.tokens()


def in_turn(
    contenders: Mapping[str, Contender],
    repetitions: int,
    after_round: Callable[[int, Mapping[str, Runs]], None],
) -> dict[str, Runs]:
    """Run all contenders one after the other, ``repetitions`` times over.

    What slows the machine down for a while then slows all of them.

    Args:
        contenders: By name, in the order in which they run.
        repetitions: Rounds.
        after_round: Told the number of rounds done and the runs so far; may raise to stop early.
    """
    runs = {name: Runs() for name in contenders}
    for done in range(1, repetitions + 1):
        for name, contender in contenders.items():
            runs[name].add(contender)
        after_round(done, runs)
    return runs


def ratio(numerators: Sequence[float], denominators: Sequence[float]) -> dict[str, float | None]:
    """Ratio of two medians, with the spread of the ratios within the rounds.

    Returns:
        ``median``: the ratio of the medians; ``low``, ``high``: a distribution-free interval of
        the median of the rounds' own ratios, and ``coverage``, what that interval is worth. With
        one round there is no interval.
    """
    median = statistics.median(numerators) / statistics.median(denominators)
    rounds = [n / d for n, d in zip(numerators, denominators, strict=True)]
    if len(rounds) < 2:
        return {"median": median, "low": None, "high": None, "coverage": None}
    low, high = median_interval(rounds)
    return {"median": median, "low": low, "high": high, "coverage": median_coverage(len(rounds))}
