"""The noise floor of a score: how far it moves when only what should not matter changes.

A score here does not depend on what runs beside a document, so running again shows no noise at
all. What remains is measured by perturbations with a name: numerical ones change how the same
prompts are computed, prompt ones change what could as well have been chosen otherwise in a prompt.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import math
import random
import re
import statistics
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NotRequired, TypedDict, cast

from slm_benchmark.catalog.catalog import Catalogue
from slm_benchmark.catalog.run_config import Cell
from slm_benchmark.catalog.types import ChoiceColumn, NoisePlan, Protocol, Task
from slm_benchmark.common import progress
from slm_benchmark.common.errors import NotApplicable, UserError
from slm_benchmark.common.paths import CONFIG
from slm_benchmark.engines.identity import engine_name, sources_sha256
from slm_benchmark.evaluation.runner import (
    CellRun,
    CellRunner,
    Folders,
    LoadedTasks,
    Status,
    engine_environment,
    raise_if_environment,
)
from slm_benchmark.evaluation.scores import score_rows
from slm_benchmark.records.envelope import write_sealed
from slm_benchmark.records.types import (
    EngineBlock,
    NoiseFloor,
    NoiseRecord,
    NoiseReference,
    NumericalNoise,
    Perturbation,
    PromptFamily,
    PromptNoise,
)
from slm_benchmark.statistics.proportion import exact_interval

if TYPE_CHECKING:
    from slm_benchmark.engines.engine import Engine
    from slm_benchmark.tasks.loader import TaskPart
    from slm_benchmark.tasks.requests import ScoredDocument

FILE = CONFIG / "noise.yaml"

DIGITS = 6
"""Decimals of the differences of log-likelihoods in a record."""

LABELS: dict[str, Callable[[int], Any]] = {
    "letters": lambda index: chr(ord("A") + index),
    "bracketed": lambda index: f"({chr(ord('A') + index)})",
    "numbers": lambda index: str(index + 1),
    "index": lambda index: index,
}
"""How a dataset names the right option, by its index."""

Kind = Literal["numerical", "prompt"]

PROMPTS = ("fewshot_draw", "choice_order")
"""Families of prompt perturbations, as config/noise.yaml names them."""


# ── what is planned ──


def noise_plan(catalogue: Catalogue, protocol: str) -> NoisePlan:
    """The plan of a protocol: the one that bears its name, else the default."""
    plans = catalogue.noise["plans"]
    return plans.get(protocol, plans["default"])


def noise_tasks(catalogue: Catalogue, protocol: str, tasks: Sequence[str]) -> list[str]:
    """Those of ``tasks`` whose noise is measured under ``protocol``: likelihoods only.

    Raises:
        UserError: when the plan names a task that is unknown, or writes its answers.
    """
    listed = noise_plan(catalogue, protocol)["tasks"]
    for task in () if listed == "all" else listed:
        if task not in catalogue.tasks or catalogue.tasks[task]["kind"] != "loglikelihood":
            raise UserError(
                "noise is measured on tasks that are answered by likelihoods",
                file=FILE,
                field="plans.*.tasks",
                value=task,
                fix="name a task of kind loglikelihood, or write all",
            )
    return [
        task
        for task in tasks
        if catalogue.tasks[task]["kind"] == "loglikelihood" and (listed == "all" or task in listed)
    ]


def noise_choices(catalogue: Catalogue, task: str, protocol: str) -> dict[str, object]:
    """What config/noise.yaml decides about the noise of a task."""
    return {
        "plan": noise_plan(catalogue, protocol),
        "columns": catalogue.noise["choice_columns"].get(task),
    }


# ── documents under a setting ──


@dataclass(frozen=True)
class Answered:
    """One document under one setting.

    Attributes:
        value: Its value of the headline metric; None where it is missing.
        nats: Log-likelihood of each of its continuations.
        prompts: Context and continuation of each request.
    """

    value: float | None
    nats: tuple[float, ...]
    prompts: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Run:
    """All documents under one setting.

    Attributes:
        score: The column's headline score.
        documents: (part, row of the split) → its answer.
    """

    score: float | None
    documents: dict[tuple[str, int], Answered]


def read_run(samples: Sequence[ScoredDocument], entry: Task, parts: Sequence[TaskPart]) -> Run:
    """A run from the samples of `score_documents`.

    Args:
        samples: The samples.
        entry: The task's entry in config/tasks.yaml.
        parts: The tasks that gave them.

    Raises:
        UserError: when the task's metric is not one number for each document.
    """
    headline_key = (entry["metric"], entry.get("filter", "none"))
    documents = {}
    for sample in samples:
        if sample["filter"] != headline_key[1]:
            continue
        value = sample["values"].get(entry["metric"])
        if isinstance(value, list | tuple):
            raise UserError(
                "noise is measured where each document has a value of its own",
                file="config/tasks.yaml",
                field="metric",
                value=entry["metric"],
                fix=f"leave the task out in {FILE.name}",
            )
        documents[sample["part"], sample["doc_id"]] = Answered(
            None if value is None else float(value),
            tuple(_nats(responses[0]) for responses in sample["resps"]),
            tuple(tuple(map(str, pair)) for pair in sample["arguments"]),
        )
    headline = [row for row in score_rows(samples, entry, parts) if row["headline"]]
    return Run(headline[0]["value"] if headline else None, documents)


def _nats(response: Any) -> float:
    return float(response[0] if isinstance(response, tuple | list) else response)


class Effect(TypedDict):
    """The numbers of the noise schema's ``perturbations``."""

    n: int
    value: float | None
    delta: float | None
    flips_to_right: int | None
    flips_to_wrong: int | None
    documents_changed: int | None
    max_abs_delta_nats: float | None
    mean_abs_delta_nats: float | None


