"""Convert a base model to a float16 GGUF file."""

from typing import TYPE_CHECKING

from slm_benchmark.workflow.job import configured, job

if TYPE_CHECKING:
    from snakemake.script import snakemake

with job(snakemake.log[0]):
    from pathlib import Path

    from slm_benchmark.quantize.gguf import convert_to_gguf

    catalogue, _ = configured(snakemake)
    convert_to_gguf(
        catalogue.models[snakemake.wildcards.model],
        base=Path(snakemake.input.base).parent,
        converter=Path(snakemake.input.converter).parent,
        target=Path(snakemake.output.manifest).parent,
    )
