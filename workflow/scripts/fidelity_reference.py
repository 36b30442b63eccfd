"""Keep what a base model says about each position of the fixed text."""

from typing import TYPE_CHECKING

from slm_benchmark.workflow.job import configured, job

if TYPE_CHECKING:
    from snakemake.script import snakemake

with job(snakemake.log[0]):
    from pathlib import Path

    from slm_benchmark.evaluation.fidelity import ReferenceInputs, Target, make_reference

    catalogue, run_config = configured(snakemake)
    make_reference(
        Target(snakemake.wildcards.model, "base", run_config.hardware),
        catalogue,
        run_config.quantization["calibration"],
        ReferenceInputs(
            base=Path(snakemake.input.base).parent,
            dataset=Path(snakemake.input.text).parent,
            calibration=Path(snakemake.input.calibration).parent,
        ),
        output=Path(snakemake.output[0]).parent,
        threads=snakemake.threads,
    )
