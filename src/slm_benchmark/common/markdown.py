"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a table; bars and line breaks inside cells are escaped."""
    return [_line(header), _line(["---"] * len(header)), *map(_line, rows)]


def escape_cell(text: str) -> str:
    """Text without what would end a cell or a line."""
    return text.replace("|", "\\|").replace("\n", " ")


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(escape_cell, cells))} |"
