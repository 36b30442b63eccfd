"""Energy from samples of power."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from typing import NamedTuple


class Sample(NamedTuple):
    """Power at one moment, of any clock."""

    time_s: float
    power_w: float


def integrate(
    samples: Sequence[Sample], start_s: float, end_s: float, max_gap_s: float
) -> float | str:
    """Energy between two moments, by the trapezoid rule.

    Between two samples the power is taken to change evenly, so the edges of the span are
    interpolated and adjacent spans add up. Where the power jumps at an edge, that edge is off by at
    most half of the time between its two samples × the jump.

    Args:
        samples: In the order of their times.
        start_s: Begin of the span, on the samples' clock.
        end_s: Its end.
        max_gap_s: Longest time from a sample to the next one.

    Returns:
        Joules; or, as a text, why they do not follow from the samples.
    """
    if not samples:
        return "there are no samples of power"
    if samples[0].time_s > start_s:
        return f"the first sample is {samples[0].time_s - start_s:.1f} s late"
    if samples[-1].time_s < end_s:
        return f"the last sample is {end_s - samples[-1].time_s:.1f} s early"
    first = bisect.bisect_right(samples, start_s, key=lambda sample: sample.time_s) - 1
    total_j = 0.0
    for index in range(first, len(samples) - 1):
        before, after = samples[index], samples[index + 1]
        if before.time_s >= end_s:
            break
        gap_s = after.time_s - before.time_s
        if gap_s > max_gap_s:
            return f"{gap_s:.1f} s between two samples of power; {max_gap_s:.1f} s is the most"
        low_s, high_s = max(before.time_s, start_s), min(after.time_s, end_s)
        middle = ((low_s + high_s) / 2 - before.time_s) / gap_s
        power_w = before.power_w + (after.power_w - before.power_w) * middle
        total_j += power_w * (high_s - low_s)
    return total_j
