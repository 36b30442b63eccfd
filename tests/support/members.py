"""The mark of a test that shows what happens to one kind of awkward input."""

from __future__ import annotations

import pytest


def member(kind: str, name: str, outcome: str) -> pytest.MarkDecorator:
    """The mark of a test, or of a parameter of one, behind a row of docs/reference/robustness.md.

    All three must be written out where they stand: tools/make_references.py reads them without
    running the test.

    Args:
        kind: A key of `tools.make_references.KINDS`.
        name: The input, such as "end token that decodes to nothing".
        outcome: What happens, in words that the test checks: what is used, or the refusal.
    """
    return pytest.mark.member(kind, name, outcome)
