"""What else the machine did while a variant was measured."""

from __future__ import annotations

import os
import resource
import time
from dataclasses import dataclass, field
from typing import Any

import psutil

BUSY_SHARE = 0.2
"""A process that used more of one core than this was busy."""

STEAL_SHARE = 0.01
"""More steal than this is worth a warning."""


@dataclass
class HostWatch:
    """Counts from its making to `finish`; own children are not counted as other work."""

    started: float = field(default_factory=time.monotonic)
    load: tuple[float, float, float] = field(default_factory=psutil.getloadavg)
    cpu: Any = field(default_factory=psutil.cpu_times)
    own_s: float = field(default_factory=lambda: _own_s())
    processes: dict[tuple[int, float], float] = field(default_factory=lambda: _process_times())
    swap_bytes: int = field(default_factory=lambda: psutil.swap_memory().used)
    frequency_mhz: float | None = field(default_factory=lambda: _frequency_mhz())

    def finish(self) -> dict[str, Any]:
        """The record's ``host`` block, with a warning for each thing that may have disturbed.

        Shares are means over the whole session: ``steal_share`` of all cores' time,
        ``other_work_cores`` in cores.
        """
        elapsed_s = max(time.monotonic() - self.started, 1e-9)
        cpu, cores = psutil.cpu_times(), os.cpu_count() or 1
        own_s, other_s = _own_s() - self.own_s, _busy_s(cpu) - _busy_s(self.cpu)
        steal_s = getattr(cpu, "steal", 0.0) - getattr(self.cpu, "steal", 0.0)
        other_cores = max(0.0, other_s - own_s) / elapsed_s
        steal_share = max(0.0, steal_s) / (elapsed_s * cores)
        busy = sum(
            (used_s - self.processes.get(key, 0.0)) / elapsed_s > BUSY_SHARE
            for key, used_s in _process_times().items()
        )
        swap_bytes = psutil.swap_memory().used
        warnings = []
        if busy or other_cores > BUSY_SHARE:
            warnings.append(f"other work used {other_cores:.1f} cores; busy processes: {busy}")
        if steal_share > STEAL_SHARE:
            warnings.append(f"the hypervisor withheld {steal_share:.1%} of the CPU time")
        if swap_bytes > self.swap_bytes:
            warnings.append("memory was swapped out during the measurement")
        return {
            "load_average_before": list(self.load),
            "load_average_after": list(psutil.getloadavg()),
            "steal_share": round(steal_share, 4),
            "other_work_cores": round(other_cores, 3),
            "other_busy_processes": busy,
            "swap_used_bytes_before": self.swap_bytes,
            "swap_used_bytes_after": swap_bytes,
            "frequency_mhz_before": self.frequency_mhz,
            "frequency_mhz_after": _frequency_mhz(),
            "warnings": warnings,
        }


def _own_s() -> float:
    """CPU seconds of this process and of its children that have ended."""
    used = [resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def _busy_s(times: Any) -> float:
    """CPU seconds that this system spent working, all cores together; guests are in ``user``."""
    kinds = ("user", "nice", "system", "irq", "softirq")
    return sum(float(getattr(times, kind, 0.0)) for kind in kinds)


def _process_times() -> dict[tuple[int, float], float]:
    """(pid, start time) → CPU seconds of every other process that may be looked at."""
    times = {}
    for process in psutil.process_iter(["pid", "create_time", "cpu_times"]):
        info = process.info
        if info["cpu_times"] is not None and info["pid"] != os.getpid():
            used = info["cpu_times"]
            times[info["pid"], info["create_time"]] = float(used.user + used.system)
    return times


def _frequency_mhz() -> float | None:
    try:
        found = psutil.cpu_freq()
    except (OSError, NotImplementedError, RuntimeError):
        return None
    return float(found.current) if found and found.current else None
