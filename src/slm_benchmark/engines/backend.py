"""What an engine must be able to do, and the parts of the schedule that all engines share.

The schedule is canonical: which tokens are forwarded together depends on the document alone, never
on its neighbours. So a document's numbers are the same alone, in a subset and in the full set.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

CHUNK = 64
"""Tokens of a context that are forwarded together, and the multiple at which a prefix is reused."""

Scored = tuple[float, bool]
"""Log-probability of a continuation, in nats, and whether each of its tokens is the likeliest."""


class Backend(Protocol):
    """A loaded model with a cache.

    Attributes:
        max_length: Longest context and continuation together, in tokens.
    """

    max_length: int

    def score(self, context: Sequence[int], continuations: Sequence[Sequence[int]]) -> list[Scored]:
        """Score the continuations of one document.

        Args:
            context: At least one token.
            continuations: Token ids of each continuation, none of them empty.

        Returns:
            One (log-probability, is greedy) pair for each continuation.
        """

    def generate(
        self, context: Sequence[int], max_tokens: int, finished: Callable[[list[int]], bool]
    ) -> list[int]:
        """Continue ``context`` greedily.

        Args:
            context: At least one token.
            max_tokens: Upper limit of new tokens.
            finished: Told the new tokens after each one; true ends the generation.

        Returns:
            The new tokens, the last one included.
        """


def reusable_prefix(cached: Sequence[int], wanted: Sequence[int]) -> int:
    """Length of the cached prefix that ``wanted`` may reuse: a multiple of `CHUNK`."""
    shared = 0
    for old, new in zip(cached, wanted, strict=False):
        if old != new:
            break
        shared += 1
    return shared // CHUNK * CHUNK


def packs(
    continuations: Sequence[Sequence[int]], most_rows: int, most_tokens: int
) -> Iterator[list[Sequence[int]]]:
    """Split the continuations of a document, in order, into packs that are forwarded together.

    Args:
        continuations: Token ids of each continuation.
        most_rows: Most continuations in a pack.
        most_tokens: Most tokens in a pack of more than one.
    """
    pack: list[Sequence[int]] = []
    for continuation in continuations:
        size = sum(map(len, pack)) + len(continuation)
        if pack and (size > most_tokens or len(pack) == most_rows):
            yield pack
            pack = []
        pack.append(continuation)
    if pack:
        yield pack
