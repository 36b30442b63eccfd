"""Base, GPTQ and AWQ models on Transformers."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from slm_benchmark.engines.backend import CHUNK, Scored, packs, reusable_prefix

ROWS = 16
"""Most continuations in one forward."""

TOKENS = 2048
"""Most tokens of several continuations in one forward."""


@dataclass(frozen=True)
class Loaded:
    """A model on its device.

    Attributes:
        model: The Transformers model, in evaluation mode.
        kernel: Class name of the layers that hold the quantized (or plain linear) weights.
        dtype: Number format of the activations.
    """

    model: Any
    kernel: str
    dtype: str


def load_transformers(
    folder: Path, dtype: str, device: str, trust_remote_code: bool = False
) -> Loaded:
    """Load a folder in Transformers format.

    Args:
        folder: The base model or a 4-bit variant of it.
        dtype: float32, bfloat16, float16, or auto (float16 on CUDA, float32 on a CPU).
        device: cpu or cuda.
        trust_remote_code: Whether the model's own code may run.
    """
    from transformers import AutoModelForCausalLM

    if dtype == "auto":
        dtype = "float16" if device == "cuda" else "float32"
    model = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=getattr(torch, dtype),
        device_map=device,
        trust_remote_code=trust_remote_code,
    )
    model.eval()
    classes = [type(module) for module in model.modules()]
    quantized = [c.__name__ for c in classes if c.__module__.startswith("gptqmodel")]
    linear = [name for name in quantized if "Linear" in name]
    return Loaded(model, linear[0] if linear else "Linear", str(model.dtype).removeprefix("torch."))


class Transformers:
    """A model on Transformers with a key-value cache that documents share.

    The context is forwarded from position 0 in chunks of fixed size and a cached prefix is reused
    at multiples of it; the last context token goes with the continuations of its document, one
    row each. Models whose cache cannot be cut and copied (recurrent, hybrid, sliding window) take
    a slower way: every continuation in a forward of its own, without a cache.

    Args:
        loaded: The model.
        max_length: Longest context and continuation together, in tokens.
    """

    def __init__(self, loaded: Loaded, max_length: int) -> None:
        self.model = loaded.model
        self.max_length = max_length
        self.shares = _shares_prefixes(self.model)
        self.cached: list[int] = []
        self.cache: Any = None

    @property
    def schedule(self) -> str:
        """The order and shape of the forwards, in words."""
        if not self.shares:
            return "each continuation in a forward of its own, without a cache"
        return (
            f"prefix in chunks of {CHUNK} from position 0, reused at multiples of {CHUNK}; last "
            f"context token and up to {ROWS} continuations of a document in one forward"
        )

    def score(self, context: Sequence[int], continuations: Sequence[Sequence[int]]) -> list[Scored]:
        """See `Backend.score`."""
        with torch.inference_mode():
            if not self.shares:
                return [self._score_alone(context, c) for c in continuations]
            self._prefill(context[:-1])
            scored: list[Scored] = []
            for pack in packs(continuations, ROWS, TOKENS):
                scored += self._score_pack(context[-1], pack)
            return scored

    def generate(
        self, context: Sequence[int], max_tokens: int, finished: Callable[[list[int]], bool]
    ) -> list[int]:
        """See `Backend.generate`."""
        new: list[int] = []
        with torch.inference_mode():
            if self.shares:
                self._prefill(context[:-1])
                cache = self._copies(1)
            while len(new) < max_tokens:
                if self.shares:
                    logits = self._forward([[(new or context)[-1]]], cache)
                else:
                    logits = self._forward([[*context, *new]], None)
                new.append(int(logits[0, -1].argmax()))
                if finished(new):
                    break
        return new

    def _score_alone(self, context: Sequence[int], continuation: Sequence[int]) -> Scored:
        logits = self._forward([[*context, *continuation[:-1]]], None)
        return _gather(logits[0, -len(continuation) :], continuation)

    def _score_pack(self, last: int, pack: Sequence[Sequence[int]]) -> list[Scored]:
        width = max(map(len, pack))
        # Rows are filled up on the right, where no earlier token looks.
        rows = [[last, *c[:-1]] + [last] * (width - len(c)) for c in pack]
        logits = self._forward(rows, self._copies(len(rows)))
        return [_gather(row[: len(c)], c) for row, c in zip(logits, pack, strict=True)]

    def _prefill(self, prefix: Sequence[int]) -> None:
        """Make the cache hold exactly ``prefix``."""
        from transformers import DynamicCache

        shared = reusable_prefix(self.cached, prefix)
        if shared == 0:
            self.cache = DynamicCache(config=self.model.config)
        else:
            self.cache.crop(shared - len(self.cached))
        self.cached = list(prefix[:shared])
        for start in range(shared, len(prefix), CHUNK):
            chunk = prefix[start : start + CHUNK]
            # The inner model has no output layer: nobody reads these logits.
            tokens = torch.tensor([chunk], device=self.model.device)
            self.model.base_model(input_ids=tokens, past_key_values=self.cache, use_cache=True)
            self.cached += chunk

    def _copies(self, rows: int) -> Any:
        """The cache repeated for ``rows`` rows, without touching the original."""
        copied = copy.copy(self.cache)
        copied.layers = [copy.copy(layer) for layer in self.cache.layers]
        if self.cached:
            copied.batch_repeat_interleave(rows)
        return copied

    def _forward(self, rows: list[list[int]], cache: Any) -> torch.Tensor:
        """Logits, shape (rows, tokens, vocabulary size)."""
        output = self.model(
            input_ids=torch.tensor(rows, device=self.model.device),
            past_key_values=cache,
            use_cache=cache is not None,
        )
        logits: torch.Tensor = output.logits
        return logits


def _shares_prefixes(model: Any) -> bool:
    """Whether the model keeps plain keys and values, which can be cut and copied."""
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    if getattr(model, "_is_stateful", False):
        return False
    layers = DynamicCache(config=model.config).layers
    return bool(layers) and all(type(layer) is DynamicLayer for layer in layers)


def _gather(logits: torch.Tensor, targets: Sequence[int]) -> Scored:
    """Score ``targets`` with one row of logits for each of them."""
    wanted = torch.tensor(targets, device=logits.device)
    logits = logits.float()
    chosen = logits.gather(1, wanted[:, None])[:, 0]
    log_probability = (chosen - logits.logsumexp(dim=1)).sum()
    return float(log_probability), bool((logits.argmax(dim=1) == wanted).all())
