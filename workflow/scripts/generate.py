"""Let the model answer one cell."""

from typing import TYPE_CHECKING

from slm_benchmark.workflow.job import cell_from_wildcards, configured, job, output_paths

if TYPE_CHECKING:
    from snakemake.script import snakemake

with job(snakemake.log[0]):
    from slm_benchmark.evaluation.generation import Outputs, generate

    catalogue, _ = configured(snakemake)
    cell, folders = cell_from_wildcards(snakemake)
    generate(cell, catalogue, folders, Outputs(**output_paths(snakemake)), snakemake.threads)
