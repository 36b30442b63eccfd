"""Build the pages of an edition."""

from typing import TYPE_CHECKING

from slm_benchmark.workflow.job import job

if TYPE_CHECKING:
    from snakemake.script import snakemake

with job(snakemake.log[0]):
    from pathlib import Path

    from slm_benchmark.site import build_site

    build_site(
        Path(snakemake.input.leaderboard),
        Path(snakemake.output[0]).parent,
        Path("docs"),
        Path(snakemake.input.reports),
    )
