"""The gate before GGUF rows: a model's F16 file and its base must agree, each on its own engine.

A GGUF file can load, answer fluently and still be another model: a converter that takes a wrong
rope base, a permuted projection or another normalization gives plausible, lower scores. The F16
file holds the same numbers as the base model up to the rounding of 16 bits, so it is where such a
fault can be told from the effect of quantization.
"""

from __future__ import annotations

import math
import statistics
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from slm_benchmark.catalog.catalog import Catalogue
from slm_benchmark.catalog.types import EquivalenceConfigBounds, Task
from slm_benchmark.common import progress
from slm_benchmark.common.errors import UserError
from slm_benchmark.common.files import digest, read_json
from slm_benchmark.download.context import window_of
from slm_benchmark.download.weights import read_manifest, verify_files
from slm_benchmark.engines.identity import unknown_engine
from slm_benchmark.evaluation.runner import (
    describe_error,
    engine_environment,
    raise_if_environment,
)
from slm_benchmark.records.envelope import Envelope, write_sealed
from slm_benchmark.records.provenance import command_for, model_block, variant_block
from slm_benchmark.records.types import (
    DatasetManifest,
    EngineBlock,
    EquivalenceDataset,
    EquivalenceRecord,
    EquivalenceTask,
    ErrorBlock,
)

if TYPE_CHECKING:
    from slm_benchmark.engines.settings import Settings
    from slm_benchmark.tasks.requests import ScoredDocument

SIDES: dict[str, Literal["transformers", "llama.cpp"]] = {
    "base": "transformers",
    "gguf-f16": "llama.cpp",
}
"""The two variants that are compared, and the engine of each."""

FEWSHOT_SAMPLER = "first_n"
"""As in the protocols: every document sees the same examples."""

DIGITS = 6
"""Decimals of the differences in a record; below that, floating-point sums are noise."""


@dataclass(frozen=True)
class Inputs:
    """Inputs of a check on disk.

    Attributes:
        base: Folder of the base model.
        f16: Folder of the variant gguf-f16.
        datasets: Folder of the prepared dataset of each task.
    """

    base: Path
    f16: Path
    datasets: Mapping[str, Path]


@dataclass(frozen=True)
class Answer:
    """One document as one side answers it.

    Attributes:
        document: Hash of the document.
        index: Row of the split.
        scores: Of each continuation, its log-probability in nats and whether each token of it is
            the top-1 token.
        tokens: Tokens of each continuation.
        decision: Number of the option that the task's headline metric takes for the answer.
    """

    document: str
    index: int
    scores: list[tuple[float, bool]]
    tokens: list[int]
    decision: int


@dataclass(frozen=True)
class Side:
    """How far one side got.

    Attributes:
        engine: The records' ``engine`` block.
        answers: Task → its documents, in the order of the split.
        error: The records' ``error`` block, when the model could not be loaded or scored.
    """

    engine: EngineBlock
    answers: dict[str, list[Answer]]
    error: ErrorBlock | None = None


