"""How often the intervals of scores are right: ``python -m benchmarks.coverage --write-docs``.

Documents with a known true score are drawn, and the interval either holds that score or does not.
For proportions the share of such draws is an exact sum too.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from slm_benchmark.catalog.key_tables import fill_between
from slm_benchmark.common.paths import ROOT
from slm_benchmark.statistics.bootstrap import of_totals
from slm_benchmark.statistics.estimates import Sample, estimate
from slm_benchmark.statistics.proportion import PROPORTION_INTERVALS, proportion_method

Floats = NDArray[np.float64]
Draw = Callable[[np.random.Generator], Sample]

PAGE = ROOT / "docs" / "methods" / "methodology.md"
START, END = "<!-- coverage:start -->", "<!-- coverage:end -->"

SIZES = (50, 100, 200, 500, 1000, 2000, 5000, 10_000)
PROPORTIONS = (0.02, 0.05, *(tenth / 10 for tenth in range(1, 10)), 0.95, 0.98)


def rule(successes: float, n: float) -> tuple[float, float]:
    """The interval that a record's proportion has."""
    return PROPORTION_INTERVALS[proportion_method(successes, n)](successes, n)


RULES: dict[str, Callable[[float, float], tuple[float, float]]] = {
    "Wilson alone": PROPORTION_INTERVALS["wilson"],
    "exact alone": PROPORTION_INTERVALS["clopper-pearson"],
    "the rule": rule,
}


def intervals(n: int, of: Callable[[float, float], tuple[float, float]]) -> Floats:
    """The interval for each number of successes, shape (n + 1, 2)."""
    return np.array([of(successes, n) for successes in range(n + 1)])


def exact_coverage(ends: Floats, p: float) -> float:
    """P(the interval holds p), the binomial probabilities of all counts whose interval does."""
    held = (ends[:, 0] <= p) & (p <= ends[:, 1])
    return float(stats.binom.pmf(np.arange(len(ends)), len(ends) - 1, p)[held].sum())


def simulated_coverage(ends: Floats, p: float, draws: int, random: np.random.Generator) -> float:
    """The share of drawn counts whose interval holds p."""
    drawn = ends[random.binomial(len(ends) - 1, p, draws)]
    return float(((drawn[:, 0] <= p) & (p <= drawn[:, 1])).mean())


@dataclass(frozen=True)
class Grid:
    """Coverage over the grid of n and p; one row for each n, one column for each p."""

    exact: Floats
    simulated: Floats


def proportion_grid(
    of: Callable[[float, float], tuple[float, float]], draws: int, seed: int = 0
) -> Grid:
    """Coverage of an interval over SIZES × PROPORTIONS, summed and simulated."""
    random = np.random.default_rng(seed)
    exact, simulated = [], []
    for n in SIZES:
        ends = intervals(n, of)
        exact.append([exact_coverage(ends, p) for p in PROPORTIONS])
        simulated.append([simulated_coverage(ends, p, draws, random) for p in PROPORTIONS])
    return Grid(np.array(exact), np.array(simulated))


@dataclass(frozen=True)
class Coverage:
    """What became of the draws of a scenario.

    Attributes:
        held: Share of the intervals that held the true score.
        without: Share of the draws that got no interval.
        width: Median width of the intervals, in the unit of the score; NaN without any.
    """

    held: float
    without: float
    width: float


def coverage(draw: Draw, truth: float, draws: int, *seed: int) -> Coverage:
    """Draw samples and count how often their intervals hold the true score."""
    random = np.random.default_rng(seed)
    ends = [interval for _ in range(draws) if (interval := estimate(draw(random)).ci95) is not None]
    held = [low <= truth <= high for low, high in ends]
    return Coverage(
        held=float(np.mean(held)) if ends else math.nan,
        without=1 - len(ends) / draws,
        width=float(np.median([high - low for low, high in ends])) if ends else math.nan,
    )


def _shares(random: np.random.Generator, p: float, correlation: float, groups: int) -> Floats:
    """The share of ones in each group, by a beta law; equal where there is no correlation."""
    if not correlation:
        return np.full(groups, p)
    worth = (1 - correlation) / correlation
    return random.beta(p * worth, (1 - p) * worth, groups)


