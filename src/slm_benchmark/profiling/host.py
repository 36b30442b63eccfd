"""What else the machine does: looked at before a session, watched while a process is measured.

Other work is judged by the CPU time that it used. The load average is recorded and never judged:
it falls slowly, so that the end of the previous job of this benchmark would look like other work.
"""

from __future__ import annotations

import contextlib
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from slm_benchmark.catalog.types import HostBounds
from slm_benchmark.common.errors import RunEnvironmentError
from slm_benchmark.common.machine import throttled_s
from slm_benchmark.profiling.types import BusyProcess, HostBefore, HostCounters, HostState
from slm_benchmark.records.hardware import nvidia_smi, read_text

PROC = Path("/proc")
CPUS = Path("/sys/devices/system/cpu")

SHOWN_CORES = 0.05
"""Processes that used less of one core are not listed."""

SHOWN_PROCESSES = 3

WORKING_CORES = 0.5
"""The frequency counts only while the measured process used more: an idle CPU clocks down."""

FREQUENCY_PERIOD_S = 1.0
GPU_PERIOD_S = 5

_GPU_POWER_CAP = 0x04
_GPU_SLOWED = 0x08 | 0x20 | 0x40 | 0x80
"""NVML's clocks-event reasons. A GPU at its power cap works as designed; the others, a slowdown by
hardware, for heat (software's and hardware's) and by the power brake, mean trouble."""

_BOARD_NOW = {
    0: "its supply voltage is too low",
    1: "its frequency is capped",
    2: "it is throttled",
    3: "it is at its soft temperature limit",
}
"""Bits of ``vcgencmd get_throttled`` on a Raspberry Pi; 16 higher = ever since it booted."""


def before_session(bounds: HostBounds, *, gpu: bool = False) -> HostBefore:
    """Look at the machine before a session, and wait a while for it to become quiet.

    Args:
        bounds: ``host`` of a plan in config/profiling.yaml.
        gpu: Whether something will be measured on the GPU.

    Returns:
        What `HostWatch.finish` gives, for the last look, with ``waited_s``.

    Raises:
        RunEnvironmentError: when it did not become quiet, unless ``before`` is ``flag``.
    """
    started = time.monotonic()
    announced: list[str] = []
    while True:
        state = look(bounds["settle_s"], bounds, gpu=gpu)
        waited_s = time.monotonic() - started
        if not state["warnings"] or waited_s >= bounds["wait_s"]:
            break
        if not announced:
            announced = state["warnings"]
            print(f"profile: waiting for a quiet machine: {'; '.join(announced)}", file=sys.stderr)
    if state["warnings"] and bounds["before"] == "refuse":
        raise RunEnvironmentError(
            f"the machine is not quiet enough to be measured: {'; '.join(state['warnings'])}",
            fix="end the other work and run the same command again, or set host.before of the "
            "plan in config/profiling.yaml to flag, which measures and keeps the reasons",
        )
    return {**state, "waited_s": round(waited_s, 1)}


def look(seconds: float, bounds: HostBounds, *, gpu: bool = False) -> HostState:
    """Watch the machine for some seconds while this process sleeps; see `HostWatch.finish`."""
    watch = HostWatch(bounds, gpu=gpu)
    time.sleep(seconds)
    return watch.finish()


