"""How numbers read on a page; the unit stands in the column's head."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence


def percent(share: float) -> str:
    """A share of one as percent with one decimal and a true minus sign: ``34.2``, ``−1.0``."""
    return _minus(f"{100 * share:.1f}")


def scaled(value: float, unit: str) -> float:
    """A score as the number that is shown: per cent of a share, points as they are."""
    return round(100 * value, 9) if unit == "share" else value


def scored(value: float, unit: str) -> str:
    """A score with one decimal: a share as `percent`, points as they are."""
    return percent(value) if unit == "share" else _minus(f"{value:.1f}")


def signed(value: float, unit: str) -> str:
    """A difference of scores with one decimal and its sign: ``+1.0``, ``−2.5``, ``0.0``."""
    text = scored(value, unit)
    return f"+{text}" if value > 0 and text != "0.0" else text


def significant(value: float, digits: int = 3) -> str:
    """``value`` rounded to ``digits`` significant digits, never in exponent form."""
    if value == 0:
        return "0"
    decimals = digits - 1 - math.floor(math.log10(abs(value)))
    return _minus(f"{round(value, decimals):,.{max(decimals, 0)}f}")


def megabytes(size_bytes: float) -> str:
    """Bytes as decimal megabytes (10⁶ bytes) with three significant digits."""
    return significant(size_bytes / 1e6)


def giga(value: float) -> str:
    """A rate in thousands of millions (10⁹), such as GB/s, with three significant digits."""
    return significant(value / 1e9)


def count(number: float) -> str:
    """A large count in words' shorthand: ``135 M``, ``1.54 B``."""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{significant(number / size)} {unit}"
    return str(int(number))


def span(low: str, high: str) -> str:
    """An interval of two formatted numbers."""
    return f"{low} to {high}"


def questions(numbers: Sequence[int]) -> str:
    """The numbers of questions behind some scores: ``50 questions``, ``10 to 50 questions``."""
    if not numbers:
        return "no questions"
    low, high = min(numbers), max(numbers)
    return f"{high:,} questions" if low == high else f"{low:,} to {high:,} questions"


def table_cells(concerned: Mapping[str, Sequence[str]], columns: int) -> list[str]:
    """Cells of a table in words, the rows of equal columns together.

    Args:
        concerned: Title of each row → labels of its columns.
        columns: How many the table has; a row with all of them is named without any.
    """
    alike: dict[tuple[str, ...], list[str]] = {}
    for title, labels in concerned.items():
        alike.setdefault(tuple(labels), []).append(title)
    return [
        ", ".join(titles) + ("" if len(labels) == columns else f" ({', '.join(labels)})")
        for labels, titles in alike.items()
    ]


def _minus(text: str) -> str:
    """A true minus sign, and none before a zero."""
    return text.replace("-", "−" if text.strip("-0.") else "")
