"""What an engine must be able to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from slm_benchmark.engines.schedule import Plan, PlannedForward

Scored = tuple[float, bool]
"""Log-probability of a continuation, in nats, and whether each of its tokens is the top-1 token
of its position."""

Logits = NDArray[np.float32]

MOST_BEAMS = 32
"""Most generations that may come of one by `Backend.fork`, itself among them."""


class OutOfMemory(MemoryError):
    """No memory for a cache or a forward; what the backend holds may be lost."""


class Backend(Protocol):
    """A loaded model with a cache.

    Attributes:
        max_length: Longest context and continuation together, in tokens.
        shares: Whether documents share a prefix in the cache (prefix sharing).
        rows: Sequences that one step of a generation forwards. A step always has this many rows,
            filled up with padding, since the shape of a forward decides how it is rounded: this
            makes a generation batch-invariant.
        forwarded_tokens: Tokens forwarded so far, those of padding left out.
        chunk: Tokens of the chunks in which a shared prefix is forwarded.
        vocabulary: Rows of the embeddings, which may be more or fewer than the tokenizer's tokens.
    """

    max_length: int
    shares: bool
    rows: int
    forwarded_tokens: int
    chunk: int
    vocabulary: int

    @property
    def effective(self) -> Mapping[str, Any]:
        """The settings that decide this model's numbers here, by their names in `Settings`, as they
        took effect; None where the model leaves no choice."""

    @property
    def schedule(self) -> str:
        """Order and shape of the forwards, in words."""

    @property
    def shares_prompts(self) -> bool:
        """Whether prompts share their prefixes in the cache."""

    def score(self, planned: PlannedForward) -> list[Scored]:
        """Score the continuations of a planned forward.

        Raises:
            OutOfMemory: when there is no memory for it.
        """

    def prepare(self, plan: Plan) -> None:
        """Make room for the longest planned forward of a plan.

        Raises:
            OutOfMemory: when there is no memory for it.
        """

    def reserve(self, plan: Plan, tokens: Sequence[int], at_once: int) -> int:
        """Make room for generations.

        Args:
            plan: Of all prompts.
            tokens: Length of each prompt with its longest answer, or with those of all that may
                come of it by `fork`.
            at_once: Most generations that will run together.

        Returns:
            Tokens that running generations may hold together.

        Raises:
            OutOfMemory: when there is no memory for it.
        """

    def start(self, planned: PlannedForward, tokens: int) -> tuple[Any, Logits]:
        """Begin a generation.

        Args:
            planned: A prompt; its only continuation is not looked at.
            tokens: Length of the prompt with its longest answer.

        Returns:
            The generation's state, and the logits that follow the prompt, shape (vocabulary,).

        Raises:
            OutOfMemory: when there is no memory for it.
        """

    def step(self, states: Sequence[Any], tokens: Sequence[int]) -> Logits:
        """Forward one token of each running generation, at most `rows`.

        Returns:
            Logits, shape (states, vocabulary).

        Raises:
            OutOfMemory: when there is no memory for it.
        """

    def fork(self, state: Any) -> Any:
        """A second generation that has come as far as a running one; each goes on independently.

        Raises:
            OutOfMemory: when there is no memory for it.
        """

    def finish(self, state: Any) -> None:
        """End a generation."""

    def free(self) -> None:
        """Give back all memory but the weights; every running generation is lost."""

    def close(self) -> None:
        """Give back all memory."""
