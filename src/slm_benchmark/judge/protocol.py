"""What a judge takes and what it says."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypedDict

from slm_benchmark.records.types import EngineBlock

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


class JudgeIdentity(TypedDict):
    """What decides a judge's answers: part of the record's ``judge`` block."""

    id: str
    kind: Literal["endpoint", "gguf"]
    model: str
    url: str | None
    weights_sha256: str | None
    tokenizer_sha256: str | None
    engine: EngineBlock | None
    temperature: float
    seed: int | None
    max_tokens: int
    max_context_tokens: int | None


class Judge(Protocol):
    """What answers chats."""

    @property
    def identity(self) -> JudgeIdentity:
        """What decides its answers."""

    def close(self) -> None:
        """Give back what it holds."""

    def ask(self, chats: Sequence[Chat]) -> Iterator[tuple[int, Verdict]]:
        """Answer chats.

        Yields:
            The index of a chat and its verdict, as they come.

        Raises:
            UserError: when the judge is asked in a way that it refuses.
            RunEnvironmentError: when it cannot be reached, or keeps failing.
        """
