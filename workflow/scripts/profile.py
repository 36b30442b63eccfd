"""Profile all planned variants of one model."""

from typing import TYPE_CHECKING

from slm_benchmark.workflow.job import configured, job

if TYPE_CHECKING:
    from snakemake.script import snakemake

with job(snakemake.log[0]):
    from pathlib import Path

    from slm_benchmark.profiling.record import write_session

    catalogue, _ = configured(snakemake)
    write_session(
        catalogue,
        model_id=snakemake.wildcards.model,
        hardware_id=snakemake.wildcards.hardware,
        protocol_id=snakemake.wildcards.protocol,
        weights={Path(file).parent.name: Path(file).parent for file in snakemake.input.weights},
        base=Path(snakemake.input.base).parent,
        output=Path(snakemake.output[0]),
    )
