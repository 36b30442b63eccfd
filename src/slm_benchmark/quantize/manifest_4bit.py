"""What all 4-bit quantizers share: settings, and the manifest of what they make."""

from __future__ import annotations

from pathlib import Path

from slm_benchmark.catalog.model_cards import Model
from slm_benchmark.download.weights import read_manifest, safetensors_bytes, shares, write_manifest
from slm_benchmark.quantize.calibration import Calibration

BITS = 4

METHODS = {"gptq-4bit": "gptq", "awq-4bit": "awq"}

SYMMETRIC = {"gptq": True, "awq": False}
"""GPTQ's canonical form is symmetric; AWQ's has a zero point for each group."""


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