def check_equivalence(
    model_id: str,
    hardware_id: str,
    catalogue: Catalogue,
    inputs: Inputs,
    output: Path,
    threads: int,
) -> EquivalenceRecord:
    """Score the documents of config/equivalence.yaml with both engines and write what differs.

    Transformers runs in float32 on a CPU and in float16 on CUDA. Both sides see the same token ids,
    those of the base model's tokenizer.

    Args:
        model_id: Id of the model.
        hardware_id: Id of this machine in config/hardware.yaml.
        catalogue: The catalogue of the checkout.
        inputs: The two variants and the datasets.
        output: File of the record.
        threads: CPU threads of either engine.

    Returns:
        The record. A side that breaks leaves one with state ``failed``, and too large a difference
        one that did not pass.

    Raises:
        UserError: for bad input, such as an input file that differs from its manifest.
        RunEnvironmentError: when memory, the disk or the network gave out.
    """
    model, hardware = catalogue.models[model_id], catalogue.hardware[hardware_id]
    config = catalogue.equivalence
    envelope = Envelope(hardware_id, hardware, model.file)
    folders = {"base": inputs.base, "gguf-f16": inputs.f16}
    for folder in folders.values():
        verify_files(folder)
    manifests = {variant: read_manifest(folder) for variant, folder in folders.items()}
    envelope.count()

    # The libraries read these variables when they are imported.
    with engine_environment(threads):
        from slm_benchmark.engines.settings import Settings
        from slm_benchmark.tasks.loader import load_task

        tasks = {
            task: load_task(
                task,
                catalogue.tasks[task],
                inputs.datasets[task],
                FEWSHOT_SAMPLER,
            )
            for task in config["tasks"]
        }
        settings = Settings(
            max_length=min(window_of(model, inputs.base), config["max_context_tokens"]),
            threads=threads,
            device=hardware["device"],
            trust_remote_code=model.trust_remote_code,
        )
        sides = {
            variant: run_side(variant, folders[variant], inputs.base, settings, tasks, catalogue)
            for variant in SIDES
        }

    errors = {variant: side.error for variant, side in sides.items() if side.error}
    compared = (
        []
        if errors
        else [
            compare(
                task, catalogue.tasks[task], tasks[task], *(s.answers[task] for s in sides.values())
            )
            for task in tasks
        ]
    )
    reasons = [f"{variant} broke: {error['type']}" for variant, error in errors.items()]
    reasons += breaches(compared, config["bounds"])
    record: EquivalenceRecord = {
        "schema_version": 1,
        "kind": "equivalence",
        "state": "failed" if errors else "ok",
        "error": next(iter(errors.values()), None),
        "passed": not reasons,
        "reasons": reasons,
        "model": model_block(model, manifests["base"]),
        "variants": {name: variant_block(manifest) for name, manifest in manifests.items()},
        "datasets": {task: dataset_source(inputs.datasets[task]) for task in tasks},
        "bounds": {
            "version": config["version"],
            "sha256": digest(catalogue.comparison_choices()),
            **config["bounds"],
        },
        "engines": {variant: side.engine for variant, side in sides.items()},
        **envelope.provenance(),
        "tasks": compared,
        **envelope.closing(command_for([output], None, hardware_id)),
    }
    return write_sealed(output, record, "equivalence")


def dataset_source(folder: Path) -> EquivalenceDataset:
    """The equivalence schema's entry of a prepared dataset.

    Raises:
        UserError: for a generated one.
    """
    manifest: DatasetManifest = read_json(folder / "manifest.json")
    source = manifest["source"]
    if source == "generated":
        raise UserError(
            "the gate compares on benchmarks of others, not on a generated dataset",
            file="config/equivalence.yaml",
            field="tasks",
            value=manifest["dataset"],
            fix="name a dataset from the hub, a package or this machine",
        )
    return {
        "id": manifest["dataset"],
        "source": source,
        "revision": manifest["revision"],
        "sha256": manifest["sha256"],
    }


def run_side(
    variant: str,
    weights: Path,
    tokenizer: Path,
    settings: Settings,
    tasks: Mapping[str, Any],
    catalogue: Catalogue,
) -> Side:
    """Load one side, score all documents, and free it again.

    Args:
        variant: A key of `SIDES`.
        weights: Folder of the variant.
        tokenizer: Folder of the base model.
        settings: Of the engine.
        tasks: The harness's tasks by id.
        catalogue: The catalogue of the checkout.

    Raises:
        RunEnvironmentError: when memory, the disk or the network gave out.
    """
    from slm_benchmark.engines.load import load_engine
    from slm_benchmark.tasks.loader import TaskPart
    from slm_benchmark.tasks.requests import measure
    from slm_benchmark.tasks.subset import document_subset

    config = catalogue.equivalence
    answers: dict[str, list[Answer]] = {}
    try:
        engine = load_engine(
            SIDES[variant],
            weights,
            tokenizer,
            settings,
            progress=progress.documents(f"equivalence {variant}"),
        )
        try:
            for task_id, task in tasks.items():
                number = config["tasks"][task_id]["documents"]
                chosen = document_subset(len(task.eval_docs), number, config["seed"])
                samples = measure(
                    engine.lm, [TaskPart("", task)], {"": chosen}, config["seed"], chat=False
                )
                entry = catalogue.tasks[task_id]
                answers[task_id] = [
                    answer(sample, entry, task, engine.lm)
                    for sample in samples
                    if sample["filter"] == entry.get("filter", "none")
                ]
        finally:
            engine.close()
    except Exception as raised:
        # A file that an engine refuses is the result of this check, not bad input to it.
        if type(raised) is not UserError:
            raise_if_environment(raised)
        traceback.print_exc()
        return Side(unknown_engine(variant, settings.threads), answers, describe_error(raised))
    return Side(engine.identity, answers)


