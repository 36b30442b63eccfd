"""One cell: one task on one variant, scored through lm-evaluation-harness, with its evidence."""

from __future__ import annotations

import errno
import os
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slm_benchmark import progress
from slm_benchmark.config import Catalogue, Cell
from slm_benchmark.engines.identity import engine_name, sources_sha256, unknown_engine
from slm_benchmark.errors import EnvironmentFault, UserError
from slm_benchmark.files import atomic_write_bytes, atomic_write_json, digest, read_json
from slm_benchmark.hardware import identity as hardware_identity
from slm_benchmark.manifest import read_manifest, verify_files
from slm_benchmark.paths import ROOT
from slm_benchmark.provenance import (
    RECORDED_PACKAGES,
    command_for,
    environment_identity,
    model_block,
    next_sequence,
    now,
    protocol_block,
    result_digest,
    variant_block,
    workflow_identity,
)
from slm_benchmark.schemas import write_record
from slm_benchmark.statistics.proportion import mean_interval, standard_error

SEQUENCE_COUNTER = ROOT / "runs" / ".sequence"


@dataclass(frozen=True)
class Folders:
    """Inputs of a cell on disk.

    Attributes:
        weights: Folder of the variant.
        base: Folder of the base model, for its tokenizer.
        dataset: Folder of the prepared dataset.
    """

    weights: Path
    base: Path
    dataset: Path


@dataclass(frozen=True)
class Outputs:
    """Files that a cell consists of; the record is written last."""

    record: Path
    documents: Path
    samples: Path

    @property
    def journal(self) -> Path:
        """Where finished documents are kept until the record is written."""
        return self.record.with_suffix(".journal.jsonl")


@dataclass(frozen=True)
class Measurement:
    """What came out of the harness.

    Attributes:
        scores: The cell schema's ``scores``.
        checks: The cell schema's ``checks``.
        documents: Per-document values without text: hash, one value per metric, margin.
        samples: Per-document samples with text.
    """

    scores: list[dict[str, Any]]
    checks: dict[str, Any]
    documents: list[dict[str, Any]]
    samples: list[dict[str, Any]]


@dataclass
class Attempt:
    """How far the measurement of a cell got; what was not reached stays None or empty.

    Attributes:
        task: The harness's task.
        engine: The loaded `Engine`.
        samples: The harness's samples.
        error: The cell schema's ``error`` block, when the model or the task failed.
    """

    task: Any = None
    engine: Any = None
    samples: list[dict[str, Any]] = field(default_factory=list)
    error: dict[str, str] | None = None


NOTHING = Measurement(
    scores=[],
    checks={
        "truncated_contexts": None,
        "truncated_generations": None,
        "empty_generations": None,
        "unparsed": None,
        "at_chance": None,
    },
    documents=[],
    samples=[],
)


