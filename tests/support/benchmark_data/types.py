"""Names for the shapes of the small datasets."""

from __future__ import annotations

from typing import Any

Row = dict[str, Any]

Splits = dict[str, list[Row]]
"""Split → rows."""

Configs = dict[str, Splits]
"""Configuration → split → rows."""
