"""What the llama.cpp engine is compared with: plain use of llama.cpp, and its bare decode calls.

All of them forward through the engine's own `Context`: the same threads, batch size and flash
attention, and only the logits that are needed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from llama_cpp import llama_cpp as api
from numpy.typing import NDArray

from slm_benchmark.engines.backend import Logits, Scored
from slm_benchmark.engines.llamacpp import Context, LlamaCpp
from slm_benchmark.engines.logprobs import ScoreReader
from slm_benchmark.engines.schedule import TREE, PlannedForward
from slm_benchmark.engines.settings import Settings

Pair = tuple[list[int], list[int]]
"""Token ids of a context and of its continuation."""

MEMORY_CALLS = ("llama_memory_clear", "llama_memory_seq_cp", "llama_memory_seq_rm")
"""Functions that change the cache between two decode calls."""


EMPTY = ("llama_memory_clear", (False,))
"""Call that empties a cache without overwriting it."""


class _Plain:
    """A loaded model with a cache for one sequence."""

    def __init__(self, file: Path, settings: Settings, cells: int) -> None:
        self._loaded = LlamaCpp(file, settings)
        self._context = Context(self._loaded.model, cells, 1, settings.threads)
        self._forwarded = self._generated = 0

    def prepare(self) -> None:
        self._forwarded = self._generated = 0

    def tokens(self) -> dict[str, int]:
        return {"forwarded_tokens": self._forwarded, "generated_tokens": self._generated}

    def close(self) -> None:
        self._context.close()
        self._loaded.close()

    def _forward(self, tokens: Sequence[int], start: int, wanted: int) -> Logits:
        """Forward tokens from position ``start`` on; logits of the last ``wanted`` of them."""
        self._forwarded += len(tokens)
        first_wanted = len(tokens) - wanted
        blocks = []
        for begin in range(0, len(tokens), TREE):
            piece = tokens[begin : begin + TREE]
            positions = range(start + begin, start + begin + len(piece))
            inside = range(max(first_wanted - begin, 0), len(piece))
            blocks.append(self._context.decode(piece, positions, [(0,)] * len(piece), inside))
            if begin + TREE < len(tokens):
                blocks[-1] = blocks[-1].copy()  # the next call overwrites it
        return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)


class FullForward(_Plain):
    """One forward of the whole text for each choice.

    Args:
        file: The GGUF file.
        settings: Threads and window.
        pairs: Requests, already encoded: the time of the tokenizer is not counted here.
    """

    def __init__(self, file: Path, settings: Settings, pairs: Sequence[Pair]) -> None:
        super().__init__(file, settings, max(len(c) + len(t) for c, t in pairs))
        self._planned = [_chain(context, continuation) for context, continuation in pairs]

    def run(self) -> list[Scored]:
        scored = []
        for planned in self._planned:
            self._context.cut(0, 0)
            logits = self._forward(planned.tokens, 0, len(planned.wanted))
            reader = ScoreReader(planned)
            reader.add(logits)
            scored += reader.scores()
        return scored


class OneSequence(_Plain):
    """Greedy generation of one document after the other, from an empty cache each.

    Args:
        file: The GGUF file.
        settings: Threads and window.
        prompts: Token ids of each prompt.
        most: Most tokens of an answer.
        read: From the new tokens to their text, and whether the answer ends there.
    """

    def __init__(
        self,
        file: Path,
        settings: Settings,
        prompts: Sequence[Sequence[int]],
        most: int,
        read: Callable[[list[int]], tuple[str, bool]],
    ) -> None:
        super().__init__(file, settings, max(map(len, prompts)) + most)
        self._prompts, self._most, self._read = prompts, most, read

    def run(self) -> list[str]:
        return [self._generate(prompt) for prompt in self._prompts]

    def _generate(self, prompt: Sequence[int]) -> str:
        self._context.cut(0, 0)
        new: list[int] = []
        logits = self._forward(prompt, 0, 1)
        while True:
            new.append(int(logits[0].argmax()))
            text, ends = self._read(new)
            if ends or len(new) == self._most:
                self._generated += len(new)
                return text
            logits = self._forward(new[-1:], len(prompt) + len(new) - 1, 1)


class Recording:
    """The decode calls that were issued, with all that changed the cache between them.

    Attributes:
        calls: Name and arguments of each call on a cache, from an empty one; a new cache counts as
            one that was emptied.
        batches: For each decode call: tokens, positions, sequences of each token, wanted logits.
        cells: Tokens that the largest cache held.
        sequences: Sequences that it held.
        last_logits: The first wanted row of the last decode call that wanted any.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Any, ...]]] = [EMPTY]
        self.batches: list[
            tuple[NDArray[np.int32], NDArray[np.int32], list[list[int]], NDArray[np.int8]]
        ] = []
        self.cells = self.sequences = 0
        self.last_logits: NDArray[np.float32] = np.empty(0, dtype=np.float32)

    @property
    def tokens(self) -> int:
        return sum(len(batch[0]) for batch in self.batches)

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Record what is called through llama-cpp-python's low-level module meanwhile."""
        listeners = {"llama_init_from_model": self._new_cache, "llama_decode": self._decode}
        for name in MEMORY_CALLS:
            listeners[name] = lambda *arguments, name=name: self.calls.append((name, arguments[1:]))
        with contextlib.ExitStack() as stack:
            for name, listener in listeners.items():
                stack.enter_context(listening(name, listener))
            yield

    def begin_again(self) -> None:
        """Forget all calls so far."""
        self.calls, self.batches = [EMPTY], []

    def _new_cache(self, model: Any, parameters: Any) -> None:
        self.cells = max(self.cells, parameters.n_ctx)
        self.sequences = max(self.sequences, parameters.n_seq_max)
        self.calls.append(EMPTY)

    def _decode(self, context: Any, batch: Any) -> None:
        count = batch.n_tokens
        wanted = np.ctypeslib.as_array(batch.logits, (count,)).copy()
        owners = [[batch.seq_id[i][j] for j in range(batch.n_seq_id[i])] for i in range(count)]
        tokens = np.ctypeslib.as_array(batch.token, (count,)).copy()
        positions = np.ctypeslib.as_array(batch.pos, (count,)).copy()
        self.calls.append(("llama_decode", (len(self.batches),)))
        self.batches.append((tokens, positions, owners, wanted))
        if wanted.any():
            self.last_logits = _first_row(context)


