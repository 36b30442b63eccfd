"""Scoring of stored generations (see `generation`): no model, on this machine or another one."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from slm_benchmark.catalog.catalog import Catalogue
from slm_benchmark.common.errors import NotRun, UserError
from slm_benchmark.common.files import digest, read_json
from slm_benchmark.common.paths import relative
from slm_benchmark.common.schemas import read_record
from slm_benchmark.evaluation.generation import truncated_generations
from slm_benchmark.evaluation.loglikelihood import Outputs, results, write_cell
from slm_benchmark.evaluation.requirements import Used, scoring_tools
from slm_benchmark.evaluation.runner import (
    CellRun,
    Record,
    engine_environment,
    recording,
    task_block,
)
from slm_benchmark.evaluation.scores import NOTHING, Given, read_table, summarise
from slm_benchmark.records.hardware import describe
from slm_benchmark.records.provenance import (
    RECORDED_PACKAGES,
    command_for,
    environment_identity,
    now,
    protocol_block,
    result_digest,
    workflow_identity,
)

_FROM_ANSWERS = (
    "schema_version",
    "model",
    "variant",
    "dataset",
    "engine",
    "tokens",
    "environment",
    "hardware",
    "workflow",
    "sequence",
    "started",
    "duration_s",
)


def score(
    task_id: str,
    catalogue: Catalogue,
    answers: Path,
    dataset: Path,
    outputs: Outputs,
    judge: str | None,
    threads: int = 1,
) -> Record:
    """Score kept answers and write the cell's record, per-document values and samples.

    Args:
        task_id: The column; its own answers, or those that its entry names under answers_of.
        catalogue: The catalogue of the checkout.
        answers: The record of the answers; they lie beside it.
        dataset: Folder of the dataset that they answer.
        outputs: The files to write.
        judge: Id of the judge, for a task that asks one; None where there is none.
        threads: CPU threads of a judge that runs on this machine.

    Returns:
        The record.

    Raises:
        UserError: when the answers were changed, or were given to other documents or prompts.
        RunEnvironmentError: when memory, the disk or the network gave out.
    """
    began, started = time.monotonic(), now()
    kept = read_answers(answers)
    check_known(kept, answers, catalogue)
    rows = read_rows(answers, kept)
    entry = catalogue.tasks[task_id]
    manifest = read_json(dataset / "manifest.json")
    if manifest["sha256"] != kept["dataset"]["sha256"]:
        raise UserError(
            f"the answers were given to other documents than those in {relative(dataset)}",
            file=relative(answers),
            field="dataset.sha256",
            value=kept["dataset"]["sha256"],
            fix="generate again, or prepare the dataset that was answered",
        )
    cell_run, measurement = CellRun(state=kept["state"], error=kept["error"]), NOTHING
    cell_run.reason = kept.get("reason")
    used = Used()
    verdicts = outputs.record.with_name(f"{task_id}.verdicts.jsonl")
    with engine_environment(threads), contextlib.ExitStack() as stack:
        try:
            tools = scoring_tools(entry, catalogue, judge, verdicts, threads)
            used = stack.enter_context(tools) if rows else Used()
        except NotRun as lacking:
            cell_run.state, cell_run.reason, rows = "not_run", str(lacking), []
        if rows:
            with recording(cell_run):
                replay(cell_run, rows, task_id, catalogue, kept, answers, dataset)
                given = Given(kept["truncated_contexts"], truncated_generations(rows))
                measurement = summarise(cell_run.samples, entry, cell_run.parts, given)
    protocol = kept["protocol"]["id"]
    choices = catalogue.scoring_choices(task_id, protocol)
    record: Record = {
        **{key: kept[key] for key in _FROM_ANSWERS},
        "state": cell_run.state,
        "error": cell_run.error,
        **({"reason": cell_run.reason} if cell_run.reason else {}),
        "task": {
            **task_block(task_id, entry, cell_run.parts),
            **{key: kept["task"][key] for key in ("fewshot_sampler", "chat_template_sha256")},
        },
        "protocol": protocol_block(protocol, kept["protocol"]["version"], choices),
        "answers_sha256": kept["answers_sha256"],
        "scoring": used.decisive,
        **results(measurement),
        "result_sha256": "",
        "command": command_for(
            [outputs.record, answers], protocol, kept["hardware"]["id"], judge=judge
        ),
    }
    if cell_run.state != "ok":
        record["dataset"] = {**kept["dataset"], "documents": 0}
    record["scored"] = {
        "environment": environment_identity(RECORDED_PACKAGES),
        "hardware": describe(),
        "workflow": workflow_identity(catalogue.models[kept["model"]["id"]].file),
        "started": started,
        "duration_s": round(time.monotonic() - began, 3),
        **used.seen,
    }
    write_cell(record, measurement, outputs)
    if cell_run.state == "ok":
        verdicts.unlink(missing_ok=True)
    return record


def score_kept(
    catalogue: Catalogue, answers: Path, judge: str | None, threads: int
) -> Iterator[str]:
    """Score kept answers as every column that reads them, without the workflow.

    What scoring needs beside them is prepared here where it is missing; the model is not needed.

    Args:
        catalogue: The catalogue of the checkout.
        answers: Record of the answers.
        judge: Id of the judge; None = judged columns are not run.
        threads: CPU threads of a judge that runs on this machine.

    Yields:
        A line for each column: its score, or why there is none.

    Raises:
        UserError: as `score`.
    """
    from slm_benchmark.evaluation.requirements import can_score, prepare_tools
    from slm_benchmark.records.store import headline

    kept = read_answers(answers)
    check_known(kept, answers, catalogue)
    protocol = kept["protocol"]["id"]
    for task in catalogue.tasks:
        if catalogue.answers_of(task) != kept["task"]["id"]:
            continue
        entry = catalogue.tasks[task]
        path = answers.with_name(f"{task}.json")
        if not can_score(entry, judge) and _is_scored(path, kept):
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


def _is_scored(path: Path, kept: Mapping[str, Any]) -> bool:
    """Whether there is a score of these very answers already."""
    if not path.exists():
        return False
    record = read_record(path, "cell")
    return bool(record["state"] == "ok" and record["answers_sha256"] == kept["answers_sha256"])


def check_known(kept: Mapping[str, Any], answers: Path, catalogue: Catalogue) -> None:
    """Refuse answers of a model, task or protocol that this checkout does not have as it was.

    Raises:
        UserError: naming what differs.
    """
    for block, known, place in (
        ("model", catalogue.models, "models/"),
        ("task", catalogue.tasks, "config/tasks.yaml"),
        ("protocol", catalogue.protocols, "config/protocols.yaml"),
    ):
        if kept[block]["id"] not in known:
            raise UserError(
                f"the answers belong to a {block} that this checkout does not have",
                file=relative(answers),
                field=f"{block}.id",
                value=kept[block]["id"],
                fix=f"add its entry to {place}, as it was when they were given",
            )
    choices = catalogue.scoring_choices(kept["task"]["id"], kept["protocol"]["id"])
    if digest(choices) != kept["protocol"]["sha256"]:
        raise UserError(
            "the answers were given under other choices than the protocol and the task have now",
            file=relative(answers),
            field="protocol.sha256",
            value=kept["protocol"]["sha256"],
            fix="use the configuration of then, or generate again",
        )


def read_answers(path: Path) -> Record:
    """The record of kept answers.

    Raises:
        UserError: when it breaks its schema, or was edited.
    """
    record: Record = read_record(path, "answers")
    if result_digest(record) != record["result_sha256"]:
        raise _edited(path, "result_sha256", record["result_sha256"], "the record was edited")
    return record


def read_rows(answers: Path, record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The answers themselves, checked against their record.

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
    rows = read_table(path)
    if (digest(rows) if rows else None) != record["answers_sha256"]:
        raise _edited(
            path, "answers_sha256", record["answers_sha256"], "the answers are not the record's"
        )
    return rows


def _edited(path: Path, field: str, value: object, what: str) -> UserError:
    return UserError(
        what, file=relative(path), field=field, value=value, fix="restore it, or generate again"
    )


def replay(
    cell_run: CellRun,
    rows: Sequence[Mapping[str, Any]],
    task_id: str,
    catalogue: Catalogue,
    kept: Mapping[str, Any],
    answers: Path,
    dataset: Path,
) -> None:
    """Build the requests of the answered documents anew, give them the answers, and score."""
    from slm_benchmark.tasks.loader import load_parts
    from slm_benchmark.tasks.requests import (
        build_requests,
        document_digest,
        documents,
        score_documents,
    )

    protocol = catalogue.protocols[kept["protocol"]["id"]]
    names = list(dict.fromkeys(row["part"] for row in rows))
    cell_run.parts = load_parts(
        task_id,
        catalogue.tasks[task_id],
        dataset,
        protocol["fewshot_sampler"],
        names,
        protocol["seed"],
    )
    for part in cell_run.parts:
        # As it was when the answers were given; the model's window decides too.
        part.task.set_config("generation_kwargs", dict(kept["task"]["generation"]))
    cell_run.chosen = {
        name: [row["index"] for row in rows if row["part"] == name] for name in names
    }
    build_requests(cell_run.parts, cell_run.chosen, protocol["seed"])
    by_place = {(row["part"], row["index"]): row for row in rows}
    # A chat template stands around the prompts that were asked, and only the model has it.
    conversation = catalogue.tasks[task_id].get("conversation")
    bare = conversation or kept["task"]["chat_template_sha256"] is None
    for part in cell_run.parts:
        for index, requests in documents(part, cell_run.chosen):
            row = by_place[part.name, index]
            if document_digest(requests[0].doc) != row["document"]:
                raise UserError(
                    f"document {index} is another one than the one that was answered",
                    file=relative(answers),
                    field="dataset.sha256",
                    value=kept["dataset"]["sha256"],
                    fix="generate again",
                )
            for request, prompt, responses in zip(
                requests, row["prompts"], row["responses"], strict=True
            ):
                if bare and str(request.args[0]) != prompt:
                    raise UserError(
                        f"document {index} was asked with another prompt than the task has now",
                        file=relative(answers),
                        field="task.config_sha256",
                        value=kept["task"]["config_sha256"],
                        fix="generate again",
                    )
                request.resps = list(responses)
                request.arguments = (prompt, *request.args[1:])
    cell_run.samples = score_documents(cell_run.parts, cell_run.chosen)
