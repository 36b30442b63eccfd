"""Prepare one dataset."""

from typing import TYPE_CHECKING

from slm_benchmark.workflow.job import configured, job

if TYPE_CHECKING:
    from snakemake.script import snakemake

with job(snakemake.log[0]):
    from pathlib import Path

    from slm_benchmark.download.datasets import prepare_dataset

    catalogue, _ = configured(snakemake)
    dataset = snakemake.wildcards.dataset
    prepare_dataset(dataset, catalogue.datasets[dataset], Path(snakemake.output[0]).parent)
