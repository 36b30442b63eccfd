"""Scoring of stored generations (see `generation`): no model, on this machine or another one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from slm_benchmark.catalog.catalog import Catalogue
from slm_benchmark.common.errors import NotRun, UserError
from slm_benchmark.common.files import digest, read_json
from slm_benchmark.common.paths import relative
from slm_benchmark.common.schemas import read_record
from slm_benchmark.evaluation.generation import StoredGeneration, truncated_generations
from slm_benchmark.evaluation.loglikelihood import Outputs, results, write_cell
from slm_benchmark.evaluation.requirements import Used, scoring_tools
from slm_benchmark.evaluation.runner import (
    LoadedTasks,
    Status,
    engine_environment,
    status_of,
    task_block,
)
from slm_benchmark.evaluation.scores import (
    NOTHING,
    Truncated,
    read_table,
    summarize,
)
from slm_benchmark.records.envelope import Clock
from slm_benchmark.records.hardware import describe
from slm_benchmark.records.provenance import (
    RECORDED_PACKAGES,
    command_for,
    environment_identity,
    protocol_block,
    result_digest,
    workflow_identity,
)
from slm_benchmark.records.types import (
    AnswersRecord,
    DatasetManifest,
    Rendered,
    ScoredBlock,
    ScoreRecord,
)

if TYPE_CHECKING:
    from slm_benchmark.tasks.requests import ScoredDocument


@dataclass(frozen=True)
class Stored:
    """Stored generations.

    Attributes:
        path: File of their record.
        record: The record.
        rows: The generations; none where the model or the task broke.
        dataset: Folder of the dataset that they are of.
    """

    path: Path
    record: AnswersRecord
    rows: Sequence[StoredGeneration]
    dataset: Path


def score(
    task_id: str,
    catalogue: Catalogue,
    answers: Path,
    dataset: Path,
    outputs: Outputs,
    judge: str | None,
    threads: int = 1,
) -> ScoreRecord:
    """Score stored generations and write the cell's record, per-document values and samples.

    It has seven parameters, as it is called by a rule that knows each of them.

    Args:
        task_id: The column; its generations, or those that its entry names under answers_of.
        catalogue: The catalogue of the checkout.
        answers: The record of the generations; they lie beside it.
        dataset: Folder of the dataset that they are of.
        outputs: The files to write.
        judge: Id of the judge, for a task that has one; None where there is none.
        threads: CPU threads of a judge that runs on this machine.

    Returns:
        The record.

    Raises:
        UserError: when the generations were changed, or are of other documents or prompts.
        RunEnvironmentError: when memory, the disk or the network gave out.
    """
    clock = Clock()
    stored = _read(answers, dataset, catalogue)
    record, rows, entry = stored.record, stored.rows, catalogue.tasks[task_id]
    status = Status(record["state"], record["error"], record.get("reason"))
    tasks, measurement, used = LoadedTasks(), NOTHING, Used()
    verdicts = outputs.record.with_name(f"{task_id}.verdicts.jsonl")
    with engine_environment(threads), contextlib.ExitStack() as stack:
        try:
            tools = scoring_tools(entry, catalogue, judge, verdicts, threads)
            used = stack.enter_context(tools) if rows else Used()
        except NotRun as lacking:
            status, rows = Status("not_run", record["error"], str(lacking)), []
        if rows:
            try:
                tasks = load_answered(task_id, catalogue, stored)
                samples = replay(task_id, catalogue, stored, tasks)
                truncated = Truncated(record["truncated_contexts"], truncated_generations(rows))
                measurement = summarize(samples, entry, tasks.parts, truncated)
            except Exception as raised:
                status = status_of(raised)
    scored: ScoredBlock = {
        "environment": environment_identity(RECORDED_PACKAGES),
        "hardware": {**describe()},
        "workflow": workflow_identity(catalogue.models[record["model"]["id"]].file),
        **clock.times(),
    }
    protocol = record["protocol"]["id"]
    rendered: Rendered = {"prompts": record["prompts"]} if "prompts" in record else {}
    scores: ScoreRecord = {
        "schema_version": record["schema_version"],
        "model": record["model"],
        "variant": record["variant"],
        "dataset": record["dataset"] if status.ok else {**record["dataset"], "documents": 0},
        "engine": record["engine"],
        **rendered,
        "tokens": record["tokens"],
        "environment": record["environment"],
        "hardware": record["hardware"],
        "workflow": record["workflow"],
        "sequence": record["sequence"],
        "started": record["started"],
        "duration_s": record["duration_s"],
        **status.block(),
        "task": task_block(
            task_id,
            entry,
            tasks.parts,
            fewshot_sampler=record["task"]["fewshot_sampler"],
            chat_template_sha256=record["task"]["chat_template_sha256"],
        ),
        "protocol": protocol_block(
            protocol, record["protocol"]["version"], catalogue.scoring_choices(task_id, protocol)
        ),
        "answers_sha256": record["answers_sha256"],
        "scoring": used.decisive,
        **results(measurement),
        "result_sha256": "",
        "command": command_for(
            [outputs.record, answers], protocol, record["hardware"]["id"], judge=judge
        ),
        # The schema leaves open what was seen while scoring.
        "scored": cast(ScoredBlock, {**scored, **used.seen}),
        "kind": "score",
    }
    write_cell(scores, measurement, outputs)
    if status.ok:
        verdicts.unlink(missing_ok=True)
    return scores


def score_stored(
    catalogue: Catalogue, answers: Path, judge: str | None, threads: int
) -> Iterator[str]:
    """Score stored generations as every column that reads them, without the workflow.

    What scoring needs beside them is prepared where it is missing; the model is not needed.

    Args:
        catalogue: The catalogue of the checkout.
        answers: Record of the generations.
        judge: Id of the judge; None = judged columns are not run.
        threads: CPU threads of a judge that runs on this machine.

    Yields:
        A line for each column: its score, or why there is none.

    Raises:
        UserError: as `score`.
    """
    from slm_benchmark.evaluation.requirements import can_score, prepare_tools
    from slm_benchmark.records.store import headline

    stored = read_answers(answers)
    check_known(stored, answers, catalogue)
    protocol = stored["protocol"]["id"]
    for task, entry in catalogue.tasks.items():
        if catalogue.answers_of(task) != stored["task"]["id"]:
            continue
        path = answers.with_name(f"{task}.json")
        if not can_score(entry, judge) and _is_scored(path, stored):
            yield f"{relative(path)}: kept as it is, since this machine cannot score it"
            continue
        dataset = prepare_tools(catalogue, task, protocol, judged=judge is not None)
        record = score(
            task,
            catalogue,
            answers,
            dataset,
            Outputs(
                record=path,
                documents=answers.with_name(f"{task}.documents.json"),
                samples=answers.with_name(f"{task}.samples.parquet"),
            ),
            judge if entry.get("judged") else None,
            threads,
        )
        yield f"{relative(path)}: {headline(record)}"


def _is_scored(path: Path, stored: AnswersRecord) -> bool:
    """Whether there is a score of these very generations already."""
    if not path.exists():
        return False
    record: ScoreRecord = read_record(path, "cell")
    return record["state"] == "ok" and record.get("answers_sha256") == stored["answers_sha256"]


def check_known(stored: AnswersRecord, answers: Path, catalogue: Catalogue) -> None:
    """Refuse generations of a model, task or protocol that this checkout does not have as it was.

    Raises:
        UserError: naming what differs.
    """
    ids = {
        "model": stored["model"]["id"],
        "task": stored["task"]["id"],
        "protocol": stored["protocol"]["id"],
    }
    if absent := catalogue.absent(**ids):
        kind, file = absent
        raise UserError(
            f"the answers belong to a {kind} that this checkout does not have",
            file=relative(answers),
            field=f"{kind}.id",
            value=ids[kind],
            fix=f"add its entry to {file}, as it was when they were generated",
        )
    choices = catalogue.scoring_choices(stored["task"]["id"], stored["protocol"]["id"])
    if digest(choices) != stored["protocol"]["sha256"]:
        raise UserError(
            "the answers were given under other choices than the protocol and the task have now",
            file=relative(answers),
            field="protocol.sha256",
            value=stored["protocol"]["sha256"],
            fix="use the configuration of then, or generate again",
        )


def _read(answers: Path, dataset: Path, catalogue: Catalogue) -> Stored:
    """Stored generations, checked against their record, the checkout and their dataset."""
    record = read_answers(answers)
    check_known(record, answers, catalogue)
    rows = read_rows(answers, record)
    manifest: DatasetManifest = read_json(dataset / "manifest.json")
    if manifest["sha256"] != record["dataset"]["sha256"]:
        raise UserError(
            f"the answers were given to other documents than those in {relative(dataset)}",
            file=relative(answers),
            field="dataset.sha256",
            value=record["dataset"]["sha256"],
            fix="generate again, or prepare the dataset that was answered",
        )
    return Stored(answers, record, rows, dataset)


def read_answers(path: Path) -> AnswersRecord:
    """The record of stored generations.

    Raises:
        UserError: when it breaks its schema, or was edited.
    """
    record: AnswersRecord = read_record(path, "answers")
    if result_digest(record) != record["result_sha256"]:
        raise _edited(path, "result_sha256", record["result_sha256"], "the record was edited")
    return record


def read_rows(answers: Path, record: AnswersRecord) -> list[StoredGeneration]:
    """The generations themselves, checked against their record.

    Raises:
        UserError: when they are missing or were edited.
    """
    path = answers.with_suffix(".parquet")
    if not path.exists():
        raise UserError(
            "the answers are not beside their record",
            file=relative(path),
            fix=f"copy {path.name} too, or generate again",
        )
    rows: list[Any] = read_table(path)
    if (digest(rows) if rows else None) != record["answers_sha256"]:
        raise _edited(
            path, "answers_sha256", record["answers_sha256"], "the answers are not the record's"
        )
    return rows


def _edited(path: Path, field: str, value: object, what: str) -> UserError:
    return UserError(
        what, file=relative(path), field=field, value=value, fix="restore it, or generate again"
    )


def load_answered(task_id: str, catalogue: Catalogue, stored: Stored) -> LoadedTasks:
    """The tasks of the documents that have generations."""
    from slm_benchmark.tasks.loader import load_parts

    protocol = catalogue.protocols[stored.record["protocol"]["id"]]
    names = list(dict.fromkeys(row["part"] for row in stored.rows))
    parts = load_parts(
        task_id,
        catalogue.tasks[task_id],
        stored.dataset,
        protocol["fewshot_sampler"],
        names,
        protocol["seed"],
    )
    for part in parts:
        # As it was when the model generated; the model's window decides too.
        part.task.set_config("generation_kwargs", dict(stored.record["task"]["generation"] or {}))
    rows = stored.rows
    chosen = {name: [row["index"] for row in rows if row["part"] == name] for name in names}
    return LoadedTasks(parts, chosen)


def replay(
    task_id: str, catalogue: Catalogue, stored: Stored, tasks: LoadedTasks
) -> list[ScoredDocument]:
    """Build the requests anew, give them the stored generations, and score.

    Returns:
        As `score_documents`.

    Raises:
        UserError: when a document or a prompt is not the one of then.
    """
    from slm_benchmark.tasks.requests import (
        build_requests,
        document_digest,
        documents,
        score_documents,
    )

    record = stored.record
    seed = catalogue.protocols[record["protocol"]["id"]]["seed"]
    build_requests(tasks.parts, tasks.chosen, seed)
    by_document = {(row["part"], row["index"]): row for row in stored.rows}
    # A chat template stands around the prompts of then, and only the model has it.
    conversation = catalogue.tasks[task_id].get("conversation")
    bare = conversation or record["task"]["chat_template_sha256"] is None
    for part in tasks.parts:
        for index, requests in documents(part, tasks.chosen):
            row = by_document[part.name, index]
            if document_digest(requests[0].doc) != row["document"]:
                raise UserError(
                    f"document {index} is another one than the one that was answered",
                    file=relative(stored.path),
                    field="dataset.sha256",
                    value=record["dataset"]["sha256"],
                    fix="generate again",
                )
            for request, prompt, responses in zip(
                requests, row["prompts"], row["responses"], strict=True
            ):
                if bare and str(request.args[0]) != prompt:
                    raise UserError(
                        f"document {index} was asked with another prompt than the task has now",
                        file=relative(stored.path),
                        field="task.config_sha256",
                        value=record["task"]["config_sha256"],
                        fix="generate again",
                    )
                request.resps = list(responses)
                request.arguments = (prompt, *request.args[1:])
    return score_documents(tasks.parts, tasks.chosen)
