"""Summarize what a session found about one variant."""

from typing import TYPE_CHECKING

from slm_benchmark.workflow.job import job

if TYPE_CHECKING:
    from snakemake.script import snakemake

with job(snakemake.log[0]):
    from pathlib import Path

    from slm_benchmark.profiling.record import write_performance

    write_performance(
        Path(snakemake.input[0]), snakemake.wildcards.variant, Path(snakemake.output[0])
    )
