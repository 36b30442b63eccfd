"""Putting the documents of one cell to its model: the part of a measurement that needs it."""

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

from slm_benchmark.catalog.catalog import Catalogue
from slm_benchmark.catalog.run_config import Cell
from slm_benchmark.common import progress
from slm_benchmark.common.errors import NotApplicable, NotRun, RunEnvironmentError, UserError
from slm_benchmark.common.files import digest, read_json
from slm_benchmark.common.paths import ROOT
from slm_benchmark.download.weights import read_manifest, verify_files
from slm_benchmark.engines.identity import engine_name, sources_sha256, unknown_engine
from slm_benchmark.engines.memory import declared_budget_bytes
from slm_benchmark.evaluation.requirements import task_resources
from slm_benchmark.records.hardware import identity as hardware_identity
from slm_benchmark.records.provenance import (
    RECORDED_PACKAGES,
    command_for,
    environment_identity,
    model_block,
    next_sequence,
    now,
    protocol_block,
    variant_block,
    workflow_identity,
)

SEQUENCE_COUNTER = ROOT / "runs" / ".sequence"

Record = dict[str, Any]


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


@dataclass
class CellRun:
    """How far a measurement got; what was not reached stays None or empty.

    Attributes:
        parts: The harness's tasks.
        chosen: Indices of the chosen documents of each part.
        engine: The loaded `Engine`.
        truncated_contexts: Documents whose context was cut from the left.
        unfinished: (task, place among the chosen) of documents whose answer was cut at its limit;
            None where the engine does not tell.
        samples: What `score_documents` gave.
        state: The records' ``state``.
        error: The records' ``error`` block, when the model or the task failed.
        reason: Why there is nothing to measure, in the states not_run and not_applicable.
    """

    parts: list[Any] = field(default_factory=list)
    chosen: dict[str, list[int]] = field(default_factory=dict)
    engine: Any = None
    truncated_contexts: int | None = None
    unfinished: set[tuple[str, int]] | None = None
    samples: list[dict[str, Any]] = field(default_factory=list)
    state: str = "ok"
    error: dict[str, str] | None = None
    reason: str | None = None


@contextmanager
def recording(cell_run: CellRun) -> Iterator[None]:
    """Keep an error of the model or the task as the attempt's result.

    Raises:
        UserError: for bad input.
        RunEnvironmentError: when memory, the disk or the network gave out.
    """
    try:
        yield
    except (NotApplicable, NotRun) as raised:
        cell_run.state = "not_run" if isinstance(raised, NotRun) else "not_applicable"
        cell_run.reason = str(raised)
    except Exception as raised:
        raise_if_environment(raised)
        traceback.print_exc()
        cell_run.state, cell_run.error = "failed", describe_error(raised)


