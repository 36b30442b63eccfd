"""What is forwarded together: tries of random requests against counting by hand."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from slm_benchmark.engines.schedule import (
    CHUNK,
    LEAVES,
    ROOT,
    TREE,
    Pair,
    PlannedForward,
    plan_document,
    plan_forwards,
    reusable_prefix,
)

MANY = settings(max_examples=60, deadline=None)


def tokens(draw: random.Random, length: int, vocabulary: int = 50) -> list[int]:
    return [draw.randrange(vocabulary) for _ in range(length)]


@st.composite
def documents(draw: st.DrawFn) -> list[Pair]:
    """The requests of a document: one context or several, continuations that share beginnings."""
    generator = random.Random(draw(st.integers(0, 2**32)))
    shared_prefix, branch = tokens(generator, 300), tokens(generator, 80)
    found: list[Pair] = []
    for _ in range(draw(st.integers(1, 3))):
        shared = draw(st.integers(0, 300))
        context = shared_prefix[:shared] + tokens(
            generator, draw(st.integers(0 if shared else 1, 90))
        )
        for size in draw(st.lists(st.integers(1, 80), min_size=1, max_size=12)):
            cut = draw(st.integers(0, size))
            found.append((context, branch[:cut] + tokens(generator, size - cut)))
    return found


@st.composite
def several(draw: st.DrawFn) -> list[list[Pair]]:
    """Documents, of which some share their few-shot examples."""
    shots = tokens(random.Random(draw(st.integers(0, 2**32))), draw(st.integers(0, 400)))
    found = draw(st.lists(documents(), min_size=1, max_size=5))
    return [
        [([*shots, *context], continuation) for context, continuation in document]
        if draw(st.booleans())
        else document
        for document in found
    ]


def path(part: PlannedForward, node: int) -> list[int]:
    """Tokens from position 0 to a node, found by walking up."""
    tail: list[int] = []
    while node != ROOT:
        tail.insert(0, part.tokens[node])
        assert part.parents[node] < node
        node = part.parents[node]
    return part.shared_prefix + tail


@MANY
@given(documents())
def test_a_plan_holds_every_request_and_nothing_else(pairs: list[Pair]) -> None:
    planned = plan_document(pairs)
    assert sorted(i for _, indices in planned for i in indices) == list(range(len(pairs)))
    for part, indices in planned:
        assert len(part.shared_prefix) % CHUNK == 0
        assert len(part.tokens) <= TREE or len(indices) == 1
        assert len(part.leaves) <= LEAVES
        for index, nodes, targets in zip(indices, part.predictors, part.targets, strict=True):
            context, continuation = pairs[index]
            assert targets == list(continuation)
            whole = [*context, *continuation]
            # A token is predicted by the node that ends what comes before it.
            for number, node in enumerate(nodes):
                before = whole[: len(context) + number]
                assert path(part, node) == before
                assert part.positions[node] == len(before) - 1
        # No token is there twice, and none that no request reads.
        paths = [tuple(path(part, node)) for node in range(len(part.tokens))]
        assert len(set(paths)) == len(paths)
        read = {
            tuple([*pairs[i][0], *pairs[i][1]][:end])
            for i in indices
            for end in range(len(part.shared_prefix) + 1, len(pairs[i][0]) + len(pairs[i][1]))
        }
        assert set(paths) == read
        assert sorted(map(tuple, part.sequences)) == sorted(paths[leaf] for leaf in part.leaves)


@MANY
@given(documents())
def test_a_node_sees_its_ancestors_only(pairs: list[Pair]) -> None:
    for part, _ in plan_document(pairs):
        count = len(part.tokens)
        visible = part.visible(0, count)
        assert (part.visible(count // 2, count) == visible[count // 2 :]).all()
        for node in range(len(part.tokens)):
            seen, walk = set(), node
            while walk != ROOT:
                seen.add(walk)
                walk = part.parents[walk]
            assert set(visible[node].nonzero()[0].tolist()) == seen
        for node, leaves in enumerate(part.leaves_below):
            assert leaves
            assert all(visible[part.leaves[leaf], node] for leaf in leaves)


@MANY
@given(several())
def test_the_counts_are_those_of_counting_by_hand(found: list[list[Pair]]) -> None:
    parts = [part for pairs in found for part, _ in plan_document(pairs)]
    plan = plan_forwards(parts)
    assert sorted(plan.order) == list(range(len(parts)))
    trie = {
        tuple([*context, *continuation][:end])
        for pairs in found
        for context, continuation in pairs
        for end in range(1, len(context) + len(continuation))
    }
    assert plan.unique_tokens == len(trie)
    forwarded = 0
    cached: list[int] = []
    for index in plan.order:
        part = parts[index]
        forwarded += part.length - reusable_prefix(cached, part.shared_prefix)
        cached = part.shared_prefix
    assert plan.forwarded_tokens == forwarded
    assert 0 <= plan.chunk_rounding_tokens <= forwarded - len(trie)
    assert plan.longest == max(part.length for part in parts)


def test_nothing_but_chunk_rounding_is_forwarded_twice() -> None:
    """Few-shot examples that documents share, and contexts that choices share, count once."""
    draw = random.Random(1)
    shots = tokens(draw, 700, 5000)
    found = [
        [
            (context, tokens(draw, 12, 5000))
            for context in [shots + tokens(draw, 60, 5000)]
            for _ in range(4)
        ]
        for _ in range(20)
    ]
    plan = plan_forwards([part for pairs in found for part, _ in plan_document(pairs)])
    assert plan.unique_tokens == 700 + 20 * (60 + 4 * 11)
    assert plan.forwarded_tokens - plan.chunk_rounding_tokens == plan.unique_tokens
    assert plan.chunk_rounding_tokens == 19 * (700 % CHUNK)


def test_a_single_token_choice_costs_nothing() -> None:
    context = tokens(random.Random(2), 100)
    ((part, _),) = plan_document([(context, [choice]) for choice in range(4)])
    assert part.length == 100
    assert part.wanted == [len(part.tokens) - 1]
    assert part.predictors == [part.wanted] * 4


def test_an_unconditional_request_does_not_shorten_the_prefix() -> None:
    """Mutual information asks for the same choices without their context."""
    draw = random.Random(3)
    context, choices = tokens(draw, 400), [tokens(draw, 5) for _ in range(4)]
    planned = plan_document([*((context, c) for c in choices), *(([0], c) for c in choices)])
    assert [len(part.shared_prefix) for part, _ in planned] == [320, 0]
    assert [indices for _, indices in planned] == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_contexts_that_differ_late_are_one_forward() -> None:
    """As in WinoGrande: the option stands in the context, the continuation is the same."""
    draw = random.Random(4)
    start, end = tokens(draw, 120), tokens(draw, 6)
    planned = plan_document([([*start, option, 3], end) for option in (1, 2)])
    assert [len(part.shared_prefix) for part, _ in planned] == [64]


@given(st.integers(TREE - 3, TREE + 200))
@settings(max_examples=10, deadline=None)
def test_large_trees_are_split_and_long_continuations_kept_whole(size: int) -> None:
    draw = random.Random(size)
    context = tokens(draw, 110, 5000)
    pairs = [(context, tokens(draw, n, 5000)) for n in (3, size, *[30] * 40)]
    planned = plan_document(pairs)
    assert [i for _, indices in planned for i in indices] == list(range(len(pairs)))
    assert len(planned) > 3
    alone = [part for part, indices in planned if indices == [1]]
    assert len(alone) == 1
    assert len(alone[0].tokens) == 110 - CHUNK + size - 1


@given(st.lists(st.integers(0, 2), max_size=300), st.lists(st.integers(0, 2), max_size=300))
def test_a_reused_prefix_is_shared_and_whole_chunks(cached: list[int], wanted: list[int]) -> None:
    length = reusable_prefix(cached, wanted)
    assert length % CHUNK == 0
    assert cached[:length] == wanted[:length]
    longer = length + CHUNK
    assert longer > min(len(cached), len(wanted)) or cached[:longer] != wanted[:longer]
