"""Quantize a base model to 4 bits with GPTQ or AWQ."""

from typing import TYPE_CHECKING

from slm_benchmark.workflow.job import configured, job, restart_with

if TYPE_CHECKING:
    from snakemake.script import snakemake

# AWQ's search makes and frees arrays of hundreds of megabytes; with small pages the faults cost
# several times as much as the arithmetic.
restart_with(GLIBC_TUNABLES="glibc.malloc.hugetlb=1")

with job(snakemake.log[0]):
    from pathlib import Path

    from slm_benchmark.quantize.calibration import load_calibration
    from slm_benchmark.quantize.dispatch import quantizer
    from slm_benchmark.quantize.manifest_4bit import FourBitJob

    catalogue, _ = configured(snakemake)
    settings = snakemake.params.settings
    base = Path(snakemake.input.base).parent
    size = settings["group_size"]
    model = catalogue.models[snakemake.wildcards.model]
    choices = FourBitJob(
        model,
        base,
        snakemake.params.variant,
        load_calibration(
            Path(snakemake.input.calibration).parent,
            base,
            texts=settings["calibration"]["texts"],
            tokens=settings["calibration"]["tokens"],
            trust_remote_code=model.trust_remote_code,
        ),
        None if size == "auto" else size,
    )
    target = Path(snakemake.output.manifest).parent
    quantizer(settings["backend"])(choices, target, snakemake.threads)
