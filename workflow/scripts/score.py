"""Score the stored generations of one cell and say how it compares with the published record."""

from typing import TYPE_CHECKING

from slm_benchmark.workflow.job import configured, job, output_paths

if TYPE_CHECKING:
    from snakemake.script import snakemake

with job(snakemake.log[0]):
    from pathlib import Path

    from slm_benchmark.common import progress
    from slm_benchmark.evaluation.loglikelihood import Outputs
    from slm_benchmark.evaluation.rescoring import score
    from slm_benchmark.publishing.publish import compare_with_published

    catalogue, run_config = configured(snakemake)
    record = score(
        snakemake.wildcards.task,
        catalogue,
        Path(snakemake.input.answers),
        Path(snakemake.input.dataset).parent,
        Outputs(**output_paths(snakemake)),
        judge=run_config.judge if catalogue.tasks[snakemake.wildcards.task].get("judged") else None,
        threads=snakemake.threads,
    )
    progress.say(compare_with_published(record))
