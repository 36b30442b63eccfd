"""Check that the F16 GGUF file of a model agrees with its base."""

from typing import TYPE_CHECKING

from slm_benchmark.workflow.job import configured, job

if TYPE_CHECKING:
    from snakemake.script import snakemake

with job(snakemake.log[0]):
    from pathlib import Path

    from slm_benchmark.common import progress
    from slm_benchmark.evaluation.equivalence import Inputs, check_equivalence
    from slm_benchmark.leaderboard.report import describe_equivalence

    catalogue, run_config = configured(snakemake)
    datasets = [Path(manifest).parent for manifest in snakemake.input.datasets]
    record = check_equivalence(
        snakemake.wildcards.model,
        run_config.hardware,
        catalogue,
        Inputs(
            base=Path(snakemake.input.base).parent,
            f16=Path(snakemake.input.f16).parent,
            datasets=dict(zip(catalogue.equivalence["tasks"], datasets, strict=True)),
        ),
        Path(snakemake.output[0]),
        threads=snakemake.threads,
    )
    progress.say(describe_equivalence(record))
