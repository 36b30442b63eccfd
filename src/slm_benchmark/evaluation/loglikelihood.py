"""One cell whose answers are likelihoods: asked and scored in one go, with its evidence."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from slm_benchmark.catalog.catalog import Catalogue
from slm_benchmark.catalog.run_config import Cell
from slm_benchmark.common.files import atomic_write_json, digest
from slm_benchmark.common.schemas import write_record
from slm_benchmark.evaluation.runner import (
    CellRun,
    CellRunner,
    Folders,
    Record,
    engine_environment,
    recording,
)
from slm_benchmark.evaluation.scores import NOTHING, Given, Measurement, summarise, write_table
from slm_benchmark.records.provenance import result_digest


@dataclass(frozen=True)
class Outputs:
    """Files that a cell consists of; the record is written last."""

    record: Path
    documents: Path
    samples: Path


def evaluate(
    cell: Cell, catalogue: Catalogue, folders: Folders, outputs: Outputs, threads: int
) -> Record:
    """Measure one cell and write its record, its per-document values and its samples.

    An error of the model or the task is itself a result: a record with state ``failed``. A fault
    of the surroundings is raised, so that the same command can try again.

    Returns:
        The record.

    Raises:
        UserError: for bad input, such as an input file that differs from its manifest.
        RunEnvironmentError: when memory, the disk or the network gave out.
    """
    asking = CellRunner(cell, catalogue, folders, outputs.record, threads)
    return ask_and_score(asking, CellRun(), outputs)


def ask_and_score(asking: CellRunner, cell_run: CellRun, outputs: Outputs) -> Record:
    """What `evaluate` does once its inputs are checked.

    Args:
        asking: The cell's question.
        cell_run: A new attempt, or one whose tasks are loaded and whose documents were narrowed.
        outputs: The files to write.
    """
    measurement = NOTHING
    # The libraries read these variables when they are imported.
    with engine_environment(asking.threads):
        from slm_benchmark.tasks.requests import score_documents

        with recording(cell_run):
            asking.ask(cell_run)
            cell_run.samples = score_documents(cell_run.parts, cell_run.chosen)
            measurement = summarise(
                cell_run.samples, asking.entry, cell_run.parts, Given(cell_run.truncated_contexts)
            )
    record = asking.blocks(cell_run) | results(measurement) | asking.closing()
    write_cell(record, measurement, outputs)
    asking.journal.unlink(missing_ok=True)
    return record


def results(measurement: Measurement) -> Record:
    """The cell schema's numbers, and the digests of what lies beside the record."""
    samples, documents = measurement.samples, measurement.documents
    return {
        "scores": measurement.scores,
        "checks": measurement.checks,
        "samples_sha256": digest(samples) if samples else None,
        "documents_sha256": digest(documents) if documents else None,
    }


def write_cell(record: Record, measurement: Measurement, outputs: Outputs) -> None:
    """Complete a cell's record and write its files, the record last."""
    record["kind"] = "score"
    record["result_sha256"] = result_digest(record)
    write_table(outputs.samples, measurement.samples, ("index", "part", "filter", "document"))
    atomic_write_json(outputs.documents, measurement.documents)
    write_record(outputs.record, record, "cell")
