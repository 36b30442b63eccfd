"""Which tokens are forwarded together: decided by a document alone, and equal on every engine.

The requests of a document form a trie. Its **shared prefix** is forwarded in whole chunks of
`CHUNK` tokens from position 0; documents with the same beginning find these chunks in the cache
(prefix sharing). Everything else, the **token tree** of what is left of the context and of all
continuations, is one forward, in which each token sees its ancestors only (tree attention). So a
token is forwarded once, scores are batch-invariant (bitwise identical for any batch composition),
and what is cached changes nothing but the time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from slm_benchmark.engines.settings import Settings

CHUNK = Settings.chunk
"""Tokens of a shared prefix that are forwarded together, and the multiple at which a prefix is
reused, unless the settings name another number."""

TAIL = 32
"""Fewest tokens of a context that are left to the token tree: the forward of a few tokens takes
nearly as long as that of many, so a short rest is not worth a forward of its own."""

TREE = 512
"""Most tokens in one forward. A single continuation may be longer; it is forwarded in pieces."""

LEAVES = 64
"""Most leaves of a tree, each of which is a sequence of its own in llama.cpp's cache."""

Pair = tuple[Sequence[int], Sequence[int]]
"""Token ids of a context and of its continuation, neither of them empty."""

ROOT = -1
"""Parent of the nodes that follow the shared prefix directly."""


@dataclass(frozen=True)
class PlannedForward:
    """What is forwarded for a document: a shared prefix, and a tree within `TREE` and `LEAVES`.

    A document has one, unless its tree would be too large.

    Attributes:
        shared_prefix: Token ids from position 0, whole chunks of them.
        tokens: Token id of each node of the tree, parents before their children.
        positions: Position of each node in its sequence.
        parents: Node before each node, or `ROOT`.
        predictors: For each continuation, the node that predicts each of its tokens.
        targets: For each continuation, its token ids.
    """

    shared_prefix: list[int]
    tokens: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    predictors: list[list[int]] = field(default_factory=list)
    targets: list[list[int]] = field(default_factory=list)

    @cached_property
    def wanted(self) -> list[int]:
        """Nodes whose logits are needed, ascending."""
        return sorted({node for nodes in self.predictors for node in nodes})

    @cached_property
    def leaves(self) -> list[int]:
        """Nodes without children, ascending."""
        return sorted(set(range(len(self.tokens))) - set(self.parents))

    @cached_property
    def leaves_below(self) -> list[list[int]]:
        """For each node, the numbers of the leaves (from 0) whose sequences it belongs to."""
        below: list[list[int]] = [[] for _ in self.tokens]
        for number, leaf in enumerate(self.leaves):
            for node in self._path(leaf):
                below[node].append(number)
        return below

    @cached_property
    def sequences(self) -> list[list[int]]:
        """Tokens from position 0 to each leaf."""
        return [self._text(leaf) for leaf in self.leaves]

    @property
    def length(self) -> int:
        """Tokens of prefix and tree, which the cache must hold together."""
        return len(self.shared_prefix) + len(self.tokens)

    def chains(self) -> Iterator[PlannedForward]:
        """Each continuation with its whole context, as a planned forward of its own without a
        shared prefix."""
        for nodes, targets in zip(self.predictors, self.targets, strict=True):
            tokens = self._text(nodes[-1])
            count = len(tokens)
            yield PlannedForward(
                shared_prefix=[],
                tokens=tokens,
                positions=list(range(count)),
                parents=list(range(ROOT, count - 1)),
                predictors=[list(range(count - len(targets), count))],
                targets=[targets],
            )

    def _path(self, node: int) -> list[int]:
        """Nodes from the shared prefix down to ``node``."""
        path = []
        while node != ROOT:
            path.append(node)
            node = self.parents[node]
        return path[::-1]

    def _text(self, node: int) -> list[int]:
        """Tokens from position 0 to ``node``."""
        return self.shared_prefix + [self.tokens[passed] for passed in self._path(node)]

    def visible(self, begin: int, end: int) -> NDArray[np.bool_]:
        """Which node sees which: itself and its ancestors.

        Args:
            begin: First node that sees.
            end: The node after the last.

        Returns:
            Shape (end - begin, end).
        """
        seen = np.zeros((end - begin, end), dtype=bool)
        for node in range(begin, end):
            parent = self.parents[node]
            if parent >= begin:
                seen[node - begin] = seen[parent - begin]
            while ROOT < parent < begin:
                seen[node - begin, parent] = True
                parent = self.parents[parent]
            seen[node - begin, node] = True
        return seen


