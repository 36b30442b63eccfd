"""Which documents a smaller protocol scores."""

from __future__ import annotations

import random
from collections.abc import Hashable, Sequence


def document_subset(total: int, wanted: int | None, seed: int) -> list[int]:
    """Indices of the documents to score, ascending.

    A shuffle of all indices is cut, so that a smaller subset lies inside every larger one.

    Args:
        total: Documents in the split.
        wanted: Documents asked for; None, or more than there are, means all.
        seed: Seed of the shuffle.
    """
    order = list(range(total))
    random.Random(seed).shuffle(order)
    return sorted(order[:wanted])


def stratified_subset(strata: Sequence[Hashable], wanted: int | None, seed: int) -> list[int]:
    """Indices of the documents to score, ascending, in equal shares for each stratum.

    Documents are shuffled within their stratum and dealt in rounds, one from each stratum that has
    any left. So shares differ by one document at most, except where a stratum is used up, and a
    smaller subset lies inside every larger one.

    Args:
        strata: The stratum of each document, such as its domain and group.
        wanted: Documents asked for; None, or more than there are, means all.
        seed: Seed of the shuffles.
    """
    generator = random.Random(seed)
    members: dict[Hashable, list[int]] = {}
    for index, stratum in enumerate(strata):
        members.setdefault(stratum, []).append(index)
    hands = list(members.values())
    # The last round may not reach every stratum: which ones it reaches is a matter of chance.
    generator.shuffle(hands)
    for hand in hands:
        generator.shuffle(hand)
    rounds = max(map(len, hands), default=0)
    dealt = [hand[turn] for turn in range(rounds) for hand in hands if turn < len(hand)]
    return sorted(dealt[:wanted])