def grouped(p: float, correlation: float, groups: int, spread: float) -> Draw:
    """Zeros and ones in groups of five on average, as a beta-binomial law gives them.

    Args:
        p: The true score.
        correlation: Of two documents of one group.
        groups: How many there are.
        spread: Standard deviation of the logarithm of a group's size.
    """

    def draw(random: np.random.Generator) -> Sample:
        sizes = np.maximum(1, random.lognormal(math.log(5), spread, groups).round()).astype(int)
        share = _shares(random, p, correlation, groups)
        names = np.repeat(np.arange(groups), sizes)
        values = (random.random(len(names)) < share[names]).astype(float)
        return Sample(values.tolist(), clusters=names.tolist())

    return draw


def translated(p: float, correlation: float, sentences: int, parts: int) -> Draw:
    """The same questions in several languages; the score is the mean of the languages' scores."""

    def draw(random: np.random.Generator) -> Sample:
        share = _shares(random, p, correlation, sentences)
        values = (random.random((parts, sentences)) < share).astype(float)
        names = [f"part {part}" for part in range(parts) for _ in range(sentences)]
        clusters = list(range(sentences)) * parts
        return Sample(values.ravel().tolist(), parts=names, clusters=clusters)

    return draw


VALUES: dict[str, tuple[Callable[[np.random.Generator, int], Floats], float]] = {
    "uniform from 0 to 1": (lambda random, n: random.random(n), 0.5),
    "ratings from 1 to 10": (
        lambda random, n: random.binomial(9, 0.6, n) + 1.0 - 0.5 * (random.random(n) < 0.5),
        1 + 9 * 0.6 - 0.25,
    ),
    "near 0 or near 1": (lambda random, n: random.beta(0.3, 0.3, n), 0.5),
    "skewed: mean 0.2, many near 0": (lambda random, n: random.beta(0.5, 2, n), 0.2),
    "two in three are 0, the rest uniform": (
        lambda random, n: random.random(n) * (random.random(n) < 1 / 3),
        1 / 6,
    ),
}
"""Laws of values that are not 0 or 1 alone, and their means."""


@of_totals
def ratio(totals: Any, n: int) -> float:
    """A corpus metric in small: hits among all items of all documents."""
    return float(totals[0] / totals[1])


def corpus(documents: int, groups: int | None = None) -> Draw:
    """Hits and items of documents of different lengths; the share of hits is 60 %.

    Args:
        documents: How many.
        groups: Of equal size, that share a tendency; None = documents are independent.
    """

    def draw(random: np.random.Generator) -> Sample:
        items = random.poisson(25, documents) + 1
        share = random.beta(6, 4, documents if groups is None else groups)
        names = None if groups is None else np.arange(documents) % groups
        hits = random.binomial(items, share if names is None else share[names])
        return Sample(
            np.stack([hits, items], axis=1).astype(float).tolist(),
            statistic=ratio,
            clusters=None if names is None else names.tolist(),
        )

    return draw