def evaluate(
    cell: Cell, catalogue: Catalogue, folders: Folders, outputs: Outputs, threads: int
) -> dict[str, Any]:
    """Measure one cell and write its record, its per-document values and its samples.

    An error of the model or the task is itself a result: a record with state ``failed``. A fault
    of the surroundings is raised, so that the same command can try again.

    Returns:
        The record.

    Raises:
        UserError: for bad input, such as an input file that differs from its manifest.
        EnvironmentFault: when memory, the disk or the network gave out.
    """
    began, started = time.monotonic(), now()
    model = catalogue.models[cell.model]
    entry = catalogue.tasks[cell.task]
    protocol = catalogue.protocols[cell.protocol]
    hardware = catalogue.hardware[cell.hardware]
    machine = hardware_identity(cell.hardware, hardware)
    verify_files(folders.weights)
    verify_files(folders.base)
    base, variant = read_manifest(folders.base), read_manifest(folders.weights)
    dataset = read_json(folders.dataset / "manifest.json")
    sequence = next_sequence(SEQUENCE_COUNTER)
    choices = catalogue.scoring_choices(cell.task, cell.protocol)
    environment = environment_identity(RECORDED_PACKAGES)
    decisive = {
        "weights": variant["sha256"],
        "base": base["sha256"],
        "dataset": dataset["sha256"],
        "choices": choices,
        "environment": environment,
        "hardware": machine["fingerprint"],
        "sources": sources_sha256(),
    }
    tried = attempt(cell, catalogue, folders, outputs.journal, decisive, threads)
    measurement = summarise(tried.samples, entry, tried.engine.lm) if tried.samples else NOTHING
    tokens = tried.engine.lm.tokens() if measurement.samples else None
    if tokens:
        progress.say(
            "{}: forwarded {forwarded_tokens} tokens for {unique_tokens} different ones "
            "({chunk_rounding_tokens} by chunk rounding)".format(_name(cell), **tokens)
        )

    record: dict[str, Any] = {
        "schema_version": 1,
        "kind": "score",
        "state": "failed" if tried.error else "ok",
        "error": tried.error,
        "model": model_block(model, base),
        "variant": variant_block(variant),
        "dataset": dataset_block(dataset, tried.task, measurement),
        "task": task_block(cell.task, entry, protocol, tried, model.chat),
        "protocol": protocol_block(cell.protocol, protocol["version"], choices),
        "engine": tried.engine.identity
        if tried.engine
        else unknown_engine(cell.variant, threads, catalogue.engine(cell.protocol)),
        "tokens": tokens,
        "environment": environment,
        "hardware": machine,
        "workflow": workflow_identity(model.file),
        "scores": measurement.scores,
        "checks": measurement.checks,
        "samples_sha256": digest(measurement.samples) if measurement.samples else None,
        "documents_sha256": digest(measurement.documents) if measurement.documents else None,
        "result_sha256": "",
        "sequence": sequence,
        "started": started,
        "duration_s": round(time.monotonic() - began, 3),
        "command": command_for(outputs.record, cell.protocol, cell.hardware),
    }
    record["result_sha256"] = result_digest(record)
    write_samples(outputs.samples, measurement.samples)
    atomic_write_json(outputs.documents, measurement.documents)
    write_record(outputs.record, record, "cell")
    outputs.journal.unlink(missing_ok=True)
    return record


def _name(cell: Cell) -> str:
    return f"{cell.model} {cell.variant} {cell.task}"


def attempt(
    cell: Cell,
    catalogue: Catalogue,
    folders: Folders,
    journal: Path,
    decisive: Mapping[str, Any],
    threads: int,
) -> Attempt:
    """Load the task and the model, and score the chosen documents.

    Args:
        cell: What to measure.
        catalogue: The catalogue of the checkout.
        folders: The inputs.
        journal: Where finished documents are kept, for when this process is killed.
        decisive: What decides the answers, task and engine apart: documents that were finished
            under anything else are not taken over.
        threads: CPU threads.

    Raises:
        UserError: for bad input.
        EnvironmentFault: when memory, the disk or the network gave out.
    """
    model = catalogue.models[cell.model]
    protocol = catalogue.protocols[cell.protocol]
    wanted = catalogue.documents(cell.task, cell.protocol)
    tried = Attempt()
    try:
        # The libraries read these variables when they are imported.
        with engine_environment(threads):
            from slm_benchmark.engines import Settings, load_engine
            from slm_benchmark.engines.journal import Journal
            from slm_benchmark.tasks.harness import document_subset, load_task, task_digest

            tried.task = load_task(
                cell.task,
                catalogue.tasks[cell.task],
                folders.dataset,
                protocol["fewshot_sampler"],
            )
            chosen = document_subset(len(tried.task.eval_docs), wanted, protocol["seed"])
            task = task_digest(tried.task)
            tried.engine = load_engine(
                engine_name(cell.variant, catalogue.engine(cell.protocol)),
                folders.weights,
                folders.base,
                Settings(
                    max_length=min(model.context_length, protocol["max_context_tokens"]),
                    threads=threads,
                    dtype=protocol["dtype"],
                    device=catalogue.hardware[cell.hardware]["device"],
                    trust_remote_code=model.trust_remote_code,
                    seed=protocol["seed"],
                ),
                progress=progress.documents(_name(cell)),
                journal=lambda engine: Journal(
                    journal, {**decisive, "task": task, "engine": engine}
                ),
            )
            tried.samples = run_harness(tried.engine.lm, tried.task, protocol, chosen, model.chat)
    except Exception as raised:
        raise_if_environment(raised)
        traceback.print_exc()
        tried.error = describe_error(raised)
    return tried


