"""Quantize a float16 GGUF file."""

from typing import TYPE_CHECKING

from slm_benchmark.workflow.job import configured, job

if TYPE_CHECKING:
    from snakemake.script import snakemake

with job(snakemake.log[0]):
    from pathlib import Path

    from slm_benchmark.quantize.gguf import quantize_gguf

    catalogue, _ = configured(snakemake)
    quantize_gguf(
        catalogue.models[snakemake.wildcards.model],
        f16=Path(snakemake.input.f16).parent,
        target=Path(snakemake.output.manifest).parent,
        base=Path(snakemake.input.base).parent,
        variant=snakemake.wildcards.variant,
    )
