"""Key-value caches for Transformers: one that trees are cut from, and rows that run together.

A step of a generation forwards many sequences at once, one token each. The linear layers round a
row the same whatever stands in the others, as long as there are equally many; attention is
computed for each row alone, over its own keys. So generation is batch-invariant: bitwise identical
for any batch composition.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache
from transformers.cache_utils import Cache, DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

ATTENTION = "slm_benchmark_rows"


class _Layer(DynamicLayer):  # type: ignore[misc]
    """Keys and values of one layer in memory that is taken once, so that growing copies nothing."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room, self.length = room, 0

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = (_empty(s, self.room) for s in (key_states, value_states))
        end = self.length + key_states.shape[-2]
        self.keys[..., self.length : end, :] = key_states
        self.values[..., self.length : end, :] = value_states
        self.length = end
        return self.keys[..., :end, :], self.values[..., :end, :]

    def get_seq_length(self) -> int:
        return self.length


class TreeCache(Cache):  # type: ignore[misc]
    """The prefix that documents share and, while one is scored, its token tree.

    Args:
        config: The model's configuration.
        room: Most tokens.
    """

    def __init__(self, config: Any, room: int) -> None:
        self.room = room
        super().__init__(layers=[_Layer(room) for _ in DynamicCache(config=config).layers])

    @property
    def length(self) -> int:
        """Tokens in the cache."""
        return max(int(layer.length) for layer in self.layers)

    def cut(self, length: int) -> None:
        """Forget all but the first ``length`` tokens."""
        for layer in self.layers:
            layer.length = min(layer.length, length)

    def bytes_per_token(self) -> int:
        """Memory of the keys and values of one token."""
        used = [tensor for layer in self.layers for tensor in _tensors(layer)]
        return sum(t.element_size() * t[..., :1, :].numel() for t in used)

    def copy(self, room: int) -> Running:
        """What is in the cache, as an independent sequence of up to ``room`` tokens."""
        layers = []
        for layer in self.layers:
            copied = []
            for tensor in _tensors(layer):
                grown = _empty(tensor, room)
                grown[..., : layer.length, :] = tensor[..., : layer.length, :]
                copied.append(grown)
            layers.append(tuple(copied))
        return Running(layers, self.length)


def _tensors(layer: _Layer) -> tuple[torch.Tensor, ...]:
    # A layer that uses the keys of another one has none of its own.
    return (layer.keys, layer.values) if layer.is_initialized else ()


def _empty(like: torch.Tensor, room: int) -> torch.Tensor:
    shape = (*like.shape[:-2], room, like.shape[-1])
    return torch.empty(shape, dtype=like.dtype, device=like.device)


@dataclass(eq=False)
class Running:
    """A sequence that is being generated.

    Attributes:
        layers: Keys and values of each layer, each of shape (1, heads, room, size).
        length: Tokens in them.
    """

    layers: list[tuple[torch.Tensor, ...]]
    length: int


class _RowsLayer(DynamicLayer):  # type: ignore[misc]
    """One layer of several sequences; gives attention the keys and values of each row."""

    def __init__(self, rows: Sequence[Running], number: int) -> None:
        super().__init__()
        self.rows, self.number = rows, number

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> Any:
        keys, values = [], []
        for index, row in enumerate(self.rows):
            cached_keys, cached_values = row.layers[self.number]
            cached_keys[0, :, row.length] = key_states[index, :, 0]
            cached_values[0, :, row.length] = value_states[index, :, 0]
            keys.append(cached_keys[:, :, : row.length + 1])
            values.append(cached_values[:, :, : row.length + 1])
        return keys, values

    def get_seq_length(self) -> int:
        return max(row.length for row in self.rows)


def _attend(
    module: Any, query: torch.Tensor, key: Any, value: Any, attention_mask: Any, **kwargs: Any
) -> tuple[torch.Tensor, None]:
    """Attention of each row over its own keys, and the usual one elsewhere."""
    if isinstance(key, torch.Tensor):
        attended: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, **kwargs
        )
        return attended
    rows = [
        sdpa_attention_forward(module, query[i : i + 1], k, v, None, **kwargs)[0]
        for i, (k, v) in enumerate(zip(key, value, strict=True))
    ]
    return torch.cat(rows), None


def prepare(model: Any) -> bool:
    """Let the model's attention take rows; False where its code does not allow that."""
    if model.config._attn_implementation == ATTENTION:
        return True
    if model.config._attn_implementation != "sdpa":
        return False
    AttentionInterface.register(ATTENTION, _attend)
    AttentionMaskInterface.register(ATTENTION, sdpa_mask)
    try:
        model.set_attn_implementation(ATTENTION)
    except (ValueError, AttributeError, ImportError):
        return False
    return bool(model.config._attn_implementation == ATTENTION)


def step(model: Any, states: Sequence[Running], tokens: Sequence[int], rows: int) -> torch.Tensor:
    """Forward one token of each sequence, as one of ``rows`` rows.

    Args:
        model: Its attention takes rows; see `prepare`.
        states: The sequences; each is one token longer afterwards.
        tokens: A token id for each.
        rows: Rows of the forward; missing ones are filled up.

    Returns:
        Logits, shape (states, vocabulary).
    """
    device = model.device
    padding = [_padding(states[0]) for _ in range(rows - len(states))]
    batch = [*states, *padding]
    cache = Cache(layers=[_RowsLayer(batch, n) for n in range(len(states[0].layers))])
    ids = [[token] for token in (*tokens, *(0 for _ in padding))]
    positions = [[row.length] for row in batch]
    logits = model(
        input_ids=torch.tensor(ids, device=device),
        position_ids=torch.tensor(positions, device=device),
        # A mask of four dimensions is taken as it is: none is made; no row has anything to hide.
        attention_mask=torch.zeros(rows, 1, 1, 1, dtype=model.dtype, device=device),
        past_key_values=cache,
        use_cache=True,
    ).logits[: len(states), -1]
    for state in states:
        state.length += 1
    result: torch.Tensor = logits
    return result


def _padding(like: Running) -> Running:
    return Running([tuple(t[..., :1, :].clone() for t in layer) for layer in like.layers], 0)
