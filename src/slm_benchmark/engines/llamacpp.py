"""GGUF models in this process, through the low-level API of llama-cpp-python."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
from llama_cpp import llama_cpp as api
from numpy.typing import NDArray

from slm_benchmark.engines.backend import CHUNK, Scored, packs, reusable_prefix
from slm_benchmark.errors import EnvironmentFault, UserError

BATCH = 2048
"""Most tokens in one decode."""

SEQUENCES = 16
"""Sequences in the cache: number 0 holds the shared prefix, the others one choice each."""

SCHEDULE = (
    f"prefix in chunks of {CHUNK} from position 0, reused at multiples of {CHUNK}; last context "
    f"token and up to {SEQUENCES - 1} choices of a document in one decode"
)

_LOG_ERROR = 4  # GGML_LOG_LEVEL_ERROR in ggml.h; the bindings do not name it


@api.llama_log_callback  # type: ignore[untyped-decorator]
def _keep_quiet(level: int, text: bytes, _: ctypes.c_void_p) -> None:
    if level == _LOG_ERROR:
        _messages.append(text.decode(errors="replace").strip())


_messages: list[str] = []
api.llama_log_set(_keep_quiet, ctypes.c_void_p(0))


class LlamaCpp:
    """A loaded GGUF model with a key-value cache.

    Args:
        file: The GGUF file.
        threads: Threads for decoding.
        max_length: Longest context and continuation together, in tokens.

    Raises:
        UserError: when llama.cpp cannot load the file.
        EnvironmentFault: when there is no memory for the cache.
    """

    def __init__(self, file: Path, threads: int, max_length: int) -> None:
        _messages.clear()
        api.llama_backend_init()
        self.model = api.llama_model_load_from_file(
            str(file).encode(), api.llama_model_default_params()
        )
        if not self.model:
            raise UserError(
                f"llama.cpp cannot load this file: {'; '.join(_messages) or 'no reason given'}",
                file=file,
                fix="the file is truncated or damaged; delete its folder and run again",
            )
        self.vocabulary_size = int(api.llama_vocab_n_tokens(api.llama_model_get_vocab(self.model)))
        self.max_length = max_length
        parameters = api.llama_context_default_params()
        parameters.n_ctx = max_length + BATCH
        parameters.n_batch = parameters.n_ubatch = BATCH
        parameters.n_seq_max = SEQUENCES
        parameters.n_threads = parameters.n_threads_batch = threads
        parameters.kv_unified = True  # a copied prefix costs no memory
        parameters.flash_attn_type = 0
        parameters.no_perf = True
        self.context = api.llama_init_from_model(self.model, parameters)
        if not self.context:
            self.close()
            raise EnvironmentFault(
                f"no memory for a cache of {parameters.n_ctx} tokens: {'; '.join(_messages)}",
                file=file,
                fix="free memory, or run fewer jobs at once",
            )
        self.memory = api.llama_get_memory(self.context)
        self.batch = api.llama_batch_init(BATCH, 0, 1)
        self.cached: list[int] = []

    def __enter__(self) -> LlamaCpp:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free the model and its cache."""
        if getattr(self, "batch", None) is not None:
            api.llama_batch_free(self.batch)
            self.batch = None
        if getattr(self, "context", None):
            api.llama_free(self.context)
            self.context = None
        if self.model:
            api.llama_model_free(self.model)
            self.model = None

    def check_finite(self) -> None:
        """One forward pass over a few tokens.

        Raises:
            UserError: when a logit is not finite.
        """
        logits = self._decode([(token, token, 0, True) for token in range(16)])
        self._forget()
        if not np.isfinite(logits).all():
            raise UserError(
                "the quantized model's logits are not finite",
                fix="take this variant out of the card's quantizations and report the model",
            )

    def score(self, context: Sequence[int], continuations: Sequence[Sequence[int]]) -> list[Scored]:
        """See `Backend.score`."""
        self._prefill(context[:-1])
        scored: list[Scored] = []
        for pack in packs(continuations, SEQUENCES - 1, BATCH):
            scored += self._score_pack(context, pack)
        return scored

    def _score_pack(
        self, context: Sequence[int], continuations: Sequence[Sequence[int]]
    ) -> list[Scored]:
        position = len(context) - 1
        items = []
        for sequence, continuation in enumerate(continuations, start=1):
            api.llama_memory_seq_cp(self.memory, 0, sequence, -1, -1)
            tokens = [context[-1], *continuation[:-1]]
            items += [(t, position + i, sequence, True) for i, t in enumerate(tokens)]
        # A single continuation may be longer than one decode; several never are.
        blocks = [self._decode(items[i : i + BATCH]) for i in range(0, len(items), BATCH)]
        targets = np.concatenate([np.asarray(c, dtype=np.int64) for c in continuations])
        values = np.concatenate(
            [
                _log_probabilities(block, targets[i * BATCH : i * BATCH + len(block)])
                for i, block in enumerate(blocks)
            ]
        )
        greedy = np.concatenate([block.argmax(axis=1) for block in blocks]) == targets
        scored, start = [], 0
        for sequence, continuation in enumerate(continuations, start=1):
            part = slice(start, start + len(continuation))
            scored.append((float(values[part].sum()), bool(greedy[part].all())))
            api.llama_memory_seq_rm(self.memory, sequence, -1, -1)
            start = part.stop
        return scored

    def generate(
        self,
        context: Sequence[int],
        max_tokens: int,
        finished: Callable[[list[int]], bool],
    ) -> list[int]:
        """See `Backend.generate`."""
        self._prefill(context[:-1])
        new: list[int] = []
        token = context[-1]
        while len(new) < max_tokens:
            logits = self._decode([(token, len(context) - 1 + len(new), 0, True)])
            token = int(logits[0].argmax())
            new.append(token)
            if finished(new):
                break
        api.llama_memory_seq_rm(self.memory, 0, len(context) - 1, -1)
        return new

    def _prefill(self, prefix: Sequence[int]) -> None:
        """Make sequence 0 of the cache hold exactly ``prefix``."""
        shared = reusable_prefix(self.cached, prefix)
        if not api.llama_memory_seq_rm(self.memory, 0, shared, -1):
            # Recurrent and sliding-window caches cannot be cut: start from an empty one.
            self._forget()
            shared = 0
        self.cached = list(prefix[:shared])
        for start in range(shared, len(prefix), CHUNK):
            chunk = prefix[start : start + CHUNK]
            self._decode([(t, start + i, 0, False) for i, t in enumerate(chunk)])
            self.cached += chunk

    def _forget(self) -> None:
        api.llama_memory_clear(self.memory, True)
        self.cached = []

    def _decode(self, items: Sequence[tuple[int, int, int, bool]]) -> NDArray[np.float32]:
        """Forward (token, position, sequence, wants logits) items.

        Returns:
            Logits, shape (items that want them, vocabulary size).
        """
        for i, (token, position, sequence, logits) in enumerate(items):
            self.batch.token[i], self.batch.pos[i] = token, position
            self.batch.n_seq_id[i], self.batch.seq_id[i][0] = 1, sequence
            self.batch.logits[i] = logits
        self.batch.n_tokens = len(items)
        code = api.llama_decode(self.context, self.batch)
        if code != 0:
            self._forget()
            raise RuntimeError(f"llama_decode answered with code {code}: {'; '.join(_messages)}")
        rows = sum(item[3] for item in items)
        if not rows:
            return np.empty((0, self.vocabulary_size), dtype=np.float32)
        pointer = api.llama_get_logits(self.context)
        return np.ctypeslib.as_array(pointer, (rows, self.vocabulary_size)).copy()


def _log_probabilities(
    logits: NDArray[np.float32], targets: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Log-probability of one target token for each row of logits, shape (rows,), in nats."""
    top = logits.max(axis=1, keepdims=True)
    total = np.exp(logits - top).sum(axis=1, dtype=np.float64)
    chosen = np.take_along_axis(logits, targets[:, None], axis=1)[:, 0].astype(np.float64)
    return np.asarray(chosen - top[:, 0] - np.log(total), dtype=np.float64)


def build_description() -> str:
    """SIMD features of the llama.cpp build, as it reports them."""
    return str(api.llama_print_system_info().decode().strip())
