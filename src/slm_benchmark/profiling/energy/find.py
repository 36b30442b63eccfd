"""Which meter this machine has for what does the work."""

from __future__ import annotations

import os
import time

from slm_benchmark.catalog.types import EnergySettings
from slm_benchmark.profiling.energy.meter import CounterMeter, Domain, Meter
from slm_benchmark.profiling.energy.nvml import nvml
from slm_benchmark.profiling.energy.rapl import rapl
from slm_benchmark.profiling.energy.sensors import battery, hwmon, pmic
from slm_benchmark.profiling.types import MeterBlock

STANDSTILL_S = 1.0
"""A counter that has not moved for so long does not count, as in some virtual machines."""


def find_meter(device: str, settings: EnergySettings | None = None) -> Meter | str:
    """The best meter for ``device``, or the reasons why there is none.

    Args:
        device: ``cpu`` or ``cuda``: what does the work.
        settings: The hardware entry's ``energy``. ``estimate_w``, with ``idle_w`` and ``full_w``,
            allows for an estimate on a CPU that has no meter.
    """
    reasons = []
    for find in (nvml,) if device == "cuda" else (rapl, pmic, battery, hwmon):
        meter = find()
        if isinstance(meter, CounterMeter) and not _counts(meter):
            meter.close()
            meter = f"the counter stands still: {meter.source}"
        if isinstance(meter, Meter):
            return meter
        reasons.append(meter)
    model = settings.get("estimate_w") if settings else None
    if model and device == "cpu":
        return estimate(model["idle_w"], model["full_w"])
    return "; ".join(reasons)


def estimate(idle_w: float, full_w: float) -> Meter:
    """A model, not a measurement: power grows evenly with the CPU time of this process.

    Args:
        idle_w: Power of the machine at rest.
        full_w: Power with all cores at work.
    """
    cores = os.cpu_count() or 1

    def energy_uj() -> int:
        busy_s = time.process_time() / cores
        return round(1e6 * (idle_w * time.perf_counter() + (full_w - idle_w) * busy_s))

    source = f"model: {idle_w:g} W at rest, {full_w:g} W with all {cores} cores busy"
    return CounterMeter("estimated", source, [Domain("model", energy_uj)])


def describe_meter(meter: Meter | str) -> MeterBlock:
    """A record's account of a meter.

    Returns:
        ``label``, ``source``, ``reason`` (null unless there is none), and ``faults``: why single
        spans were lost.
    """
    if isinstance(meter, str):
        return {"label": "unavailable", "source": None, "reason": meter, "faults": []}
    return {
        "label": meter.label,
        "source": meter.source,
        "reason": None,
        "faults": list(meter.faults),
    }


def _counts(meter: CounterMeter) -> bool:
    """Whether the counter moves. RAPL does every millisecond, NVML within a tenth of a second."""
    start, until = meter.mark(), time.monotonic() + STANDSTILL_S
    while time.monotonic() < until:
        if meter.mark().value > start.value:
            return True
        time.sleep(0.01)
    return False
