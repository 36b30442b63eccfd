"""GGUF models in this process, through the low-level API of llama-cpp-python."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from llama_cpp import llama_cpp as api

from slm_benchmark.common.errors import NotApplicable, UserError
from slm_benchmark.engines import llama_binding as binding
from slm_benchmark.engines.backend import MOST_BEAMS, Logits, OutOfMemory, Scored
from slm_benchmark.engines.llama_binding import CELL_BLOCK, whole_blocks
from slm_benchmark.engines.logprobs import ScoreReader, check_finite
from slm_benchmark.engines.memory import budget_bytes
from slm_benchmark.engines.schedule import LEAVES, TREE, Plan, PlannedForward, reusable_prefix
from slm_benchmark.engines.settings import CacheFormat, Settings

ROWS = 8
"""Rows of a generation step. More would pay little: eight already keep the cores busy."""

PREFIX = 0
"""Sequence of the shared prefix in the scoring context; leaf n has sequence n + 1."""

CACHE_TYPES: dict[CacheFormat, tuple[int, int]] = {
    "float32": (api.GGML_TYPE_F32, api.GGML_TYPE_F32),
    "float16": (api.GGML_TYPE_F16, api.GGML_TYPE_F16),
    "q8_0": (api.GGML_TYPE_Q8_0, api.GGML_TYPE_F16),
}
"""Types of the cache's keys and values."""


class Context:
    """A key-value cache and what is needed to forward tokens through it.

    Flash attention, unless it is off, goes through the keys of each row in the order of the cache
    and passes over those of other sequences, so that these do not change how a row is rounded.

    Args:
        model: The model's handle.
        cells: Tokens that the cache can hold.
        sequences: Sequences that it can hold.
        threads: CPU threads.
        flash_attention: Whether it is on.
        cache: Number format of the cache.

    Raises:
        OutOfMemory: when there is no memory for the cache.
    """

    def __init__(
        self,
        model: Any,
        cells: int,
        sequences: int,
        threads: int,
        flash_attention: bool = True,
        cache: CacheFormat = "float16",
    ) -> None:
        parameters = binding.context_parameters(cells, sequences, threads, TREE)
        parameters.kv_unified = True  # sequences share cells: a copied prefix costs no memory
        parameters.swa_full = True  # a sliding window keeps what a cut-back prefix needs again
        parameters.flash_attn_type = (
            api.LLAMA_FLASH_ATTN_TYPE_ENABLED
            if flash_attention
            else api.LLAMA_FLASH_ATTN_TYPE_DISABLED
        )
        parameters.type_k, parameters.type_v = CACHE_TYPES[cache]
        binding.errors.clear()
        self.handle = api.llama_init_from_model(model, parameters)
        if not self.handle:
            raise OutOfMemory(
                f"no memory for a cache of {cells} tokens: {'; '.join(binding.errors)}"
            )
        self.cells, self.cache = cells, cache
        self.vocabulary = binding.vocabulary_size(model)
        self.memory = api.llama_get_memory(self.handle)
        self._batch = api.llama_batch_init(TREE, 0, sequences)
        self._token = np.ctypeslib.as_array(self._batch.token, (TREE,))
        self._position = np.ctypeslib.as_array(self._batch.pos, (TREE,))
        self._wanted = np.ctypeslib.as_array(self._batch.logits, (TREE,))
        self._owners = np.ctypeslib.as_array(self._batch.n_seq_id, (TREE,))

    def close(self) -> None:
        api.llama_batch_free(self._batch)
        api.llama_free(self.handle)

    def decode(
        self,
        tokens: Sequence[int],
        positions: Sequence[int],
        sequences: Sequence[Sequence[int]],
        wanted: Sequence[int],
    ) -> Logits:
        """Forward up to `TREE` tokens.

        Args:
            tokens: Token ids.
            positions: Their positions.
            sequences: For each token, the sequences that it belongs to.
            wanted: Indices of the tokens whose logits are needed, ascending.

        Returns:
            Logits, shape (wanted, vocabulary): a view of llama.cpp's memory, valid until the next
            call.

        Raises:
            OutOfMemory: when there is no memory, or no cell, for the tokens.
        """
        count = len(tokens)
        self._token[:count] = tokens
        self._position[:count] = positions
        self._owners[:count] = [len(owners) for owners in sequences]
        for index, owners in enumerate(sequences):
            row = self._batch.seq_id[index]
            for number, owner in enumerate(owners):
                row[number] = owner
        self._wanted[:count] = 0
        self._wanted[list(wanted)] = 1
        self._batch.n_tokens = count
        binding.errors.clear()
        code = api.llama_decode(self.handle, self._batch)
        if code in (binding.NO_SLOT, binding.ALLOCATION_FAILED):
            raise OutOfMemory(f"llama.cpp has no memory to forward {count} tokens")
        if code != 0:
            raise RuntimeError(
                f"llama_decode answered with code {code}: {'; '.join(binding.errors)}"
            )
        if not wanted:
            return np.empty((0, self.vocabulary), dtype=np.float32)
        pointer = api.llama_get_logits(self.handle)
        logits = np.ctypeslib.as_array(pointer, (len(wanted), self.vocabulary))
        check_finite(logits, f"{self.cache}, the format of the cache")
        return logits

    def decode_chain(self, tokens: Sequence[int], start: int, sequence: int, piece: int) -> None:
        """Forward consecutive tokens of one sequence in pieces, without logits."""
        for begin in range(0, len(tokens), piece):
            block = tokens[begin : begin + piece]
            first = start + begin
            self.decode(block, range(first, first + len(block)), [(sequence,)] * len(block), ())

    def copy(self, source: int, target: int) -> None:
        """Let the cells of a sequence belong to another one too."""
        api.llama_memory_seq_cp(self.memory, source, target, -1, -1)

    def cut(self, sequence: int, length: int) -> bool:
        """Keep the first ``length`` tokens of a sequence; False where the cache cannot."""
        return bool(api.llama_memory_seq_rm(self.memory, sequence, length, -1))

    def clear(self) -> None:
        """Empty the cache."""
        api.llama_memory_clear(self.memory, True)

    def take_out(self, sequence: int) -> bytes:
        """The keys and values of a sequence, in the order of its cells."""
        size = api.llama_state_seq_get_size(self.handle, sequence)
        state = (ctypes.c_uint8 * size)()
        taken = api.llama_state_seq_get_data(self.handle, state, size, sequence)
        if taken != size:
            raise RuntimeError(f"llama.cpp gave {taken} bytes of a sequence's {size}")
        return bytes(state)

    def put_in(self, sequence: int, state: bytes) -> None:
        """Give a sequence keys and values that were taken out."""
        data = (ctypes.c_uint8 * len(state)).from_buffer_copy(state)
        binding.errors.clear()
        if not api.llama_state_seq_set_data(self.handle, data, len(state), sequence):
            raise OutOfMemory(f"the cache does not take a sequence: {'; '.join(binding.errors)}")


