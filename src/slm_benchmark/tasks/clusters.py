"""Which documents belong together: they share a passage or a subject, or are translations."""

from __future__ import annotations

from collections.abc import Sequence

from slm_benchmark.common.files import digest
from slm_benchmark.tasks.requests import ScoredDocument

PART, INDEX = "part", "index"
"""Keys that are no fields: the part of the column, and the document's place in its split."""


def cluster_ids(samples: Sequence[ScoredDocument], keys: Sequence[str]) -> list[str | None] | None:
    """The group of each sample, as a digest from which no text can be read.

    Two documents are of one group when they agree in any of the keys, and groups that share a
    document are one. So ``[premise, index]`` joins the pairs that have a premise in common, and
    each with its translations.

    Args:
        samples: What `slm_benchmark.tasks.requests.score_documents` gives; read are ``part``,
            ``doc_id`` and ``doc``.
        keys: Fields of a document, or ``part`` or ``index``.

    Returns:
        A digest of twelve hex digits for each sample, None for one that has none of the fields; or
        None where no document has any: this source of the set lacks them.
    """
    marks = [_marks(sample, keys) for sample in samples]
    joined = _Joined()
    for sample_marks in marks:
        for mark in sample_marks:
            joined.join(sample_marks[0], mark)
    if not any(marks):
        return None
    return [joined.name(sample_marks[0]) if sample_marks else None for sample_marks in marks]


def _marks(sample: ScoredDocument, keys: Sequence[str]) -> list[str]:
    """Digests of a document's values; those of a key are equal where the values are."""
    identity = {PART: sample["part"], INDEX: sample["doc_id"]}
    doc = sample["doc"]
    return [
        digest([key, identity.get(key, doc.get(key))])[:12]
        for key in keys
        if key in identity or doc.get(key) is not None
    ]


class _Joined:
    """Sets that grow together (union-find); each is named by the smallest of its members."""

    def __init__(self) -> None:
        self._above: dict[str, str] = {}

    def name(self, member: str) -> str:
        while (above := self._above.setdefault(member, member)) != member:
            self._above[member] = self._above[above]
            member = above
        return member

    def join(self, one: str, other: str) -> None:
        first, second = sorted((self.name(one), self.name(other)))
        self._above[second] = first
