"""Aggregate records into the leaderboard and the summaries of each model."""

from typing import TYPE_CHECKING

from slm_benchmark.workflow.job import configured, job

if TYPE_CHECKING:
    from snakemake.script import snakemake

with job(snakemake.log[0]):
    from pathlib import Path

    from slm_benchmark.leaderboard.aggregate import aggregate

    catalogue, run_config = configured(snakemake)
    aggregate(
        catalogue,
        [Path(record) for record in snakemake.input.records],
        edition=snakemake.wildcards.edition,
        leaderboard=Path(snakemake.output.leaderboard),
        table=Path(snakemake.output.table),
        models=Path(snakemake.output.models),
    )
