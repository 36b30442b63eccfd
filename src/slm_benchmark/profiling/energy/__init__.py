"""Energy of the machine while it works, with a label that says how it was found.

``measured``: a counter of energy. ``sampled``: samples of power, integrated. ``estimated``: a
model, only where config/hardware.yaml asks for it. A machine with none of them gets a reason.
"""

from slm_benchmark.profiling.energy.find import describe_meter, find_meter
from slm_benchmark.profiling.energy.idle import idle_drift, idle_power_w, measure_idle, net_joules
from slm_benchmark.profiling.energy.meter import Meter, Span
from slm_benchmark.profiling.energy.metrics import energy_metrics, resting_power_w

__all__ = [
    "Meter",
    "Span",
    "describe_meter",
    "energy_metrics",
    "find_meter",
    "idle_drift",
    "idle_power_w",
    "measure_idle",
    "net_joules",
    "resting_power_w",
]