class HostWatch:
    """Counts from its making to `finish`; this process and its children are not other work.

    Args:
        bounds: ``host`` of a plan in config/profiling.yaml.
        gpu: Whether the GPU is what is measured.
    """

    def __init__(self, bounds: HostBounds, *, gpu: bool = False) -> None:
        self._bounds = bounds
        self._frequencies = _Frequencies()
        self._gpu = _GpuClocks() if gpu else None
        self._before = _Reading(gpu_processes=_gpu_processes() if gpu else [])

    def finish(self) -> HostState:
        """The ``host`` block of a record.

        Returns:
            ``duration_s`` of the watch; means over it: ``other_work_cores`` and
            ``own_work_cores`` in cores, ``steal_share`` of all cores' time, ``pressure_share``
            (share of time in which some task waited for a CPU); ``busiest`` other processes
            [{``name``, ``pid``, ``cores``}]; ``frequency_mhz`` (median of the fastest CPU),
            ``frequency_limit_mhz`` and ``rated_frequency_mhz``; ``throttle_events`` of the CPU
            for heat; ``quota_stopped_s``, for how long a CPU quota stopped the group of this
            process; ``board_throttled``, a Raspberry Pi's bits before and after;
            ``gpu_slowed_share`` and ``gpu_power_capped_share`` of time; ``gpu_processes`` of
            others; ``swapped_bytes`` in and out; ``swap_used_bytes`` and load averages;
            ``missing``, a reason for each of these that is null; ``bounds``; and ``warnings``, a
            sentence for each thing over its bound.
        """
        before = self._before
        after = _Reading(gpu_processes=_gpu_processes() if self._gpu else [])
        frequency_mhz = self._frequencies.finish()
        gpu = self._gpu.finish() if self._gpu else {}
        elapsed_s = max(after.time_s - before.time_s, 1e-9)
        own_s = max(0.0, after.own_s - before.own_s)
        other_s = max(0.0, after.busy_s - before.busy_s - own_s)
        counters: HostCounters = {
            "duration_s": round(elapsed_s, 3),
            "other_work_cores": round(other_s / elapsed_s, 3),
            "own_work_cores": round(own_s / elapsed_s, 3),
            "busiest": _busiest(before, after, elapsed_s),
            "steal_share": _grown(before.steal_s, after.steal_s, elapsed_s * (os.cpu_count() or 1)),
            "pressure_share": _grown(before.pressure_s, after.pressure_s, elapsed_s),
            "frequency_mhz": frequency_mhz,
            "frequency_limit_mhz": _frequency_mhz("scaling_max_freq"),
            "rated_frequency_mhz": _rated_mhz(),
            "throttle_events": _throttle_events(before.throttles, after.throttles),
            "quota_stopped_s": _stopped_s(before.quota_s, after.quota_s),
            "board_throttled": None if before.board is None else [before.board, after.board],
            "gpu_slowed_share": gpu.get("slowed"),
            "gpu_power_capped_share": gpu.get("power_capped"),
            "gpu_processes": sorted({*before.gpu_processes, *after.gpu_processes}),
            "swapped_bytes": (
                None
                if before.swapped_bytes is None or after.swapped_bytes is None
                else after.swapped_bytes - before.swapped_bytes
            ),
            "swap_used_bytes": psutil.swap_memory().used,
            "load_average_before": before.load,
            "load_average_after": after.load,
        }
        return {
            **counters,
            "missing": {
                name: _MISSING[name]
                for name, value in counters.items()
                if value is None and (self._gpu or not name.startswith("gpu"))
            },
            "bounds": self._bounds.copy(),
            "warnings": list(_warnings(counters, self._bounds)),
        }


_MISSING = {
    "steal_share": "the system does not count stolen time",
    "pressure_share": "the kernel does not count pressure stalls",
    "frequency_mhz": "the system tells no frequency, as is usual in a virtual machine",
    "frequency_limit_mhz": "the system tells no frequency, as is usual in a virtual machine",
    "rated_frequency_mhz": "the system tells no frequency, as is usual in a virtual machine",
    "throttle_events": "the processor has no counters of throttling that can be read",
    "quota_stopped_s": "no CPU quota is counted for this process",
    "board_throttled": "vcgencmd, which a Raspberry Pi has, is not there",
    "gpu_slowed_share": "nvidia-smi does not tell the reasons of the clocks",
    "gpu_power_capped_share": "nvidia-smi does not tell the reasons of the clocks",
    "swapped_bytes": "the system does not count pages swapped in and out",
}