def compare(reference: Run, run: Run, kind: Kind) -> Effect:
    """The effect of a perturbation on a score.

    Args:
        reference: The documents as the protocol asks them.
        run: The same documents under the perturbation.
        kind: numerical or prompt.
    """
    pairs = [(before, run.documents[key]) for key, before in reference.documents.items()]
    values = [
        (before.value, after.value)
        for before, after in pairs
        if before.value is not None and after.value is not None
    ]
    decided = all(value in (0.0, 1.0) for pair in values for value in pair)
    effect: Effect = {
        "n": len(values),
        "value": run.score,
        "delta": None
        if run.score is None or reference.score is None
        else run.score - reference.score,
        "flips_to_right": sum(a > b for b, a in values) if decided else None,
        "flips_to_wrong": sum(a < b for b, a in values) if decided else None,
        "documents_changed": sum(before.prompts != after.prompts for before, after in pairs),
        "max_abs_delta_nats": None,
        "mean_abs_delta_nats": None,
    }
    if kind == "prompt":
        return effect
    deltas = [
        abs(b - a)
        for before, after in pairs
        for b, a in zip(before.nats, after.nats, strict=True)
        # A token that the model masks has minus infinity in both runs.
        if b != a
    ]
    count = sum(len(before.nats) for before, _ in pairs)
    return {
        **effect,
        "documents_changed": sum(before.nats != after.nats for before, after in pairs),
        "max_abs_delta_nats": _rounded(max(deltas, default=0.0)),
        "mean_abs_delta_nats": _rounded(math.fsum(deltas) / count) if count else None,
    }


def _rounded(value: float) -> float | None:
    return round(value, DIGITS) if math.isfinite(value) else None


# ── prompt perturbations ──


def redrawn(part: TaskPart, seed: int) -> TaskPart:
    """A part whose few-shot examples are drawn from a shuffled pool.

    The protocol's sampler draws: ``first_n`` takes the first of the shuffled pool, so that all
    documents still see the same examples.

    Args:
        part: A `TaskPart`; it stays as it is.
        seed: Of the shuffle.
    """
    task = copy.copy(part.task)
    task.sampler = copy.copy(task.sampler)
    pool = list(task.sampler.df)
    random.Random(seed).shuffle(pool)
    task.sampler.replace_df(pool)
    return dataclasses.replace(part, task=task)


