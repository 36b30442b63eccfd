"""Running the documents of one cell through its model: the part of a measurement that needs it."""

from __future__ import annotations

import errno
import os
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Generic, Literal, NotRequired, TypedDict, TypeVar

from slm_benchmark.catalog.catalog import Catalogue
from slm_benchmark.catalog.run_config import Cell
from slm_benchmark.catalog.types import Task
from slm_benchmark.common import progress
from slm_benchmark.common.errors import NotApplicable, NotRun, RunEnvironmentError, UserError
from slm_benchmark.common.files import digest, read_json
from slm_benchmark.download.context import window_of
from slm_benchmark.download.weights import read_manifest, verify_files
from slm_benchmark.engines.identity import engine_name, sources_sha256, unknown_engine
from slm_benchmark.engines.memory import declared_budget_bytes
from slm_benchmark.evaluation.requirements import task_resources
from slm_benchmark.records.envelope import Closing, Envelope, Provenance
from slm_benchmark.records.provenance import (
    command_for,
    model_block,
    protocol_block,
    variant_block,
)
from slm_benchmark.records.types import (
    DatasetBlock,
    DatasetManifest,
    EngineBlock,
    ErrorBlock,
    ModelBlock,
    PromptsBlock,
    ProtocolBlock,
    Rendered,
    State,
    TaskBlock,
    Tokens,
    VariantBlock,
)

if TYPE_CHECKING:
    from slm_benchmark.engines.engine import Engine
    from slm_benchmark.tasks.loader import TaskPart

Result = TypeVar("Result")


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


class StatusBlock(TypedDict):
    """What a record says of how its measurement ended."""

    state: State
    error: ErrorBlock | None
    reason: NotRequired[str]


@dataclass(frozen=True)
class Status:
    """How a measurement ended.

    Attributes:
        state: The records' ``state``.
        error: The records' ``error`` block, when the model or the task failed.
        reason: Why there is nothing to measure, in the states not_run and not_applicable.
    """

    state: State = "ok"
    error: ErrorBlock | None = None
    reason: str | None = None

    @property
    def ok(self) -> bool:
        """Whether nothing broke."""
        return self.state == "ok"

    def block(self) -> StatusBlock:
        """As the records have it."""
        block: StatusBlock = {"state": self.state, "error": self.error}
        return {**block, "reason": self.reason} if self.reason else block


OK = Status()


def status_of(raised: Exception) -> Status:
    """The status of a measurement that an error of the model or the task ended.

    Call it where the error is handled.

    Raises:
        UserError: for bad input.
        RunEnvironmentError: when memory, the disk or the network gave out.
    """
    if isinstance(raised, NotRun):
        return Status("not_run", reason=str(raised))
    if isinstance(raised, NotApplicable):
        return Status("not_applicable", reason=str(raised))
    raise_if_environment(raised)
    traceback.print_exc()
    return Status("failed", describe_error(raised))


@dataclass(frozen=True)
class LoadedTasks:
    """The harness's tasks of a cell and the documents that are scored.

    Attributes:
        parts: The harness's tasks; none where they did not load.
        chosen: Part → indices of its documents, ascending.
    """

    parts: list[TaskPart] = field(default_factory=list)
    chosen: dict[str, list[int]] = field(default_factory=dict)

    def narrowed(self, documents: Mapping[str, Sequence[int]]) -> LoadedTasks:
        """The same tasks with some of their documents, less the parts that have none of them.

        Args:
            documents: Part → indices of its documents.
        """
        # The harness takes an empty list of documents for all of them.
        parts = [part for part in self.parts if documents.get(part.name)]
        return LoadedTasks(parts, {part.name: sorted(documents[part.name]) for part in parts})


@dataclass(frozen=True)
class CellRun(Generic[Result]):
    """How far the measurement of a cell got.

    Attributes:
        status: How it ended.
        tasks: The loaded tasks.
        engine: The loaded engine; None where it did not come up.
        result: What was made of the responses; None where it did not get so far.
    """

    status: Status
    tasks: LoadedTasks
    engine: Engine | None = None
    result: Result | None = None


class CellBlocks(TypedDict):
    """What a record says of what was measured, and with what."""

    model: ModelBlock
    variant: VariantBlock
    dataset: DatasetBlock
    task: TaskBlock
    protocol: ProtocolBlock
    engine: EngineBlock


