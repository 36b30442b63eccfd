"""The sizes of cache that llama.cpp makes."""

from __future__ import annotations

CELL_BLOCK = 256
"""llama.cpp makes the cache of a sequence a multiple of so many tokens."""


def whole_blocks(tokens: int) -> int:
    """Cells for so many tokens, as many as llama.cpp rounds up to."""
    return -(-tokens // CELL_BLOCK) * CELL_BLOCK