def reordered(part: TaskPart, columns: ChoiceColumn, seed: int) -> TaskPart:
    """A part with the options of every document, and of every few-shot example, in another order.

    Args:
        part: A `TaskPart`; it stays as it is.
        columns: The task's entry of ``choice_columns`` in config/noise.yaml.
        seed: Of the orders; a document's follows from it and from the document alone.

    Raises:
        UserError: when the documents are not as the entry says.
    """
    permute = functools.partial(permuted, columns=columns, seed=seed)
    task = copy.copy(part.task)
    documents = [permute(doc) for doc in part.task.eval_docs]
    split = "test_docs" if task.has_test_docs() else "validation_docs"
    setattr(task, split, lambda: documents)
    if getattr(task, "sampler", None) is not None and task.sampler.df:
        task.sampler = copy.copy(task.sampler)
        task.sampler.replace_df([permute(doc) for doc in part.task.sampler.df])
    return dataclasses.replace(part, task=task)


def permuted(doc: Mapping[str, Any], columns: ChoiceColumn, seed: int) -> dict[str, Any]:
    """A document with its options in another order, and its answer named accordingly; see
    `reordered`."""
    from slm_benchmark.tasks.requests import document_digest

    holder, answer = columns["options"], columns["answer"]
    holders = [holder] if isinstance(holder, str) else holder
    missing = [name for name in holders if name not in doc]
    if missing or answer not in doc:
        raise _bad_columns("the dataset lacks a column", (missing or [answer])[0])
    options = list(doc[holder]) if isinstance(holder, str) else [doc[name] for name in holder]
    names = [LABELS[columns["labels"]](number) for number in range(len(options))]
    if doc[answer] not in names:
        raise _bad_columns(f"the column {answer} names no option of a document", doc[answer])
    draw = random.Random(f"{seed} {document_digest(doc)}")
    order = draw.sample(range(len(options)), len(options))
    moved = [options[number] for number in order]
    changed = {holder: moved} if isinstance(holder, str) else dict(zip(holder, moved, strict=True))
    return {**doc, **changed, answer: names[order.index(names.index(doc[answer]))]}


def _bad_columns(message: str, value: Any) -> UserError:
    return UserError(
        message,
        file=FILE,
        field="choice_columns",
        value=value,
        fix="name the columns and labels of the task's documents as the harness task reads them",
    )


def options_show(run: Run) -> bool:
    """Whether prompts hold all options of their document, in most documents."""

    def shows(document: Answered) -> bool:
        return all(
            re.search(rf"(?<!\w){re.escape(option.strip())}(?!\w)", context)
            for context, option in document.prompts
        )

    shown = [shows(document) for document in run.documents.values()]
    return 2 * sum(shown) > len(shown)


# ── the measurement ──


def measure_noise(
    cell: Cell, catalogue: Catalogue, folders: Folders, output: Path, threads: int
) -> NoiseRecord:
    """Measure the noise floor of one cell and write its record.

    A model that breaks under the protocol's own settings leaves a record with state ``failed``; one
    that breaks under a perturbation, a perturbation with that state.

    Args:
        cell: Whose noise to measure.
        catalogue: The catalogue of the checkout.
        folders: The inputs.
        output: File of the record.
        threads: CPU threads of the reference.

    Returns:
        The record.

    Raises:
        UserError: for bad input, such as an input file that differs from its manifest.
        RunEnvironmentError: when memory, the disk or the network gave out.
    """
    plan = noise_plan(catalogue, cell.protocol)
    fewer = with_documents(catalogue, cell, plan["documents"])
    runner = CellRunner(cell, fewer, folders, output, threads)
    families: dict[str, list[int]] = cast(dict[str, list[int]], plan["prompt"])
    # The libraries read these variables when they are imported.
    with engine_environment(threads):
        from slm_benchmark.tasks.requests import score_documents

        if engine_name(cell.variant, catalogue.engine(cell.protocol)) == "vllm":
            reason = "vLLM decides itself which requests run together"
            run = CellRun[Run](Status("not_applicable", reason=reason), LoadedTasks())
        else:
            run = runner.run(
                lambda tasks, _: read_run(
                    score_documents(tasks.parts, tasks.chosen), runner.entry, tasks.parts
                )
            )
        blocks, provenance = runner.blocks(run), runner.provenance()
        perturbations: list[Perturbation] = []
        if run.result is not None and run.engine is not None:
            perturber = Perturber(
                runner, run.tasks, run.engine, run.result, {**blocks, **provenance}
            )
            columns = catalogue.noise["choice_columns"].get(cell.task)
            perturbations = perturber.prompts(families, columns)
            run.engine.close()
            perturbations = perturber.numbers(plan["numerical"]) + perturbations
    results: _Results = {
        "reference": reference_block(run),
        "perturbations": perturbations,
        "floor": floor(perturbations, families),
    }
    record: NoiseRecord = {
        "schema_version": 1,
        "kind": "noise",
        **run.status.block(),
        **blocks,
        **provenance,
        **results,
        **runner.closing(),
    }
    write_sealed(output, record, "noise")
    for journal in (runner.journal, *(journal_file(runner, name) for name in plan["numerical"])):
        journal.unlink(missing_ok=True)
    return record