def dataset_block(manifest: dict[str, Any], task: Any, measurement: Measurement) -> dict[str, Any]:
    """The cell schema's ``dataset`` block; a task that did not load names no split."""
    from slm_benchmark.tasks.harness import evaluation_split

    split = "unknown" if task is None else evaluation_split(task)
    rows = {name: described["rows"] for name, described in manifest["splits"].items()}
    return {
        "id": manifest["dataset"],
        "source": manifest["source"],
        "revision": manifest["revision"],
        "sha256": manifest["sha256"],
        "split": split,
        "documents_total": rows.get(split, sum(rows.values())),
        "documents": len({document["index"] for document in measurement.documents}),
    }


def task_block(
    task_id: str, entry: dict[str, Any], protocol: dict[str, Any], tried: Attempt, chat: bool
) -> dict[str, Any]:
    """The cell schema's ``task`` block; one that did not load is known by its entry alone."""
    from slm_benchmark.tasks.harness import task_digest

    task, engine = tried.task, tried.engine
    generates = entry["kind"] == "generate" and task is not None
    return {
        "id": task_id,
        "harness_task": entry["harness_task"],
        "version": "unknown" if task is None else task.VERSION,
        "config_sha256": digest(entry) if task is None else task_digest(task),
        "num_fewshot": entry["num_fewshot"],
        "fewshot_sampler": protocol["fewshot_sampler"],
        "chat_template_sha256": chat_template_digest(engine.lm, protocol, chat) if engine else None,
        "generation": task.config.generation_kwargs if generates else None,
        "metric": entry["metric"],
        "filter": entry.get("filter", "none"),
    }


def run_harness(
    lm: Any, task: Any, protocol: dict[str, Any], chosen: Sequence[int], chat: bool
) -> list[dict[str, Any]]:
    """Score the chosen documents.

    Returns:
        The harness's samples, by filter and document.
    """
    import lm_eval
    from lm_eval.tasks import TaskManager

    limit = protocol["max_gen_toks"]
    results = lm_eval.simple_evaluate(
        model=lm,
        tasks=[task],
        samples={task.config.task: list(chosen)},
        gen_kwargs=None if limit is None else {"max_gen_toks": limit},
        apply_chat_template=chat and protocol["chat_template"] == "chat_models",
        log_samples=True,
        bootstrap_iters=0,
        # The task is loaded; without this the harness reads thousands of definitions again.
        task_manager=TaskManager(include_defaults=False),
        random_seed=protocol["seed"],
        numpy_random_seed=protocol["seed"],
        torch_random_seed=protocol["seed"],
        fewshot_random_seed=protocol["seed"],
    )
    return sorted(results["samples"][task.config.task], key=lambda s: (s["filter"], s["doc_id"]))


def summarise(samples: list[dict[str, Any]], entry: dict[str, Any], lm: Any) -> Measurement:
    """Scores with intervals, sanity checks and per-document values from the harness's samples."""
    headline = (entry["metric"], entry.get("filter", "none"))
    scores = []
    for filter_name in dict.fromkeys(sample["filter"] for sample in samples):
        group = [sample for sample in samples if sample["filter"] == filter_name]
        for metric in group[0]["metrics"]:
            values = [float(sample[metric]) for sample in group]
            interval, method = mean_interval(values)
            is_headline = (metric, filter_name) == headline
            scores.append(
                {
                    "metric": metric,
                    "filter": filter_name,
                    "value": sum(values) / len(values),
                    "stderr": standard_error(values),
                    "ci95": None if interval is None else list(interval),
                    "ci_method": method,
                    "n": len(values),
                    "chance": entry["chance"] if is_headline else None,
                    "headline": is_headline,
                }
            )
    if not any(score["headline"] for score in scores):
        raise UserError(
            f"the harness gave no metric {headline[0]!r} after the filter {headline[1]!r}",
            file="config/tasks.yaml",
            field="metric",
            value=headline[0],
            fix="use one of " + ", ".join(f"{s['metric']} ({s['filter']})" for s in scores),
        )
    return Measurement(
        scores=scores,
        checks=sanity_checks(samples, scores, entry, lm),
        documents=[compact(sample, entry["kind"]) for sample in samples],
        samples=[plain_sample(sample) for sample in samples],
    )


def sanity_checks(
    samples: list[dict[str, Any]],
    scores: list[dict[str, Any]],
    entry: dict[str, Any],
    lm: Any,
) -> dict[str, Any]:
    """What a reader should know beside a score."""
    score = next(s for s in scores if s["headline"])
    group = [s for s in samples if s["filter"] == entry.get("filter", "none")]
    generated = entry["kind"] == "generate"
    texts = [sample["resps"][0][0] for sample in group] if generated else []
    return {
        "truncated_contexts": len(lm.truncated),
        "truncated_generations": len(lm.unfinished)
        if generated and lm.unfinished is not None
        else None,
        "empty_generations": sum(not text.strip() for text in texts) if generated else None,
        "unparsed": sum(sample["filtered_resps"][0] == "[invalid]" for sample in group)
        if generated
        else None,
        "at_chance": None
        if score["ci95"] is None
        else score["ci95"][0] <= entry["chance"] <= score["ci95"][1],
    }


