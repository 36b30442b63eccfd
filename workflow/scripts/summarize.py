"""Say what was measured, what failed, and which page to open."""

from typing import TYPE_CHECKING

from slm_benchmark.workflow.job import job

if TYPE_CHECKING:
    from snakemake.script import snakemake

with job(snakemake.log[0]):
    from pathlib import Path

    from slm_benchmark.common import progress
    from slm_benchmark.common.files import read_json
    from slm_benchmark.evaluation.fidelity import describe_fidelity
    from slm_benchmark.leaderboard.report import failures, summary
    from slm_benchmark.records.store import read_run

    leaderboard = read_json("build/preview/leaderboard.json")
    inputs = snakemake.input
    kinds = ("cells", "performance", "equivalence", "fidelity", "noise")
    records = [Path(path) for kind in kinds for path in getattr(inputs, kind)]
    progress.say(summary(leaderboard, records))
    for record in map(read_run, map(Path, inputs.fidelity)):
        if record["kind"] == "fidelity":
            progress.say(describe_fidelity(record))
    progress.say(f"What quantization costs: {Path(inputs.quantization).resolve()}")
    progress.say(f"Open {Path(inputs.site).resolve()}")
    failures(records)
