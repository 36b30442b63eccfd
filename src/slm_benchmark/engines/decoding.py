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
from slm_benchmark.engines.schedule import CHUNK, Plan, plan_document, plan_parts

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
        top_k: Only so many of the likeliest tokens; 0 means all.
        top_p: Only the likeliest tokens that together reach this probability; 1 means all.
    """

    temperature: float
    top_k: int
    top_p: float


@dataclass(frozen=True)
class Beams:
    """How the likeliest text is searched; the names and defaults are those of `transformers`.

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
    """Decoding as the harness's generation settings ask for it; None is the likeliest token.

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
        kept = min(sampling.top_k, len(scaled))
        smallest = np.partition(scaled, -kept)[-kept:].min()
        scaled[scaled < smallest] = -np.inf
    found: NDArray[np.float64] = np.exp(scaled - scaled.max())
    found /= found.sum()
    if sampling.top_p < 1.0:
        order = np.argsort(-found, kind="stable")
        # The token that reaches the threshold stays.
        reached = np.cumsum(found[order]) - found[order]
        found[order[reached >= sampling.top_p]] = 0.0
        found /= found.sum()
    return found


def sampler(sampling: Sampling | None, seed: Sequence[int]) -> Sampler:
    """How a generation picks its tokens.

    Args:
        sampling: None picks the likeliest token.
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
        choose: Picks a token.
        finished: Told all new tokens after each one; true ends the generation.
    """

    context: Sequence[int]
    limit: int
    choose: Sampler
    finished: Callable[[Sequence[int]], bool]

    @property
    def longest(self) -> int:
        """Tokens of the prompt with its longest answer."""
        return len(self.context) + self.limit


@dataclass
class _Running:
    index: int
    state: Any
    choose: Sampler
    new: list[int] = field(default_factory=list)


Generation = tuple[int, list[int], bool]
"""Index of a job, its new tokens, and whether it ended by itself, before its limit."""


def plan_prompts(contexts: Sequence[Sequence[int]], chunk: int = CHUNK) -> tuple[list[Any], Plan]:
    """Prompts as parts, and their plan."""
    # The only continuation is one token, which is scored by nobody.
    parts = [plan_document([(context, [0])], chunk)[0][0] for context in contexts]
    return parts, plan_parts(parts, chunk)


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
    asked = [make() for make in jobs]
    parts, plan = plan_prompts([job.context for job in asked], backend.chunk)
    at_once = backend.rows
    waiting = deque(plan.order)
    failed: list[int] | None = None
    while waiting:
        running: list[_Running] = []
        try:
            room = backend.reserve(plan, [job.longest for job in asked], at_once)
            while waiting or running:
                while waiting and _may_start(asked, running, waiting[0], at_once, room):
                    index = waiting.popleft()
                    entry = _Running(index, None, jobs[index]().choose)
                    running.append(entry)
                    entry.state, logits = backend.start(parts[index], asked[index].longest)
                    entry.new.append(entry.choose(logits))
                    yield from _ended(backend, asked, running, [entry])
                if running:
                    tokens = [entry.new[-1] for entry in running]
                    logits = backend.step([entry.state for entry in running], tokens)
                    for entry, row in zip(running, logits, strict=True):
                        entry.new.append(entry.choose(row))
                    yield from _ended(backend, asked, running, list(running))
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
    asked: Sequence[Job], running: Sequence[_Running], index: int, at_once: int, room: int
) -> bool:
    if not running:
        return True
    held = sum(asked[entry.index].longest for entry in running)
    return len(running) < at_once and held + asked[index].longest <= room


def _ended(
    backend: Backend, asked: Sequence[Job], running: list[_Running], stepped: Sequence[_Running]
) -> Iterator[Generation]:
    """Take out of ``running`` what has ended."""
    for entry in stepped:
        job = asked[entry.index]
        stopped = job.finished(entry.new)
        if stopped or len(entry.new) == job.limit:
            running.remove(entry)
            backend.finish(entry.state)
            yield entry.index, entry.new, stopped


def rows_are_independent(backend: Backend) -> bool:
    """Whether a generation's logits are the same, bit by bit, alone and in every row of a company.

    So it is where each row of a matrix product is computed by itself. Layers that group rows by
    content, such as a mixture of experts, need not do so, nor need threads that split a tensor in
    the midst of a row.
    """
    if backend.rows == 1:
        return True
    contexts = [[3 + row, 5, 7 + 2 * row, 11, 13 + row] for row in range(backend.rows)]
    parts, plan = plan_prompts(contexts, backend.chunk)
    longest = len(contexts[0]) + backend.rows + 1
    backend.reserve(plan, [longest] * backend.rows, backend.rows)

    def tried(others: Sequence[Any], row: int) -> bytes:
        """Logits of the first prompt as the given row, beside others."""
        state, _ = backend.start(parts[0], longest)
        company = [*others[:row], state, *others[row:]]
        tokens = [17 + other for other in range(len(others))]
        logits = backend.step(company, [*tokens[:row], 9, *tokens[row:]])
        backend.finish(state)
        return bytes(logits[row].tobytes())

    alone = tried([], 0)
    others = [backend.start(part, longest)[0] for part in parts[1:]]
    same = all(tried(others, row) == alone for row in range(backend.rows))
    for state in others:
        backend.finish(state)
    return same
