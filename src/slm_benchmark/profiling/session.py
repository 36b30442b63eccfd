"""A profiling session: all variants of one model on one machine, in turn, in fresh processes.

One session takes them all, because only what was measured side by side can be compared: a machine
that slows down over ten minutes slows all variants down alike.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping, Sequence
from statistics import median
from typing import cast

from slm_benchmark.catalog.types import ProfilingPlan
from slm_benchmark.common.errors import RunEnvironmentError
from slm_benchmark.common.progress import say
from slm_benchmark.profiling.host import before_session
from slm_benchmark.profiling.job import Job, Point
from slm_benchmark.profiling.launch import ProfileFailed, Request, launch, run
from slm_benchmark.profiling.types import (
    IdleBaseline,
    RooflinePass,
    SessionResult,
    SessionRoofline,
    VariantResult,
)


def points_of(plan: ProfilingPlan) -> tuple[Point, ...]:
    """The points of a profiling plan, each once: the reference point, the grid, the batch."""
    grid = itertools.product(plan["prompt_tokens"], plan["output_tokens"])
    points = [Point(**plan["reference"]), *(Point(*lengths) for lengths in grid)]
    if plan["batch"] is not None:
        points.append(Point(**plan["batch"]))
    return tuple(dict.fromkeys(points))


def rounds(variants: Sequence[str], processes: int) -> list[list[str]]:
    """The order of the processes: each round has every variant once and starts one further on.

    So none of them always runs first, or always after the same one's heat and full caches.
    """
    return [
        [variants[(start + offset) % len(variants)] for offset in range(len(variants))]
        for start in range(processes)
    ]


def profile(jobs: Sequence[Job], plan: ProfilingPlan) -> SessionResult:
    """Measure some variants of one model, interleaved, on this machine.

    Args:
        jobs: One for each variant.
        plan: A profiling plan; says how many processes, how long to idle, and what is a quiet
            machine.

    Returns:
        ``order`` of the processes as (variant, …) rounds, ``roofline`` by device, ``idle`` by
        device before and after, ``host`` before the first process, and ``variants``: for each its
        ``device``, ``error`` (null, or type, message and traceback) and ``processes``, one result
        for each; none where one of them broke.

    Raises:
        UserError: for missing or damaged weights.
        RunEnvironmentError: when the machine is too busy, memory ran out or a process was killed.
    """
    for job in jobs:
        job.weight_files()  # missing files are reported at once, not after half a session
    by_variant = {job.variant: job for job in jobs}
    order = rounds(list(by_variant), plan["processes"])
    results: dict[str, VariantResult] = {
        variant: {"device": job.runs_on, "error": None, "processes": []}
        for variant, job in by_variant.items()
    }
    devices = _devices(jobs)
    host = before_session(plan["host"], gpu="cuda" in devices)
    idle = {device: [_idle(job, plan["idle_s"])] for device, job in devices.items()}
    rooflines: dict[str, list[RooflinePass]] = {device: [] for device in devices}
    for number, variants in enumerate(order, start=1):
        for device, job in devices.items():
            say(f"round {number} of {len(order)}: bandwidth and matrix rate of the {device}")
            rooflines[device].append(_roofline(job))
        for variant in variants:
            if results[variant]["error"]:
                continue
            say(f"round {number} of {len(order)}: {variant}")
            started = time.monotonic()
            try:
                launched = launch(by_variant[variant], plan["host"])
            except ProfileFailed as failed:
                results[variant]["error"] = failed.record
                results[variant]["processes"] = []
                continue
            duration_s = round(time.monotonic() - started, 3)
            results[variant]["processes"].append(
                {"round": number, "duration_s": duration_s, **launched}
            )
    for device, job in devices.items():
        idle[device].append(_idle(job, plan["idle_s"]))
    return {
        "order": order,
        "host": host,
        "idle": idle,
        "roofline": {device: _typical(passes) for device, passes in rooflines.items()},
        "variants": results,
    }


def _devices(jobs: Sequence[Job]) -> dict[str, Job]:
    """A job for each device that some variant runs on."""
    return {job.runs_on: job for job in jobs}


def _idle(job: Job, seconds: float) -> IdleBaseline:
    """Power of the resting machine, in a process of its own, as the meter opens the GPU."""
    request: Request = {"do": "idle", "energy": job.energy, "seconds": seconds}
    return cast(IdleBaseline, _of_machine(job, request))


def _typical(passes: Sequence[RooflinePass]) -> SessionRoofline:
    """The rooflines of all rounds as one: medians, as for the variants that ran between them.

    The best of them would be wrong where a virtual machine's processors are moved between cores
    of the host: one lucky round would be the divisor for variants that had no such luck.
    """
    bandwidths = [one["bandwidth_bytes_per_s"] for one in passes]
    rates = [one["matrix_flops_per_s"] for one in passes]
    middle = median(bandwidths)
    return {
        **min(passes, key=lambda one: abs(one["bandwidth_bytes_per_s"] - middle)),
        "bandwidth_bytes_per_s": median(bandwidths),
        "matrix_flops_per_s": median(rates),
        "bandwidth_by_round_bytes_per_s": bandwidths,
        "matrix_by_round_flops_per_s": rates,
    }


def _roofline(job: Job) -> RooflinePass:
    return cast(RooflinePass, _of_machine(job, {"do": "roofline", "dtype": job.dtype}))


def _of_machine(job: Job, request: Request) -> Mapping[str, object]:
    """Measure something that no variant can be blamed for."""
    try:
        return run({**request, "device": job.runs_on}, device=job.runs_on, threads=job.threads)
    except ProfileFailed as failed:
        raise RunEnvironmentError(
            f"the {job.runs_on} of this machine cannot be measured: {failed}",
            fix="run with a hardware id that fits, or mend the driver or the installation of torch",
        ) from failed
