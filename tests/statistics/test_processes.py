"""Intervals over processes: by hand where they can be, and as often right as they say."""

from __future__ import annotations

import functools
import math
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from benchmarks.process_intervals import BEYOND, SCENARIOS, Coverage, coverage, markdown
from slm_benchmark.statistics import processes
from slm_benchmark.statistics.processes import SESSION_SD, quantity

summarize: Any = processes.summarize
"""Without its type, as each test knows where there are intervals."""

TIMES = st.floats(0.01, 1000, allow_nan=False).map(lambda value: round(value, 4))
SESSIONS = st.lists(st.lists(TIMES, min_size=1, max_size=6), min_size=2, max_size=6)


def test_the_value_is_the_median_of_medians() -> None:
    """A pooled median would be 2, and a mean of medians 7."""
    found = summarize([[1, 2, 3, 2, 2, 2], [4, 4, 4], [15]])
    assert found["value"] == 4
    assert found["n"] == 3


@pytest.mark.parametrize("k", [2, 3, 5, 12])
def test_the_prediction_interval_is_student_s_on_logarithms(k: int) -> None:
    values = np.random.default_rng(k).lognormal(3, 0.2, k)
    found = summarize([[value] for value in values], session_sd=0)
    logs = np.log(values)
    half = stats.t.ppf(0.975, k - 1) * logs.std(ddof=1) * math.sqrt(1 + 1 / k)
    expected = np.exp([logs.mean() - half, logs.mean() + half])
    assert found["pi95"] == pytest.approx(expected, rel=1e-9)


def test_sessions_add_their_own_share() -> None:
    """Where processes agree, what is left is the difference of two sessions."""
    low, high = summarize([[50.0]] * 3)["pi95"]
    half = stats.norm.ppf(0.975) * math.sqrt(2) * SESSION_SD
    assert (low, high) == pytest.approx((50 * math.exp(-half), 50 * math.exp(half)))


def test_what_cannot_vary_has_no_width() -> None:
    for value in (270_885_792, 0, 0.1):
        found = summarize([[value], [value], [value]], session_sd=0)
        assert found == {"value": value, "ci95": [value] * 2, "pi95": [value] * 2, "n": 3}


def test_one_process_has_no_intervals() -> None:
    found = summarize([[3.0, 1.0, 2.0]])
    assert found == {"value": 2.0, "ci95": None, "pi95": None, "n": 1}


def test_negative_values_are_not_taken_for_times() -> None:
    """Net energy can be below zero: then the interval is symmetric, and moves with the values."""
    values = [[-0.2], [0.1], [0.3]]
    low, high = summarize(values, session_sd=0)["pi95"]
    assert low < -0.2
    assert (low + high) / 2 == pytest.approx(np.mean(values))
    moved = summarize([[value - 5] for [value] in values], session_sd=0)["pi95"]
    assert moved == pytest.approx([low - 5, high - 5])


def test_processes_that_agree_by_luck_get_no_narrow_interval() -> None:
    """Their repetitions say how far medians of so few of them lie apart."""
    spread = [[90.0, 95.0, 100.0, 105.0, 110.0]] * 3
    lucky = summarize(spread, session_sd=0)["pi95"]
    assert lucky[0] < 80
    assert lucky[1] > 120
    assert summarize([[100.0] * 5] * 3, session_sd=0)["pi95"] == [100, 100]


def test_both_levels_are_resampled() -> None:
    """Equal processes move by their repetitions; processes of one repetition by each other."""
    within = summarize([[1.0, 2.0, 3.0]] * 3)["ci95"]
    assert within[0] < 2 < within[1]
    between = summarize([[1.0], [2.0], [3.0]])["ci95"]
    # Resamples reach both ends of three; on logarithms they are stretched as far as t says.
    stretch = stats.t.ppf(0.975, 2) / stats.norm.ppf(0.975) * math.sqrt(3 / 2)
    assert between == pytest.approx([2 * (1 / 2) ** stretch, 2 * (3 / 2) ** stretch])


