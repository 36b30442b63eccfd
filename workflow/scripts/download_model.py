"""Download the base model of a card."""

from typing import TYPE_CHECKING

from slm_benchmark.workflow.job import configured, job

if TYPE_CHECKING:
    from snakemake.script import snakemake

with job(snakemake.log[0]):
    from pathlib import Path

    from slm_benchmark.download.base_model import download_model

    catalogue, _ = configured(snakemake)
    target = Path(snakemake.output.manifest).parent
    download_model(catalogue.models[snakemake.wildcards.model], target)
