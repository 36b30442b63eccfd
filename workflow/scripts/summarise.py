"""Say what was measured, what failed, and which page to open."""

from typing import TYPE_CHECKING

from slm_benchmark.adapter import job

if TYPE_CHECKING:
    from snakemake.script import snakemake

with job(snakemake.log[0]):
    from pathlib import Path

    from slm_benchmark import progress
    from slm_benchmark.aggregate import failures, summary
    from slm_benchmark.files import read_json

    leaderboard = read_json("build/preview/leaderboard.json")
    inputs = snakemake.input
    records = [Path(path) for path in (*inputs.cells, *inputs.performance, *inputs.equivalence)]
    progress.say(summary(leaderboard, records))
    progress.say(f"Open {Path(inputs.site).resolve()}")
    failures(records)