class CellRunner:
    """Runs one cell's documents through its model, and gives the blocks around the results.

    Args:
        cell: What to measure.
        catalogue: The catalogue of the checkout.
        folders: The inputs.
        record: The file that the record will be written to.
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
        self.model = catalogue.models[cell.model]
        self.entry = catalogue.tasks[cell.task]
        self.protocol = catalogue.protocols[cell.protocol]
        self.hardware = catalogue.hardware[cell.hardware]
        self._envelope = Envelope(cell.hardware, self.hardware, self.model.file)
        verify_files(folders.weights)
        verify_files(folders.base)
        self._base = read_manifest(folders.base)
        self._variant = read_manifest(folders.weights)
        self._dataset: DatasetManifest = read_json(folders.dataset / "manifest.json")
        self._envelope.count(counter)
        self._choices = catalogue.scoring_choices(cell.task, cell.protocol)
        # Libraries that are imported later may put vendored packages on the path.
        self._environment = self._envelope.environment

    @property
    def journal(self) -> Path:
        """Where finished documents are stored until the record is written."""
        return self.target.with_name(f"{self.cell.task}.journal.jsonl")

    def run(
        self, finish: Callable[[LoadedTasks, Engine], Result], tasks: LoadedTasks | None = None
    ) -> CellRun[Result]:
        """Load tasks and model, put the documents to it, and make something of the responses.

        An error of the model or the task is a result too: it leaves what was reached before.

        Args:
            finish: Makes the result of the tasks, whose requests have their responses then.
            tasks: What `load` returned, maybe narrowed; None = load them.

        Raises:
            UserError: for bad input.
            RunEnvironmentError: when memory, the disk or the network gave out.
        """
        reached, engine, result, status = tasks or LoadedTasks(), None, None, OK
        try:
            if tasks is None:
                reached = self._load_parts()
                reached = self._choose(reached)
            with task_resources(self.entry):
                self._check_template()
                engine = self._load_engine(reached)
                self._ask(engine, reached)
            result = finish(reached, engine)
        except Exception as raised:
            status = status_of(raised)
        return CellRun(status, reached, engine, result)

    def load(self) -> LoadedTasks:
        """Load the tasks and choose their documents; the model is not needed."""
        return self._choose(self._load_parts())

    def _load_parts(self) -> LoadedTasks:
        from slm_benchmark.tasks.loader import load_parts

        cell, protocol = self.cell, self.protocol
        with task_resources(self.entry):
            return LoadedTasks(
                load_parts(
                    cell.task,
                    self.entry,
                    self.folders.dataset,
                    protocol["fewshot_sampler"],
                    self.catalogue.parts(cell.task, cell.model),
                    protocol["seed"],
                )
            )

    def _choose(self, tasks: LoadedTasks) -> LoadedTasks:
        from slm_benchmark.tasks.documents import check_documents, check_examples
        from slm_benchmark.tasks.loader import evaluation_file

        cell = self.cell
        with task_resources(self.entry):
            limit = self.catalogue.max_gen_toks(cell.task, cell.protocol)
            limit_generations(tasks.parts, limit, self._window)
            number = self.catalogue.documents(cell.task, cell.protocol)
            chosen = choose(tasks.parts, self.entry, number, self.protocol["seed"])
            for part in tasks.parts:
                file = evaluation_file(part, self.folders.dataset)
                columns = self.entry.get("columns", ())
                check_documents(part.task, chosen[part.name], file, columns)
                check_examples(part.task, file.parent)
            return replace(tasks, chosen=chosen)

    @property
    def _window(self) -> int:
        """Longest prompt and generation together, in tokens: the least that anything allows."""
        return min(window_of(self.model, self.folders.base), self.protocol["max_context_tokens"])

    def _check_template(self) -> None:
        """Refuse a chat template that the cell cannot be measured with, before weights are loaded.

        Raises:
            UserError: naming its file.
        """
        if not (self.templated or self.entry.get("conversation")):
            return
        from slm_benchmark.download.chat_template import ChatTemplate
        from slm_benchmark.download.tokenizer import load_tokenizer
        from slm_benchmark.engines.lm import thinks_before_options
        from slm_benchmark.engines.reasoning import opens_reasoning

        base = self.folders.base
        template = ChatTemplate(load_tokenizer(base, self.model.trust_remote_code), base)
        if template.text is None and self.entry.get("conversation"):
            return  # not applicable, which is a result
        if opens_reasoning(template.check()) and self.entry["kind"] == "loglikelihood":
            raise thinks_before_options(template)

    def _load_engine(self, tasks: LoadedTasks) -> Engine:
        from slm_benchmark.engines.journal import Journal
        from slm_benchmark.engines.load import load_engine
        from slm_benchmark.engines.settings import Settings
        from slm_benchmark.tasks.loader import parts_digest

        decisive = {
            "weights": self._variant["sha256"],
            "base": self._base["sha256"],
            "dataset": self._dataset["sha256"],
            "choices": self._choices,
            "environment": self._environment,
            "hardware": self._envelope.hardware["fingerprint"],
            "sources": sources_sha256(),
            "task": parts_digest(tasks.parts),
        }
        return load_engine(
            engine_name(self.cell.variant, self.catalogue.engine(self.cell.protocol)),
            self.folders.weights,
            self.folders.base,
            Settings(
                max_length=self._window,
                threads=self.threads,
                dtype=self.protocol["dtype"],
                device=self.hardware["device"],
                trust_remote_code=self.model.trust_remote_code,
                seed=self.protocol["seed"],
                memory_budget_bytes=declared_budget_bytes(self.hardware.get("memory_limit_bytes")),
            ),
            progress=progress.documents(self.name),
            journal=lambda engine: Journal(self.journal, {**decisive, "engine": engine}),
        )

    def _ask(self, engine: Engine, tasks: LoadedTasks) -> None:
        """Put the chosen documents to the model; the tasks' requests get the responses."""
        from slm_benchmark.tasks.conversation import ConversationLM
        from slm_benchmark.tasks.requests import ask, build_requests

        lm = engine.lm
        # A conversation is put into the template turn by turn.
        chat = self.templated and not self.entry.get("conversation")
        build_requests(tasks.parts, tasks.chosen, self.protocol["seed"], lm if chat else None)
        if self.entry.get("conversation"):
            lm = ConversationLM(lm)
        ask(lm, tasks.parts)

    @property
    def templated(self) -> bool:
        """Whether the protocol wraps prompts in the model's chat template."""
        return self.model.chat and self.protocol["chat_template"] == "chat_models"

    def prompts(self, run: CellRun[Result]) -> Rendered:
        """What a record says of prompts that a chat template rendered; nothing where none did."""
        if run.engine is None or not (self.templated or self.entry.get("conversation")):
            return {}
        lm = run.engine.lm
        block: PromptsBlock = lm.chat.block()
        if lm.reasoning:
            block["reasoning_documents"] = len(lm.reasoning)
            block["reasoning_characters"] = sum(lm.reasoning.values())
        return {"prompts": block}

    @property
    def name(self) -> str:
        """The cell in a line of progress."""
        return f"{self.cell.model} {self.cell.variant} {self.cell.task}"

    def blocks(self, run: CellRun[Result]) -> CellBlocks:
        """What a record says of what was measured, and with what."""
        cell, engine = self.cell, run.engine
        chat = self.entry.get("conversation") or self.templated
        template = engine.lm.chat_template(True) if chat and engine else None
        return {
            "model": model_block(self.model, self._base),
            "variant": variant_block(self._variant),
            "dataset": dataset_block(self._dataset, run.tasks, run.status),
            "task": task_block(
                cell.task,
                self.entry,
                run.tasks.parts,
                fewshot_sampler=self.protocol["fewshot_sampler"],
                chat_template_sha256=digest(template) if template else None,
            ),
            "protocol": protocol_block(cell.protocol, self.protocol["version"], self._choices),
            "engine": engine.identity
            if engine
            else unknown_engine(cell.variant, self.threads, self.catalogue.engine(cell.protocol)),
        }

    def tokens(self, run: CellRun[Result]) -> Tokens | None:
        """What the engine forwarded, which the user is shown too; None where it does not count."""
        tokens: Tokens | None = run.engine.lm.tokens() if run.engine and run.status.ok else None
        if tokens:
            progress.say(
                "{}: forwarded {forwarded_tokens} tokens, {unique_tokens} of them unique "
                "({chunk_rounding_tokens} again, to fill whole chunks)".format(self.name, **tokens)
            )
        return tokens

    def provenance(self) -> Provenance:
        """The blocks about the machine and the software."""
        return self._envelope.provenance()

    def closing(self) -> Closing:
        """What a record says after its results."""
        command = command_for([self.target], self.cell.protocol, self.cell.hardware)
        return self._envelope.closing(command)


