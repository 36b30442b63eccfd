"""The library that makes a 4-bit variant, by the name of a backend."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from slm_benchmark.quantize.manifest_4bit import FourBitJob


def quantizer(backend: str) -> Callable[[FourBitJob, Path, int], None]:
    """Import the function that makes a 4-bit variant with ``backend``; see `quantize_4bit`.

    Args:
        backend: gptqmodel, or one of the original libraries auto-gptq and autoawq.
    """
    if backend == "gptqmodel":
        from slm_benchmark.quantize.gptqmodel import quantize_4bit

        return quantize_4bit
    from slm_benchmark.quantize.autogptq_autoawq import quantize_4bit_legacy

    return quantize_4bit_legacy
