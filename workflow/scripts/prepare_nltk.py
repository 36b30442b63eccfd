"""Prepare NLTK's sentence models."""

from typing import TYPE_CHECKING

from slm_benchmark.workflow.job import job

if TYPE_CHECKING:
    from snakemake.script import snakemake

with job(snakemake.log[0]):
    from pathlib import Path

    from slm_benchmark.download.nltk_data import prepare_punkt

    prepare_punkt(Path(snakemake.output[0]).parent)