def _warnings(counters: HostCounters, bounds: HostBounds) -> Iterator[str]:
    """A sentence for each thing over its bound: what, how much, and the bound."""
    if counters["other_work_cores"] > bounds["other_work_cores"]:
        names = ", ".join(f"{p['name']} (pid {p['pid']})" for p in counters["busiest"])
        yield (
            f"other work used {counters['other_work_cores']:.1f} cores "
            f"(bound {bounds['other_work_cores']}); busiest: {names or 'none that still runs'}"
        )
    for share, bound, what in (
        (
            counters["steal_share"],
            bounds["steal_share"],
            "the hypervisor withheld {:.1%} of the CPU time",
        ),
        (
            counters["pressure_share"],
            bounds["pressure_share"],
            "tasks waited for a CPU during {:.1%} of the time",
        ),
    ):
        if share is not None and share > bound:
            yield f"{what.format(share)} (bound {bound:.1%})"
    yield from _frequency_warnings(counters, bounds["min_frequency_share"])
    if counters["throttle_events"]:
        yield f"the CPU was throttled for heat {counters['throttle_events']} times"
    if stopped_s := counters.get("quota_stopped_s"):
        yield f"a CPU quota stopped this process's group for {stopped_s:.2f} s"
    if counters["board_throttled"]:
        bits_before, bits_after = counters["board_throttled"]
        yield from _board_warnings(bits_before or 0, bits_after)
    if counters["gpu_slowed_share"]:
        yield f"the GPU was slowed down for {counters['gpu_slowed_share']:.1%} of the time"
    if counters["gpu_processes"]:
        yield f"other processes use the GPU: {', '.join(counters['gpu_processes'])}"
    if counters["swapped_bytes"] is not None and counters["swapped_bytes"] > bounds["swap_bytes"]:
        yield f"{counters['swapped_bytes']} bytes were swapped (bound {bounds['swap_bytes']})"


def _frequency_warnings(counters: HostCounters, bound: float) -> Iterator[str]:
    rated_mhz, limit_mhz = counters["rated_frequency_mhz"], counters["frequency_limit_mhz"]
    if rated_mhz and limit_mhz and limit_mhz < bound * rated_mhz:
        share = limit_mhz / rated_mhz
        yield f"the CPU is held to {share:.0%} of its {rated_mhz:.0f} MHz (bound {bound:.0%})"
    mhz = counters["frequency_mhz"]
    if (
        rated_mhz
        and mhz
        and counters["own_work_cores"] >= WORKING_CORES
        and mhz < bound * rated_mhz
    ):
        share = mhz / rated_mhz
        yield f"the CPU ran at {share:.0%} of its {rated_mhz:.0f} MHz (bound {bound:.0%})"


def _board_warnings(before: int, after: int | None) -> Iterator[str]:
    """What a Raspberry Pi's firmware saw; what it saw before the watch hides a new event."""
    for bit, what in _BOARD_NOW.items():
        now = (before | (after or 0)) >> bit & 1
        earlier, ever = before >> (bit + 16) & 1, (after or 0) >> (bit + 16) & 1
        if now or ever > earlier:
            yield f"the board reports that {what}"
        elif earlier:
            yield (
                f"the board reports since its boot that {what}, so a new event would not show; "
                "restart it"
            )


@dataclass(frozen=True)
class _Reading:
    """The counters of the machine at one moment; seconds and bytes only ever grow."""

    gpu_processes: list[str]
    time_s: float = field(default_factory=time.monotonic)
    load: list[float] = field(default_factory=lambda: list(psutil.getloadavg()))
    own_s: float = field(default_factory=lambda: _own_s())
    busy_s: float = field(default_factory=lambda: _busy_s())
    steal_s: float | None = field(default_factory=lambda: _steal_s())
    processes: dict[tuple[int, float], tuple[str, float]] = field(
        default_factory=lambda: _other_processes()
    )
    pressure_s: float | None = field(default_factory=lambda: _pressure_s())
    swapped_bytes: int | None = field(default_factory=lambda: _swapped_bytes())
    throttles: dict[str, int] = field(default_factory=lambda: _throttles())
    quota_s: float | None = field(default_factory=lambda: throttled_s())
    board: int | None = field(default_factory=lambda: _board_throttled())


