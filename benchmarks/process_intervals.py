"""How often the intervals of a profile are right: ``python -m benchmarks.process_intervals``.

Sessions with a known law are simulated in pairs. The first of a pair gets intervals; the second
says whether they hold its median, and whether they hold the median of its first process alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slm_benchmark.statistics.processes import summarize

Floats = NDArray[np.float64]
Law = Callable[[np.random.Generator, tuple[int, ...]], Floats]
"""Draws errors of a shape, as shares of the value."""

VALUE = 100.0
REPETITIONS = 10


def normal(sd: float) -> Law:
    """Normal errors."""
    return lambda random, shape: random.normal(0, sd, shape)


def heavy(scale: float) -> Law:
    """Student's t with three degrees of freedom."""
    return lambda random, shape: scale * random.standard_t(3, shape)


def outliers(sd: float, share: float, shift: float) -> Law:
    """Normal errors, of which a ``share`` is ``shift`` too high."""
    return lambda random, shape: (
        random.normal(0, sd, shape) + shift * (random.random(shape) < share)
    )


def skewed(sigma: float) -> Law:
    """Lognormal around a median of zero."""
    return lambda random, shape: np.expm1(random.normal(0, sigma, shape))


USUAL = normal(0.02)
"""Errors of repetitions, unless a scenario says otherwise."""


@dataclass(frozen=True)
class Scenario:
    """How measured values come about: VALUE × (1 + session + drift + process + repetition).

    Attributes:
        title: In words.
        process: Errors that all repetitions of a process share.
        repetition: Errors of each repetition.
        session_sd: Standard deviation of the error that all processes of a session share.
        drift: Amplitude of a slow wave, with a period of one session and a half, that begins
            anywhere; the processes of a session lie evenly in its time.
    """

    title: str
    process: Law
    repetition: Law = USUAL
    session_sd: float = 0.0
    drift: float = 0.0

    def sessions(self, random: np.random.Generator, count: int, processes: int) -> Floats:
        """Values of shape (count, processes, REPETITIONS)."""
        session = random.normal(0, self.session_sd, (count, 1, 1))
        begun = random.random((count, 1, 1))
        position = (np.arange(processes) / processes).reshape(1, -1, 1)
        wave = self.drift * np.sin(2 * np.pi * (begun + position / 1.5))
        process = self.process(random, (count, processes, 1))
        repetition = self.repetition(random, (count, processes, REPETITIONS))
        values: Floats = VALUE * (1 + session + wave + process + repetition)
        return values


SCENARIOS = {
    "normal": Scenario("normal", normal(0.03)),
    "lognormal": Scenario("lognormal, σ = 0.3", skewed(0.3), skewed(0.1)),
    "heavy": Scenario(
        "heavy tails: Student's t with 3 degrees of freedom", heavy(0.03), heavy(0.02)
    ),
    "outliers": Scenario("one process in ten is 20 % too high", outliers(0.01, 0.1, 0.2)),
    "same": Scenario("processes differ by their repetitions only", normal(0)),
    "drift": Scenario("a slow wave of ± 5 % through each session", normal(0.02), drift=0.05),
    "allowed": Scenario(
        "sessions differ by 1 %, processes hardly", normal(0.001), normal(0.002), session_sd=0.01
    ),
    "half": Scenario("sessions differ half as much as processes", normal(0.03), session_sd=0.015),
    "equal": Scenario("sessions differ as much as processes", normal(0.03), session_sd=0.03),
    "double": Scenario("sessions differ twice as much as processes", normal(0.03), session_sd=0.06),
}
"""The last two go beyond what one session can foresee."""

BEYOND = ("equal", "double")


@dataclass(frozen=True)
class Coverage:
    """How often intervals held what they are about, as shares of the simulated pairs.

    Attributes:
        repeat: pi95 held the median of a repeated session.
        process: pi95 held the median of one further process.
        truth: ci95 held the median of the law.
        half_width: Half the width of pi95 as a share of the value; the median over sessions.
    """

    repeat: float
    process: float
    truth: float
    half_width: float


def coverage(
    scenario: Scenario, processes: int, pairs: int, *, resamples: int = 400, seed: int = 0
) -> Coverage:
    """Simulate ``pairs`` pairs of sessions with so many processes each."""
    random = np.random.default_rng(seed)
    first = scenario.sessions(random, pairs, processes)
    second = np.median(scenario.sessions(random, pairs, processes), axis=2)
    truth = float(np.median(scenario.sessions(random, 20_000, processes).mean(axis=2)))
    summaries = [summarize(session.tolist(), resamples=resamples) for session in first]
    predicted = np.array([summary["pi95"] for summary in summaries])
    confident = np.array([summary["ci95"] for summary in summaries])
    values = np.array([summary["value"] for summary in summaries])

    def held(intervals: Floats, targets: Floats | float) -> float:
        return float(((intervals[:, 0] <= targets) & (targets <= intervals[:, 1])).mean())

    return Coverage(
        repeat=held(predicted, np.median(second, axis=1)),
        process=held(predicted, second[:, 0]),
        truth=held(confident, truth),
        half_width=float(np.median(np.diff(predicted, axis=1)[:, 0] / 2 / values)),
    )


def markdown(pairs: int, processes: Sequence[int]) -> str:
    """The table for all scenarios and each number of processes.

    Its columns are the fields of `Coverage`.
    """
    head = ["Values"]
    for k in processes:
        head += [f"k = {k}: repeat", "process", "width", "truth"]
    lines = [head, ["---"] + ["---:"] * (len(head) - 1)]
    for scenario in SCENARIOS.values():
        line = [scenario.title]
        for k in processes:
            rates = coverage(scenario, k, pairs)
            shares = (rates.repeat, rates.process, rates.half_width, rates.truth)
            line += [f"{100 * share:.1f} %" for share in shares]
        lines.append(line)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pairs", type=int, default=4000, help="pairs of sessions per scenario")
    parser.add_argument("--processes", type=int, nargs="+", default=[3, 5], help="of a session")
    options = parser.parse_args()
    print(markdown(options.pairs, options.processes))


if __name__ == "__main__":
    main()
