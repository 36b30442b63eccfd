"""The measurement itself: load, warm up, repeat, reduce. Runs in the process that it measures."""

from __future__ import annotations

import gc
import itertools
import math
import random
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from slm_benchmark.files import digest
from slm_benchmark.profile.energy import MWH_PER_JOULE, EnergyCounter, find_counter
from slm_benchmark.profile.memory import PeakMemory
from slm_benchmark.profile.runner import Job, Runner
from slm_benchmark.statistics.median import median_coverage, median_interval

MIN_WARMUPS = 2
SETTLED_RUNS = 3
SETTLED_SPREAD = 0.05
"""Warm-up ends when the last three agree: slowest at most 5 % above fastest, in both phases."""


@dataclass(frozen=True)
class Repetition:
    """One prompt and its generation.

    Attributes:
        prefill_s: Time to process the prompt.
        first_token_s: Time from handing over the prompt to the first generated token.
        latencies_s: Time from each generated token to the next, shape (output tokens - 1,).
        energy_j: Energy of the time after the first token; None without a counter.
        tokens_sha256: Digest of the generated tokens; equal ones show equal work.
    """

    prefill_s: float
    first_token_s: float
    latencies_s: list[float]
    energy_j: float | None
    tokens_sha256: str

    @property
    def generation_s(self) -> float:
        """Time from the first generated token to the last."""
        return math.fsum(self.latencies_s)


def measure(job: Job, runner: Runner) -> dict[str, Any]:
    """Measure one variant in this process.

    Returns:
        ``engine``, ``metrics`` and ``raw`` of the performance record.
    """
    # The vocabulary is the base model's and the seed is fixed: every variant gets equal prompts.
    # random() is the one method whose values do not change between versions of Python.
    draw, size = random.Random(0), job.vocabulary_size()
    prompt = [int(draw.random() * size) for _ in range(job.prompt_tokens)]
    files = job.weight_files()
    _say(job, "reading the files once, so that loading never waits for the disk")
    for file in files:
        _read_through(file)
    memory = PeakMemory()
    _say(job, "loading")
    started = time.perf_counter()
    runner.load()
    load_s = time.perf_counter() - started
    counter = find_counter(runner.device)
    source = counter if isinstance(counter, EnergyCounter) else None
    gc.disable()  # a collection inside a repetition would look like a slow token
    warmups: list[Repetition] = []
    while len(warmups) < job.max_warmups and not settled(warmups):
        warmups.append(repeat(runner, prompt, job.output_tokens, source))
        _say(job, f"warm-up {len(warmups)} of at most {job.max_warmups}", warmups[-1])
    repetitions: list[Repetition] = []
    while len(repetitions) < job.repetitions:
        repetitions.append(repeat(runner, prompt, job.output_tokens, source))
        _say(job, f"repetition {len(repetitions)} of {job.repetitions}", repetitions[-1])
    gc.enable()
    device_bytes = runner.device_memory_bytes()
    once = {
        "peak_memory_bytes": memory.grown_bytes() if device_bytes is None else device_bytes,
        "load_time_s": load_s,
        "size_bytes": sum(file.stat().st_size for file in files),
    }
    engine = runner.engine()
    engine["threads"] = job.threads
    engine["schedule"] = (
        f"batch 1; {engine['schedule']}; the same {job.prompt_tokens} random tokens each time, "
        f"{job.output_tokens} generated greedily, end of sequence ignored; cache emptied between"
    )
    return {
        "engine": engine,
        "metrics": {
            **_repeated_metrics(job, repetitions, None if source else str(counter)),
            **{name: _quantity([value]) for name, value in once.items()},
        },
        "raw": {
            "prompt_tokens": len(prompt),
            "prompt_sha256": digest(prompt),
            "output_tokens": job.output_tokens,
            "warmups": [asdict(warmup) for warmup in warmups],
            "warmups_settled": settled(warmups),
            "repetitions": [asdict(repetition) for repetition in repetitions],
            "ci95_method": (
                "order statistics of the median, coverage "
                f"{median_coverage(job.repetitions):.3f} or more"
            ),
            "memory": {
                "counted_on": "host" if device_bytes is None else "device",
                "device_peak_bytes": device_bytes,
                **memory.details(),
            },
            "energy_source": source.source if source else None,
        },
    }


