"""Write what quantization costs each model of an edition."""

from typing import TYPE_CHECKING

from slm_benchmark.workflow.job import configured, job

if TYPE_CHECKING:
    from snakemake.script import snakemake

with job(snakemake.log[0]):
    from pathlib import Path

    from slm_benchmark.common.files import atomic_directory
    from slm_benchmark.leaderboard.quantization_report import write_reports
    from slm_benchmark.records.store import RECORD_SCHEMAS, Slim, current_records

    catalogue, _ = configured(snakemake)
    records = [Path(record) for record in snakemake.input.records]
    current = current_records(records, RECORD_SCHEMAS, Slim())
    known = [
        (path, record) for path, record in current if record["model"]["id"] in catalogue.models
    ]
    with atomic_directory(Path(snakemake.output[0])) as work:
        write_reports(known, catalogue.tasks, work)
