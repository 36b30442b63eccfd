"""The prompt of a measurement: plain English of our own, of an exact number of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slm_benchmark.common.errors import UserError
from slm_benchmark.download.tokenizer import load_tokenizer

PASSAGE = """\
The harbour lies where the river meets the sea, and most of the town can be seen from its outer \
wall. Fishing boats leave before sunrise and come back with the tide. Behind the quay stands a \
long brick building that was once a rope factory; today it holds a library, a workshop for small \
engines, and a bakery that opens at five. The people who work there know each other well, and \
they share one key, one kettle and one old bicycle.

A measurement begins with a question. How much rain fell last month? How long does a letter take \
to cross the country? To answer, someone has to choose an instrument, read it many times, and \
write down what it showed, even on the days when nothing seemed to happen. The keeper of the \
lighthouse has done so for thirty years. Her notebooks give the pressure of the air, the \
direction of the wind, and the height of the waves, three times a day, in the same blue ink.

Bread is made of flour, water, salt and time. The baker mixes the dough in the evening and leaves \
it to rise until morning. Warm weather makes it quick, and cold weather makes it slow, so he \
keeps a thermometer on the shelf and changes the hour of his alarm clock. If the loaf is good, \
its crust sings quietly while it cools. If it is not, the ducks on the canal are content.

In spring the workshop repairs the pumps that keep the lower fields dry. Each pump has a number, \
a history and a temper. Some start at the first turn of the handle; others want patience, a clean \
filter and a little oil. An apprentice learns to listen before she takes a spanner from the wall, \
because a machine that is about to fail usually says so.

The library lends books, tools and seeds. A reader may keep a book for four weeks, a tool for \
one, and a seed for as long as it takes to grow. In autumn the borrowers return, each with a \
small paper bag, and the librarian writes on it the name of the plant, the year, and the garden \
where it stood. Nobody has ever counted the bags, but the cabinet has been made larger twice.
"""
"""About 400 words without names, dates or anything that a model might refuse to go on with."""

_NEAR = 64
"""Characters on either side of the estimated cut that are tested."""


@dataclass(frozen=True)
class Prompt:
    """A text and its tokens.

    Attributes:
        text: The prompt.
        ids: Its token ids, with those that the tokenizer puts around every text; `encode` gives
            exactly these for ``text``.
    """

    text: str
    ids: list[int]
    _tokenizer: Any = field(repr=False)

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, as `ids` were made."""
        return _encode(self._tokenizer, text)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of some tokens."""
        return str(self._tokenizer.decode(list(ids)))


def make_prompt(base: Path, tokens: int, *, trust_remote_code: bool = False) -> Prompt:
    """Cut the passage where it has ``tokens`` tokens.

    The passage is repeated as often as needed, each time under a new number, so that the prompt of
    any length is ordinary text and the same for all variants of a model.

    Args:
        base: Folder of the base model, whose tokenizer serves all variants.
        tokens: Tokens that the prompt should have, at least 1.
        trust_remote_code: Whether the tokenizer's own code may run.

    Returns:
        The prompt. Its tokens are fewer than ``tokens`` where no cut of the passage has exactly so
        many.

    Raises:
        UserError: when the folder has no tokenizer, or one that cannot encode plain English.
    """
    tokenizer = load_tokenizer(base, trust_remote_code)
    text = _long_text(tokenizer, tokens, base)
    # The count hardly ever falls as the text grows, so bisection comes near, and a look at the
    # neighbours finds the exact cut where there is one.
    low, high = 1, len(text)
    while low < high:
        middle = (low + high) // 2
        if len(_encode(tokenizer, text[:middle])) < tokens:
            low = middle + 1
        else:
            high = middle
    cuts = range(max(1, low - _NEAR), min(len(text), low + _NEAR) + 1)
    candidates = [(text[:cut], _encode(tokenizer, text[:cut])) for cut in cuts]
    fitting = [pair for pair in candidates if 0 < len(pair[1]) <= tokens]
    best, ids = max(fitting or candidates[:1], key=lambda pair: len(pair[1]))
    return Prompt(best, ids, tokenizer)


def _long_text(tokenizer: Any, tokens: int, base: Path) -> str:
    """The passage, repeated until it has at least ``tokens`` tokens."""
    text, count, part = "", 0, 0
    while count < tokens:
        part += 1
        text += f"Part {part}.\n\n{PASSAGE}\n"
        before, count = count, len(_encode(tokenizer, text))
        if count - before < len(PASSAGE.split()) // 10:
            raise _no_tokenizer(base, f"its tokenizer makes {count} tokens of {len(text)} letters")
    return text


def _encode(tokenizer: Any, text: str) -> list[int]:
    return [int(token) for token in tokenizer.encode(text)]


def _no_tokenizer(base: Path, reason: str) -> UserError:
    return UserError(
        f"the base model has no tokenizer that can be used: {reason}",
        file=base,
        fix="download the base model again, with its tokenizer's files",
    )