class _Frequencies:
    """Samples the frequency of the fastest CPU in a thread until `finish`."""

    def __init__(self) -> None:
        self._samples: list[float] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def _sample(self) -> None:
        while (mhz := _frequency_mhz("scaling_cur_freq")) is not None:
            self._samples.append(mhz)
            if self._ended.wait(FREQUENCY_PERIOD_S):
                break

    def finish(self) -> float | None:
        """Median in MHz; None where the system gives no frequency."""
        self._ended.set()
        self._thread.join()
        return statistics.median(self._samples) if self._samples else None


class _GpuClocks:
    """Lets one nvidia-smi write down why the GPU's clocks are what they are, until `finish`."""

    def __init__(self) -> None:
        self._output = tempfile.TemporaryFile("w+")  # noqa: SIM115 — read in finish
        self._process: subprocess.Popen[str] | None = None
        # Drivers before 535 know the field by its older name only.
        for name in ("clocks_event_reasons.active", "clocks_throttle_reasons.active"):
            query = f"--query-gpu={name}"
            if nvidia_smi(query, f"--id={_gpu_id()}"):
                command = ["nvidia-smi", query, f"--id={_gpu_id()}", f"--loop={GPU_PERIOD_S}"]
                self._process = subprocess.Popen(
                    [*command, "--format=csv,noheader"], stdout=self._output, text=True
                )
                break

    def finish(self) -> dict[str, float]:
        """``slowed`` and ``power_capped`` as shares of samples; empty without samples."""
        if self._process:
            self._process.terminate()
            self._process.wait()
        with self._output:
            self._output.seek(0)
            reasons = [int(text, 16) for text in re.findall(r"0x[0-9a-fA-F]+", self._output.read())]
        masks = {"slowed": _GPU_SLOWED, "power_capped": _GPU_POWER_CAP}
        return {
            name: round(sum(bool(r & mask) for r in reasons) / len(reasons), 4)
            for name, mask in masks.items()
            if reasons
        }


def _gpu_id() -> str:
    """The GPU that a measured process sees first."""
    return os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0] or "0"


def _gpu_processes() -> list[str]:
    """``name (pid)`` of the other processes that compute on the GPU."""
    rows = nvidia_smi("--query-compute-apps=pid,process_name", f"--id={_gpu_id()}") or []
    ours = {str(pid) for pid in _own_pids()}
    # Some drivers give the whole command line; only the program's name is anybody's business.
    return [
        f"{Path((name.split() or ['unknown'])[0]).name} (pid {pid})"
        for pid, name in rows
        if pid not in ours
    ]


def _own_children() -> list[psutil.Process]:
    return list(psutil.Process().children(recursive=True))


def _own_pids() -> set[int]:
    return {os.getpid(), *(child.pid for child in _own_children())}


