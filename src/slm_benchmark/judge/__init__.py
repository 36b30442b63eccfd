"""Judges: models that grade written answers, at an endpoint or on this machine."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from slm_benchmark.judge.grading import Grader

CATALOGUE = "config/judges.yaml"

Chat = list[dict[str, str]]
"""Messages, each with ``role`` and ``content``, as chat endpoints take them."""


@dataclass(frozen=True)
class Verdict:
    """What a judge said.

    Attributes:
        text: Its answer; None where the judge could not read the whole question.
        model: The model that an endpoint says answered.
        system_fingerprint: What an endpoint says of its own version.
    """

    text: str | None
    model: str | None = None
    system_fingerprint: str | None = None


class Judge(Protocol):
    """What answers chats."""

    @property
    def identity(self) -> dict[str, Any]:
        """What decides its answers, as JSON values: part of the record's ``judge`` block."""

    def close(self) -> None:
        """Give back what it holds."""

    def ask(self, chats: Sequence[Chat]) -> Iterator[tuple[int, Verdict]]:
        """Answer chats.

        Yields:
            The index of a chat and its verdict, as they come.

        Raises:
            UserError: when the judge is asked in a way that it refuses.
            EnvironmentFault: when it cannot be reached, or keeps failing.
        """


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


def load_judge(judge_id: str, entry: dict[str, Any], threads: int) -> Judge:
    """A judge, ready to be asked.

    Args:
        judge_id: Its id in config/judges.yaml.
        entry: Its entry there, valid against the schema ``judges``.
        threads: CPU threads of a judge that runs on this machine.

    Raises:
        UserError: when its key, its files or its chat template are missing.
    """
    if entry["kind"] == "endpoint":
        from slm_benchmark.judge.endpoint import EndpointJudge

        return EndpointJudge(judge_id, entry)
    from slm_benchmark.judge.gguf import GgufJudge

    return GgufJudge(judge_id, entry, threads)
