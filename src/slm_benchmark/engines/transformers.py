"""Base, GPTQ and AWQ models on Transformers."""

from __future__ import annotations

import copy
import gc
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from slm_benchmark.engines import transformers_cache
from slm_benchmark.engines.backend import Logits, OutOfMemory, Scored
from slm_benchmark.engines.logprobs import ScoreReader, check_finite
from slm_benchmark.engines.memory import budget_bytes
from slm_benchmark.engines.positions import learned_positions
from slm_benchmark.engines.schedule import (
    TREE,
    Plan,
    PlannedForward,
    plan_document,
    reusable_prefix,
)
from slm_benchmark.engines.settings import Settings

ROWS = 16
"""Rows of a generation step: on a CPU a step of sixteen takes hardly longer than one of eight."""

_CACHES = ("past_key_values", "cache_params")
"""What models call the cache that they make for themselves."""

_SAME = 0.1
"""Most that two ways of computing the same logits may differ, as a share of their spread. Rounding
to 16 bits gives a hundredth; a token that sees what it should not gives one and more."""


@dataclass(frozen=True)
class Loaded:
    """A model on its device.

    Attributes:
        model: The Transformers model, in evaluation mode.
        kernel: Class name of the layers that hold the quantized (or plain linear) weights.
        dtype: Number format of the activations.
        attention: Transformers' attention; None where it is not known.
    """

    model: Any
    kernel: str
    dtype: str
    attention: str | None = None


def load_transformers(
    folder: Path,
    dtype: str,
    device: str,
    trust_remote_code: bool = False,
    attention: str | None = None,
) -> Loaded:
    """Load a folder in Transformers format.

    Args:
        folder: The base model or a 4-bit variant of it.
        dtype: float32, bfloat16, float16, or auto (float16 on CUDA, float32 on a CPU).
        device: cpu or cuda.
        trust_remote_code: Whether the model's own code may run.
        attention: As in `Settings`.
    """
    from transformers import AutoModelForCausalLM

    if dtype == "auto":
        dtype = "float16" if device == "cuda" else "float32"
    model = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=getattr(torch, dtype),
        device_map=device,
        trust_remote_code=trust_remote_code,
        **({} if attention is None else {"attn_implementation": attention}),
    )
    model.eval()
    classes = [type(module) for module in model.modules()]
    quantized = [c.__name__ for c in classes if c.__module__.startswith("gptqmodel")]
    linear = [name for name in quantized if "Linear" in name]
    return Loaded(
        model,
        linear[0] if linear else "Linear",
        str(model.dtype).removeprefix("torch."),
        getattr(model.config, "_attn_implementation", None),
    )