def _own_s() -> float:
    """CPU seconds of this process and of its children, ended or running."""
    ended = [resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    used_s = sum(usage.ru_utime + usage.ru_stime for usage in ended)
    for child in _own_children():
        with contextlib.suppress(psutil.Error):
            used_s += sum(child.cpu_times()[:4])  # its own, and its ended children's
    return used_s


def _busy_s() -> float:
    """CPU seconds that this system spent working, all cores together; guests are in ``user``."""
    times = psutil.cpu_times()
    kinds = ("user", "nice", "system", "irq", "softirq")
    return sum(float(getattr(times, kind, 0.0)) for kind in kinds)


def _steal_s() -> float | None:
    steal_s = getattr(psutil.cpu_times(), "steal", None)
    return None if steal_s is None else float(steal_s)


def _other_processes() -> dict[tuple[int, float], tuple[str, float]]:
    """(pid, start time) → name of the command, CPU seconds; without arguments, for privacy."""
    ours, processes = _own_pids(), {}
    for process in psutil.process_iter(["pid", "create_time", "cpu_times", "name"]):
        info = process.info
        if info["cpu_times"] is not None and info["pid"] not in ours:
            used_s = float(info["cpu_times"].user + info["cpu_times"].system)
            processes[info["pid"], info["create_time"]] = (info["name"] or "unknown", used_s)
    return processes


def _busiest(before: _Reading, after: _Reading, elapsed_s: float) -> list[BusyProcess]:
    used = {
        key: (used_s - before.processes.get(key, ("", 0.0))[1]) / elapsed_s
        for key, (_, used_s) in after.processes.items()
    }
    shown = sorted((key for key in used if used[key] >= SHOWN_CORES), key=lambda key: -used[key])
    return [
        {"name": after.processes[key][0], "pid": key[0], "cores": round(used[key], 3)}
        for key in shown[:SHOWN_PROCESSES]
    ]


def _grown(before: float | None, after: float | None, elapsed_s: float) -> float | None:
    """Growth of a counter of seconds as a share of ``elapsed_s``."""
    if before is None or after is None:
        return None
    return round(min(1.0, max(0.0, after - before) / elapsed_s), 4)


def _pressure_s() -> float | None:
    """Seconds since boot in which some task was ready to run and had no CPU."""
    match = re.search(r"some .*total=(\d+)", read_text(PROC / "pressure" / "cpu") or "")
    return int(match[1]) / 1e6 if match else None


def _swapped_bytes() -> int | None:
    pages = re.findall(r"(?m)^pswp(?:in|out) (\d+)", read_text(PROC / "vmstat") or "")
    return sum(map(int, pages)) * resource.getpagesize() if pages else None


def _frequency_mhz(name: str) -> float | None:
    """Highest of the CPUs' values of a file of cpufreq, which holds kHz."""
    texts = [read_text(file) or "" for file in CPUS.glob(f"cpu[0-9]*/cpufreq/{name}")]
    return max((int(text) / 1000 for text in texts if text.isdigit()), default=None)


def _rated_mhz() -> float | None:
    """What the fastest CPU reaches under lasting load: the base frequency, else the highest.

    Makers promise no more than the base frequency with all cores at work; boost above it is luck.
    """
    nominal = [read_text(file) or "" for file in CPUS.glob("cpu[0-9]*/acpi_cppc/nominal_freq")]
    return (
        _frequency_mhz("base_frequency")
        or max((float(text) for text in nominal if text.isdigit()), default=0.0)  # in MHz
        or _frequency_mhz("cpuinfo_max_freq")
    )


def _throttles() -> dict[str, int]:
    """Counts of throttling for heat, by file."""
    files = CPUS.glob("cpu[0-9]*/thermal_throttle/*_throttle_count")
    texts = {str(file): read_text(file) or "" for file in files}
    return {file: int(text) for file, text in texts.items() if text.isdigit()}


def _throttle_events(before: Mapping[str, int], after: Mapping[str, int]) -> int | None:
    """The most that one counter grew: cores of a package count the same event."""
    return max((count - before.get(file, count) for file, count in after.items()), default=None)


def _stopped_s(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else round(max(0.0, after - before), 3)


def _board_throttled() -> int | None:
    tool = shutil.which("vcgencmd")
    if not tool:
        return None
    done = subprocess.run([tool, "get_throttled"], capture_output=True, text=True, check=False)
    match = re.fullmatch(r"throttled=(0x[0-9a-fA-F]+)", done.stdout.strip())
    return int(match[1], 16) if match else None
