"""How many positions a model on Transformers has, where it has learned each of them."""

from __future__ import annotations

from typing import Any


def learned_positions(model: Any) -> int | None:
    """Positions of a model that has learned each of them; None where positions are computed."""
    from torch.nn import Embedding

    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if not limit:
        return None
    tables = [module for module in model.modules() if isinstance(module, Embedding)]
    # Some keep a few rows in front for padding.
    rows = {table.num_embeddings for table in tables if table is not model.get_input_embeddings()}
    return int(limit) if any(limit <= count <= limit + 2 for count in rows) else None
