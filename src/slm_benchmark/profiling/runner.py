"""What the profiler asks of an engine, and which engine runs which variant."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from slm_benchmark.profiling.job import Job, Point
from slm_benchmark.profiling.types import DeviceMemory, RawTraffic, RunnerEngine


class Runner(Protocol):
    """An engine with one model, driven one forward at a time. Calls return when work is done."""

    def load(self) -> None:
        """Make the weights ready for a first forward; imports were done when it was made."""

    def release_files(self) -> None:
        """Let go of resident pages of the weight files that the engine need not read again."""

    def prepare(self, point: Point) -> None:
        """Allocate what this point needs, such as a cache, in place of the last point's."""

    def reset(self) -> None:
        """Forget all tokens."""

    def prefill(self, tokens: Sequence[int]) -> None:
        """Process the prompt in each sequence, from position 0; logits of the last token only."""

    def decode(self, tokens: Sequence[int]) -> None:
        """Process one more token of each sequence."""

    def greedy(self) -> list[int]:
        """The top-1 next token of each sequence."""

    def check_finite(self) -> None:
        """Look at the last logits.

        Raises:
            ArithmeticError: when one is not finite: the number format overflowed.
        """

    def engine(self) -> RunnerEngine:
        """``name``, ``version``, ``kernel``, ``dtype`` and ``schedule`` of the record.

        ``kernel`` says what multiplied the matrices: layer classes for Transformers; for llama.cpp
        the SIMD features and whether weights were repacked.
        """

    def traffic(self) -> RawTraffic:
        """See `traffic.Traffic`; it may run a token, so it is called after measuring."""

    def device_memory(self) -> DeviceMemory | None:
        """Memory of an accelerator since `prepare`; None on a CPU.

        ``device_peak_bytes``, what the device gave above its ``device_baseline_bytes``;
        ``allocator_peak_bytes`` of tensors, and ``reserved_peak_bytes`` of the blocks around them.
        """


def make_runner(job: Job) -> Runner:
    """The engine for ``job``; imports nothing of the other one."""
    if job.is_gguf:
        from slm_benchmark.profiling.llamacpp import LlamaCppRunner

        return LlamaCppRunner(job)
    from slm_benchmark.profiling.transformers import TransformersRunner

    return TransformersRunner(job)
