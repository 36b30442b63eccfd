"""What all 4-bit quantizers share: settings, and the manifest of what they make."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from slm_benchmark.catalog.model_cards import Model
from slm_benchmark.download.model_facts import parameters
from slm_benchmark.download.tensors import bytes_by_type, folder_tensors
from slm_benchmark.download.weights import read_manifest, shares, write_manifest
from slm_benchmark.quantize.calibration import Calibration
from slm_benchmark.quantize.shapes import group_size, linear_in_features

BITS = 4

METHODS = {"gptq-4bit": "gptq", "awq-4bit": "awq"}

SYMMETRIC = {"gptq": True, "awq": False}
"""GPTQ's canonical form is symmetric; AWQ's has a zero point for each group."""


@dataclass(frozen=True)
class FourBitJob:
    """What a 4-bit quantizer is to make.

    Attributes:
        model: The card.
        base: Folder of the base model in Transformers format.
        variant: gptq-4bit or awq-4bit.
        calibration: The calibration texts.
        group_size: Weights per scale; None derives it from the model's shapes.
    """

    model: Model
    base: Path
    variant: str
    calibration: Calibration
    group_size: int | None = None

    @property
    def method(self) -> str:
        """gptq or awq."""
        return METHODS[self.variant]

    def fitting_group_size(self) -> int:
        """Weights per scale.

        Raises:
            UserError: when the group size does not fit the model, or none does.
        """
        return group_size(linear_in_features(self.base), self.model.id, self.group_size)


def write_4bit_manifest(
    work: Path,
    job: FourBitJob,
    size: int,
    kernel: str,
    libraries: dict[str, str],
    duration_s: float,
) -> None:
    """Describe the finished files of a 4-bit variant.

    Args:
        work: Folder of the files.
        job: What was to be made.
        size: Weights per scale.
        kernel: Class name of the quantized linear layers.
        libraries: Versions of what made them, by package.
        duration_s: How long that took.
    """
    sizes = bytes_by_type(folder_tensors(work))
    base = read_manifest(job.base)
    write_manifest(
        work,
        job.model.id,
        job.variant,
        source={"base_sha256": base["sha256"]},
        method=job.method,
        nominal_bits_per_weight=BITS,
        effective_bits_per_weight=round(8 * sizes.total() / parameters(job.model, base), 6),
        tensor_types=shares(sizes),
        group_size=size,
        symmetric=SYMMETRIC[job.method],
        calibration=job.calibration.manifest(),
        libraries=libraries,
        kernel=kernel,
        duration_s=round(duration_s, 3),
    )