def answer(sample: ScoredDocument, entry: Task, task: Any, lm: Any) -> Answer:
    """One document's answer from the harness's sample.

    The decision is the harness's: the continuation of the highest log-probability, under
    ``acc_norm`` per character of the option (``ConfigurableTask.process_results``).
    """
    scores = [(float(value), bool(greedy)) for value, greedy in sample["filtered_resps"]]
    options = task.doc_to_choice(sample["doc"])
    lengths = [len(o) for o in options] if entry["metric"] == "acc_norm" else [1] * len(options)
    weighed = [value / length for (value, _), length in zip(scores, lengths, strict=True)]
    return Answer(
        document=sample["doc_hash"],
        index=sample["doc_id"],
        scores=scores,
        tokens=[len(lm.encode(*pair)[1]) for pair in sample["arguments"]],
        decision=max(range(len(weighed)), key=weighed.__getitem__),
    )


@dataclass(frozen=True)
class Pair:
    """One continuation as both sides scored it.

    Attributes:
        document: The base model's answer to its document.
        choice: Number of the option.
        base: Log-probability in nats, and whether each token is the top-1 token.
        gguf: The same of the F16 file.
    """

    document: Answer
    choice: int
    base: tuple[float, bool]
    gguf: tuple[float, bool]

    @property
    def delta(self) -> float:
        """|Δ log-probability| in nats; infinite where either side is not finite."""
        delta = abs(self.base[0] - self.gguf[0])
        return delta if math.isfinite(delta) else math.inf

    @property
    def delta_per_token(self) -> float:
        """`delta` divided by the tokens of the continuation."""
        return self.delta / self.document.tokens[self.choice]


def scored_pairs(base: Answer, gguf: Answer) -> list[Pair]:
    """The continuations of one document."""
    sides = zip(base.scores, gguf.scores, strict=True)
    return [Pair(base, choice, ours, theirs) for choice, (ours, theirs) in enumerate(sides)]


def compare(
    task_id: str,
    entry: Task,
    task: Any,
    base: Sequence[Answer],
    gguf: Sequence[Answer],
) -> EquivalenceTask:
    """The equivalence schema's entry of one task.

    Args:
        task_id: Id in config/tasks.yaml.
        entry: The task's entry there.
        task: The harness's task.
        base: Answers of the base model.
        gguf: Answers of the F16 file to the same documents, in the same order.
    """
    from slm_benchmark.tasks.loader import task_digest

    documents = list(zip(base, gguf, strict=True))
    pairs = [pair for ours, theirs in documents for pair in scored_pairs(ours, theirs)]
    worst = max(pairs, key=lambda pair: pair.delta)
    return {
        "id": task_id,
        "harness_task": entry["harness_task"],
        "config_sha256": task_digest(task),
        "metric": entry["metric"],
        "documents": len(documents),
        "continuations": len(pairs),
        "tokens": sum(sum(ours.tokens) for ours in base),
        "max_delta_nats": _finite(worst.delta),
        "mean_delta_nats": _finite(statistics.fmean(p.delta for p in pairs)),
        "max_delta_nats_per_token": _finite(max(p.delta_per_token for p in pairs)),
        "mean_delta_nats_per_token": _finite(statistics.fmean(p.delta_per_token for p in pairs)),
        "decision_agreement": statistics.fmean(b.decision == g.decision for b, g in documents),
        "greedy_agreement": statistics.fmean(p.base[1] == p.gguf[1] for p in pairs),
        "worst": {
            "document": worst.document.document,
            "index": worst.document.index,
            "choice": worst.choice,
            "tokens": worst.document.tokens[worst.choice],
            "base_nats": _finite(worst.base[0]),
            "gguf_nats": _finite(worst.gguf[0]),
        },
    }


def breaches(tasks: Sequence[EquivalenceTask], bounds: EquivalenceConfigBounds) -> list[str]:
    """Sentences about every bound that does not hold on a task; none when all hold.

    Args:
        tasks: The record's ``tasks``.
        bounds: The bounds of config/equivalence.yaml.
    """
    sentences = []
    for task in tasks:
        largest, mean = task["max_delta_nats"], task["mean_delta_nats_per_token"]
        for value, bound, words in (
            (largest, bounds["max_delta_nats"], "the largest difference of a log-probability"),
            (mean, bounds["mean_delta_nats_per_token"], "the mean difference for each token"),
        ):
            if value is None:
                sentences.append(f"{task['id']}: a log-probability is not finite")
            elif value > bound:
                sentences.append(f"{task['id']}: {words} is {value:.3g} nats, over {bound}")
        agreement = task["decision_agreement"]
        if agreement < bounds["min_decision_agreement"]:
            sentences.append(
                f"{task['id']}: {100 * agreement:.1f} % of the decisions agree, "
                f"under {100 * bounds['min_decision_agreement']:g} %"
            )
    return list(dict.fromkeys(sentences))


def _finite(value: float) -> float | None:
    return round(value, DIGITS) if math.isfinite(value) else None