@contextlib.contextmanager
def listening(name: str, listener: Callable[..., None]) -> Iterator[None]:
    """Tell ``listener`` the arguments of each call of a low-level function, after the call."""
    original = getattr(api, name)

    def call(*arguments: Any) -> Any:
        answer = original(*arguments)
        listener(*arguments)
        return answer

    setattr(api, name, call)
    try:
        yield
    finally:
        setattr(api, name, original)


class Replay:
    """The recorded decode calls alone: batches made beforehand, no logits read, no Python between.

    Args:
        file: The GGUF file.
        settings: Threads.
        recording: What to repeat.
    """

    def __init__(self, file: Path, settings: Settings, recording: Recording) -> None:
        if not recording.batches:
            raise RuntimeError("no decode call was recorded: the engine calls llama.cpp otherwise")
        self._recording = recording
        self._loaded = LlamaCpp(file, settings)
        self._context = Context(
            self._loaded.model, recording.cells, recording.sequences, settings.threads
        )
        self._batches = [_batch(*batch) for batch in recording.batches]
        self._calls = [self._bound(*call) for call in recording.calls]
        self.run()
        if not np.array_equal(_first_row(self._context.handle), recording.last_logits):
            raise RuntimeError("the replayed decode calls give other logits than the recorded ones")

    def prepare(self) -> None:
        """Nothing: the recording begins with an empty cache."""

    def run(self) -> list[Any]:
        for function, arguments in self._calls:
            function(*arguments)
        api.llama_synchronize(self._context.handle)
        return []

    def tokens(self) -> dict[str, int]:
        return {"forwarded_tokens": self._recording.tokens}

    def close(self) -> None:
        for batch in self._batches:
            api.llama_batch_free(batch)
        self._context.close()
        self._loaded.close()

    def _bound(self, name: str, arguments: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...]]:
        if name == "llama_decode":
            return api.llama_decode, (self._context.handle, self._batches[arguments[0]])
        return getattr(api, name), (self._context.memory, *arguments)


def _chain(context: Sequence[int], continuation: Sequence[int]) -> PlannedForward:
    """A whole request as one sequence, with nothing shared and its continuation wanted."""
    tokens = [*context, *continuation[:-1]]
    nodes = range(len(tokens))
    return PlannedForward(
        shared_prefix=[],
        tokens=tokens,
        positions=list(nodes),
        parents=[node - 1 for node in nodes],
        predictors=[list(nodes[len(context) - 1 :])],
        targets=[list(continuation)],
    )


def _batch(
    tokens: NDArray[np.int32],
    positions: NDArray[np.int32],
    owners: list[list[int]],
    wanted: NDArray[np.int8],
) -> Any:
    count = len(tokens)
    batch = api.llama_batch_init(count, 0, max(map(len, owners)))
    batch.n_tokens = count
    np.ctypeslib.as_array(batch.token, (count,))[:] = tokens
    np.ctypeslib.as_array(batch.pos, (count,))[:] = positions
    np.ctypeslib.as_array(batch.logits, (count,))[:] = wanted
    for index, sequences in enumerate(owners):
        batch.n_seq_id[index] = len(sequences)
        for number, sequence in enumerate(sequences):
            batch.seq_id[index][number] = sequence
    return batch


def _first_row(context: Any) -> NDArray[np.float32]:
    vocabulary = api.llama_vocab_n_tokens(api.llama_model_get_vocab(api.llama_get_model(context)))
    return np.ctypeslib.as_array(api.llama_get_logits(context), (vocabulary,)).copy()
