"""Keep what a base model says about each position of the fixed text."""

from typing import TYPE_CHECKING

from slm_benchmark.workflow.job import configured, job

if TYPE_CHECKING:
    from snakemake.script import snakemake

with job(snakemake.log[0]):
    from pathlib import Path

    from slm_benchmark.evaluation.fidelity import (
        ReferenceInputs,
        make_reference,
        read_fidelity_config,
    )

    catalogue, plan = configured(snakemake)
    make_reference(
        snakemake.wildcards.model,
        plan.hardware,
        catalogue,
        read_fidelity_config(),
        plan.quantization["calibration"],
        ReferenceInputs(
            base=Path(snakemake.input.base).parent,
            dataset=Path(snakemake.input.text).parent,
            calibration=Path(snakemake.input.calibration).parent,
        ),
        output=Path(snakemake.output[0]).parent,
        threads=snakemake.threads,
    )
