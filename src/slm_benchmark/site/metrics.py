"""The quantities of performance: their names, units and directions on every page."""

from __future__ import annotations

from dataclasses import dataclass

from slm_benchmark.leaderboard import board
from slm_benchmark.site import formats


@dataclass(frozen=True)
class Metric(board.Metric):
    """A quantity of performance as pages show it."""

    def show(self, value: float) -> str:
        """``value`` in the column's unit."""
        return formats.significant(value / self.per_unit)

    @property
    def is_energy(self) -> bool:
        """Whether the label of the record's energy belongs beside the value."""
        return self.key.startswith(("energy", "power"))

    def lacking(self, measured: bool) -> str:
        """The word for a missing value; ``measured`` tells whether its row was profiled."""
        return "unavailable" if self.is_energy and measured else "not measured"


METRICS = tuple(Metric(**vars(metric)) for metric in board.METRICS)
"""Every metric of a performance record, in the order of columns."""

GLANCE = tuple(
    metric
    for metric in METRICS
    if metric.key in ("generation_throughput_tokens_per_s", "peak_memory_bytes")
)
"""The quantities that help to choose in one look."""