class _Results(TypedDict):
    """The numbers of a noise record; `publish` adds the label."""

    reference: NoiseReference | None
    perturbations: list[Perturbation]
    floor: NoiseFloor
    label: NotRequired[str]


def with_documents(catalogue: Catalogue, cell: Cell, most: int) -> Catalogue:
    """The catalogue with ``most`` documents at most of the cell's task and protocol."""
    number = catalogue.documents(cell.task, cell.protocol)
    fewer = most if number is None else min(number, most)
    protocol: Protocol = {
        **catalogue.protocols[cell.protocol],
        "documents": {"default": fewer},
    }
    return dataclasses.replace(
        catalogue, protocols={**catalogue.protocols, cell.protocol: protocol}
    )


def journal_file(runner: CellRunner, name: str) -> Path:
    """Where the finished documents of a perturbation are stored until the record is written."""
    return runner.target.with_name(f"{runner.cell.task}.{name}.journal.jsonl")


def reference_block(run: CellRun[Run]) -> NoiseReference | None:
    """The noise schema's ``reference``."""
    if run.result is None or run.engine is None:
        return None
    return {
        "value": run.result.score,
        "n": sum(document.value is not None for document in run.result.documents.values()),
        "settings": dict(run.engine.lm.model.effective),
    }


class Perturber:
    """Runs the documents of one cell again under perturbations.

    Args:
        runner: Of the cell.
        tasks: Its tasks, with all requests.
        engine: The engine of the reference.
        reference: The documents without a perturbation.
        blocks: The record's blocks.
    """

    def __init__(
        self,
        runner: CellRunner,
        tasks: LoadedTasks,
        engine: Engine,
        reference: Run,
        blocks: Mapping[str, Any],
    ) -> None:
        self._runner, self._tasks, self._engine = runner, tasks, engine
        self._reference = reference
        self._effective = dict(engine.lm.model.effective)
        self._decisive = {
            **{key: blocks[key] for key in ("model", "variant", "environment", "hardware")},
            "sources": sources_sha256(),
        }

    # ── numerical ──

    def numbers(self, planned: Mapping[str, Mapping[str, object]]) -> list[Perturbation]:
        """One entry for each numerical perturbation; the reference's engine is closed before."""
        return [
            self._perturbed(
                name, "numerical", change, functools.partial(self._recomputed, name, change)
            )
            for name, change in planned.items()
        ]

    def _recomputed(self, name: str, change: Mapping[str, Any]) -> tuple[Run, EngineBlock]:
        """The same requests, put to an engine with other settings."""
        from slm_benchmark.engines.journal import Journal
        from slm_benchmark.engines.load import load_engine
        from slm_benchmark.tasks.requests import ask, score_documents

        self._check(change)
        runner, tasks = self._runner, self._tasks
        settings = dataclasses.replace(self._engine.settings, **change)
        decisive = {**self._decisive, "settings": asdict(settings)}
        engine = load_engine(
            engine_name(runner.cell.variant),
            runner.folders.weights,
            runner.folders.base,
            settings,
            progress=progress.documents(f"{runner.name} {name}"),
            journal=lambda block: Journal(
                journal_file(runner, name), {**decisive, "engine": block}
            ),
        )
        try:
            effective = engine.lm.model.effective
            if any(effective[key] != value for key, value in change.items()):
                raise NotApplicable(f"the engine keeps to {_words(effective, change)}")
            for part in tasks.parts:
                for instance in part.task.instances:
                    instance.resps, instance.filtered_resps = [], {}
            ask(engine.lm, tasks.parts)
        finally:
            engine.close()
        samples = score_documents(tasks.parts, tasks.chosen)
        return read_run(samples, runner.entry, tasks.parts), engine.identity

    def _check(self, change: Mapping[str, Any]) -> None:
        """Refuse a change that is none.

        Raises:
            NotApplicable: saying why.
        """
        engine = self._engine.identity["name"]
        for key in change:
            if key not in self._effective:
                raise NotApplicable(f"{engine} has no setting {key}")
            if self._effective[key] is None:
                raise NotApplicable(f"{engine} has no choice of {key} for this model")
        if all(self._effective[key] == value for key, value in change.items()):
            raise NotApplicable(f"the reference runs with {_words(self._effective, change)}")

    # ── prompts ──

    def prompts(
        self, planned: Mapping[str, Sequence[int]], columns: ChoiceColumn | None
    ) -> list[Perturbation]:
        """One entry for each draw of each family, or one that says why there are none."""
        entries = []
        for family, seeds in planned.items():
            reason = self._unpromptable(family, columns)
            if reason is not None:
                entries.append(_without_numbers(family, "prompt", {}, "not_applicable", reason))
                continue
            for seed in seeds:
                again = functools.partial(self._reprompted, family, seed, columns)
                entries.append(self._perturbed(f"{family}-{seed}", "prompt", {family: seed}, again))
        return entries

    def _unpromptable(self, family: str, columns: ChoiceColumn | None) -> str | None:
        """Why a family does not apply to this task; None where it does."""
        if family == "fewshot_draw":
            drawn = self._runner.entry["num_fewshot"] > 0
            return None if drawn else "the task draws no few-shot examples"
        if columns is not None:
            return None
        if options_show(self._reference):
            task = self._runner.cell.task
            return f"config/noise.yaml does not say which columns hold the options of {task}"
        return "the order of the options is not in the prompt"

    def _reprompted(
        self, family: str, seed: int, columns: ChoiceColumn | None
    ) -> tuple[Run, EngineBlock]:
        """Other prompts about the same documents, put to the reference's engine."""
        from slm_benchmark.tasks.requests import measure

        runner, tasks = self._runner, self._tasks
        draws = runner.protocol["seed"]
        if family == "fewshot_draw":
            parts, draws = [redrawn(part, seed) for part in tasks.parts], seed
        else:
            assert columns is not None
            parts = [reordered(part, columns, seed) for part in tasks.parts]
        samples = measure(self._engine.lm, parts, tasks.chosen, draws, runner.templated)
        run = read_run(samples, runner.entry, parts)
        if not compare(self._reference, run, "prompt")["documents_changed"]:
            raise NotApplicable("every prompt stayed the same")
        return run, self._engine.identity

    # ── both ──

    def _perturbed(
        self,
        name: str,
        kind: Kind,
        setting: Mapping[str, object],
        again: Callable[[], tuple[Run, EngineBlock]],
    ) -> Perturbation:
        """The noise schema's entry of one perturbation.

        Raises:
            UserError: for bad input.
            RunEnvironmentError: when memory, the disk or the network gave out.
        """
        try:
            run, engine = again()
        except NotApplicable as raised:
            return _without_numbers(name, kind, setting, "not_applicable", raised.message)
        except Exception as raised:
            raise_if_environment(raised)
            traceback.print_exc()
            message = f"{type(raised).__name__}: {raised}"[:2000]
            return _without_numbers(name, kind, setting, "failed", message)
        return {
            "name": name,
            "kind": kind,
            "state": "ok",
            "reason": None,
            "setting": dict(setting),
            "engine": engine,
            **compare(self._reference, run, kind),
        }


