"""What the profiler asks of an engine, and which engine runs which variant."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from slm_benchmark.errors import UserError


@dataclasses.dataclass(frozen=True)
class Job:
    """One variant to measure; plain values, so that it travels to another process as JSON.

    Attributes:
        variant: Such as ``base`` or ``gguf-q8_0``.
        weights: Folder of the variant's files.
        base: Folder of the base model's files, whose config.json gives the vocabulary's size.
        device: ``cpu`` or ``cuda``, where Transformers runs; llama.cpp runs on the CPU.
        threads: Threads for the matrix products.
        dtype: Number format on Transformers, as a protocol states it.
        trust_remote_code: Whether the model's own code may run.
        prompt_tokens: Tokens of the prompt.
        output_tokens: Tokens generated in one repetition.
        repetitions: Timed repetitions.
        max_warmups: Most warm-up repetitions.
    """

    variant: str
    weights: str
    base: str
    device: str
    threads: int
    dtype: str
    trust_remote_code: bool
    prompt_tokens: int
    output_tokens: int
    repetitions: int
    max_warmups: int

    @property
    def is_gguf(self) -> bool:
        """Whether llama.cpp runs the variant."""
        return self.variant.startswith("gguf")

    def weight_files(self) -> list[Path]:
        """The files that hold the weights, in alphabetical order.

        A folder may keep the same weights in two formats; the one that the engine reads counts.

        Raises:
            UserError: when there are none, or more than one GGUF file.
        """
        folder = Path(self.weights)
        patterns = ["*.gguf"] if self.is_gguf else ["*.safetensors", "pytorch_model*.bin"]
        for pattern in patterns:
            files = sorted(folder.glob(pattern))
            if self.is_gguf and len(files) > 1:
                raise UserError(
                    "more than one GGUF file",
                    file=folder,
                    value=[file.name for file in files],
                    fix="keep the one file of this variant",
                )
            if files:
                return files
        raise UserError(
            f"no weights of the variant {self.variant}: no {' or '.join(patterns)}",
            file=folder,
            fix="delete the folder and make the variant again",
        )

    def vocabulary_size(self) -> int:
        """Size of the base model's vocabulary; equal prompts for all variants follow from it.

        Raises:
            UserError: when config.json is missing or does not say.
        """
        file = Path(self.base) / "config.json"
        try:
            config = json.loads(file.read_text(encoding="utf-8"))
            size = config.get("vocab_size") or config["text_config"]["vocab_size"]
        except (OSError, ValueError, LookupError) as error:
            raise UserError(
                "cannot read the vocabulary's size",
                file=file,
                field="vocab_size",
                fix="delete the folder and download the model again",
            ) from error
        return int(size)


class Runner(Protocol):
    """An engine with one model, driven one forward at a time. Calls return when work is done."""

    device: str
    """Where the forwards run, ``cpu`` or ``cuda``; known after `load`."""

    def load(self) -> None:
        """Make the weights ready for a first forward."""

    def reset(self) -> None:
        """Forget all tokens."""

    def prefill(self, tokens: Sequence[int]) -> None:
        """Process a prompt from position 0; logits for its last token only."""

    def decode(self, token: int) -> None:
        """Process one more token."""

    def greedy(self) -> int:
        """The likeliest next token."""

    def engine(self) -> dict[str, Any]:
        """``name``, ``version``, ``kernel``, ``dtype`` and ``schedule`` of the record."""

    def device_memory_bytes(self) -> int | None:
        """Peak memory taken from an accelerator since `load` began; None on a CPU."""


def make_runner(job: Job) -> Runner:
    """The engine for ``job``; imports nothing of the other one."""
    if job.is_gguf:
        from slm_benchmark.profile.llamacpp import LlamaCppRunner

        return LlamaCppRunner(job)
    from slm_benchmark.profile.transformers import TransformersRunner

    return TransformersRunner(job)
