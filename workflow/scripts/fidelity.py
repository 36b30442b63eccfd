"""Measure how far a variant's distributions lie from its base model's."""

from typing import TYPE_CHECKING

from slm_benchmark.workflow.job import configured, job

if TYPE_CHECKING:
    from snakemake.script import snakemake

with job(snakemake.log[0]):
    from pathlib import Path

    from slm_benchmark.common import progress
    from slm_benchmark.evaluation.fidelity import (
        Inputs,
        Target,
        describe_fidelity,
        measure_fidelity,
    )

    catalogue, run_config = configured(snakemake)
    record = measure_fidelity(
        Target(snakemake.wildcards.model, snakemake.wildcards.variant, run_config.hardware),
        catalogue,
        Inputs(
            weights=Path(snakemake.input.weights).parent,
            base=Path(snakemake.input.base).parent,
            reference=Path(snakemake.input.reference).parent,
        ),
        output=Path(snakemake.output[0]),
        threads=snakemake.threads,
    )
    progress.say(describe_fidelity(record))