def _without_numbers(
    name: str,
    kind: Kind,
    setting: Mapping[str, object],
    state: Literal["not_applicable", "failed"],
    reason: str,
) -> Perturbation:
    """The noise schema's entry of a perturbation that gave no numbers."""
    return {
        "name": name,
        "kind": kind,
        "state": state,
        "reason": reason,
        "setting": dict(setting),
        "engine": None,
        "n": 0,
        "value": None,
        "delta": None,
        "flips_to_right": None,
        "flips_to_wrong": None,
        "documents_changed": None,
        "max_abs_delta_nats": None,
        "mean_abs_delta_nats": None,
    }


def _words(settings: Mapping[str, Any], names: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {settings[name]}" for name in names)


# ── the floor ──


def floor(perturbations: Sequence[Perturbation], families: Mapping[str, object]) -> NoiseFloor:
    """The noise schema's ``floor``.

    Args:
        perturbations: Of the record.
        families: The families of prompt perturbations that were planned.
    """
    ran = [entry for entry in perturbations if entry["state"] == "ok"]
    numerical = [entry for entry in ran if entry["kind"] == "numerical"]
    drawn = {
        family: _spread([entry for entry in ran if family in entry["setting"]])
        for family in families
    }
    return {"numerical": _numerical_floor(numerical), "prompt": _prompt_floor(drawn)}


def _numerical_floor(ran: Sequence[Perturbation]) -> NumericalNoise:
    deltas = {entry["name"]: abs(entry["delta"]) for entry in ran if entry["delta"] is not None}
    if not deltas:
        return {
            "max_abs_delta": None,
            "by": None,
            "max_flip_rate": None,
            "flip_rate_upper95": None,
            "reason": "no numerical perturbation gave a score",
        }
    flips = [
        (entry["flips_to_right"] + entry["flips_to_wrong"], entry["n"])
        for entry in ran
        if entry["flips_to_right"] is not None
        and entry["flips_to_wrong"] is not None
        and entry["n"]
    ]
    widest = max(deltas, key=deltas.__getitem__)
    return {
        "max_abs_delta": deltas[widest],
        "by": widest if deltas[widest] else None,
        "max_flip_rate": max((count / n for count, n in flips), default=None),
        # None of n is not never.
        "flip_rate_upper95": max((exact_interval(*each)[1] for each in flips), default=None),
        "reason": None,
    }


def _spread(draws: Sequence[Perturbation]) -> PromptFamily:
    """How far the score moved over the draws of one family."""
    values = [entry["value"] for entry in draws if entry["value"] is not None]
    deltas = [abs(entry["delta"]) for entry in draws if entry["delta"] is not None]
    return {
        "draws": len(draws),
        "sd": statistics.stdev(values) if len(values) > 1 else None,
        "max_abs_delta": max(deltas, default=None),
    }


def _prompt_floor(drawn: Mapping[str, PromptFamily]) -> PromptNoise:
    def largest(name: Literal["sd", "max_abs_delta"]) -> float | None:
        return max((value for d in drawn.values() if (value := d[name]) is not None), default=None)

    nothing = not any(each["draws"] for each in drawn.values())
    return {
        "sd": largest("sd"),
        "max_abs_delta": largest("max_abs_delta"),
        "families": dict(drawn),
        "reason": "no prompt perturbation applies to this task" if nothing else None,
    }


def describe_noise(record: NoiseRecord) -> str:
    """A record in one line."""
    name = f"{record['model']['id']} {record['variant']['id']} {record['task']['id']}"
    if record["state"] != "ok":
        error = record["error"]["type"] if record["error"] else record.get("reason")
        return f"{name}: noise {record['state']}: {error}"
    words = []
    for title, largest in (
        ("numerical", record["floor"]["numerical"]["max_abs_delta"]),
        ("prompt", record["floor"]["prompt"]["max_abs_delta"]),
    ):
        words.append(f"{title} {'none' if largest is None else f'±{largest:.4g}'}")
    n = record["reference"]["n"] if record["reference"] else 0
    return f"{name}: noise of {n} documents: {'; '.join(words)}"
