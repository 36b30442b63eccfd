"""One cell whose answers are texts: the model writes them, and nothing is scored yet.

A machine with the model may lack what scoring needs, such as a judge or an isolation for generated
code; any machine that has it scores the answers later: see `slm_benchmark.evaluation.rescoring`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slm_benchmark.catalog.catalog import Catalogue
from slm_benchmark.catalog.run_config import Cell
from slm_benchmark.common.files import digest
from slm_benchmark.common.schemas import write_record
from slm_benchmark.evaluation.runner import (
    CellRun,
    CellRunner,
    Folders,
    Record,
    engine_environment,
    recording,
)
from slm_benchmark.evaluation.scores import plain_response, write_table
from slm_benchmark.records.provenance import result_digest


@dataclass(frozen=True)
class Outputs:
    """Files of a cell's answers; the record is written last."""

    record: Path
    answers: Path


def generate(
    cell: Cell, catalogue: Catalogue, folders: Folders, outputs: Outputs, threads: int
) -> Record:
    """Let the model answer the documents of one cell, and write the answers and their record.

    Returns:
        The record.

    Raises:
        UserError: for bad input, such as an input file that differs from its manifest.
        RunEnvironmentError: when memory, the disk or the network gave out.
    """
    asking = CellRunner(cell, catalogue, folders, outputs.record, threads)
    return ask_and_keep(asking, CellRun(), outputs)


def ask_and_keep(asking: CellRunner, cell_run: CellRun, outputs: Outputs) -> Record:
    """What `generate` does once its inputs are checked.

    Args:
        asking: The cell's question.
        cell_run: A new attempt, or one whose tasks are loaded and whose documents were narrowed.
        outputs: The files to write.
    """
    answers: list[dict[str, Any]] = []
    # The libraries read these variables when they are imported.
    with engine_environment(asking.threads), recording(cell_run):
        asking.ask(cell_run)
        answers = answer_rows(cell_run)
    record: dict[str, Any] = {
        **asking.blocks(cell_run),
        "kind": "answers",
        "truncated_contexts": cell_run.truncated_contexts if answers else None,
        "truncated_generations": truncated_generations(answers),
        "answers_sha256": digest(answers) if answers else None,
        **asking.closing(),
    }
    record["result_sha256"] = result_digest(record)
    write_table(outputs.answers, answers, ("index", "part", "document"))
    write_record(outputs.record, record, "answers")
    asking.journal.unlink(missing_ok=True)
    return record


def answer_rows(cell_run: CellRun) -> list[dict[str, Any]]:
    """The answers of all documents, in the order of parts and indices.

    Returns:
        For each document its part, index and digest, the prompt and the responses of each of its
        requests, and whether an answer was cut at its limit (None where the engine does not tell).
    """
    from slm_benchmark.tasks.requests import document_digest, documents

    rows = []
    for part in cell_run.parts:
        for index, requests in documents(part, cell_run.chosen):
            name = (requests[0].task_name, requests[0].doc_id)
            rows.append(
                {
                    "part": part.name,
                    "index": index,
                    "document": document_digest(requests[0].doc),
                    "prompts": [str(request.args[0]) for request in requests],
                    "responses": [
                        [plain_response(response) for response in request.resps]
                        for request in requests
                    ],
                    "truncated": None
                    if cell_run.unfinished is None
                    else name in cell_run.unfinished,
                }
            )
    return rows


def truncated_generations(answers: Sequence[dict[str, Any]]) -> int | None:
    """How many documents have an answer that was cut; None where that is not known."""
    known = [row["truncated"] for row in answers]
    return sum(known) if known and None not in known else None
