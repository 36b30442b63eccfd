"""Measure one cell and say how it compares with the published record."""

from typing import TYPE_CHECKING

from slm_benchmark.adapter import configured, job

if TYPE_CHECKING:
    from snakemake.script import snakemake

with job(snakemake.log[0]):
    from pathlib import Path

    from slm_benchmark import progress
    from slm_benchmark.asking import Folders
    from slm_benchmark.config import Cell
    from slm_benchmark.evaluate import Outputs, evaluate
    from slm_benchmark.publish import compare_with_published

    catalogue, _ = configured(snakemake)
    record = evaluate(
        Cell(**snakemake.wildcards),
        catalogue,
        Folders(
            weights=Path(snakemake.input.weights).parent,
            base=Path(snakemake.input.base).parent,
            dataset=Path(snakemake.input.dataset).parent,
        ),
        Outputs(**{name: Path(path) for name, path in snakemake.output.items()}),
        threads=snakemake.threads,
    )
    progress.say(compare_with_published(record))
