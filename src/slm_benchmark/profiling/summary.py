"""From what the processes of one variant measured to the quantities of its record."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, TypedDict, cast

import numpy as np

from slm_benchmark.profiling.energy import energy_metrics, idle_drift, resting_power_w
from slm_benchmark.profiling.energy.metrics import EnergyMetrics
from slm_benchmark.profiling.job import Point
from slm_benchmark.profiling.traffic import Traffic, mbu, mfu
from slm_benchmark.profiling.types import IdleBaseline, Measured, RawPoint, RawRepetition
from slm_benchmark.records.types import (
    EnergyBlock,
    ErrorBlock,
    Freeform,
    PerformanceMetrics,
    PerformancePoint,
    PointMetrics,
    Quantity,
    Roofline,
)
from slm_benchmark.statistics.processes import SESSION_SD, quantity

QUANTILE: Literal["inverted_cdf"] = "inverted_cdf"
"""The estimator of a share q of n latencies: the ⌈q·n⌉-th smallest, so always a time that was
measured. Definition 1 of R. J. Hyndman and Y. Fan, The American Statistician 50 (1996), 361–365."""

_PERCENT = (0, 1, 2, 5, *range(10, 100, 10), 95, 98, 99, 99.5, 99.9, 100)
"""Percentiles of the recorded distribution of latencies."""

_RATIO_SD = math.sqrt(2) * SESSION_SD
"""From session to session, both what a variant reaches and what the machine can do move."""


class TimedMetrics(TypedDict):
    """Quantities of a point that follow from its times."""

    prompt_throughput_tokens_per_s: Quantity
    generation_throughput_tokens_per_s: Quantity
    ttft_ms: Quantity
    client_ttft_ms: Quantity
    inter_token_latency_ms: Quantity
    inter_token_latency_p90_ms: Quantity
    inter_token_latency_p99_ms: Quantity


class Utilization(TypedDict):
    """Shares of what the machine can do."""

    mbu: Quantity
    mfu: Quantity


class _PointQuantities(TimedMetrics, EnergyMetrics, Utilization):
    """All quantities of a point."""


class BatchMetrics(TypedDict):
    """Generation of several sequences at once."""

    batch_generation_throughput_tokens_per_s: Quantity


class OnceMetrics(TypedDict):
    """What each process has once."""

    peak_memory_bytes: Quantity
    device_peak_memory_bytes: Quantity
    allocator_peak_memory_bytes: Quantity
    load_time_s: Quantity
    size_bytes: Quantity


class LatencyDistribution(TypedDict):
    """Quantiles of the times between tokens, see `latency_distribution`."""

    estimator: str
    tokens: list[int]
    percent: list[float]
    latency_ms: list[float]


class Summary(TypedDict):
    """Blocks of a performance record that follow from the processes."""

    metrics: PerformanceMetrics
    grid: list[PerformancePoint]
    latency_distribution_ms: Freeform | None
    energy: EnergyBlock


def summarize(
    points: Sequence[Point],
    processes: Sequence[Measured],
    roofline: Roofline,
    idle: Sequence[IdleBaseline],
    error: ErrorBlock | None,
) -> Summary:
    """The quantities of one variant.

    A process that something may have disturbed counts like any other: to leave it out would make
    the machine look quieter than it is.

    Args:
        points: The points of the profiling plan, the reference point first.
        processes: What each process wrote; none where one of them broke.
        roofline: What the machine can do, as `roofline.measure_roofline` gives it.
        idle: Idle baselines, in order, as `energy.measure_idle` gives them.
        error: What broke; None = nothing.

    Returns:
        The record's ``metrics`` at the reference point, its ``grid`` with all other points,
        ``latency_distribution_ms`` (None without processes) and ``energy``.
    """
    lost = f"{error['type']}: {error['message']}" if error else "no process measured it"
    meter: Freeform = cast(Freeform, processes[-1]["energy"] if processes else idle[-1])
    idle_w = resting_power_w(idle, meter["source"])
    drift = idle_drift(idle[0]["power_w"], idle[-1]["power_w"])
    no_energy = lost if error else meter["reason"] or "; ".join(meter["faults"]) or None

    def at(index: int) -> _PointQuantities:
        measured = [process["points"][index] for process in processes]
        return {
            **timed_metrics(processes, index, lost),
            **energy_metrics(measured, idle_w, no_energy),
            **utilization(processes, index, points[index], roofline, lost),
        }

    metrics, *others = (at(index) for index in range(len(points)))
    return {
        "metrics": {**metrics, **_batch(points, others), **once_metrics(processes, lost)},
        "grid": [
            {
                "prompt_tokens": point.prompt_tokens,
                "output_tokens": point.output_tokens,
                "sequences": point.sequences,
                "metrics": cast(PointMetrics, quantities),
            }
            for point, quantities in zip(points[1:], others, strict=True)
        ],
        "latency_distribution_ms": (
            cast(Freeform, latency_distribution(processes)) if processes else None
        ),
        "energy": cast(
            EnergyBlock,
            {
                **meter,
                "idle": list(idle),
                "idle_before_w": idle[0]["power_w"],
                "idle_after_w": idle[-1]["power_w"],
                "warnings": [drift] if drift else [],
            },
        ),
    }


def timed_metrics(processes: Sequence[Measured], index: int, lost: str) -> TimedMetrics:
    """Throughputs and latencies at one point.

    Throughputs count the tokens of all sequences. A quantile of the latency is taken over all
    tokens of all repetitions of a process, so each process has one value.

    Args:
        processes: What each process wrote.
        index: Which of their points.
        lost: Why there is no value, where there is no process.
    """
    points = [process["points"][index] for process in processes]
    sequences = points[0]["sequences"] if points else 1

    def each(value: Callable[[RawRepetition], float]) -> Quantity:
        return quantity([[value(r) for r in point["repetitions"]] for point in points], lost)

    def latency(percent: float) -> Quantity:
        return quantity([latency_quantiles_ms([point], [percent]) for point in points], lost)

    return {
        "prompt_throughput_tokens_per_s": each(
            lambda r: sequences * r["prompt_tokens"] / r["prefill_s"]
        ),
        "generation_throughput_tokens_per_s": each(lambda r: _tokens_per_s(r, sequences)),
        "ttft_ms": each(lambda r: 1000 * r["first_token_s"]),
        "client_ttft_ms": each(lambda r: 1000 * cast(float, r["client_first_token_s"]))
        if sequences == 1
        else quantity([], "a client asks for one sequence, and here several start together"),
        "inter_token_latency_ms": latency(50),
        "inter_token_latency_p90_ms": latency(90),
        "inter_token_latency_p99_ms": latency(99),
    }


def utilization(
    processes: Sequence[Measured],
    index: int,
    point: Point,
    roofline: Roofline,
    lost: str,
) -> Utilization:
    """MBU of generation and MFU of prompt processing at one point, as shares of one.

    Args:
        processes: What each process wrote.
        index: Which of their points.
        point: The same point, as planned.
        roofline: What the machine can do.
        lost: Why there is no value, where there is no process.
    """
    bandwidth, rate = roofline["bandwidth_bytes_per_s"], roofline["matrix_flops_per_s"]
    unknown = (roofline["reason"] or "the machine was not measured") if processes else lost

    def each(value: Callable[[Traffic, RawRepetition], float]) -> Quantity:
        values = [
            [
                value(Traffic(**process["traffic"]), r)
                for r in process["points"][index]["repetitions"]
            ]
            for process in processes
        ]
        return quantity(values, lost, session_sd=_RATIO_SD)

    return {
        "mbu": each(lambda t, r: mbu(t, point, _tokens_per_s(r, point.sequences), bandwidth))
        if bandwidth
        else quantity([], unknown),
        "mfu": each(
            lambda t, r: mfu(
                t,
                r["prompt_tokens"],
                point.sequences * r["prompt_tokens"] / r["prefill_s"],
                rate,
            )
        )
        if rate
        else quantity([], unknown),
    }


def once_metrics(processes: Sequence[Measured], lost: str) -> OnceMetrics:
    """What each process has once: memory, time to load, size."""

    on_device = [memory for process in processes if (memory := process["memory"]["device"])]
    no_device = "it runs on the CPU" if processes else lost
    return {
        "peak_memory_bytes": quantity(
            [[process["memory"]["peak_memory_bytes"]] for process in processes], lost
        ),
        "device_peak_memory_bytes": quantity(
            [[memory["device_peak_bytes"]] for memory in on_device], no_device
        ),
        "allocator_peak_memory_bytes": quantity(
            [[memory["allocator_peak_bytes"]] for memory in on_device], no_device
        ),
        "load_time_s": quantity([[process["load_s"]] for process in processes], lost),
        "size_bytes": quantity(
            [[process["size_bytes"]] for process in processes], lost, session_sd=0
        ),
    }


def latency_distribution(processes: Sequence[Measured]) -> LatencyDistribution:
    """How the times between tokens are distributed at the reference point.

    Returns:
        ``percent`` and ``latency_ms``, quantiles over the tokens of all processes together, of
        equal lengths; ``tokens``, the latencies of each process; and ``estimator``, numpy's name of
        how a quantile is taken.
    """
    points = [process["points"][0] for process in processes]
    return {
        "estimator": QUANTILE,
        "tokens": [sum(len(r["latencies_s"]) for r in point["repetitions"]) for point in points],
        "percent": list(_PERCENT),
        "latency_ms": latency_quantiles_ms(points, _PERCENT),
    }


def latency_quantiles_ms(points: Sequence[RawPoint], percent: Sequence[float]) -> list[float]:
    """Quantiles of the times between tokens, over all tokens of all repetitions of ``points``."""
    latencies_s = np.concatenate([r["latencies_s"] for p in points for r in p["repetitions"]])
    quantiles_s = np.quantile(latencies_s, np.divide(percent, 100), method=QUANTILE)
    return [round(1000 * float(value), 6) for value in quantiles_s]


def _batch(points: Sequence[Point], others: Sequence[TimedMetrics]) -> BatchMetrics:
    """Generation at the throughput point, which is the last where the plan has one."""
    if points[-1].sequences == 1:
        throughput = quantity([], "the plan has no point with several sequences")
    else:
        throughput = others[-1]["generation_throughput_tokens_per_s"]
    return {"batch_generation_throughput_tokens_per_s": throughput}


def _tokens_per_s(repetition: RawRepetition, sequences: int) -> float:
    """Tokens after the first of all sequences ÷ their time."""
    latencies_s = repetition["latencies_s"]
    return sequences * len(latencies_s) / math.fsum(latencies_s)
