"""The energy metrics of a record, from the raw repetitions that it keeps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import TypedDict

from slm_benchmark.profiling.energy.idle import net_joules
from slm_benchmark.profiling.types import IdleBaseline, RawPoint, RawRepetition
from slm_benchmark.records.types import Quantity
from slm_benchmark.statistics.processes import quantity

MWH_PER_JOULE = 1 / 3.6


class EnergyMetrics(TypedDict):
    """Quantities that need a meter of energy."""

    power_w: Quantity
    energy_mwh_per_token: Quantity
    energy_net_mwh_per_token: Quantity


def energy_metrics(
    points: Sequence[RawPoint],
    idle_w: float | None,
    reason: str | None,
    *,
    joules_of: Callable[[RawRepetition], float | None] = itemgetter("generation_energy_j"),
) -> EnergyMetrics:
    """Power and energy while tokens are generated, at one point of the grid.

    Generation is the time after the first token; energy is divided by the tokens after the first,
    of all sequences.

    Args:
        points: The point as each process measured it, with ``sequences`` and ``repetitions``.
        idle_w: Power of the machine at rest; None = not known.
        reason: Why there is no energy, where there is none.
        joules_of: Energy of the generation of a repetition; None = lost, and left out.

    Returns:
        ``power_w``, ``energy_mwh_per_token`` and ``energy_net_mwh_per_token``, each with
        ``value``, ``ci95``, ``pi95``, ``n`` (processes) and ``reason``.
    """
    power_w: list[list[float]] = []
    gross_mwh: list[list[float]] = []
    net_mwh: list[list[float]] = []
    for point in points:
        metered = [
            (joules, math.fsum(repetition["latencies_s"]), _later_tokens(point, repetition))
            for repetition in point["repetitions"]
            if (joules := joules_of(repetition)) is not None and repetition["latencies_s"]
        ]
        power_w.append([j / duration_s for j, duration_s, _ in metered])
        gross_mwh.append([j * MWH_PER_JOULE / tokens for j, _, tokens in metered])
        if idle_w is not None:
            net_mwh.append(
                [
                    net_joules(j, idle_w, duration_s) * MWH_PER_JOULE / tokens
                    for j, duration_s, tokens in metered
                ]
            )
    lost = reason or "the energy of every repetition was lost"
    no_net = lost if not any(gross_mwh) else "there is no idle baseline of this meter"
    return {
        "power_w": quantity(power_w, lost),
        "energy_mwh_per_token": quantity(gross_mwh, lost),
        "energy_net_mwh_per_token": quantity(net_mwh, no_net),
    }


def resting_power_w(idle: Sequence[IdleBaseline], source: str | None) -> float | None:
    """Mean of the idle baselines that ``source`` gave; None where it gave none.

    A meter can change between a baseline and the work, such as when a laptop is plugged in.
    """
    known = [
        baseline["power_w"]
        for baseline in idle
        if baseline["power_w"] is not None and baseline["source"] == source
    ]
    return math.fsum(known) / len(known) if known else None


def _later_tokens(point: RawPoint, repetition: RawRepetition) -> int:
    return len(repetition["latencies_s"]) * point["sequences"]