class Transformers:
    """A model on Transformers.

    What a model's code allows is tried out when it is loaded. Models whose cache cannot be cut and
    copied (recurrent, hybrid, sliding window), or that do not take a mask and positions of ours, go
    the slower way: each continuation in a forward of its own without a cache, and each generation
    alone, with the cache that the model makes for itself.

    Args:
        loaded: The model.
        settings: Of these, the window, the memory budget and the chunk.
    """

    def __init__(self, loaded: Loaded, settings: Settings) -> None:
        self.model = loaded.model
        self.vocabulary = int(self.model.get_input_embeddings().weight.shape[0])
        positions = learned_positions(self.model) or settings.max_length
        self.max_length = min(settings.max_length, positions)
        self.chunk = min(settings.chunk, positions)
        self._dtype, self._attention = loaded.dtype, loaded.attention
        self._settings = settings
        parameters = inspect.signature(self.model.forward).parameters
        self._takes_wanted = "logits_to_keep" in parameters
        self.forwarded_tokens = 0
        self._cache: Any = None
        self._prefix: list[int] = []
        self._bytes_per_token = 0
        self._own_cache = next((n for n in _CACHES if n in parameters), None)
        self.rows = 1
        if self._own_cache and not self._generation_agrees():
            self._own_cache = None
        self.shares = _keeps_plain_keys(self.model, self.max_length) and self._tree_agrees()
        if self.shares and transformers_cache.prepare(self.model):
            self.rows = ROWS
            if not self._generation_agrees():
                self.rows = 1
        self.free()
        self.forwarded_tokens = 0

    @property
    def effective(self) -> Mapping[str, Any]:
        """See `Backend.effective`."""
        return {
            "chunk": self.chunk if self.shares else None,
            "threads": self._settings.threads,
            "dtype": self._dtype,
            "attention": self._attention,
        }

    @property
    def shares_prompts(self) -> bool:
        """See `Backend.shares_prompts`."""
        return self.rows > 1

    @property
    def schedule(self) -> str:
        """See `Backend.schedule`."""
        scoring = "each continuation alone, without a cache"
        if self.shares:
            scoring = (
                f"trunk in chunks of {self.chunk} from position 0, reused at multiples of "
                f"{self.chunk}; rest of the document as one tree of up to {TREE} tokens"
            )
        generation = "alone, with" if self._own_cache else "alone, without"
        generation += " the model's own cache"
        if self.rows > 1:
            generation = f"in steps of {self.rows} rows"
        chosen = self._settings.attention
        attention = "" if chosen is None else f"; {chosen} attention"
        return f"{scoring}; generation {generation}{attention}"

    def close(self) -> None:
        """See `Backend.close`."""
        self.free()
        self.model = None

    def free(self) -> None:
        """See `Backend.free`."""
        self._cache, self._prefix = None, []
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def score(self, planned: PlannedForward) -> list[Scored]:
        """See `Backend.score`."""
        with _inference():
            if self.shares:
                return self._score_as_tree(planned)
            return self._score_alone(planned)

    def _score_as_tree(self, planned: PlannedForward) -> list[Scored]:
        reader = ScoreReader(planned)
        for logits in self._forward_planned(planned):
            reader.add(logits)
        self._cache.cut(len(planned.shared_prefix))
        return reader.scores()

    def _score_alone(self, planned: PlannedForward) -> list[Scored]:
        scored = []
        for alone in planned.chains():
            reader = ScoreReader(alone)
            reader.add(self._forward_alone(alone))
            scored += reader.scores()
        return scored

    def _forward_alone(self, alone: PlannedForward) -> Logits:
        """Forward a single continuation without the cache. Returns the wanted logits."""
        self.forwarded_tokens += len(alone.tokens)
        return _array(self._forward(alone.tokens, wanted=alone.wanted))

    def _forward_planned(self, planned: PlannedForward) -> Iterator[Logits]:
        """Forward what is planned; its tree stays in the cache. Yields wanted logits in blocks."""
        self._extend_prefix(planned.shared_prefix, planned.length)
        # More than one block is needed for a single, long continuation only.
        for begin in range(0, len(planned.tokens), TREE):
            end = min(begin + TREE, len(planned.tokens))
            logits = self._forward(
                planned.tokens[begin:end],
                positions=planned.positions[begin:end],
                visible=torch.from_numpy(planned.visible(begin, end)),
                wanted=[node - begin for node in planned.wanted if begin <= node < end],
            )
            self.forwarded_tokens += end - begin
            yield _array(logits)

    def _extend_prefix(self, shared_prefix: list[int], room: int) -> None:
        """Make the cache hold exactly ``shared_prefix``, with room for ``room`` tokens."""
        self._make_room(room)
        shared = reusable_prefix(self._prefix, shared_prefix, self.chunk)
        self._cache.cut(shared)
        self._prefix = shared_prefix[:shared]
        below = torch.ones(self.chunk, self.chunk, dtype=torch.bool).tril()
        for start in range(shared, len(shared_prefix), self.chunk):
            end = start + self.chunk
            self._forward(
                shared_prefix[start:end], positions=range(start, end), visible=below, wanted=[]
            )
            self.forwarded_tokens += self.chunk
        self._prefix = shared_prefix

    def _forward(
        self,
        tokens: Sequence[int],
        *,
        wanted: Sequence[int],
        positions: Sequence[int] | None = None,
        visible: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Forward one row of tokens.

        Args:
            tokens: Token ids.
            wanted: Indices of the tokens whose logits are needed.
            positions: Their positions; None forwards plain text without the cache.
            visible: Which token sees which of those since the shared prefix, shape (tokens, up to
                them); all of them see the prefix.

        Returns:
            Logits, shape (wanted, vocabulary).
        """
        device = self.model.device
        more: dict[str, Any] = {"use_cache": False}
        if visible is not None:
            assert positions is not None
            seen = torch.ones(len(tokens), self._cache.length, dtype=torch.bool)
            # What lies in the cache beyond the shared prefix is covered by `visible`.
            seen = torch.cat(
                [seen[:, : seen.shape[1] + len(tokens) - visible.shape[1]], visible], 1
            )
            mask = torch.zeros(seen.shape, dtype=self.model.dtype)
            mask.masked_fill_(~seen, torch.finfo(mask.dtype).min)
            more = {
                "use_cache": True,
                "past_key_values": self._cache,
                "position_ids": torch.tensor([list(positions)], device=device),
                "attention_mask": mask[None, None].to(device),
            }
        ids = torch.tensor([list(tokens)], device=device)
        if not wanted:
            # The inner model has no output layer: nobody reads these logits.
            self.model.base_model(input_ids=ids, **more)
            return torch.empty(0, 0)
        wanted_positions = torch.tensor(wanted, device=device)
        if self._takes_wanted:
            logits = self.model(input_ids=ids, logits_to_keep=wanted_positions, **more).logits[0]
        else:
            logits = self.model(input_ids=ids, **more).logits[0, wanted_positions]
        result: torch.Tensor = logits
        return result

    def prepare(self, plan: Plan) -> None:
        """See `Backend.prepare`."""
        if self.shares:
            self._make_room(plan.longest)

    def _make_room(self, tokens: int) -> None:
        """Let the cache take ``tokens`` tokens; a larger one begins empty."""
        if self._cache is None or self._cache.room < tokens:
            self._cache, self._prefix = transformers_cache.TreeCache(self.model.config, tokens), []

    def reserve(self, plan: Plan, tokens: Sequence[int], at_once: int) -> int:
        """See `Backend.reserve`."""
        self.prepare(plan)
        if self.rows == 1:
            return max(tokens)
        free = None
        if self.model.device.type == "cuda":
            free = torch.cuda.mem_get_info()[0]
        return max(
            budget_bytes(self._settings.memory_budget_bytes, free) // self._bytes_per_token, *tokens
        )

    def start(self, planned: PlannedForward, tokens: int) -> tuple[Any, Logits]:
        """See `Backend.start`."""
        with _inference():
            if self.rows == 1:
                (alone,) = planned.chains()
                state = _Alone(list(alone.tokens))
                return state, self._go_on(state, alone.tokens)[-1]
            *_, logits = self._forward_planned(planned)
            running = self._cache.copy(tokens)
            self._cache.cut(len(planned.shared_prefix))
            return running, logits[-1]

    def step(self, states: Sequence[Any], tokens: Sequence[int]) -> Logits:
        """See `Backend.step`."""
        with _inference():
            if self.rows == 1:
                (state,) = states
                state.tokens += tokens
                return self._go_on(state, tokens)
            self.forwarded_tokens += len(tokens)
            return _array(transformers_cache.step(self.model, states, tokens, self.rows))

    def _go_on(self, state: _Alone, tokens: Sequence[int]) -> Logits:
        """Forward ``tokens``, the last ones of a generation; logits of the last, shape (1, all)."""
        if self._own_cache is None:
            self.forwarded_tokens += len(state.tokens)
            return _array(self._forward(state.tokens, wanted=[len(state.tokens) - 1]))
        self.forwarded_tokens += len(tokens)
        ids = torch.tensor([list(tokens)], device=self.model.device)
        more: dict[str, Any] = {"logits_to_keep": 1} if self._takes_wanted else {}
        if state.cache is not None:
            more[self._own_cache] = state.cache
        output = self.model(input_ids=ids, use_cache=True, **more)
        state.cache = getattr(output, self._own_cache)
        return _array(output.logits[0, -1:])

    def fork(self, state: Any) -> Any:
        """See `Backend.fork`."""
        with _inference():
            return copy.deepcopy(state)

    def finish(self, state: Any) -> None:
        """See `Backend.finish`: its memory goes with the state."""

    def _tree_agrees(self) -> bool:
        """Whether a tree's logits are those of plain forwards, tried on a few tokens."""
        planned = self._trial()

        def tree() -> Logits:
            row = {node: number for number, node in enumerate(planned.wanted)}
            logits = np.concatenate(list(self._forward_planned(planned)))
            self._bytes_per_token = self._cache.bytes_per_token()
            self._cache.cut(len(planned.shared_prefix))
            return logits[[row[node] for nodes in planned.predictors for node in nodes]]

        return self._same(planned, tree)

    def _generation_agrees(self) -> bool:
        """Whether a generation's steps give the logits of plain forwards, tried on a few tokens."""
        planned = self._trial()

        def steps() -> Logits:
            rows = []
            for alone, targets in zip(planned.chains(), planned.targets, strict=True):
                context = alone.tokens[: len(alone.tokens) - len(targets) + 1]
                ((prompt, _),) = plan_document([(context, targets[:1])], self.chunk)
                running, first = self.start(prompt, len(context) + len(targets))
                rows += [first, *(self.step([running], [t])[0] for t in targets[:-1])]
            return np.stack(rows)

        return self._same(planned, steps)

    def _trial(self) -> PlannedForward:
        """A planned forward with a shared prefix, and with branches that share a beginning."""
        draw = np.random.default_rng(0)
        size = min(1000, int(self.model.config.get_text_config().vocab_size))
        context, first, second = (
            draw.integers(size // 2, size, n).tolist() for n in (self.chunk + 46, 3, 5)
        )
        pairs = [(context, c) for c in (first, second, [*first[:2], *second])]
        ((planned, _),) = plan_document(pairs, self.chunk)
        return planned

    def _same(self, planned: PlannedForward, way: Callable[[], Logits]) -> bool:
        """Whether a way to the logits of the continuations agrees with plain forwards."""
        with _inference():
            plain = np.concatenate([self._forward_alone(alone) for alone in planned.chains()])
            try:
                logits = way()
            except OutOfMemory:
                raise
            except Exception:  # whatever a model's own code raises at what it does not know
                return False
        spread = np.linalg.norm(plain - plain.mean(axis=1, keepdims=True))
        return bool(np.linalg.norm(logits - plain) < _SAME * spread)


@dataclass
class _Alone:
    """A generation that runs alone: its tokens, and the cache that the model made for it."""

    tokens: list[int]
    cache: Any = None


def _keeps_plain_keys(model: Any, max_length: int) -> bool:
    """Whether all layers keep plain keys and values, which can be cut and copied.

    A sliding window that is as long as all that is ever seen hides nothing.
    """
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

    if getattr(model, "_is_stateful", False):
        return False
    # Attention of its own may look at places in the cache, where a tree has many branches.
    if not getattr(model, "_supports_attention_backend", False):
        return False
    if _rotates_by_length(model.config.get_text_config(), max_length):
        return False
    layers = DynamicCache(config=model.config).layers
    return bool(layers) and all(
        type(layer) is DynamicLayer
        or (type(layer) is DynamicSlidingWindowLayer and layer.sliding_window >= max_length)
        for layer in layers
    )


def _rotates_by_length(config: Any, max_length: int) -> bool:
    """Whether a position is rotated by how long the text of its forward is."""
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = [rope, *(kind for kind in rope.values() if isinstance(kind, dict))]
    original = getattr(config, "original_max_position_embeddings", None)
    return any(
        kind.get("rope_type") in ("longrope", "dynamic")
        and max_length > (kind.get("original_max_position_embeddings") or original or 0)
        for kind in kinds
    )


@contextmanager
def _inference() -> Iterator[None]:
    """Forwards without gradients; a lack of memory becomes `OutOfMemory`."""
    try:
        with torch.inference_mode():
            yield
    except (RuntimeError, MemoryError) as error:
        words = ("out of memory", "can't allocate memory", "not enough memory")
        if isinstance(error, MemoryError) or any(word in str(error).lower() for word in words):
            raise OutOfMemory(str(error)) from error
        raise


def _array(logits: torch.Tensor) -> Logits:
    """Logits in main memory.

    Raises:
        ArithmeticError: when one overflowed.
    """
    array: Logits = logits.float().cpu().numpy()
    check_finite(array, str(logits.dtype).removeprefix("torch."))
    return array