def compact(sample: dict[str, Any], kind: str) -> dict[str, Any]:
    """A document's values without its text.

    The margin is how far the right choice lies above the best wrong one, in nats; null for
    generated answers.
    """
    margin = None
    target = sample["target"]
    if kind == "loglikelihood" and str(target).isdigit():
        sums = [float(response[0]) for response in sample["filtered_resps"]]
        right = sums.pop(int(target))
        margin = round(right - max(sums), 6) if sums else None
    return {
        "document": sample["doc_hash"],
        "index": sample["doc_id"],
        "filter": sample["filter"],
        "values": {metric: float(sample[metric]) for metric in sample["metrics"]},
        "margin": margin,
    }


def plain_sample(sample: dict[str, Any]) -> dict[str, Any]:
    """A document's sample as JSON values, with prompts and answers."""
    return {
        "index": sample["doc_id"],
        "filter": sample["filter"],
        "document": sample["doc_hash"],
        "target": str(sample["target"]),
        "prompts": [[str(part) for part in argument] for argument in sample["arguments"]],
        "responses": [_plain_response(r) for response in sample["resps"] for r in response],
        "answers": [_plain_response(response) for response in sample["filtered_resps"]],
        "values": {metric: float(sample[metric]) for metric in sample["metrics"]},
    }


def _plain_response(response: Any) -> Any:
    if isinstance(response, tuple | list):
        return [_plain_response(part) for part in response]
    if isinstance(response, str | bool):
        return response
    return float(response)


def write_samples(path: Path, samples: list[dict[str, Any]]) -> None:
    """Write samples as parquet: index and hashes as columns, everything else as JSON text."""
    import json

    import pyarrow as pa
    import pyarrow.parquet as pq

    columns: dict[str, list[Any]] = {"index": [], "filter": [], "document": [], "sample": []}
    for sample in samples:
        for key in ("index", "filter", "document"):
            columns[key].append(sample[key])
        columns["sample"].append(json.dumps(sample, ensure_ascii=False))
    types = [pa.int64(), pa.string(), pa.string(), pa.string()]
    table = pa.table(
        {
            key: pa.array(values, type=kind)
            for (key, values), kind in zip(columns.items(), types, strict=True)
        }
    )
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    atomic_write_bytes(path, sink.getvalue().to_pybytes())


def chat_template_digest(lm: Any, protocol: dict[str, Any], chat: bool) -> str | None:
    """Digest of the chat template, or None where none is applied."""
    if not (chat and protocol["chat_template"] == "chat_models"):
        return None
    return digest(lm.chat_template(True))


def describe_error(error: Exception) -> dict[str, str]:
    """The cell schema's ``error`` block."""
    lines = traceback.format_exception(error)
    return {
        "type": type(error).__name__,
        "message": str(error)[:2000],
        "traceback": "".join(lines)[-4000:],
    }


def raise_if_environment(error: BaseException) -> None:
    """Raise what is no fault of the model or the task, so that it is retried, not recorded."""
    if isinstance(error, UserError):
        raise error
    text = str(error).lower()
    out_of_memory = isinstance(error, MemoryError) or any(
        words in text for words in ("out of memory", "can't allocate memory", "not enough memory")
    )
    if out_of_memory:
        raise EnvironmentFault(
            f"out of memory: {error}", fix="free memory, or run fewer jobs at once"
        ) from error
    if isinstance(error, ConnectionError | TimeoutError):
        raise EnvironmentFault(f"network fault: {error}", fix="try again") from error
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
        raise EnvironmentFault(f"disk fault: {error}", fix="free space and try again") from error


@contextmanager
def engine_environment(threads: int) -> Iterator[None]:
    """Environment variables that the engines read at import; evaluation has no network."""
    wanted = {
        "OMP_NUM_THREADS": str(threads),
        "GPTQMODEL_CPU_WORKERS": str(max(2, threads)),
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    before = {key: os.environ.get(key) for key in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value