def repeat(
    runner: Runner, prompt: Sequence[int], output_tokens: int, counter: EnergyCounter | None
) -> Repetition:
    """Process ``prompt`` from an empty cache and generate ``output_tokens`` tokens greedily."""
    runner.reset()
    gc.collect()
    started = time.perf_counter()
    runner.prefill(prompt)
    prefilled = time.perf_counter()
    tokens = [runner.greedy()]
    first = time.perf_counter()
    energy_before = counter.read() if counter else []
    stamps = [time.perf_counter()]
    while len(tokens) < output_tokens:
        runner.decode(tokens[-1])
        tokens.append(runner.greedy())
        stamps.append(time.perf_counter())
    energy_after = counter.read() if counter else []
    return Repetition(
        prefill_s=prefilled - started,
        first_token_s=first - started,
        latencies_s=[end - start for start, end in itertools.pairwise(stamps)],
        energy_j=counter.joules(energy_before, energy_after) if counter else None,
        tokens_sha256=digest(tokens),
    )


def settled(warmups: Sequence[Repetition]) -> bool:
    """Whether the last three repetitions took the same time, in both phases."""
    if len(warmups) < max(MIN_WARMUPS, SETTLED_RUNS):
        return False
    last = warmups[-SETTLED_RUNS:]
    phases = ([w.prefill_s for w in last], [w.generation_s for w in last])
    return all(max(times) <= min(times) * (1 + SETTLED_SPREAD) for times in phases)


def _repeated_metrics(
    job: Job, repetitions: Sequence[Repetition], no_energy: str | None
) -> dict[str, dict[str, Any]]:
    """The metrics that each repetition gives one value of."""
    later = job.output_tokens - 1
    energies = [r.energy_j * MWH_PER_JOULE / later for r in repetitions if r.energy_j is not None]
    milliseconds = [sorted(1000 * s for s in r.latencies_s) for r in repetitions]
    return {
        "prompt_throughput_tokens_per_s": _quantity(
            [job.prompt_tokens / r.prefill_s for r in repetitions]
        ),
        "generation_throughput_tokens_per_s": _quantity(
            [later / r.generation_s for r in repetitions]
        ),
        "ttft_ms": _quantity([1000 * r.first_token_s for r in repetitions]),
        "inter_token_latency_ms": _quantity([statistics.median(ms) for ms in milliseconds]),
        # Nearest rank: with fewer than 100 tokens this is the longest.
        "inter_token_latency_p99_ms": _quantity(
            [ms[math.ceil(0.99 * len(ms)) - 1] for ms in milliseconds]
        ),
        "energy_mwh_per_token": _quantity(energies, no_energy),
    }


def _quantity(values: Sequence[float], reason: str | None = None) -> dict[str, Any]:
    """Median, interval and count; ``reason`` says why there are no values."""
    return {
        "value": statistics.median(values) if values else None,
        "ci95": list(median_interval(values)) if len(values) > 1 else None,
        "n": len(values),
        "reason": reason,
    }


def _read_through(file: Any) -> None:
    with open(file, "rb", buffering=0) as stream:
        block = bytearray(1 << 20)
        while stream.readinto(block):
            pass


def _say(job: Job, phase: str, repetition: Repetition | None = None) -> None:
    times = ""
    if repetition:
        times = (
            f": prompt of {job.prompt_tokens} tokens {repetition.prefill_s:.2f} s, "
            f"{job.output_tokens - 1} more tokens {repetition.generation_s:.2f} s"
        )
    print(f"profile {job.variant}: {phase}{times}", file=sys.stderr, flush=True)
