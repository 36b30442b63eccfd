"""How long a text a model's files allow for."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from slm_benchmark.catalog.model_cards import Model
from slm_benchmark.common.errors import UserError
from slm_benchmark.common.paths import relative

_POSITIONS = (
    "max_position_embeddings",
    "n_positions",
    "n_ctx",
    "max_seq_len",
    "max_sequence_length",
    "seq_length",
)
_STRETCHED = ("linear", "dynamic", "yarn")
"""Kinds of rotary scaling whose factor is not in the number of positions yet."""

_NO_LIMIT = 10**9
"""From here on a tokenizer's limit means that it has none."""


def read_configuration(path: Path) -> dict[str, Any]:
    """A JSON file of a model's folder.

    Raises:
        UserError: when it is no JSON object.
    """
    try:
        read = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, OSError) as error:
        raise UserError(
            f"the file cannot be read: {error}", file=relative(path), fix="fetch the file again"
        ) from error
    if not isinstance(read, dict):
        raise UserError(
            "the file holds no JSON object", file=relative(path), fix="fetch the file again"
        )
    return read


def text_configuration(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part of a configuration that is about the language model: in some, a block of its own."""
    inner = config.get("text_config")
    return inner if isinstance(inner, Mapping) else config


def declared_lengths(folder: Path) -> dict[str, int]:
    """Field → longest text in tokens, of each field of a model's files that limits it.

    Rotary scaling that stretches the positions counts; learned positions are as many as
    config.json says, as Transformers refuses weights of another shape.

    Args:
        folder: In Transformers format.

    Raises:
        UserError: when a file cannot be read.
    """
    lengths = {}
    path = folder / "config.json"
    if path.is_file():
        config = text_configuration(read_configuration(path))
        for field in _POSITIONS:
            if (length := _length(config.get(field))) is not None:
                lengths[f"config.json: {field}"] = _stretched(config, length)
    path = folder / "tokenizer_config.json"
    if path.is_file():
        length = _length(read_configuration(path).get("model_max_length"))
        if length is not None:
            lengths["tokenizer_config.json: model_max_length"] = length
    return lengths


def context_window(folder: Path) -> int | None:
    """The longest text in tokens that every file of a model allows for; None = no file limits it.

    Raises:
        UserError: when a file cannot be read.
    """
    return min(declared_lengths(folder).values(), default=None)


def window_of(model: Model, base: Path) -> int:
    """The longest text in tokens that a model takes: the least of its card and its files.

    Args:
        model: The card.
        base: Folder of the base model.

    Raises:
        UserError: when a file cannot be read.
    """
    return min(model.context_length, context_window(base) or model.context_length)


def _length(value: object) -> int | None:
    """A number of tokens, where ``value`` is one and limits anything."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(value) if math.isfinite(value) and 0 < value < _NO_LIMIT else None


def _stretched(config: Mapping[str, Any], length: int) -> int:
    """So many positions with the factor of the rotary scaling, where they lack it."""
    kinds = [k for k in _rotary(config) if k.get("rope_type", k.get("type")) in _STRETCHED]
    factor = max((float(kind.get("factor") or 1) for kind in kinds), default=1.0)
    original = [kind["original_max_position_embeddings"] for kind in kinds if _has_original(kind)]
    return max(length, round(factor * min(original))) if original else round(factor * length)


def _has_original(kind: Mapping[str, Any]) -> bool:
    return _length(kind.get("original_max_position_embeddings")) is not None


def _rotary(config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The blocks about rotary positions, by both of their names, or one for each kind of layer."""
    for field in ("rope_scaling", "rope_parameters"):
        block = config.get(field)
        if isinstance(block, Mapping):
            yield block
            yield from (inner for inner in block.values() if isinstance(inner, Mapping))