class CellRunner:
    """One cell's question to its model, and the blocks that its record begins with.

    Args:
        cell: What to measure.
        catalogue: The catalogue of the checkout.
        folders: The inputs.
        record: The file that will say how it went.
        threads: CPU threads.
        counter: Counts the evaluations of a checkout; None = the one of runs/.

    Raises:
        UserError: for bad input, such as an input file that differs from its manifest.
    """

    def __init__(
        self,
        cell: Cell,
        catalogue: Catalogue,
        folders: Folders,
        record: Path,
        threads: int,
        counter: Path | None = None,
    ) -> None:
        self.cell, self.catalogue, self.folders = cell, catalogue, folders
        self.target, self.threads = record, threads
        self._began, self._started = time.monotonic(), now()
        self.model = catalogue.models[cell.model]
        self.entry = catalogue.tasks[cell.task]
        self.protocol = catalogue.protocols[cell.protocol]
        self._machine = hardware_identity(cell.hardware, catalogue.hardware[cell.hardware])
        verify_files(folders.weights)
        verify_files(folders.base)
        self._base = read_manifest(folders.base)
        self._variant = read_manifest(folders.weights)
        self._dataset = read_json(folders.dataset / "manifest.json")
        self._sequence = next_sequence(counter or SEQUENCE_COUNTER)
        self._choices = catalogue.scoring_choices(cell.task, cell.protocol)
        self._environment = environment_identity(RECORDED_PACKAGES)

    @property
    def journal(self) -> Path:
        """Where finished documents are kept until the record is written."""
        return self.target.with_name(f"{self.cell.task}.journal.jsonl")

    def ask(self, cell_run: CellRun) -> None:
        """Load the model, and the tasks where `load` did not yet, and put the documents to it."""
        self.load(cell_run)
        with task_resources(self.entry):
            self._ask(cell_run)

    def load(self, cell_run: CellRun) -> None:
        """Load the tasks and choose their documents; the model is not needed.

        What is loaded already stays, so that a caller may `narrow` the choice before it asks.
        """
        if not cell_run.parts:
            with task_resources(self.entry):
                self._load(cell_run)

    def _load(self, cell_run: CellRun) -> None:
        from slm_benchmark.tasks.loader import load_parts

        cell, protocol = self.cell, self.protocol
        cell_run.parts = load_parts(
            cell.task,
            self.entry,
            self.folders.dataset,
            protocol["fewshot_sampler"],
            self.catalogue.parts(cell.task, cell.model),
            protocol["seed"],
        )
        limit = self.catalogue.max_gen_toks(cell.task, cell.protocol)
        limit_answers(cell_run.parts, limit, self._window)
        wanted = self.catalogue.documents(cell.task, cell.protocol)
        cell_run.chosen = choose(cell_run.parts, self.entry, wanted, protocol["seed"])

    @property
    def _window(self) -> int:
        """Longest prompt and answer together, in tokens."""
        return min(self.model.context_length, int(self.protocol["max_context_tokens"]))

    def _ask(self, cell_run: CellRun) -> None:
        from slm_benchmark.engines.journal import Journal
        from slm_benchmark.engines.load import load_engine
        from slm_benchmark.engines.settings import Settings
        from slm_benchmark.tasks.conversation import ConversationLM
        from slm_benchmark.tasks.loader import parts_digest
        from slm_benchmark.tasks.requests import ask, build_requests

        cell, protocol, model = self.cell, self.protocol, self.model
        hardware = self.catalogue.hardware[cell.hardware]
        decisive = {
            "weights": self._variant["sha256"],
            "base": self._base["sha256"],
            "dataset": self._dataset["sha256"],
            "choices": self._choices,
            "environment": self._environment,
            "hardware": self._machine["fingerprint"],
            "sources": sources_sha256(),
            "task": parts_digest(cell_run.parts),
        }
        cell_run.engine = load_engine(
            engine_name(cell.variant, self.catalogue.engine(cell.protocol)),
            self.folders.weights,
            self.folders.base,
            Settings(
                max_length=self._window,
                threads=self.threads,
                dtype=protocol["dtype"],
                device=hardware["device"],
                trust_remote_code=model.trust_remote_code,
                seed=protocol["seed"],
                memory_budget_bytes=declared_budget_bytes(hardware.get("memory_limit_bytes")),
            ),
            progress=progress.documents(self.name),
            journal=lambda engine: Journal(self.journal, {**decisive, "engine": engine}),
        )
        lm = cell_run.engine.lm
        # A conversation is put into the template turn by turn.
        chat = self.templated and not self.entry.get("conversation")
        build_requests(cell_run.parts, cell_run.chosen, protocol["seed"], lm if chat else None)
        ask(ConversationLM(lm) if self.entry.get("conversation") else lm, cell_run.parts)
        cell_run.truncated_contexts = len(lm.truncated)
        cell_run.unfinished = lm.unfinished

    @property
    def templated(self) -> bool:
        """Whether the protocol wraps prompts in the model's chat template."""
        return self.model.chat and self.protocol["chat_template"] == "chat_models"

    @property
    def name(self) -> str:
        """The cell in a line of progress."""
        return f"{self.cell.model} {self.cell.variant} {self.cell.task}"

    def blocks(self, cell_run: CellRun) -> Record:
        """What a record says before its results: everything that was measured and with what."""
        cell = self.cell
        tokens = cell_run.engine.lm.tokens() if cell_run.engine and cell_run.state == "ok" else None
        if tokens:
            progress.say(
                "{}: forwarded {forwarded_tokens} tokens for {unique_tokens} different ones "
                "({chunk_rounding_tokens} by chunk rounding)".format(self.name, **tokens)
            )
        choice = self.catalogue.engine(cell.protocol)
        return {
            "schema_version": 1,
            "kind": "",
            "state": cell_run.state,
            "error": cell_run.error,
            **({"reason": cell_run.reason} if cell_run.reason else {}),
            "model": model_block(self.model, self._base),
            "variant": variant_block(self._variant),
            "dataset": dataset_block(self._dataset, cell_run),
            "task": self._task_block(cell_run),
            "protocol": protocol_block(cell.protocol, self.protocol["version"], self._choices),
            "engine": cell_run.engine.identity
            if cell_run.engine
            else unknown_engine(cell.variant, self.threads, choice),
            "tokens": tokens,
            "environment": self._environment,
            "hardware": self._machine,
            "workflow": workflow_identity(self.model.file),
        }

    def _task_block(self, cell_run: CellRun) -> Record:
        chat = self.entry.get("conversation") or self.templated
        template = cell_run.engine.lm.chat_template(True) if chat and cell_run.engine else None
        return {
            **task_block(self.cell.task, self.entry, cell_run.parts),
            "fewshot_sampler": self.protocol["fewshot_sampler"],
            "chat_template_sha256": digest(template) if template else None,
        }

    def closing(self) -> Record:
        """What a record says after its results."""
        return {
            "result_sha256": "",
            "sequence": self._sequence,
            "started": self._started,
            "duration_s": round(time.monotonic() - self._began, 3),
            "command": command_for([self.target], self.cell.protocol, self.cell.hardware),
        }