def plan_document(
    pairs: Sequence[Pair], chunk: int = CHUNK
) -> list[tuple[PlannedForward, list[int]]]:
    """Plan the requests of one document.

    Args:
        pairs: Context and continuation of each request, cut to what the model can see.
        chunk: Tokens of a chunk.

    Returns:
        Planned forwards, each with the indices of its pairs; they follow from the document alone.
    """
    contexts = [list(context) for context, _ in pairs]
    if contexts.count(contexts[0]) == len(contexts):
        whole = _build(pairs, chunk)
        if _fits(whole):
            return [(whole, list(range(len(pairs))))]
    forwards: list[tuple[PlannedForward, list[int]]] = []
    for index, pair in enumerate(pairs):
        alone = _build([pair], chunk)
        if forwards:
            planned, members = forwards[-1]
            grown = _build([*(pairs[i] for i in members), pair], chunk)
            # Contexts that differ early would have a short prefix together, and a large tree.
            if _fits(grown) and len(grown.tokens) <= len(planned.tokens) + len(alone.tokens):
                forwards[-1] = (grown, [*members, index])
                continue
        forwards.append((alone, [index]))
    return forwards


def _fits(planned: PlannedForward) -> bool:
    return len(planned.tokens) <= TREE and len(planned.leaves) <= LEAVES


def _build(pairs: Sequence[Pair], chunk: int) -> PlannedForward:
    # The last token of a continuation is scored, not read.
    sequences = [[*context, *continuation[:-1]] for context, continuation in pairs]
    # The last token of every context predicts: it belongs to the tree in any case.
    stem = min(shared_length(sequences), *(len(context) - TAIL for context, _ in pairs))
    planned = PlannedForward(shared_prefix=sequences[0][: max(0, stem) // chunk * chunk])
    nodes: dict[tuple[int, int], int] = {}
    for (context, continuation), sequence in zip(pairs, sequences, strict=True):
        node, path = ROOT, []
        for position in range(len(planned.shared_prefix), len(sequence)):
            key = (node, sequence[position])
            if key not in nodes:
                nodes[key] = len(planned.tokens)
                planned.tokens.append(sequence[position])
                planned.positions.append(position)
                planned.parents.append(node)
            node = nodes[key]
            path.append(node)
        planned.predictors.append(path[len(context) - 1 - len(planned.shared_prefix) :])
        planned.targets.append(list(continuation))
    return planned


def shared_length(sequences: Sequence[list[int]]) -> int:
    """Length of the prefix that all sequences share."""
    # What the smallest and the largest share, all between them share too.
    first, last = min(sequences), max(sequences)
    length = min(len(first), len(last))
    if first[:length] == last[:length]:
        return length
    return next(i for i in range(length) if first[i] != last[i])


def reusable_prefix(cached: list[int], wanted: list[int], chunk: int = CHUNK) -> int:
    """Length of the cached prefix that ``wanted`` may reuse: a multiple of ``chunk``."""
    return shared_length([cached, wanted]) // chunk * chunk


@dataclass(frozen=True)
class Plan:
    """The order of all planned forwards, and what they cost.

    Attributes:
        order: Indices of the planned forwards: depth first through the trie of all requests.
        unique_tokens: Tokens in that trie, each counted once.
        forwarded_tokens: Tokens that are forwarded in this order, from an empty cache.
        chunk_rounding_tokens: Those of them that an earlier one had forwarded too, but past the
            last whole chunk of its prefix.
        longest: Length of the longest planned forward, in tokens.
    """

    order: list[int]
    unique_tokens: int
    forwarded_tokens: int
    chunk_rounding_tokens: int
    longest: int


def plan_forwards(forwards: Sequence[PlannedForward], chunk: int = CHUNK) -> Plan:
    """Order planned forwards so that every shared prefix is forwarded as seldom as can be.

    Args:
        forwards: The planned forwards.
        chunk: Tokens of the chunks that they were planned with.
    """
    # Big-endian bytes compare as the token ids do, at the speed of memcmp.
    trie = sorted(
        (np.asarray(sequence, dtype=">i4").tobytes(), index)
        for index, planned in enumerate(forwards)
        for sequence in planned.sequences
    )
    order: list[int] = []
    ordered: set[int] = set()
    unique = forwarded = rounding = 0
    cached: list[int] = []
    before = b""
    for key, index in trie:
        shared = _shared_tokens(before, key)
        unique += len(key) // 4 - shared
        before = key
        if index not in ordered:
            planned = forwards[index]
            reused = reusable_prefix(cached, planned.shared_prefix, chunk)
            forwarded += planned.length - reused
            rounding += min(shared - reused, chunk - 1)
            cached = planned.shared_prefix
            ordered.add(index)
            order.append(index)
    longest = max((planned.length for planned in forwards), default=0)
    return Plan(order, unique, forwarded, rounding, longest)


def _shared_tokens(first: bytes, second: bytes) -> int:
    """Length of the prefix that two keys share, in tokens."""
    length = min(len(first), len(second))
    a, b = (np.frombuffer(key, dtype="u1", count=length) for key in (first, second))
    differing = np.flatnonzero(a != b)
    return int(differing[0] if differing.size else length) // 4