@dataclass(eq=False)
class Running:
    """A generation in the cache of `_RunningBatch`, or alone in the scoring context.

    Attributes:
        sequence: Its sequence there.
        length: Its tokens there.
        aside: Its keys and values while another one is alone in the scoring context.
    """

    sequence: int
    length: int
    aside: bytes = b""


class LlamaCpp:
    """A loaded GGUF model.

    Args:
        file: The GGUF file.
        settings: Of these, the window, the threads, the memory budget, the chunk, and how attention
            is computed and cached.

    Raises:
        UserError: when llama.cpp cannot load the file.
        MemoryError: when there is no memory for its weights.
        NotApplicable: when the model cannot run with these settings, but could with the usual ones.
    """

    def __init__(self, file: Path, settings: Settings) -> None:
        self.model, _ = binding.load_model(file)
        self.vocabulary = binding.vocabulary_size(self.model)
        positions = binding.learned_positions(self.model) or settings.max_length
        self.max_length = min(settings.max_length, positions)
        self.chunk = min(settings.chunk, positions)
        self._settings = settings
        self._long_rope = self._rotates_by_cells()
        # The state of a recurrent layer stands for all tokens before it: it cannot be cut back.
        self.shares = not (
            api.llama_model_is_recurrent(self.model)
            or api.llama_model_is_hybrid(self.model)
            or self._long_rope
        )
        self.rows = ROWS if self.shares else 1
        self.forwarded_tokens = 0
        self._scoring: Context | None = None
        self._prefix: list[int] = []
        self._running_batch: _RunningBatch | None = None
        self._alone: Running | None = None
        self._check_attention()

    @property
    def effective(self) -> Mapping[str, Any]:
        """See `Backend.effective`."""
        settings = self._settings
        return {
            "chunk": settings.chunk if self.shares else None,
            "threads": settings.threads,
            "flash_attention": settings.flash_attention,
            "cache": settings.cache,
        }

    @property
    def shares_prompts(self) -> bool:
        """See `Backend.shares_prompts`."""
        return self.shares

    @property
    def schedule(self) -> str:
        """See `Backend.schedule`."""
        attention = "" if self._settings.flash_attention else "; without flash attention"
        if not self.shares:
            return f"each continuation and each generation alone, from an empty cache{attention}"
        return (
            f"trunk in chunks of {self.chunk} from position 0, reused at multiples of "
            f"{self.chunk}; rest of the document as one tree of up to {TREE} tokens; generation in "
            f"steps of {self.rows} row{'s' if self.rows > 1 else ''}{attention}"
        )

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
        """See `Backend.close`."""
        if self.model:
            self.free()
            api.llama_model_free(self.model)
            self.model = None

    def free(self) -> None:
        """See `Backend.free`."""
        if self._running_batch:
            self._running_batch.context.close()
        if self._scoring:
            self._scoring.close()
        self._running_batch = self._scoring = self._alone = None
        self._prefix = []

    def check_finite(self) -> None:
        """One forward pass over a few tokens.

        Raises:
            UserError: when a logit is not finite.
        """
        context = self._scoring_context(16)
        logits = context.decode(range(16), range(16), [(PREFIX,)] * 16, range(16))
        finite = bool(np.isfinite(logits).all())
        self.free()
        if not finite:
            raise UserError(
                "the quantized model's logits are not finite",
                fix="take this variant out of the card's quantizations and report the model",
            )

    def score(self, planned: PlannedForward) -> list[Scored]:
        """See `Backend.score`."""
        context = self._scoring_context(planned.length)
        if not self.shares:
            return self._score_alone(context, planned)
        reader = ScoreReader(planned)
        self._forward(context, planned, reader.add)
        self._drop_tree(context, planned)
        return reader.scores()

    def _forward(
        self, context: Context, planned: PlannedForward, read: Callable[[Logits], None]
    ) -> None:
        """Forward what is planned; its leaves stay in the cache.

        Args:
            context: The scoring context.
            planned: The prefix and tree.
            read: Given the wanted logits, block by block; they are gone afterwards.
        """
        self._extend_prefix(context, planned.shared_prefix)
        for leaf in range(len(planned.leaves)):
            context.copy(PREFIX, leaf + 1)
        self._forward_tree(
            context,
            planned,
            [[leaf + 1 for leaf in leaves] for leaves in planned.leaves_below],
            read,
        )

    def _forward_tree(
        self,
        context: Context,
        planned: PlannedForward,
        sequences: Sequence[Sequence[int]],
        read: Callable[[Logits], None],
    ) -> None:
        wanted = np.asarray(planned.wanted)
        # More than one block is needed for a single, long continuation only.
        for begin in range(0, len(planned.tokens), TREE):
            block = slice(begin, begin + TREE)
            inside = wanted[(wanted >= begin) & (wanted < begin + TREE)] - begin
            read(
                context.decode(
                    planned.tokens[block],
                    planned.positions[block],
                    sequences[block],
                    inside.tolist(),
                )
            )
        self.forwarded_tokens += len(planned.tokens)

    def _extend_prefix(self, context: Context, shared_prefix: list[int]) -> None:
        """Make the prefix's sequence hold exactly ``shared_prefix``."""
        shared = reusable_prefix(self._prefix, shared_prefix, self.chunk)
        if not context.cut(PREFIX, shared):
            raise RuntimeError("llama.cpp cannot cut back the cache of this model")
        self._prefix = shared_prefix[:shared]
        context.decode_chain(shared_prefix[shared:], shared, PREFIX, self.chunk)
        self.forwarded_tokens += len(shared_prefix) - shared
        self._prefix = shared_prefix

    def _drop_tree(self, context: Context, planned: PlannedForward) -> None:
        for leaf in range(len(planned.leaves)):
            context.cut(leaf + 1, 0)

    def _score_alone(self, context: Context, planned: PlannedForward) -> list[Scored]:
        scored = []
        for alone in planned.chains():
            reader = ScoreReader(alone)
            self._forward_alone(context, alone, reader.add)
            scored += reader.scores()
        return scored

    def _forward_alone(
        self, context: Context, alone: PlannedForward, read: Callable[[Logits], None]
    ) -> None:
        """Forward a single continuation from an empty cache; see `_forward`."""
        context.clear()
        self._forward_tree(context, alone, [(PREFIX,)] * len(alone.tokens), read)

    def prepare(self, plan: Plan) -> None:
        """See `Backend.prepare`."""
        self._scoring_context(plan.longest)

    def reserve(self, plan: Plan, tokens: Sequence[int], at_once: int) -> int:
        """See `Backend.reserve`."""
        self.prepare(plan)
        if not self.shares:
            return max(tokens)
        together = sum(sorted(tokens)[-at_once:])
        fitting = budget_bytes(self._settings.memory_budget_bytes) // self._bytes_per_token()
        cells = max(min(together, fitting), max(tokens))
        if self._running_batch is None or self._running_batch.capacity < cells:
            if self._running_batch:
                self._running_batch.context.close()
            self._running_batch = None
            self._running_batch = _RunningBatch(self._context, cells, self.rows)
        return self._running_batch.capacity

    def start(self, planned: PlannedForward, tokens: int) -> tuple[Any, Logits]:
        """See `Backend.start`."""
        context = self._scoring_context(planned.length if self.shares else tokens)
        last_logits: list[Logits] = []

        def keep(logits: Logits) -> None:
            last_logits[:] = logits[-1:].copy()

        if not self.shares:
            (alone,) = planned.chains()
            self._forward_alone(context, alone, keep)
            self._alone = Running(PREFIX, len(alone.tokens))
            return self._alone, last_logits[-1]
        self._forward(context, planned, keep)
        state = context.take_out(1)
        self._drop_tree(context, planned)
        assert self._running_batch is not None, "reserve comes first"
        return self._running_batch.admit(state, planned.length), last_logits[-1]

    def step(self, states: Sequence[Running], tokens: Sequence[int]) -> Logits:
        """See `Backend.step`."""
        self.forwarded_tokens += len(tokens)
        if not self.shares:
            (running,) = states
            context = self._bring_in(running)
            running.length += 1
            return context.decode(tokens, [running.length - 1], [(PREFIX,)], [0]).copy()
        assert self._running_batch is not None, "reserve comes first"
        return self._running_batch.step(states, tokens)

    def fork(self, state: Running) -> Running:
        """See `Backend.fork`."""
        if not self.shares:
            return Running(PREFIX, state.length, self._bring_in(state).take_out(PREFIX))
        assert self._running_batch is not None, "reserve comes first"
        return self._running_batch.fork(state)

    def _bring_in(self, running: Running) -> Context:
        """The scoring context with a generation in it; the one that was there is put aside."""
        context = self._scoring_context(0)
        if running is not self._alone:
            if self._alone:
                self._alone.aside = context.take_out(PREFIX)
            context.clear()
            context.put_in(PREFIX, running.aside)
            self._alone = running
        return context

    def finish(self, state: Running) -> None:
        """See `Backend.finish`."""
        if self._running_batch:
            self._running_batch.dismiss(state)
        elif state is self._alone:
            self._alone = None

    def _scoring_context(self, tokens: int) -> Context:
        """The context for prompts and documents, grown to hold ``tokens`` tokens."""
        tokens = max(tokens, self.max_length if self._long_rope else 1)
        cells = whole_blocks(tokens)
        if self._scoring is None or self._scoring.cells < cells:
            if self._scoring:
                self._scoring.close()
            self._scoring, self._prefix = None, []
            self._scoring = self._context(cells, LEAVES + 1 if self.shares else 1)
        return self._scoring

    def _context(self, cells: int, sequences: int) -> Context:
        settings = self._settings
        return Context(
            self.model,
            cells,
            sequences,
            settings.threads,
            settings.flash_attention,
            settings.cache,
        )

    def _check_attention(self) -> None:
        """Try unusual settings on the smallest cache: llama.cpp does not tell a lack of memory from
        heads that they do not fit.

        Raises:
            NotApplicable: when the model cannot run with them.
        """
        chosen = {name: getattr(self._settings, name) for name in ("flash_attention", "cache")}
        unusual = {key: value for key, value in chosen.items() if value != getattr(Settings, key)}
        if not unusual:
            return
        try:
            self._context(CELL_BLOCK, 1).close()
        except OutOfMemory as error:
            self.close()
            described = ", ".join(f"{name} {value}" for name, value in unusual.items())
            raise NotApplicable(
                f"llama.cpp does not run this model with {described}: {'; '.join(binding.errors)}"
            ) from error

    def _rotates_by_cells(self) -> bool:
        """Whether llama.cpp rotates by the size of the cache: one set of factors up to the length
        that the model was first trained on, another above. Then every cache has the same size."""
        original = binding.metadata_number(self.model, "rope.scaling.original_context_length")
        trained = int(api.llama_model_n_ctx_train(self.model))
        return original is not None and original < trained

    def _bytes_per_token(self) -> int:
        context = self._scoring_context(self.chunk)
        context.decode_chain([0] * self.chunk, 0, 1, self.chunk)
        size = len(context.take_out(1))
        context.cut(1, 0)
        return max(1, size // self.chunk)


class _RunningBatch:
    """Generations that are forwarded as one batch, equally many rows in each step: batch-invariant.

    A row is rounded the same whatever stands in the other rows, as long as the cells of a
    sequence lie in the order of its tokens. So cells are only ever appended: what a finished
    generation leaves is not filled up, and when the end is reached, those that still run are taken
    out and put into an empty cache.

    Args:
        opens: Opens a context of so many cells and sequences.
        tokens: Tokens that running generations may hold together.
        rows: Rows of a step.
    """

    def __init__(self, opens: Callable[[int, int], Context], tokens: int, rows: int) -> None:
        self.capacity = tokens
        self.rows = rows
        cells = whole_blocks(tokens + rows)
        self._sequences = max(4 * rows, MOST_BEAMS)
        self._padding, self._left = self._sequences, self._sequences + 1
        self.context = opens(cells, self._sequences + 2)
        self._running: list[Running] = []
        self._used = 0
        self._next_sequence = 0

    def admit(self, state: bytes, length: int) -> Running:
        """Let a generation join."""
        running = Running(self._next_sequence, length)
        full = self._is_full(length) or self._next_sequence == self._sequences
        if full or not self._running:
            self._compact()
            running.sequence = self._next_sequence
        self.context.put_in(running.sequence, state)
        self._next_sequence += 1
        self._used += length
        self._running.append(running)
        return running

    def dismiss(self, running: Running) -> None:
        """Let a generation leave; its cells stay taken until the next compaction."""
        self._running.remove(running)

    def fork(self, running: Running) -> Running:
        """Let a second generation go on from the same cells; see `Backend.fork`."""
        taken = {other.sequence for other in self._running}
        sequence = next(n for n in range(self._sequences) if n not in taken)
        # What was left under this number keeps its cells, under another.
        self.context.copy(sequence, self._left)
        self.context.cut(sequence, 0)
        self.context.copy(running.sequence, sequence)
        self._next_sequence = max(self._next_sequence, sequence + 1)
        forked = Running(sequence, running.length)
        self._running.append(forked)
        return forked

    def step(self, states: Sequence[Running], tokens: Sequence[int]) -> Logits:
        """Forward one token of each of ``states``; see `Backend.step`."""
        if self._is_full(len(states)):
            self._compact()
        padding = range(self.rows - len(states))
        logits = self.context.decode(
            [*tokens, *(0 for _ in padding)],
            [*(state.length for state in states), *padding],
            [*((state.sequence,) for state in states), *((self._padding,) for _ in padding)],
            range(self.rows),
        )[: len(states)].copy()
        self.context.cut(self._padding, 0)
        self._used += len(states)
        for state in states:
            state.length += 1
        return logits

    def _is_full(self, more: int) -> bool:
        return self._used + more + self.rows > self.context.cells

    def _compact(self) -> None:
        states = [(running, self.context.take_out(running.sequence)) for running in self._running]
        self.context.clear()
        for sequence, (running, state) in enumerate(states):
            self.context.put_in(sequence, state)
            running.sequence = sequence
        self._next_sequence = len(states)
        self._used = sum(running.length for running in self._running)


def build_description() -> str:
    """SIMD features of the llama.cpp build, as it reports them."""
    return str(api.llama_print_system_info().decode().strip())
