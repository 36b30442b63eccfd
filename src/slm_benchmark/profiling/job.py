"""What one measured process is to do: plain values, so that they travel to it as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slm_benchmark.catalog.types import EnergySettings
from slm_benchmark.common.errors import UserError

VERSION = 3
"""Raised when the instrument may give other numbers: it makes performance be measured again."""


@dataclasses.dataclass(frozen=True, order=True)
class Point:
    """One point of the grid.

    Attributes:
        prompt_tokens: Tokens of each prompt.
        output_tokens: Tokens generated after each prompt, greedily, end of sequence ignored.
        sequences: Prompts that are processed together.
    """

    prompt_tokens: int
    output_tokens: int
    sequences: int = 1


def check_positions(point: Point, positions: int | None) -> None:
    """Refuse a point that is longer than a model whose positions were learned can take.

    Args:
        point: What is to be measured.
        positions: As many as the model has learned; None where it computes them.

    Raises:
        UserError: when the point needs more.
    """
    tokens = point.prompt_tokens + point.output_tokens
    if positions is not None and tokens > positions:
        raise UserError(
            f"{tokens} tokens do not fit the {positions} positions that the model has learned",
            file="config/profiling.yaml",
            field="prompt_tokens",
            value=point.prompt_tokens,
            fix="choose a protocol whose profiling plan has shorter prompts and outputs",
        )


@dataclasses.dataclass(frozen=True)
class Job:
    """One variant to measure in one process.

    Attributes:
        variant: Such as ``base`` or ``gguf-q8_0``.
        weights: Folder of the variant's files.
        base: Folder of the base model's files: its tokenizer and config.json serve all variants.
        device: ``cpu`` or ``cuda``, where Transformers runs; llama.cpp runs on the CPU.
        threads: Threads for the matrix products.
        dtype: Number format on Transformers, as a protocol states it.
        trust_remote_code: Whether the model's own code may run.
        points: What to measure; the reference point first.
        repetitions: Fewest timed repetitions of a point.
        min_duration_s: Repetitions go on until they have taken so long together.
        max_warmups: Most warm-up repetitions of a point.
        warmup_bound: The warm-up ends when the slowest of the last five is at most so much slower
            than the fastest, as a share, in both phases.
        memory_limit_bytes: Cap on the process; None = none.
        energy: The hardware entry's ``energy``: how to estimate power; None = never estimate.
    """

    variant: str
    weights: str
    base: str
    device: str
    threads: int
    dtype: str
    trust_remote_code: bool
    points: tuple[Point, ...]
    repetitions: int
    min_duration_s: float
    max_warmups: int
    warmup_bound: float
    memory_limit_bytes: int | None
    energy: EnergySettings | None = None

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Job:
        """The job that `dataclasses.asdict` turned into plain values."""
        return cls(**{**values, "points": tuple(Point(**point) for point in values["points"])})

    @property
    def is_gguf(self) -> bool:
        """Whether llama.cpp runs the variant."""
        return self.variant.startswith("gguf")

    @property
    def runs_on(self) -> str:
        """The device of this variant: ``cpu`` or ``cuda``."""
        return "cpu" if self.is_gguf else self.device

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
