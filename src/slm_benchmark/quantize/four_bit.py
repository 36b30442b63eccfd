"""What all 4-bit quantizers share: settings, manifest, and which library does the work."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from slm_benchmark.manifest import read_manifest, safetensors_bytes, shares, write_manifest
from slm_benchmark.quantize.calibration import Calibration
from slm_benchmark.registry import Model

BITS = 4

METHODS = {"gptq-4bit": "gptq", "awq-4bit": "awq"}

SYMMETRIC = {"gptq": True, "awq": False}
"""GPTQ's canonical form is symmetric; AWQ's has a zero point for each group."""


def quantizer(backend: str) -> Callable[..., None]:
    """The function that makes a 4-bit variant with ``backend``; see `quantize_4bit`.

    Args:
        backend: gptqmodel, or one of the original libraries auto-gptq and autoawq.
    """
    if backend == "gptqmodel":
        from slm_benchmark.quantize.gptqmodel import quantize_4bit

        return quantize_4bit
    from slm_benchmark.quantize.legacy import quantize_4bit_legacy

    return quantize_4bit_legacy


def write_4bit_manifest(
    work: Path,
    model: Model,
    base: Path,
    variant: str,
    calibration: Calibration,
    group_size: int,
    kernel: str,
    libraries: dict[str, str],
    duration_s: float,
) -> None:
    """Describe the finished files of a 4-bit variant in ``work``."""
    method = METHODS[variant]
    sizes = safetensors_bytes(sorted(work.glob("*.safetensors")))
    write_manifest(
        work,
        model.id,
        variant,
        source={"base_sha256": read_manifest(base)["sha256"]},
        method=method,
        nominal_bits_per_weight=BITS,
        effective_bits_per_weight=round(8 * sizes.total() / model.parameters, 6),
        tensor_types=shares(sizes),
        group_size=group_size,
        symmetric=SYMMETRIC[method],
        calibration=calibration.manifest(),
        libraries=libraries,
        kernel=kernel,
        duration_s=round(duration_s, 3),
    )