def limit_generations(parts: Sequence[TaskPart], limit: int | None, window: int) -> None:
    """Set the limit of generated tokens: the protocol's or the task's, and half the window at most.

    A generation that may take the whole window of a small model would leave its prompt no room.

    Args:
        parts: The loaded parts.
        limit: The protocol's limit; None where it has none.
        window: Longest prompt and generation together, in tokens.
    """
    from lm_eval.models.utils import normalize_gen_kwargs

    from slm_benchmark.engines.lm import DEFAULT_MAX_GEN_TOKS

    for part in parts:
        if part.task.get_config("output_type") != "generate_until":
            continue
        settings = normalize_gen_kwargs(
            dict(part.task.config.generation_kwargs), DEFAULT_MAX_GEN_TOKS
        )
        default = int(settings["max_gen_toks"])
        allowed = min(default, default if limit is None else limit, window // 2)
        if allowed < default:
            part.task.set_config("generation_kwargs", {"max_gen_toks": allowed}, update=True)


def choose(
    parts: Sequence[TaskPart], entry: Task, number: int | None, seed: int
) -> dict[str, list[int]]:
    """The documents to score of each part, as ascending indices.

    Every part has the same number of documents, at least one, and together no more than ``number``.

    Args:
        parts: The loaded parts.
        entry: The task's entry in config/tasks.yaml.
        number: Documents in all; None = all that there are.
        seed: Seed of the subset.
    """
    from slm_benchmark.tasks.subset import document_subset, stratified_subset

    share = None if number is None else max(1, number // len(parts))
    chosen = {}
    for part in parts:
        documents = part.task.eval_docs
        if fields := entry.get("stratify"):
            strata = list(zip(*(documents[name] for name in fields), strict=True))
            chosen[part.name] = stratified_subset(strata, share, seed)
        else:
            chosen[part.name] = document_subset(len(documents), share, seed)
    return chosen


def dataset_block(manifest: DatasetManifest, tasks: LoadedTasks, status: Status) -> DatasetBlock:
    """The records' ``dataset`` block; a task that did not load names no split."""
    from slm_benchmark.tasks.loader import evaluation_split

    parts = tasks.parts
    rows = sum(split["rows"] for split in manifest["splits"].values())
    return {
        "id": manifest["dataset"],
        "source": manifest["source"],
        "revision": manifest["revision"],
        "sha256": manifest["sha256"],
        "split": evaluation_split(parts[0].task) if parts else "unknown",
        "documents_total": sum(len(part.task.eval_docs) for part in parts) or rows,
        "documents": sum(map(len, tasks.chosen.values())) if status.ok else 0,
    }


class _Optional(TypedDict, total=False):
    """Keys of the ``task`` block that some tasks lack."""

    parts: list[str]
    unit: Literal["share", "points"]


def task_block(
    task_id: str,
    entry: Task,
    parts: Sequence[TaskPart],
    *,
    fewshot_sampler: str,
    chat_template_sha256: str | None,
) -> TaskBlock:
    """The records' ``task`` block; a task that did not load is known by its entry alone."""
    from slm_benchmark.tasks.loader import parts_digest

    task = parts[0].task if parts else None
    generates = entry["kind"] == "generate" and task is not None
    optional: _Optional = {}
    if "parts" in entry:
        optional["parts"] = [part.name for part in parts]
    if "unit" in entry:
        optional["unit"] = entry["unit"]
    return {
        "id": task_id,
        "harness_task": entry["harness_task"],
        **optional,
        "version": "unknown" if task is None else task.VERSION,
        "config_sha256": parts_digest(parts) if parts else digest(entry),
        "num_fewshot": entry["num_fewshot"],
        "generation": dict(task.config.generation_kwargs) if generates and task else None,
        "metric": entry["metric"],
        "filter": entry.get("filter", "none"),
        "fewshot_sampler": fewshot_sampler,
        "chat_template_sha256": chat_template_sha256,
    }


def describe_error(error: Exception) -> ErrorBlock:
    """The records' ``error`` block."""
    lines = traceback.format_exception(error)
    return {
        "type": type(error).__name__,
        "message": str(error)[:2000],
        "traceback": "".join(lines)[-4000:],
    }


def raise_if_environment(error: BaseException) -> None:
    """Raise bad input and environment errors, which are not recorded as results of the model."""
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
    variables = {
        "OMP_NUM_THREADS": str(threads),
        "GPTQMODEL_CPU_WORKERS": str(max(2, threads)),
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    before = {key: os.environ.get(key) for key in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value