def markdown(draws: int) -> str:
    """All tables. A table of n draws has a standard error of 0.22 / √n near 95 %."""
    shown = f"{100 * math.sqrt(0.95 * 0.05 / draws):.1f}"
    return "\n\n".join(
        [
            *_proportions(),
            f"**Other values.** {draws} draws each: ± {shown} points (one standard error).",
            _table(["values", *(f"n = {n}" for n in _FEW)], _values(draws)),
            f"**Documents in groups.** {draws} draws each; groups of five documents, or of sizes "
            "whose logarithm has a standard deviation of 1. In brackets the share of draws without "
            "an interval, where there are any; none = nine in ten and more.",
            _table(
                ["score", "correlation", "sizes", *(f"G = {n}" for n in _GROUPS)], _grouped(draws)
            ),
            f"**The same questions in several languages**, 300 of them, {draws // 4} draws "
            "each. The last column is how often the interval holds the score if the languages are "
            "taken for independent.",
            _table(
                ["score", "correlation", "languages", "by question", "independent"],
                _translated(draws),
            ),
            f"**Corpus metrics**, the expanded bootstrap, {draws // 4} draws each: "
            f"± {2 * float(shown):.1f} points.",
            _table(["documents", "groups", "held"], _corpus(draws // 4)),
        ]
    )


_FEW = (4, 6, 10, 20, 50, 200)
_GROUPS = (5, 10, 20, 50, 200)


def _proportions() -> Iterator[str]:
    draws = 100_000
    grids = {name: proportion_grid(of, draws) for name, of in RULES.items()}
    error = 100 * math.sqrt(0.95 * 0.05 / draws)
    yield (
        f"**Proportions**, over n = {', '.join(map(str, SIZES))} and p = 2, 5, 10, 20 … 90, 95 and "
        f"98 %. The exact sums have no error; the simulation has {draws} draws a cell, "
        f"± {error:.2f} points."
    )
    yield _table(
        ["interval", "mean, exact", "least, exact", "mean, simulated", "least, simulated"],
        (
            [
                name,
                *(
                    _percent(share, 2)
                    for grid in (g.exact, g.simulated)
                    for share in (grid.mean(), grid.min())
                ),
            ]
            for name, g in grids.items()
        ),
    )
    yield "Exact coverage of the rule, in %:"
    yield _table(
        ["n", *(f"p = {100 * p:.0f} %" for p in PROPORTIONS)],
        (
            [str(n), *(f"{100 * share:.1f}" for share in row)]
            for n, row in zip(SIZES, grids["the rule"].exact, strict=True)
        ),
    )


def other(law: Callable[[np.random.Generator, int], Floats], n: int) -> Draw:
    """Values of a law that are no successes and failures."""
    return lambda random: Sample(law(random, n).astype(float).tolist(), share=False)


def _values(draws: int) -> Iterator[list[str]]:
    for index, (title, (law, truth)) in enumerate(VALUES.items()):
        yield [title, *(_held(coverage(other(law, n), truth, draws, index, n)) for n in _FEW)]


def _grouped(draws: int) -> Iterator[list[str]]:
    for p in (0.05, 0.3, 0.5):
        for correlation in (0.0, 0.1, 0.3, 0.8):
            for spread in (0.0, 1.0):
                yield [
                    _percent(p, 0),
                    f"{correlation:g}",
                    "equal" if not spread else f"{spread:g}",
                    *(
                        _held(coverage(grouped(p, correlation, n, spread), p, draws, n))
                        for n in _GROUPS
                    ),
                ]


def _translated(draws: int) -> Iterator[list[str]]:
    for p in (0.3, 0.9):
        for correlation in (0.1, 0.5):
            for parts in (2, 10):
                draw = translated(p, correlation, 300, parts)

                def alone(random: np.random.Generator, draw: Draw = draw) -> Sample:
                    sample = draw(random)
                    return Sample(sample.values, parts=sample.parts)

                yield [
                    _percent(p, 0),
                    f"{correlation:g}",
                    str(parts),
                    _held(coverage(draw, p, draws // 4, parts)),
                    _held(coverage(alone, p, draws // 4, parts)),
                ]


def _corpus(draws: int) -> Iterator[list[str]]:
    cases: Iterable[tuple[int, int | None]] = (
        (5, None), (10, None), (20, None), (100, None), (400, None),
        (100, 10), (100, 20), (400, 100),
    )  # fmt: skip
    for documents, groups in cases:
        result = coverage(corpus(documents, groups), 0.6, draws, documents, groups or 0)
        yield [str(documents), str(groups or "independent"), _held(result)]


def _held(result: Coverage) -> str:
    if result.without > 0.9:
        return "none"
    without = f" ({_percent(result.without, 0)})" if result.without >= 0.005 else ""
    return f"{_percent(result.held, 1)}{without}"


def _percent(share: float, digits: int) -> str:
    return f"{100 * share:.{digits}f} %"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [list(head), ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Print the tables, or write them to the page."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--draws", type=int, default=2000, help="simulated samples a cell")
    parser.add_argument("--write-docs", action="store_true", help=f"fill {PAGE.name}")
    options = parser.parse_args()
    content = markdown(options.draws)
    if not options.write_docs:
        print(content)
        return
    changed = fill_between(PAGE, START, END, content)
    print("updated" if changed else "already up to date")


if __name__ == "__main__":
    main()
