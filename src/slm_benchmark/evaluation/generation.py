"""One cell that is answered by texts: the model generates them, and nothing is scored yet.

A machine with the model may lack what scoring needs, such as a judge or a sandbox for generated
code; any machine that has it scores the generations later: see
`slm_benchmark.evaluation.rescoring`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from slm_benchmark.catalog.catalog import Catalogue
from slm_benchmark.catalog.run_config import Cell
from slm_benchmark.common.files import digest
from slm_benchmark.evaluation.runner import (
    CellRunner,
    Folders,
    LoadedTasks,
    engine_environment,
)
from slm_benchmark.evaluation.scores import Plain, plain_response, write_table
from slm_benchmark.records.envelope import write_sealed
from slm_benchmark.records.types import AnswersRecord

if TYPE_CHECKING:
    from slm_benchmark.engines.engine import Engine


@dataclass(frozen=True)
class Outputs:
    """Files of a cell's stored generations; the record is written last."""

    record: Path
    answers: Path


class StoredGeneration(TypedDict):
    """The generations of one document, as they are stored.

    ``prompts`` and ``responses`` are those of each of its requests, in their order; ``truncated``
    says whether a generation was cut at its limit, and is null where the engine does not report it.
    """

    part: str
    index: int
    document: str
    prompts: list[str]
    responses: list[list[Plain]]
    truncated: bool | None


def generate(
    cell: Cell, catalogue: Catalogue, folders: Folders, outputs: Outputs, threads: int
) -> AnswersRecord:
    """Let the model answer the documents of one cell, and store the generations.

    Returns:
        Their record.

    Raises:
        UserError: for bad input, such as an input file that differs from its manifest.
        RunEnvironmentError: when memory, the disk or the network gave out.
    """
    return run_and_store(CellRunner(cell, catalogue, folders, outputs.record, threads), outputs)


def run_and_store(
    runner: CellRunner, outputs: Outputs, tasks: LoadedTasks | None = None
) -> AnswersRecord:
    """Store the generations of a cell whose inputs are checked; see `generate`.

    Args:
        runner: Runs the cell.
        outputs: The files to write.
        tasks: Its tasks with fewer documents; None = load them.
    """
    # The libraries read these variables when they are imported.
    with engine_environment(runner.threads):
        run = runner.run(stored_generations, tasks)
    rows = run.result or []
    record: AnswersRecord = {
        "schema_version": 1,
        "kind": "answers",
        **run.status.block(),
        **runner.blocks(run),
        **runner.prompts(run),
        "tokens": runner.tokens(run),
        **runner.provenance(),
        "truncated_contexts": len(run.engine.lm.truncated) if rows and run.engine else None,
        "truncated_generations": truncated_generations(rows),
        "answers_sha256": digest(rows) if rows else None,
        **runner.closing(),
    }
    # The digest covers the record, which is written last.
    write_table(outputs.answers, rows, ("index", "part", "document"))
    write_sealed(outputs.record, record, "answers")
    runner.journal.unlink(missing_ok=True)
    return record


def stored_generations(tasks: LoadedTasks, engine: Engine) -> list[StoredGeneration]:
    """The generations of all documents, in the order of parts and indices."""
    from slm_benchmark.tasks.requests import document_digest, documents

    unfinished: set[tuple[str, int]] | None = engine.lm.unfinished
    rows: list[StoredGeneration] = []
    for part in tasks.parts:
        for index, requests in documents(part, tasks.chosen):
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
                    "truncated": None if unfinished is None else name in unfinished,
                }
            )
    return rows


def truncated_generations(rows: Sequence[StoredGeneration]) -> int | None:
    """Number of documents with a generation that was cut; None where that is not known."""
    known = [row["truncated"] for row in rows if row["truncated"] is not None]
    return sum(known) if known and len(known) == len(rows) else None
