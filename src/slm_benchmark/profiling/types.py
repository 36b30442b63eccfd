"""The shape of what a session measures, where the schemas leave it open.

The record of a session holds all of it, and a performance record its variant's part.
"""

from __future__ import annotations

from typing import Literal, NotRequired, TypedDict

from slm_benchmark.catalog.types import HostBounds
from slm_benchmark.records.types import ErrorBlock, Freeform, PerformanceEngine

Label = Literal["measured", "sampled", "estimated", "unavailable"]
"""How energy was measured."""


class RawRepetition(TypedDict):
    """One repetition, as `process.Repetition` describes it."""

    started_unix_s: float
    prompt_tokens: int
    output_tokens: int
    prefill_s: float
    first_token_s: float
    client_first_token_s: float | None
    latencies_s: list[float]
    generation_started_unix_s: float
    generation_ended_unix_s: float
    prompt_energy_j: float | None
    generation_energy_j: float | None
    tokens_sha256: str


class RawPoint(TypedDict):
    """One point of the grid in one process, with all repetitions."""

    prompt_tokens: int
    output_tokens: int
    sequences: int
    warmups: list[RawRepetition]
    settled: bool
    repetitions: list[RawRepetition]


class RunnerEngine(TypedDict):
    """What an engine says of itself; the process adds its threads."""

    name: str
    version: str
    kernel: str
    kernel_detail: Freeform
    dtype: str
    schedule: str


class ProcessMemory(TypedDict):
    """Memory of a process in bytes, see `memory.PeakMemory.details`."""

    peak_memory_bytes: int
    load_peak_memory_bytes: int
    baseline_bytes: int
    resident_anonymous_bytes: int | None
    resident_file_bytes: int | None
    resident_shared_bytes: int | None
    proportional_bytes: int | None
    note: str | None


class DeviceMemory(TypedDict):
    """Memory of an accelerator in bytes, see `runner.Runner.device_memory`."""

    device_peak_bytes: int
    device_baseline_bytes: int
    allocator_peak_bytes: int
    reserved_peak_bytes: int


class RawMemory(ProcessMemory):
    """Memory of a measured process; ``device`` is null on a CPU."""

    device: DeviceMemory | None


class RawTraffic(TypedDict):
    """What one token needs, as `traffic.Traffic` describes it."""

    weight_bytes_per_token: int
    kv_bytes_per_position: int
    flops_per_token: int
    head_flops_per_token: int
    attention_flops_per_token_and_position: int
    notes: list[str]


class MeterBlock(TypedDict):
    """A meter of energy; ``faults`` says why single spans were lost."""

    label: Label
    source: str | None
    reason: str | None
    faults: list[str]


class IdleBaseline(TypedDict):
    """Power of the resting machine; a wall meter's baseline has no faults."""

    started_unix_s: float
    ended_unix_s: float
    power_w: float | None
    label: Label
    source: str | None
    reason: str | None
    faults: NotRequired[list[str]]


class MemoryLimit(TypedDict):
    """The cap on memory, and what enforced it; ``reason``: why not a control group."""

    limit_bytes: int | None
    enforced_by: str
    reason: str | None
    reread_bytes: NotRequired[int | None]


class Limits(TypedDict):
    """What held a process to the declared machine, see `limits.apply_limits`."""

    threads: int
    affinity: list[int] | None
    memory: MemoryLimit


class BusyProcess(TypedDict):
    """Another process that used the CPU."""

    name: str
    pid: int
    cores: float


class HostCounters(TypedDict):
    """What the machine did during a watch, see `host.HostWatch.finish`."""

    duration_s: float
    other_work_cores: float
    own_work_cores: float
    busiest: list[BusyProcess]
    steal_share: float | None
    pressure_share: float | None
    frequency_mhz: float | None
    frequency_limit_mhz: float | None
    rated_frequency_mhz: float | None
    throttle_events: int | None
    quota_stopped_s: NotRequired[float | None]
    board_throttled: list[int | None] | None
    gpu_slowed_share: float | None
    gpu_power_capped_share: float | None
    gpu_processes: list[str]
    swapped_bytes: int | None
    swap_used_bytes: int
    load_average_before: list[float]
    load_average_after: list[float]


class HostState(HostCounters):
    """The counters, a reason for each that is null, the bounds, and what lies beyond them."""

    missing: dict[str, str]
    bounds: HostBounds
    warnings: list[str]


class HostBefore(HostState):
    """The machine before a session, and how long it was waited for."""

    waited_s: float


class Measured(TypedDict):
    """What a measured process leaves behind, see `process.measure`."""

    engine: PerformanceEngine
    load_s: float
    size_bytes: int
    memory: RawMemory
    traffic: RawTraffic
    energy: MeterBlock
    overhead_us_per_token: float
    points: list[RawPoint]


class Launched(Measured):
    """A measured process with the limits it was held to, and the machine around it."""

    limits: Limits
    host: HostState


class RawProcess(Measured):
    """A process in a performance record, without ``limits`` and ``host``."""

    round: int
    duration_s: float


class SessionProcess(Launched):
    """A process in the record of a session."""

    round: int
    duration_s: float


class Bandwidth(TypedDict):
    """Rate of reading memory, see `roofline.measure_roofline`."""

    bandwidth_bytes_per_s: float
    bandwidth_median_bytes_per_s: float
    bandwidth_method: str
    bandwidth_trials: dict[str, list[float]]


class MatrixRates(TypedDict):
    """Rates of matrix products by number format."""

    matrix_flops_per_s: float
    matrix_dtype: str
    matrix_flops_per_s_by_dtype: dict[str, float]
    matrix_method: dict[str, str]


class DeviceRates(Bandwidth, MatrixRates):
    """What a device can do, and the memory that was read to find out."""

    bandwidth_in_cache_bytes_per_s: float | None
    working_set_bytes: int
    cache_bytes: int | None


class RooflinePass(DeviceRates):
    """One measurement of what a device can do."""

    device: str
    threads: int
    reason: None
    started: str
    duration_s: float


class SessionRoofline(RooflinePass):
    """The passes of all rounds as one: medians, and the value of each round."""

    bandwidth_by_round_bytes_per_s: list[float]
    matrix_by_round_flops_per_s: list[float]


class VariantResult(TypedDict):
    """The processes of one variant in a session; none where one of them broke."""

    device: str
    error: ErrorBlock | None
    processes: list[SessionProcess]


class SessionResult(TypedDict):
    """What a session measured, see `session.profile`."""

    order: list[list[str]]
    host: HostBefore
    idle: dict[str, list[IdleBaseline]]
    roofline: dict[str, SessionRoofline]
    variants: dict[str, VariantResult]
