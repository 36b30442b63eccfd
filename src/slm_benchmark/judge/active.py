"""The judge that tasks use while they are scored."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from slm_benchmark.judge.grading import Grader

_active: contextvars.ContextVar[Grader | None] = contextvars.ContextVar("judge", default=None)


@contextlib.contextmanager
def use_judge(grader: Grader | None) -> Iterator[None]:
    """Let tasks that need a judge use this one; None takes a judge away."""
    token = _active.set(grader)
    try:
        yield
    finally:
        _active.reset(token)


def active_judge() -> Grader | None:
    """The judge of the innermost `use_judge`, or None."""
    return _active.get()
