"""The quantities of performance: their names, units and directions on every page."""

from __future__ import annotations

from dataclasses import dataclass

from slm_benchmark.site import formats


@dataclass(frozen=True)
class Metric:
    """A column of performance."""

    key: str
    title: str
    unit: str
    higher_is_better: bool
    per_unit: float = 1.0
    leading: bool = False
    """Whether it is a column of the leaderboard; the pages of models have all."""
    same_machine: bool = True
    """Whether values compare only on one machine; the size of files does not depend on it."""

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


METRICS = (
    Metric("generation_throughput_tokens_per_s", "Throughput", "tokens/s", True, leading=True),
    Metric("prompt_throughput_tokens_per_s", "Prompt throughput", "tokens/s", True, leading=True),
    Metric("batch_generation_throughput_tokens_per_s", "Batch throughput", "tokens/s", True),
    Metric("ttft_ms", "TTFT, engine", "ms", False, leading=True),
    Metric("client_ttft_ms", "TTFT, client", "ms", False, leading=True),
    Metric("inter_token_latency_ms", "Token latency, p50", "ms", False, leading=True),
    Metric("inter_token_latency_p90_ms", "Token latency, p90", "ms", False, leading=True),
    Metric("inter_token_latency_p99_ms", "Token latency, p99", "ms", False, leading=True),
    Metric("peak_memory_bytes", "Peak memory", "MB", False, 1e6, leading=True),
    Metric("device_peak_memory_bytes", "Peak memory, device", "MB", False, 1e6, leading=True),
    Metric("allocator_peak_memory_bytes", "Peak memory, allocator", "MB", False, 1e6),
    Metric("load_time_s", "Load time", "s", False, leading=True),
    Metric("mbu", "MBU", "% of bandwidth", True, 0.01, leading=True),
    Metric("mfu", "MFU", "% of matrix rate", True, 0.01, leading=True),
    Metric("energy_mwh_per_token", "Energy", "mWh/token", False, leading=True),
    Metric("energy_net_mwh_per_token", "Energy, net", "mWh/token", False),
    Metric("power_w", "Power", "W", False),
    Metric("size_bytes", "Size", "MB", False, 1e6, same_machine=False),
)
"""Every metric of a performance record, in the order of columns."""

GLANCE = tuple(
    metric
    for metric in METRICS
    if metric.key in ("generation_throughput_tokens_per_s", "peak_memory_bytes")
)
"""The quantities that help to choose in one look."""
