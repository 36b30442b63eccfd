"""What a machine uses while it does nothing, and what work adds to that."""

from __future__ import annotations

import time

from slm_benchmark.catalog.types import EnergySettings
from slm_benchmark.profiling.energy.find import describe_meter, find_meter
from slm_benchmark.profiling.energy.meter import Meter
from slm_benchmark.profiling.types import IdleBaseline

DRIFT_SHARE = 0.1
"""Baselines before and after that differ by a larger share of their mean are flagged."""


def idle_power_w(meter: Meter, seconds: float) -> float | None:
    """Mean power over ``seconds`` of sleep; None where the meter lost them."""
    with meter.span() as span:
        started = time.perf_counter()
        time.sleep(seconds)
        slept_s = time.perf_counter() - started
    joules = span.joules
    return None if joules is None else joules / slept_s


def measure_idle(device: str, settings: EnergySettings | None, seconds: float) -> IdleBaseline:
    """One idle baseline, taken by this process, which should do nothing else.

    The machine rests for ``seconds`` without a meter too: a wall meter's readings may cover them.

    Returns:
        ``started_unix_s`` and ``ended_unix_s``, ``power_w`` (null without a meter) and the meter
        as `describe_meter` gives it.
    """
    meter = find_meter(device, settings)
    started_unix_s = time.time()
    power_w = None
    if isinstance(meter, Meter):
        power_w = idle_power_w(meter, seconds)
    else:
        time.sleep(seconds)
    return {
        "started_unix_s": round(started_unix_s, 3),
        "ended_unix_s": round(time.time(), 3),
        "power_w": power_w,
        **describe_meter(meter),
    }


def net_joules(gross_j: float, idle_w: float, duration_s: float) -> float:
    """Energy above the idle baseline.

    It may be negative, where the work cost less than the baseline's noise. To cut it off at 0 would
    make the mean of many measurements too high.
    """
    return gross_j - idle_w * duration_s


def idle_drift(before_w: float | None, after_w: float | None) -> str | None:
    """A warning where the baselines before and after differ too much for a net figure."""
    if before_w is None or after_w is None:
        return None
    difference_w, mean_w = abs(before_w - after_w), (before_w + after_w) / 2
    if difference_w <= DRIFT_SHARE * mean_w:
        return None
    return (
        f"idle power was {before_w:.2f} W before and {after_w:.2f} W after: more than "
        f"{DRIFT_SHARE:.0%} apart"
    )
