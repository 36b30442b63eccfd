"""Generations that run together, each as if it were alone."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from slm_benchmark.common.errors import RunEnvironmentError, UserError
from slm_benchmark.engines.backend import MOST_BEAMS, Backend, Logits, OutOfMemory
from slm_benchmark.engines.schedule import CHUNK, Plan, plan_document, plan_forwards

Sampler = Callable[[Logits], int]
"""Picks the next token from logits of shape (vocabulary,)."""

_UNDERSTOOD = {
    "until",
    "max_gen_toks",
    "do_sample",
    "temperature",
    "top_k",
    "top_p",
    "num_beams",
    "length_penalty",
    "early_stopping",
}


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn.

    Attributes:
        temperature: Above 0.
        top_k: Only so many tokens of highest probability; 0 means all.
        top_p: Only the tokens of highest probability that together reach this one; 1 means all.
    """

    temperature: float
    top_k: int
    top_p: float


@dataclass(frozen=True)
class Beams:
    """How a beam search goes on and ends; names and defaults are those of `transformers`.

    Attributes:
        count: Texts that are followed at once, from 2 to `MOST_BEAMS`.
        length_penalty: An ended text counts by its summed log-probability, divided by its tokens to
            this power.
        early_stopping: True ends the search with as many ended texts as beams. False ends it once
            the best running one, were it to end now, is no better than the worst of these; "never",
            once it could not be at its longest either.
    """

    count: int
    length_penalty: float
    early_stopping: bool | Literal["never"]


def read_decoding(settings: Mapping[str, Any]) -> Sampling | Beams | None:
    """Decoding as the harness's generation settings ask for it; None is greedy: the top-1 token.

    Raises:
        UserError: for a setting that the engines do not have, or a value that it cannot have.
    """
    unknown = sorted(settings.keys() - _UNDERSTOOD)
    if unknown:
        raise _bad(
            settings,
            unknown[0],
            "the engines have no such generation setting",
            f"use {', '.join(sorted(_UNDERSTOOD))}",
        )
    if settings.get("num_beams", 1) != 1:
        return _read_beams(settings)
    temperature = float(settings.get("temperature", 0.0))
    if not settings.get("do_sample") or temperature == 0.0:
        return None
    return Sampling(temperature, int(settings.get("top_k", 0)), float(settings.get("top_p", 1.0)))


def _read_beams(settings: Mapping[str, Any]) -> Beams:
    count, penalty = settings["num_beams"], settings.get("length_penalty", 1.0)
    early = settings.get("early_stopping", False)
    if type(count) is not int or not 1 < count <= MOST_BEAMS:
        fix = f"use a whole number from 1 to {MOST_BEAMS}"
        raise _bad(settings, "num_beams", "the engines have no such number of beams", fix)
    if settings.get("do_sample"):
        fix = "set num_beams to 1, or do_sample to false"
        raise _bad(settings, "num_beams", "the engines draw no samples from beams", fix)
    if type(penalty) not in (int, float):
        raise _bad(settings, "length_penalty", "not a number", "use a number such as 1.0")
    if type(early) is not bool and early != "never":
        fix = "use true, false or never"
        raise _bad(settings, "early_stopping", "no way to end a beam search", fix)
    return Beams(count, float(penalty), early)


def _bad(settings: Mapping[str, Any], name: str, message: str, fix: str) -> UserError:
    fix = f"{fix}; override the task's value with gen_kwargs"
    return UserError(message, field=f"generation_kwargs.{name}", value=settings[name], fix=fix)


def probabilities(logits: Logits, sampling: Sampling) -> NDArray[np.float64]:
    """Probability of each token, shape (vocabulary,): temperature, then top-k, then top-p."""
    scaled = logits.astype(np.float64) / sampling.temperature
    if sampling.top_k:
        top_k = min(sampling.top_k, len(scaled))
        smallest = np.partition(scaled, -top_k)[-top_k:].min()
        scaled[scaled < smallest] = -np.inf
    shares: NDArray[np.float64] = np.exp(scaled - scaled.max())
    shares /= shares.sum()
    if sampling.top_p < 1.0:
        order = np.argsort(-shares, kind="stable")
        # The token that reaches the threshold stays.
        reached = np.cumsum(shares[order]) - shares[order]
        shares[order[reached >= sampling.top_p]] = 0.0
        shares /= shares.sum()
    return shares


def make_sampler(sampling: Sampling | None, seed: Sequence[int]) -> Sampler:
    """Make the sampler of a generation.

    Args:
        sampling: None picks the top-1 token.
        seed: Of the draws; a generation has a stream of its own, whatever runs beside it.
    """
    if sampling is None:
        return lambda logits: int(logits.argmax())
    stream = np.random.default_rng(seed)

    def draw(logits: Logits) -> int:
        reached = np.cumsum(probabilities(logits, sampling))
        return int(np.searchsorted(reached, stream.random() * reached[-1], side="right"))

    return draw


@dataclass(frozen=True)
class Job:
    """A generation to make.

    Attributes:
        context: Token ids of the prompt, at least one.
        limit: Most new tokens.
        sampler: Picks a token.
        finished: Told all new tokens after each one; true ends the generation.
    """

    context: Sequence[int]
    limit: int
    sampler: Sampler
    finished: Callable[[Sequence[int]], bool]

    @property
    def longest(self) -> int:
        """Tokens of the prompt with its longest answer."""
        return len(self.context) + self.limit


