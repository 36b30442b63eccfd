"""This project's engine as a contender, and where its time goes."""

from __future__ import annotations

import contextlib
import functools
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from slm_benchmark.engines.engine import Engine
from slm_benchmark.engines.identity import Name
from slm_benchmark.engines.load import load_engine
from slm_benchmark.engines.settings import Settings


class Ours:
    """The engine, loaded anew for every run, so that no run finds what an earlier one cached.

    Loading, and one short request that shares nothing with the others, are not timed: the
    contenders that stay loaded are warm too.

    Args:
        name: Which engine.
        weights: GGUF file, or folder in Transformers format.
        base: Folder of the base model, for its tokenizer.
        settings: Threads and window.
        requests: What to answer.
    """

    def __init__(
        self,
        name: Name,
        weights: Path,
        base: Path,
        settings: Settings,
        requests: Sequence[Any],
    ) -> None:
        self._load = functools.partial(load_engine, name, weights, base, settings)
        self.name = name
        self._requests = list(requests)
        self._engine: Engine | None = None
        self._before: dict[str, int] = {}

    @property
    def engine(self) -> Engine:
        if self._engine is None:
            self._engine = self._load()
        return self._engine

    def prepare(self) -> None:
        self.close()
        self._ask([warm_up()])
        self._before = self._counts()

    def run(self) -> list[Any]:
        return self._ask(self._requests)

    def tokens(self) -> dict[str, int]:
        counts = self._counts()
        return {name: count - self._before[name] for name, count in counts.items()}

    def _counts(self) -> dict[str, int]:
        lm = self.engine.lm
        # Forwarded tokens as the backend counted them, not as they were planned.
        return {**lm.tokens(), "forwarded_tokens": lm.model.forwarded_tokens}

    def close(self) -> None:
        if self._engine:
            self._engine.close()
        self._engine = None

    def _ask(self, requests: list[Any]) -> list[Any]:
        answer = getattr(self.engine.lm, requests[0].request_type)
        return list(answer(requests, disable_tqdm=True))

    def profile(self) -> dict[str, float]:
        """Where one more run spends its time: share of the whole by phase, adding up to 1."""
        self.prepare()
        phases = Phases()
        with contextlib.ExitStack() as stack:
            for phase, owner, name in self._phases():
                stack.enter_context(phases.timing(phase, owner, name))
            with phases.counting("everything else"):
                self.run()
        return phases.shares()

    def _phases(self) -> list[tuple[str, Any, str]]:
        """Phase, and the owner and name of each function that belongs to it."""
        from slm_benchmark.engines import lm as harness
        from slm_benchmark.engines import logprobs

        lm = self.engine.lm
        phases: list[tuple[str, Any, str]] = [
            ("tokenizing", lm, "tok_encode"),
            ("planning", harness, "plan_document"),
            ("planning", harness, "plan_forwards"),
            ("log-softmax", logprobs.ScoreReader, "add"),
        ]
        if self.name == "llama.cpp":
            from llama_cpp import llama_cpp as api

            return [*phases, ("forwarding", api, "llama_decode")]
        return [
            *phases,
            ("forwarding", lm.model.model, "forward"),
            ("forwarding", lm.model.model.base_model, "forward"),
        ]


def warm_up() -> Any:
    """A request shorter than a chunk, so that nothing of it is kept."""
    from lm_eval.api.instance import Instance

    return Instance("loglikelihood", {}, ("Warm-up:", " one two"), 0, ("warm_up", 0, 1))


class Phases:
    """Time by phase. Phases nest: time spent in an inner one is not counted for the outer one."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._running: list[str] = []
        self._since = 0.0

    @contextlib.contextmanager
    def counting(self, phase: str) -> Iterator[None]:
        """Count the time meanwhile for ``phase``."""
        self._switch()
        self._running.append(phase)
        try:
            yield
        finally:
            self._switch()
            self._running.pop()

    @contextlib.contextmanager
    def timing(self, phase: str, owner: Any, name: str) -> Iterator[None]:
        """Count the time inside ``owner.name`` for ``phase``."""
        original: Callable[..., Any] = getattr(owner, name)
        is_instance_attribute = name in vars(owner)

        @functools.wraps(original)
        def timed(*arguments: Any, **more: Any) -> Any:
            with self.counting(phase):
                return original(*arguments, **more)

        setattr(owner, name, timed)
        try:
            yield
        finally:
            if is_instance_attribute:
                setattr(owner, name, original)
            else:
                delattr(owner, name)

    def shares(self) -> dict[str, float]:
        """Share of each phase in the whole."""
        total = sum(self.seconds.values())
        return {phase: seconds / total for phase, seconds in self.seconds.items()}

    def _switch(self) -> None:
        now = time.perf_counter()
        if self._running:
            self.seconds[self._running[-1]] += now - self._since
        self._since = now
