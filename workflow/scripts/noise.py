"""Measure the noise floor of one cell."""

from typing import TYPE_CHECKING

from slm_benchmark.workflow.job import cell_from_wildcards, configured, job

if TYPE_CHECKING:
    from snakemake.script import snakemake

with job(snakemake.log[0]):
    from pathlib import Path

    from slm_benchmark.common import progress
    from slm_benchmark.evaluation.noise_floor import describe_noise, measure_noise

    catalogue, _ = configured(snakemake)
    cell, folders = cell_from_wildcards(snakemake)
    output = Path(snakemake.output[0])
    record = measure_noise(cell, catalogue, folders, output, snakemake.threads)
    progress.say(describe_noise(record))