@dataclass
class _Running:
    index: int
    state: Any
    sampler: Sampler
    new: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Generation:
    """New tokens of one job or search.

    Attributes:
        index: Of the job or search.
        new: The new tokens.
        stopped: Whether it met an end token or a stop string before its limit.
        forwarded: New tokens that were forwarded for it, those of all beams.
    """

    index: int
    new: list[int]
    stopped: bool
    forwarded: int


def plan_prompts(contexts: Sequence[Sequence[int]], chunk: int = CHUNK) -> tuple[list[Any], Plan]:
    """Plan prompts: a planned forward for each, and the order of all."""
    # The only continuation is one token, which is scored by nobody.
    forwards = [plan_document([(context, [0])], chunk)[0][0] for context in contexts]
    return forwards, plan_forwards(forwards, chunk)


def generate(backend: Backend, jobs: Sequence[Callable[[], Job]]) -> Iterator[Generation]:
    """Make all generations, as many at once as the backend has rows and memory for.

    Args:
        backend: The model.
        jobs: What makes each job: after a lack of memory a generation begins anew, with a job
            whose draws begin anew too.

    Yields:
        Each generation when it ends.

    Raises:
        RunEnvironmentError: when there is no memory for a single generation.
    """
    if not jobs:
        return
    all_jobs = [make() for make in jobs]
    forwards, plan = plan_prompts([job.context for job in all_jobs], backend.chunk)
    at_once = backend.rows
    waiting = deque(plan.order)
    failed: list[int] | None = None
    while waiting:
        running: list[_Running] = []
        try:
            room = backend.reserve(plan, [job.longest for job in all_jobs], at_once)
            while waiting or running:
                while waiting and _may_start(all_jobs, running, waiting[0], at_once, room):
                    index = waiting.popleft()
                    entry = _Running(index, None, jobs[index]().sampler)
                    running.append(entry)
                    entry.state, logits = backend.start(forwards[index], all_jobs[index].longest)
                    entry.new.append(entry.sampler(logits))
                    yield from _ended(backend, all_jobs, running, [entry])
                if running:
                    tokens = [entry.new[-1] for entry in running]
                    logits = backend.step([entry.state for entry in running], tokens)
                    for entry, row in zip(running, logits, strict=True):
                        entry.new.append(entry.sampler(row))
                    yield from _ended(backend, all_jobs, running, list(running))
        except OutOfMemory as error:
            beside = [entry.index for entry in running]
            if at_once == 1 and failed == beside:
                raise RunEnvironmentError(
                    f"no memory for a single generation: {error}",
                    fix="free memory, or run fewer jobs at once",
                ) from error
            # What comes out does not depend on how many run together. A lack that passes deserves
            # a second try even where there was only one.
            failed = beside
            at_once = max(1, (len(beside) or at_once) // 2)
            waiting.extendleft(reversed(beside))
            backend.free()


def _may_start(
    jobs: Sequence[Job], running: Sequence[_Running], index: int, at_once: int, room: int
) -> bool:
    if not running:
        return True
    held = sum(jobs[entry.index].longest for entry in running)
    return len(running) < at_once and held + jobs[index].longest <= room


def _ended(
    backend: Backend, jobs: Sequence[Job], running: list[_Running], stepped: Sequence[_Running]
) -> Iterator[Generation]:
    """Take out of ``running`` what has ended."""
    for entry in stepped:
        job = jobs[entry.index]
        stopped = job.finished(entry.new)
        if stopped or len(entry.new) == job.limit:
            running.remove(entry)
            backend.finish(entry.state)
            # The last token is sampled, not forwarded.
            yield Generation(entry.index, entry.new, stopped, len(entry.new) - 1)


def rows_are_independent(backend: Backend) -> bool:
    """Whether generation is batch-invariant: bitwise identical for any batch composition.

    The logits of one generation are compared alone and in every row of a batch. They are equal
    where each row of a matrix product is computed independently. Layers that group rows by
    content, such as a mixture of experts, need not do so, nor need threads that split a tensor in
    the midst of a row.
    """
    if backend.rows == 1:
        return True
    size = backend.vocabulary
    contexts = [
        [token % size for token in (3 + row, 5, 7 + 2 * row, 11, 13 + row)]
        for row in range(backend.rows)
    ]
    forwards, plan = plan_prompts(contexts, backend.chunk)
    longest = len(contexts[0]) + backend.rows + 1
    backend.reserve(plan, [longest] * backend.rows, backend.rows)

    def logits_bytes(others: Sequence[Any], row: int) -> bytes:
        """Logits of the first prompt as the given row, beside others."""
        state, _ = backend.start(forwards[0], longest)
        batch = [*others[:row], state, *others[row:]]
        tokens = [(17 + other) % size for other in range(len(others))]
        logits = backend.step(batch, [*tokens[:row], 9 % size, *tokens[row:]])
        backend.finish(state)
        return bytes(logits[row].tobytes())

    alone = logits_bytes([], 0)
    others = [backend.start(planned, longest)[0] for planned in forwards[1:]]
    same = all(logits_bytes(others, row) == alone for row in range(backend.rows))
    for state in others:
        backend.finish(state)
    return same
