"""Profile one variant."""

from typing import TYPE_CHECKING

from slm_benchmark.adapter import configured, job

if TYPE_CHECKING:
    from snakemake.script import snakemake

with job(snakemake.log[0]):
    from pathlib import Path

    from slm_benchmark.profile.record import write_performance

    catalogue, plan = configured(snakemake)
    write_performance(
        catalogue,
        model_id=snakemake.wildcards.model,
        variant=snakemake.wildcards.variant,
        hardware_id=snakemake.wildcards.hardware,
        protocol_id=plan.protocol,
        weights=Path(snakemake.input.weights).parent,
        base=Path(snakemake.input.base).parent,
        output=Path(snakemake.output[0]),
    )
