"""Beam search over a backend, with the meaning that Hugging Face's ``generate`` gives it.

Prompts are searched one after the other; the beams of one fill the rows of a step, and take several
steps where there are more beams than rows. So what is found does not depend on other prompts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from slm_benchmark.common.errors import RunEnvironmentError
from slm_benchmark.engines.backend import Backend, Logits, OutOfMemory
from slm_benchmark.engines.decoding import Beams, Generation, plan_prompts
from slm_benchmark.engines.logprobs import log_sum_exp
from slm_benchmark.engines.schedule import PlannedForward


@dataclass(frozen=True)
class Search:
    """A search to make.

    Attributes:
        context: Token ids of the prompt, at least one.
        limit: Most new tokens.
        beams: How it is searched.
        finished: Told all new tokens of a candidate; true ends this candidate.
        end_tokens: How many tokens end a text: so many candidates more are looked at for each beam,
            as all of these may end.
        undecodable: Rows of the model that stand for no token, and are never picked.
    """

    context: Sequence[int]
    limit: int
    beams: Beams
    finished: Callable[[Sequence[int]], bool]
    end_tokens: int
    undecodable: Sequence[int] = ()

    @property
    def longest(self) -> int:
        """Tokens of the prompt with its longest answer."""
        return len(self.context) + self.limit

    @property
    def held(self) -> int:
        """Most tokens that the beams hold together; they share the prompt."""
        return len(self.context) + self.beams.count * self.limit


@dataclass(frozen=True, eq=False)
class _Beam:
    """New tokens with their summed log-probability, in nats; ``state`` holds all but the last."""

    state: Any
    new: list[int]
    total: float


@dataclass(frozen=True)
class _Ended:
    new: list[int]
    stopped: bool
    score: float


def search(backend: Backend, searches: Sequence[Search]) -> Iterator[Generation]:
    """Make all searches, in the order in which their prompts share most.

    Args:
        backend: The model.
        searches: The searches.

    Yields:
        The best text of each search.

    Raises:
        RunEnvironmentError: when there is no memory for a single search.
    """
    if not searches:
        return
    forwards, plan = plan_prompts([one.context for one in searches], backend.chunk)
    waiting = deque(plan.order)
    failed: int | None = None
    while waiting:
        try:
            backend.reserve(plan, [one.held for one in searches], 1)
            while waiting:
                best, forwarded = _search_one(backend, searches[waiting[0]], forwards[waiting[0]])
                yield Generation(waiting.popleft(), best.new, best.stopped, forwarded)
        except OutOfMemory as error:
            if failed == waiting[0]:
                raise RunEnvironmentError(
                    f"no memory for a single beam search: {error}",
                    fix="free memory, or run fewer jobs at once",
                ) from error
            failed = waiting[0]
            backend.free()


def _search_one(backend: Backend, request: Search, planned: PlannedForward) -> tuple[_Ended, int]:
    """The best text that ended, and the new tokens that were forwarded."""
    beams = request.beams
    state, first = backend.start(planned, request.longest)
    live = [_Beam(state, [], 0.0)]
    logits = first[None]
    ended: list[_Ended] = []
    forwarded = 0
    for length in range(1, request.limit + 1):
        grown: list[_Beam] = []
        for rank, candidate in enumerate(_candidates(live, logits, request)):
            stopped = request.finished(candidate.new)
            if stopped or length == request.limit:
                # Those of a lower rank are looked at only to go on with.
                if rank < beams.count:
                    score = _score(candidate.total, length, beams)
                    ended.append(_Ended(candidate.new, stopped, score))
            elif len(grown) < beams.count:
                grown.append(candidate)
        ended = sorted(ended, key=lambda one: -one.score)[: beams.count]
        if not grown or _is_over(request, ended, length, grown[0].total):
            break
        live = _hand_over(backend, live, grown)
        logits = np.concatenate(
            [
                backend.step([beam.state for beam in row], [beam.new[-1] for beam in row])
                for row in (live[i : i + backend.rows] for i in range(0, len(live), backend.rows))
            ]
        )
        forwarded += len(live)
    for beam in live:
        backend.finish(beam.state)
    return ended[0], forwarded


def _candidates(live: Sequence[_Beam], logits: Logits, request: Search) -> Iterator[_Beam]:
    """The texts of highest probability that are a token longer, the highest first."""
    log_total, _ = log_sum_exp(logits)
    before = np.array([beam.total for beam in live])
    by_row = logits + (before - log_total)[:, None]
    if request.undecodable:
        by_row[:, list(request.undecodable)] = -np.inf
    totals = by_row.ravel()
    count = min(len(totals), request.beams.count * max(2, 1 + request.end_tokens))
    best = np.argpartition(-totals, count - 1)[:count]
    for position in best[np.lexsort((best, -totals[best]))]:
        row, token = divmod(int(position), logits.shape[1])
        yield _Beam(live[row].state, [*live[row].new, token], float(totals[position]))


def _is_over(request: Search, ended: Sequence[_Ended], length: int, best_total: float) -> bool:
    """Whether what runs can no longer win, as `transformers` judges that."""
    beams = request.beams
    if len(ended) < beams.count:
        return False
    if beams.early_stopping is True:
        return True
    if beams.early_stopping == "never" and beams.length_penalty > 0:
        length = request.limit
    return _score(best_total, length, beams) <= ended[-1].score


def _score(total: float, length: int, beams: Beams) -> float:
    return total / float(length**beams.length_penalty)


def _hand_over(backend: Backend, live: Sequence[_Beam], grown: Sequence[_Beam]) -> list[_Beam]:
    """Give each grown beam a state of its own: its parent's, or a copy where that has a heir."""
    heirs = {id(beam.state) for beam in grown}
    for beam in live:
        if id(beam.state) not in heirs:
            backend.finish(beam.state)
    beams = []
    taken: set[int] = set()
    for beam in grown:
        if id(beam.state) in taken:
            beams.append(_Beam(backend.fork(beam.state), beam.new, beam.total))
        else:
            taken.add(id(beam.state))
            beams.append(beam)
    return beams
