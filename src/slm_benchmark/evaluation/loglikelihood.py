"""One cell that is answered by likelihoods: run and scored in one go, with its evidence."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NotRequired, TypedDict

from slm_benchmark.catalog.catalog import Catalogue
from slm_benchmark.catalog.run_config import Cell
from slm_benchmark.common.files import atomic_write_json, digest
from slm_benchmark.evaluation.runner import (
    CellRunner,
    Folders,
    LoadedTasks,
    engine_environment,
)
from slm_benchmark.evaluation.scores import (
    NOTHING,
    Measurement,
    Truncated,
    summarize,
    write_table,
)
from slm_benchmark.records.envelope import write_sealed
from slm_benchmark.records.types import Checks, Freeform, Score, ScoredBlock, ScoreRecord


@dataclass(frozen=True)
class Outputs:
    """Files that a cell consists of; the record is written last."""

    record: Path
    documents: Path
    samples: Path


def evaluate(
    cell: Cell, catalogue: Catalogue, folders: Folders, outputs: Outputs, threads: int
) -> ScoreRecord:
    """Measure one cell and write its record, its per-document values and its samples.

    An error of the model or the task is itself a result: a record with state ``failed``. An
    environment error is raised, so that the same command can try again.

    Returns:
        The record.

    Raises:
        UserError: for bad input, such as an input file that differs from its manifest.
        RunEnvironmentError: when memory, the disk or the network gave out.
    """
    return run_and_score(CellRunner(cell, catalogue, folders, outputs.record, threads), outputs)


def run_and_score(
    runner: CellRunner, outputs: Outputs, tasks: LoadedTasks | None = None
) -> ScoreRecord:
    """Measure a cell whose inputs are checked; see `evaluate`.

    Args:
        runner: Runs the cell.
        outputs: The files to write.
        tasks: Its tasks with fewer documents; None = load them.
    """
    # The libraries read these variables when they are imported.
    with engine_environment(runner.threads):
        from slm_benchmark.tasks.requests import score_documents

        run = runner.run(
            lambda tasks, engine: summarize(
                score_documents(tasks.parts, tasks.chosen),
                runner.entry,
                tasks.parts,
                Truncated(contexts=len(engine.lm.truncated)),
            ),
            tasks,
        )
    measurement = run.result or NOTHING
    record: ScoreRecord = {
        "schema_version": 1,
        "kind": "score",
        **run.status.block(),
        **runner.blocks(run),
        **runner.prompts(run),
        "tokens": runner.tokens(run),
        **runner.provenance(),
        **results(measurement),
        **runner.closing(),
    }
    write_cell(record, measurement, outputs)
    runner.journal.unlink(missing_ok=True)
    return record


class Results(TypedDict):
    """The numbers of a score record, and the digests of the files beside it.

    `rescoring` and `publish` add the keys that are not required.
    """

    scores: list[Score]
    checks: Checks
    samples_sha256: str | None
    documents_sha256: str | None
    answers_sha256: NotRequired[str | None]
    scoring: NotRequired[Freeform]
    scored: NotRequired[ScoredBlock]
    label: NotRequired[str]


def results(measurement: Measurement) -> Results:
    """The numbers of a score record, and the digests of the files beside it."""
    samples, documents = measurement.samples, measurement.documents
    return {
        "scores": measurement.scores,
        "checks": measurement.checks,
        "samples_sha256": digest(samples) if samples else None,
        "documents_sha256": digest(documents) if documents else None,
    }


def write_cell(record: ScoreRecord, measurement: Measurement, outputs: Outputs) -> None:
    """Write a cell's files, the record last."""
    write_table(outputs.samples, measurement.samples, ("index", "part", "filter", "document"))
    atomic_write_json(outputs.documents, measurement.documents)
    write_sealed(outputs.record, record, "cell")
