"""Measure one cell and say how it compares with the published record."""

from typing import TYPE_CHECKING

from slm_benchmark.workflow.job import cell_from_wildcards, configured, job, output_paths

if TYPE_CHECKING:
    from snakemake.script import snakemake

with job(snakemake.log[0]):
    from slm_benchmark.common import progress
    from slm_benchmark.evaluation.loglikelihood import Outputs, evaluate
    from slm_benchmark.publishing.publish import compare_with_published

    catalogue, _ = configured(snakemake)
    cell, folders = cell_from_wildcards(snakemake)
    outputs = Outputs(**output_paths(snakemake))
    record = evaluate(cell, catalogue, folders, outputs, snakemake.threads)
    progress.say(compare_with_published(record))
