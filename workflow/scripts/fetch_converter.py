"""Fetch the converter of llama.cpp."""

from typing import TYPE_CHECKING

from slm_benchmark.workflow.job import job

if TYPE_CHECKING:
    from snakemake.script import snakemake

with job(snakemake.log[0]):
    from pathlib import Path

    from slm_benchmark.quantize.converter import fetch_converter

    fetch_converter(Path(snakemake.output[0]).parent)
