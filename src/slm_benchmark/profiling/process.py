"""What a measured process does: load one variant, warm up, repeat. It measures nothing else."""

from __future__ import annotations

import gc
import itertools
import math
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

from slm_benchmark.common.files import digest
from slm_benchmark.profiling.energy import Meter, Span, describe_meter
from slm_benchmark.profiling.job import Job, Point
from slm_benchmark.profiling.memory import PeakMemory
from slm_benchmark.profiling.prompts import Prompt, make_prompt
from slm_benchmark.profiling.runner import Runner
from slm_benchmark.profiling.types import Measured, RawMemory, RawPoint, RawRepetition

SETTLED = 5
"""So many warm-up repetitions in a row have to agree."""

DIGITS = 7
"""Decimals of recorded times in seconds: a tenth of a microsecond, about the clock's own step."""

_OVERHEAD_TOKENS = 2000


@dataclass(frozen=True)
class Repetition:
    """One prompt and its answer, in each sequence of the point.

    Attributes:
        started_unix_s: When it began.
        prompt_tokens: Tokens that were processed before the first generated one, of one sequence.
        output_tokens: Tokens that were generated, of one sequence.
        prefill_s: Time to process the prompts.
        first_token_s: TTFT in the engine: from token ids to the first generated token id.
        client_first_token_s: TTFT at the client: from the prompt's text to the first token's text.
            None where there are several sequences.
        latencies_s: Time from each generated token to the next, shape (output tokens - 1,).
        generation_started_unix_s: When the first token had been generated.
        generation_ended_unix_s: When the last one had.
        prompt_energy_j: Energy from token ids to the first token; None without a meter.
        generation_energy_j: Energy of the time after it; None without a meter.
        tokens_sha256: Digest of the generated tokens: equal ones show equal work.
    """

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

    @property
    def generation_s(self) -> float:
        """Time from the first generated token to the last."""
        return math.fsum(self.latencies_s)


def measure(job: Job, runner: Runner, meter: Meter | str) -> Measured:
    """Measure one variant in this process.

    Args:
        job: What to do.
        runner: The engine, its imports done and nothing loaded.
        meter: Of energy; a text says why there is none.

    Returns:
        What a process leaves behind: the engine, times to load, memory, traffic, and each point
        with all of its repetitions, in the order of ``job.points``.

    Raises:
        UserError: for weights or a tokenizer that cannot be read.
        ArithmeticError: when the number format overflows.
    """
    prompts = {
        n: make_prompt(Path(job.base), n, trust_remote_code=job.trust_remote_code)
        for n in {point.prompt_tokens for point in job.points}
    }
    files = job.weight_files()
    _say(job, "reading the files once, so that loading never waits for the disk")
    for file in files:
        _read_through(file)
    memory = PeakMemory()
    _say(job, "loading")
    started = time.perf_counter()
    runner.load()
    load_s = time.perf_counter() - started
    runner.release_files()
    memory.loaded()
    points: list[RawPoint] = []
    used: RawMemory | None = None
    with collecting_by_hand():
        for point in job.points:
            points.append(_measure_point(job, runner, point, prompts[point.prompt_tokens], meter))
            if used is None:  # memory is that of the reference point, which is the first
                used = {**memory.details(), "device": runner.device_memory()}
    assert used is not None
    return {
        "engine": {**runner.engine(), "threads": job.threads},
        "load_s": round(load_s, DIGITS),
        "size_bytes": sum(file.stat().st_size for file in files),
        "memory": used,
        "traffic": runner.traffic(),
        "energy": describe_meter(meter),
        "overhead_us_per_token": overhead_us_per_token(),
        "points": points,
    }


@contextmanager
def collecting_by_hand() -> Iterator[None]:
    """Let Python collect its garbage only when it is called, and then fast.

    A collection inside a repetition would look like a slow token. One before it must be short: to
    look through all objects that the libraries made takes tenths of a second on one CPU, after
    which the others are slower to join in.
    """
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()


