"""Whether a text meets the constraints of synthetic_instructions, decided by counting alone."""

# ruff: noqa: SIM905
from __future__ import annotations

import json
import re
from typing import Any

_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
_POINT = re.compile(r"^\s*(\d+)\.\s+\S", re.MULTILINE)
_FENCE = re.compile(r"```(?:json)?\s*(.*?)\s*```", re.DOTALL)

FUNCTION_WORDS = {  # lists of single words are easier to read as one text
    "en": set("the a is are was of to in that this it for with we on by from have not".split()),
    "de": set("der die das den ein eine ist sind war zu in mit wir für auf von nicht es".split()),
    "es": set("el la los las un una es son de en que con para por se del no está este".split()),
    "fr": set("le la les un une est sont de des en que avec pour par se du nous dans".split()),
}
"""Short words that a text of the language can hardly do without."""


def process_results(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Scores of one text: whether all constraints are met, and the share that is.

    A text without a word meets none: "do not use" would be met by silence.
    """
    text = results[0].strip()
    constraints = json.loads(doc["constraints"])
    met = [bool(words(text)) and is_met(constraint, text) for constraint in constraints]
    return {"all_met": float(all(met)), "share_met": sum(met) / len(met)}


def words(text: str) -> list[str]:
    """The words of a text in lower case; numbers are none."""
    return [word.lower() for word in _WORD.findall(text)]


def is_met(constraint: dict[str, Any], text: str) -> bool:
    """Whether ``text`` meets one constraint; capitals count for lower_case alone."""
    match constraint["kind"]:
        case "words":
            return bool(constraint["low"] <= len(words(text)) <= constraint["high"])
        case "contains":
            return words(constraint["word"])[0] in words(text)
        case "forbids":
            return words(constraint["word"])[0] not in words(text)
        case "lower_case":
            return text == text.lower()
        case "numbered_list":
            numbers = [int(number) for number in _POINT.findall(text)]
            return numbers == list(range(1, constraint["count"] + 1))
        case "ends_with":
            phrase = words(constraint["phrase"])
            return words(text)[-len(phrase) :] == phrase
        case "json_keys":
            return _json_keys(text) == sorted(constraint["keys"])
        case "language":
            return bool(_language(text) == constraint["language"])
    raise ValueError(f"unknown constraint {constraint['kind']!r}")


def _json_keys(text: str) -> list[str] | None:
    fenced = _FENCE.fullmatch(text)
    try:
        value = json.loads(fenced[1] if fenced else text)
    except ValueError:
        return None
    return sorted(value) if isinstance(value, dict) else None


def _language(text: str) -> str | None:
    """The language whose function words are the most frequent; None when two are level."""
    found = words(text)
    counts = {code: sum(w in known for w in found) for code, known in FUNCTION_WORDS.items()}
    best = max(counts.values())
    leading = [code for code, count in counts.items() if count == best]
    return leading[0] if len(leading) == 1 else None