def narrow(cell_run: CellRun, wanted: Mapping[str, Sequence[int]]) -> None:
    """Keep some of the documents that were chosen, and the parts that have any of them.

    Args:
        cell_run: An attempt whose tasks are loaded.
        wanted: Part → indices of its documents.
    """
    # The harness takes an empty list of documents for all of them.
    cell_run.parts = [part for part in cell_run.parts if wanted.get(part.name)]
    cell_run.chosen = {part.name: sorted(wanted[part.name]) for part in cell_run.parts}


def limit_answers(parts: Sequence[Any], limit: int | None, window: int) -> None:
    """Set the limit of generated tokens: the protocol's or the task's, and half the window at most.

    An answer that may take the whole window of a small model would leave its prompt no room.

    Args:
        parts: The loaded parts.
        limit: The protocol's limit; None where it has none.
        window: Longest prompt and answer together, in tokens.
    """
    from lm_eval.models.utils import normalize_gen_kwargs

    from slm_benchmark.engines.lm import DEFAULT_MAX_GEN_TOKS

    for part in parts:
        if part.task.get_config("output_type") != "generate_until":
            continue
        settings = normalize_gen_kwargs(
            dict(part.task.config.generation_kwargs), DEFAULT_MAX_GEN_TOKS
        )
        own = int(settings["max_gen_toks"])
        allowed = min(own, own if limit is None else limit, window // 2)
        if allowed < own:
            part.task.set_config("generation_kwargs", {"max_gen_toks": allowed}, update=True)


def choose(
    parts: Sequence[Any], entry: Mapping[str, Any], wanted: int | None, seed: int
) -> dict[str, list[int]]:
    """The documents to score of each part, as ascending indices.

    Every part gives the same number of documents, at least one, and together no more than asked.

    Args:
        parts: The loaded parts.
        entry: The task's entry in config/tasks.yaml.
        wanted: Documents asked for in all; None = all.
        seed: Seed of the subset.
    """
    from slm_benchmark.tasks.subset import document_subset, stratified_subset

    share = None if wanted is None else max(1, wanted // len(parts))
    chosen = {}
    for part in parts:
        documents = part.task.eval_docs
        if fields := entry.get("stratify"):
            strata = list(zip(*(documents[name] for name in fields), strict=True))
            chosen[part.name] = stratified_subset(strata, share, seed)
        else:
            chosen[part.name] = document_subset(len(documents), share, seed)
    return chosen


def dataset_block(manifest: Mapping[str, Any], cell_run: CellRun) -> Record:
    """The records' ``dataset`` block; a task that did not load names no split."""
    from slm_benchmark.tasks.loader import evaluation_split

    rows = sum(described["rows"] for described in manifest["splits"].values())
    return {
        "id": manifest["dataset"],
        "source": manifest["source"],
        "revision": manifest["revision"],
        "sha256": manifest["sha256"],
        "split": evaluation_split(cell_run.parts[0].task) if cell_run.parts else "unknown",
        "documents_total": sum(len(part.task.eval_docs) for part in cell_run.parts) or rows,
        "documents": sum(map(len, cell_run.chosen.values())) if cell_run.state == "ok" else 0,
    }


def task_block(task_id: str, entry: Mapping[str, Any], parts: Sequence[Any]) -> Record:
    """What the records say of a task; one that did not load is known by its entry alone."""
    from slm_benchmark.tasks.loader import parts_digest

    task = parts[0].task if parts else None
    generates = entry["kind"] == "generate" and task is not None
    named = {"parts": [part.name for part in parts]} if "parts" in entry else {}
    return {
        "id": task_id,
        "harness_task": entry["harness_task"],
        **named,
        **({"unit": entry["unit"]} if "unit" in entry else {}),
        "version": "unknown" if task is None else task.VERSION,
        "config_sha256": parts_digest(parts) if parts else digest(entry),
        "num_fewshot": entry["num_fewshot"],
        "generation": dict(task.config.generation_kwargs) if generates and task else None,
        "metric": entry["metric"],
        "filter": entry.get("filter", "none"),
    }


def describe_error(error: Exception) -> dict[str, str]:
    """The records' ``error`` block."""
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
        raise RunEnvironmentError(
            f"out of memory: {error}", fix="free memory, or run fewer jobs at once"
        ) from error
    if isinstance(error, ConnectionError | TimeoutError):
        raise RunEnvironmentError(f"network fault: {error}", fix="try again") from error
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
        raise RunEnvironmentError(f"disk fault: {error}", fix="free space and try again") from error


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