def repeat(runner: Runner, prompt: Prompt, point: Point, meter: Meter | str) -> Repetition:
    """Process the prompt from an empty cache and generate greedily, with a clock at each token."""
    runner.reset()
    gc.collect()
    alone = point.sequences == 1
    started_unix_s = time.time()
    requested = time.perf_counter()
    ids = prompt.encode(prompt.text) if alone else prompt.ids
    encoded = time.perf_counter()
    with _span(meter) as prompt_span:
        started = time.perf_counter()
        runner.prefill(ids)
        prefilled = time.perf_counter()
        tokens = [runner.greedy()]
        first = time.perf_counter()
    got = time.perf_counter()
    if alone:
        prompt.decode(tokens[0])
    shown = time.perf_counter()
    # Without the reading of the meter, which no client waits for.
    client_s = (encoded - requested) + (first - started) + (shown - got)
    with _span(meter) as generation_span:
        generation_started_unix_s = time.time()
        stamps = generate(runner, tokens, point.output_tokens)
        generation_ended_unix_s = time.time()
    return Repetition(
        started_unix_s=round(started_unix_s, 3),
        prompt_tokens=len(ids),
        output_tokens=len(tokens),
        prefill_s=round(prefilled - started, DIGITS),
        first_token_s=round(first - started, DIGITS),
        client_first_token_s=round(client_s, DIGITS) if alone else None,
        latencies_s=[round(end - start, DIGITS) for start, end in itertools.pairwise(stamps)],
        generation_started_unix_s=round(generation_started_unix_s, 3),
        generation_ended_unix_s=round(generation_ended_unix_s, 3),
        prompt_energy_j=prompt_span.joules if prompt_span else None,
        generation_energy_j=generation_span.joules if generation_span else None,
        tokens_sha256=digest(tokens),
    )


def generate(runner: Runner, tokens: list[list[int]], output_tokens: int) -> list[float]:
    """Extend ``tokens``, one step of all sequences at a time, to ``output_tokens`` steps.

    Returns:
        The clock before the first step and after each one, in seconds.
    """
    stamps = [time.perf_counter()]
    while len(tokens) < output_tokens:
        runner.decode(tokens[-1])
        tokens.append(runner.greedy())
        stamps.append(time.perf_counter())
    return stamps


def settled(warmups: Sequence[Repetition], bound: float) -> bool:
    """Whether the last five repetitions took the same time, in both phases.

    Args:
        warmups: All so far.
        bound: By what share the slowest may be slower than the fastest.
    """
    last = warmups[-SETTLED:]
    phases = ([w.prefill_s for w in last], [w.generation_s for w in last])
    return len(last) == SETTLED and all(max(s) <= min(s) * (1 + bound) for s in phases)


def overhead_us_per_token() -> float:
    """What the instrument itself takes for each generated token, in microseconds.

    The loop of a repetition around an engine that does nothing.
    """
    stamps = generate(_Idle(), [[0]], _OVERHEAD_TOKENS)  # type: ignore[arg-type]
    return round(1e6 * (stamps[-1] - stamps[0]) / (len(stamps) - 1), 3)


class _Idle:
    """As much of a `Runner` as `generate` uses."""

    def decode(self, tokens: Sequence[int]) -> None:
        """Nothing."""

    def greedy(self) -> list[int]:
        """One token."""
        return [0]


def _span(meter: Meter | str) -> AbstractContextManager[Span | None]:
    """A block whose energy is measured, where there is a meter."""
    return meter.span() if isinstance(meter, Meter) else nullcontext()


def _measure_point(
    job: Job, runner: Runner, point: Point, prompt: Prompt, meter: Meter | str
) -> RawPoint:
    runner.prepare(point)
    runner.prefill(prompt.ids)
    runner.check_finite()
    warmups: list[Repetition] = []
    while len(warmups) < job.max_warmups and not settled(warmups, job.warmup_bound):
        warmups.append(repeat(runner, prompt, point, meter))
    repetitions: list[Repetition] = []
    begun = time.perf_counter()
    while len(repetitions) < job.repetitions or time.perf_counter() - begun < job.min_duration_s:
        repetitions.append(repeat(runner, prompt, point, meter))
    last = repetitions[-1]
    _say(
        job,
        f"{point.sequences} × {point.prompt_tokens} + {point.output_tokens} tokens: "
        f"{len(warmups)} warm-ups, {len(repetitions)} repetitions; the last took "
        f"{last.prefill_s:.3f} s for the prompt, {last.generation_s:.3f} s for the answer",
    )
    return {
        "prompt_tokens": point.prompt_tokens,
        "output_tokens": point.output_tokens,
        "sequences": point.sequences,
        "warmups": _raw(warmups),
        "settled": settled(warmups, job.warmup_bound),
        "repetitions": _raw(repetitions),
    }


def _raw(repetitions: Sequence[Repetition]) -> list[RawRepetition]:
    return [cast(RawRepetition, asdict(repetition)) for repetition in repetitions]


def _read_through(file: Path) -> None:
    with open(file, "rb", buffering=0) as stream:
        block = bytearray(1 << 20)
        while stream.readinto(block):
            pass


def _say(job: Job, text: str) -> None:
    print(f"profile {job.variant}: {text}", file=sys.stderr, flush=True)
