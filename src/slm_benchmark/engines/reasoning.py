"""What a model writes before its answer when it thinks: its marks, and the text without it."""

from __future__ import annotations

import re
from collections import defaultdict

_WORDS = (
    "think",
    "thinking",
    "thought",
    "thoughts",
    "reason",
    "reasoning",
    "analysis",
    "reflection",
    "scratchpad",
)

_FORMS = (
    ("<{}>", "</{}>"),
    ("<seed:{}>", "</seed:{}>"),
    ("[{}]", "[/{}]"),
    ("◁{}▷", "◁/{}▷"),
    ("<|{}|>", "<|/{}|>"),
    ("<|{}|>", "</|{}|>"),
    ("<|{}_start|>", "<|{}_end|>"),
    ("<|start_{}|>", "<|end_{}|>"),
    ("<|begin_{}|>", "<|end_{}|>"),
    ("<|{}_begin|>", "<|{}_end|>"),
    ("<|start_of_{}|>", "<|end_of_{}|>"),
    ("<|begin_of_{}|>", "<|end_of_{}|>"),
    ("<|channel>{}", "<channel|>"),
)
"""Opening and closing mark around one of the words, in small letters."""


def _closing_marks() -> dict[str, list[str]]:
    """Opening mark → the marks that close it."""
    closing = defaultdict(list)
    for word in _WORDS:
        for opens, closes in _FORMS:
            closing[opens.format(word)].append(closes.format(word))
    return dict(closing)


_CLOSING = _closing_marks()


def _either(marks: list[str]) -> str:
    # The longest first: one mark may begin as another does.
    return "|".join(re.escape(mark) for mark in sorted(set(marks), key=len, reverse=True))


_OPENS = re.compile(_either([*_CLOSING]), re.IGNORECASE)
_BEHIND = re.compile(rf"(?:^|[.!?:\n])\s*(?P<mark>{_OPENS.pattern})", re.IGNORECASE)
"""An opening mark where a line or sentence begins; a text that speaks of marks has words there."""
_CLOSES = re.compile(_either([mark for marks in _CLOSING.values() for mark in marks]), re.I)
_MARKS = {
    opening: re.compile(f"(?P<opening>{re.escape(opening)})|{_either(closing)}", re.IGNORECASE)
    for opening, closing in _CLOSING.items()
}
"""Opening mark → what finds it and those that close it."""


def is_mark(token: str) -> bool:
    """Whether a special token is such a mark, or an end of one."""
    text = token.strip().lower()
    if _OPENS.fullmatch(text) or _CLOSES.fullmatch(text):
        return True
    return text == "<|channel>"


def opens_reasoning(prompt: str) -> bool:
    """Whether a prompt ends within reasoning, so that the next text is no answer."""
    return _opened(prompt) is not None


def without_reasoning(prompt: str, text: str) -> str:
    """An answer without its reasoning; nothing, where the limit cut the reasoning itself.

    A text reasons when an opening mark begins it, a line or a sentence of it, when the template has
    opened one at the prompt's end, or when a mark closes what none opens. Any other text comes back
    as it is, whatever marks it speaks of.

    Args:
        prompt: What was answered.
        text: The whole generation.
    """
    if (opening := _opened(prompt)) is not None:
        return _outside(_MARKS[opening], text, depth=1)
    if begins := _BEHIND.search(text):
        said, rest = text[: begins.start("mark")], text[begins.start("mark") :]
        return said.lstrip() + _outside(_MARKS[begins["mark"].lower()], rest, depth=0)
    closes, opens = _CLOSES.search(text), _OPENS.search(text)
    if closes and not (opens and opens.start() < closes.start()):
        mark = closes[0].lower()
        opening = next(opening for opening, closing in _CLOSING.items() if mark in closing)
        return _outside(_MARKS[opening], text, depth=1)
    return text


def _opened(prompt: str) -> str | None:
    """The opening mark at a prompt's end."""
    end = prompt.rstrip()[-64:].lower()
    marks = [mark for mark in _CLOSING if end.endswith(mark)]
    return max(marks, key=len, default=None)


def _outside(marks: re.Pattern[str], text: str, depth: int) -> str:
    """The parts of a text that reasons which lie outside all pairs of marks."""
    parts, end = [], 0
    for mark in marks.finditer(text):
        if depth == 0 and mark["opening"]:
            parts.append(text[end : mark.start()])
        # A closing mark without its opening one ends reasoning as well.
        elif depth == 0:
            parts.clear()
        depth = depth + 1 if mark["opening"] else max(0, depth - 1)
        end = mark.end()
    if depth == 0:
        parts.append(text[end:])
    return _begun("".join(parts))


def _begun(text: str) -> str:
    """A text without blank lines or space before it; the indent of code stays."""
    space = text[: len(text) - len(text.lstrip())]
    return text[space.rfind("\n") + 1 :] if "\n" in space else text.lstrip()
