"""Verifying one published cell: its inputs by hash, then the same prompts to the same model."""

from __future__ import annotations

import contextlib
import random
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from slm_benchmark.catalog.catalog import Catalogue
from slm_benchmark.common import progress
from slm_benchmark.common.errors import NotRun, UserError
from slm_benchmark.common.files import atomic_write_json, read_json
from slm_benchmark.common.paths import RESULTS, ROOT, relative
from slm_benchmark.evaluation.generation import Outputs as StoredFiles
from slm_benchmark.evaluation.generation import run_and_store
from slm_benchmark.evaluation.loglikelihood import Outputs, run_and_score
from slm_benchmark.evaluation.runner import (
    CellRunner,
    LoadedTasks,
    engine_environment,
    status_of,
)
from slm_benchmark.publishing.verify.inputs import (
    ChangedInput,
    Published,
    changed_inputs,
    check_files,
    engine_differences,
    machine_differences,
    make_inputs,
    missing_inputs,
    notes,
    read_published,
)
from slm_benchmark.publishing.verify.verdict import Difference, Outcome, Repeat, decide, documents
from slm_benchmark.records.types import DocumentRow, Freeform, ScoreRecord

REPORT = "verification.json"
"""Name of the stored outcome, beside the files of the new record."""


@dataclass(frozen=True)
class VerifyOptions:
    """How a user wants a cell to be verified.

    Attributes:
        documents: Documents to run again; None, or more than there are, means all.
        seed: Seed of their choice.
        threads: CPU threads; None = those of the record.
        keep: Folder for the new records; None = they are discarded.
    """

    documents: int | None = None
    seed: int = 0
    threads: int | None = None
    keep: Path | None = None


def verify(path: Path, catalogue: Catalogue, verify_options: VerifyOptions) -> Outcome:
    """Run a published cell again and say how it compares.

    Nothing is written to results/ or runs/.

    Args:
        path: File of the record.
        catalogue: The catalogue of the checkout.
        verify_options: What to run and what to store.

    Raises:
        UserError: when the file is no score, or an input cannot be made.
        RunEnvironmentError: when memory, the disk or the network gave out.
    """
    _check_options(verify_options)
    threads = verify_options.threads
    try:
        published = read_published(path, catalogue)
        if published.record["state"] in ("not_run", "not_applicable"):
            return _nothing_to_repeat(published)
        threads = threads or published.record["engine"]["threads"]
        # The libraries read these variables when they are imported.
        with engine_environment(threads):
            check_files(published)
            if missing := missing_inputs(published):
                progress.say(f"{relative(path)}: making {', '.join(missing)}")
                make_inputs(published, missing)
                check_files(published)
            for line in notes(published):
                progress.say(f"note: {line}")
            with _folder(published, verify_options.keep) as folder:
                outcome = _repeat(published, folder, replace(verify_options, threads=threads))
                atomic_write_json(folder / REPORT, outcome.as_json())
        return outcome
    except ChangedInput as changed:
        return Outcome("changed input", str(changed))
    except NotRun as lacking:
        return Outcome("not verified", str(lacking))


def _check_options(verify_options: VerifyOptions) -> None:
    for name, value in (
        ("--documents", verify_options.documents),
        ("--threads", verify_options.threads),
    ):
        if value is not None and value < 1:
            raise UserError("at least 1 is needed", field=name, value=value, fix="give a number")
    keep = verify_options.keep
    if keep is not None:
        for folder in (RESULTS, ROOT / "runs"):
            if keep.resolve().is_relative_to(folder):
                raise UserError(
                    f"{relative(folder)}/ is not for repetitions",
                    field="--keep",
                    value=str(keep),
                    fix="name another folder",
                )


def _nothing_to_repeat(published: Published) -> Outcome:
    record = published.record
    return Outcome(
        "not verified",
        f"there is no score: the record says {record['state']}, {record['reason']} "
        "Its inputs and its digests were checked as far as the record names them",
    )


@contextlib.contextmanager
def _folder(published: Published, keep: Path | None) -> Iterator[Path]:
    """A folder for the new record: a temporary one, or the cell's under ``keep``."""
    if keep is None:
        with tempfile.TemporaryDirectory(prefix="slm-verify-") as name:
            yield Path(name)
        return
    cell = published.cell
    folder = keep.resolve().joinpath(cell.model, cell.variant, cell.protocol, cell.task)
    folder /= published.path.stem
    folder.mkdir(parents=True, exist_ok=True)
    yield folder