@given(SESSIONS, st.randoms(use_true_random=False))
@settings(max_examples=30, deadline=None)
def test_the_order_does_not_matter(values: list[list[float]], random: Random) -> None:
    shuffled = [list(process) for process in values]
    random.shuffle(shuffled)
    for process in shuffled:
        random.shuffle(process)
    assert summarize(shuffled, resamples=50) == summarize(values, resamples=50)


@given(SESSIONS, st.floats(0.001, 1000))
@settings(max_examples=30, deadline=None)
def test_units_do_not_matter(values: list[list[float]], factor: float) -> None:
    found = summarize(values, resamples=50)
    scaled = summarize([[factor * v for v in process] for process in values], resamples=50)
    assert scaled["value"] == pytest.approx(factor * found["value"])
    for key in ("ci95", "pi95"):
        assert scaled[key] == pytest.approx([factor * end for end in found[key]])


@given(SESSIONS)
@settings(max_examples=50, deadline=None)
def test_the_value_lies_in_its_intervals(values: list[list[float]]) -> None:
    found = summarize(values, resamples=200)
    assert found["pi95"][0] <= found["value"] <= found["pi95"][1]
    assert found["ci95"][0] <= found["value"] <= found["ci95"][1]


def test_the_seed_decides_the_draws() -> None:
    values = np.random.default_rng(0).normal(100, 5, (5, 11)).tolist()
    assert summarize(values) == summarize(values)
    assert summarize(values)["ci95"] != summarize(values, seed=1)["ci95"]


@pytest.mark.parametrize("values", [[], [[]], [[1.0], []]])
def test_a_process_without_values_is_an_error(values: list[list[float]]) -> None:
    with pytest.raises(ValueError, match="every process needs a value"):
        summarize(values)


def test_a_quantity_without_values_has_the_reason() -> None:
    nothing = {"value": None, "ci95": None, "pi95": None, "n": 0, "reason": "no meter"}
    assert quantity([], "no meter") == nothing
    assert quantity([[], [], []], "no meter") == nothing


def test_a_process_that_lost_its_values_does_not_count() -> None:
    found = quantity([[1.0, 3.0], [], [2.0]], "no meter", session_sd=0)
    assert found == {**summarize([[1.0, 3.0], [2.0]], session_sd=0), "reason": None}
    assert found["n"] == 2


# --- simulated sessions with a known truth -------------------------------------------------------

PAIRS = 500
ERROR = 2 * math.sqrt(0.05 * 0.95 / PAIRS)
"""Two standard errors of a simulated coverage of 95 %."""


@functools.cache
def simulated(name: str, k: int) -> Coverage:
    return coverage(SCENARIOS[name], k, PAIRS, resamples=150)


@pytest.mark.model
@pytest.mark.parametrize("k", [3, 5])
@pytest.mark.parametrize("name", [name for name in SCENARIOS if name not in BEYOND])
def test_prediction_intervals_hold_the_median_of_a_repeat(name: str, k: int) -> None:
    assert simulated(name, k).repeat >= 0.95 - ERROR


@pytest.mark.parametrize("name", ["normal", "lognormal", "heavy"])
def test_prediction_intervals_are_no_wider_than_a_further_process_asks_for(name: str) -> None:
    """They would cover everything if they were endless."""
    found = simulated(name, 5)
    assert 0.95 - 2 * ERROR <= found.process < 0.99


@pytest.mark.model
def test_sessions_that_differ_more_than_allowed_are_not_covered() -> None:
    """What the page says about its limits is true; else the allowance would be too generous."""
    assert simulated("double", 5).repeat < 0.85


@pytest.mark.parametrize("k", [3, 5])
@pytest.mark.parametrize("name", ["normal", "lognormal", "heavy", "outliers", "same", "drift"])
def test_confidence_intervals_hold_the_true_median(name: str, k: int) -> None:
    """Of scenarios without an error that all processes share, which is in no session's values."""
    assert simulated(name, k).truth >= 0.95 - ERROR


def test_the_table_has_a_line_for_each_scenario() -> None:
    lines = markdown(20, [3]).splitlines()
    assert len(lines) == 2 + len(SCENARIOS)
    assert {line.count("|") for line in lines} == {6}