def _repeat(published: Published, folder: Path, verify_options: VerifyOptions) -> Outcome:
    """Run again and compare; every input was checked but the task and what scores its texts."""
    record, cell = published.record, published.cell
    assert verify_options.threads is not None
    differences = machine_differences(published, verify_options.threads)
    outputs = Outputs(
        folder / f"{cell.task}.json",
        folder / f"{cell.task}.documents.json",
        folder / f"{cell.task}.samples.parquet",
    )
    generated = published.entry["kind"] == "generate"
    target = folder / f"{published.answers_task}.answers.json" if generated else outputs.record
    with changed_inputs():
        runner = CellRunner(
            replace(cell, task=published.answers_task),
            published.catalogue,
            published.folders,
            target,
            verify_options.threads,
            counter=folder / ".sequence",
        )
    if record["state"] == "failed":
        here = _run(published, runner, None, outputs, verify_options.threads)
        return _compare_failures(record, here, differences)
    try:
        tasks = runner.load()
    except Exception as raised:
        status = status_of(raised)
        why = status.error["message"] if status.error else status.reason
        return Outcome("not verified", f"the task does not load here: {why}")
    _check_task(published, tasks, verify_options.threads)
    if unlike := _unlike_choice(published, tasks):
        return Outcome("disagrees", unlike, 0, record["dataset"]["documents"], differences)
    chosen_rows = choose_documents(
        published.documents, verify_options.documents, verify_options.seed
    )
    narrowed = tasks.narrowed(chosen_rows)
    here = _run(published, runner, narrowed, outputs, verify_options.threads)
    if here["state"] != "ok":
        error = here["error"]
        why = f"{error['type']}: {error['message']}" if error else here["reason"]
        return Outcome("not verified", f"the measurement ended as {here['state']} here: {why}")
    template = here["task"]["chat_template_sha256"]
    expected = record["task"]["chat_template_sha256"]
    published.same("task.chat_template_sha256", expected, template, published.checkout)
    judged = record.get("scoring", {}).get("judge", {}).get("kind") == "endpoint"
    if judged:
        differences.append(Difference("scoring.judge", "an endpoint of then", "the endpoint now"))
    chosen = {(part, index) for part, indices in chosen_rows.items() for index in indices}
    return decide(
        Repeat(
            entry=published.entry,
            published=record,
            here=here,
            documents=published.documents,
            rerun=[r for r in published.documents if (r.get("part", ""), r["index"]) in chosen],
            new_documents=read_json(outputs.documents),
            samples=_read_samples(outputs.samples),
            differences=differences + engine_differences(record, here),
        )
    )


def choose_documents(
    published: Sequence[DocumentRow], number: int | None, seed: int
) -> dict[str, list[int]]:
    """Part → rows of the documents to run again, ascending: all, or a random part of them.

    Args:
        published: The record's per-document values.
        wanted: Documents in all; None, or more than there are, means all.
        seed: Seed of the draw.
    """
    every = documents(published)
    count = len(every) if number is None else min(number, len(every))
    chosen: dict[str, list[int]] = defaultdict(list)
    for part, index in sorted(random.Random(seed).sample(every, count)):
        chosen[part].append(index)
    return dict(chosen)


def _check_task(published: Published, tasks: LoadedTasks, threads: int) -> None:
    """Compare what defines prompts and scores, before the model is loaded.

    Raises:
        ChangedInput: when the task, or what scores its texts, is not that of the record.
        NotRun: when this machine lacks what scoring needs.
    """
    from slm_benchmark.evaluation.requirements import scoring_tools
    from slm_benchmark.tasks.loader import parts_digest

    record, cell = published.record, published.cell
    if published.answers_task == cell.task:
        # The definition of other tasks shows when their generations are scored.
        definition = parts_digest(tasks.parts)
        _check_definition(published, definition)
    if "scoring" not in record:
        return
    with tempfile.TemporaryDirectory() as name:
        verdicts = Path(name, "verdicts.jsonl")
        tools = scoring_tools(
            published.entry, published.catalogue, published.judge, verdicts, threads
        )
        with tools as used:
            pass
    for key in sorted({*record["scoring"], *used.decisive}):
        then, now = (_stable(block.get(key)) for block in (record["scoring"], used.decisive))
        published.same(f"scoring.{key}", then, now, published.checkout)


def _check_definition(published: Published, definition: str) -> None:
    expected = published.record["task"]["config_sha256"]
    published.same("task.config_sha256", expected, definition, published.checkout)


def _stable(block: object) -> object:
    """A block of what scores, without what an endpoint says while it answers."""
    if isinstance(block, dict):
        return {key: value for key, value in block.items() if key != "served"}
    return block


def _unlike_choice(published: Published, tasks: LoadedTasks) -> str | None:
    """A sentence where the record has other documents than its protocol chooses."""
    chosen = {(part, index) for part, indices in tasks.chosen.items() for index in indices}
    recorded = set(documents(published.documents))
    lacking, more = len(chosen - recorded), len(recorded - chosen)
    if not (lacking or more):
        return None
    return (
        f"the record's documents are not those that its protocol chooses: {lacking} of them are "
        f"missing, and {more} others are there"
    )


def _run(
    published: Published,
    runner: CellRunner,
    tasks: LoadedTasks | None,
    outputs: Outputs,
    threads: int,
) -> ScoreRecord:
    """The new record of the cell, or of generations that could not be made."""
    if published.entry["kind"] == "loglikelihood":
        return run_and_score(runner, outputs, tasks)
    from slm_benchmark.evaluation.rescoring import score

    stored = StoredFiles(runner.target, runner.target.with_suffix(".parquet"))
    run_and_store(runner, stored, tasks)
    here = score(
        published.cell.task,
        published.catalogue,
        stored.record,
        published.folders.dataset,
        outputs,
        published.judge,
        threads,
    )
    if here["state"] == "ok" and published.answers_task != published.cell.task:
        _check_definition(published, here["task"]["config_sha256"])
    return here


def _read_samples(path: Path) -> list[Freeform]:
    from slm_benchmark.evaluation.scores import read_table

    return read_table(path)


def _compare_failures(
    record: ScoreRecord, here: ScoreRecord, differences: Sequence[Difference]
) -> Outcome:
    """The verdict on a cell that was published as failed."""
    then = record["error"]["type"] if record["error"] else "no error"
    now = here["error"]["type"] if here["error"] else f"the state {here['state']}"
    if here["state"] == "failed" and now == then:
        return Outcome("identical", f"it fails here too, with {then}", differences=differences)
    verdict = "underpowered" if differences else "disagrees"
    return Outcome(
        verdict, f"the record failed with {then}, here it ended with {now}", differences=differences
    )
