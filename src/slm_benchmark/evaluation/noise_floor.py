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
from typing import Any

from slm_benchmark.catalog.catalog import Catalogue
from slm_benchmark.catalog.run_config import Cell
from slm_benchmark.catalog.types import NoisePlan, Protocol
from slm_benchmark.common import progress
from slm_benchmark.common.errors import NotApplicable, UserError
from slm_benchmark.common.paths import CONFIG
from slm_benchmark.common.schemas import write_record
from slm_benchmark.engines.identity import engine_name, sources_sha256
from slm_benchmark.evaluation.runner import (
    CellRun,
    CellRunner,
    Folders,
    Record,
    engine_environment,
    raise_if_environment,
    recording,
)
from slm_benchmark.evaluation.scores import score_rows
from slm_benchmark.records.provenance import result_digest
from slm_benchmark.statistics.proportion import exact_interval

FILE = CONFIG / "noise.yaml"

DIGITS = 6
"""Decimals of the differences of log-likelihoods in a record."""

LABELS: dict[str, Callable[[int], Any]] = {
    "letters": lambda place: chr(ord("A") + place),
    "bracketed": lambda place: f"({chr(ord('A') + place)})",
    "numbers": lambda place: str(place + 1),
    "index": lambda place: place,
}
"""How a dataset names the right option, by its place from 0."""

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


# ── what was answered ──


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


def read_run(samples: Sequence[Mapping[str, Any]], entry: Mapping[str, Any], parts: Any) -> Run:
    """A run from the samples of `score_documents`.

    Args:
        samples: The samples.
        entry: The task's entry in config/tasks.yaml.
        parts: The tasks that gave them.

    Raises:
        UserError: when the task's metric is not one number for each document.
    """
    named = (entry["metric"], entry.get("filter", "none"))
    documents = {}
    for sample in samples:
        if sample["filter"] != named[1]:
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


def compare(reference: Run, run: Run, kind: str) -> Record:
    """What a perturbation did to a score: the numbers of the noise schema's ``perturbations``.

    Args:
        reference: The documents as the protocol asks them.
        run: The same documents under the perturbation.
        kind: numerical or prompt.
    """
    pairs = [(found, run.documents[key]) for key, found in reference.documents.items()]
    values = [
        (before.value, after.value)
        for before, after in pairs
        if before.value is not None and after.value is not None
    ]
    decided = all(value in (0.0, 1.0) for pair in values for value in pair)
    record: Record = {
        "n": len(values),
        "value": run.score,
        "delta": None
        if run.score is None or reference.score is None
        else run.score - reference.score,
        "flips_to_right": sum(a > b for b, a in values) if decided else None,
        "flips_to_wrong": sum(a < b for b, a in values) if decided else None,
    }
    if kind == "prompt":
        changed = sum(before.prompts != after.prompts for before, after in pairs)
        return record | {
            "documents_changed": changed,
            "max_abs_delta_nats": None,
            "mean_abs_delta_nats": None,
        }
    apart = [
        abs(b - a)
        for before, after in pairs
        for b, a in zip(before.nats, after.nats, strict=True)
        # A token that the model masks has minus infinity in both runs.
        if b != a
    ]
    count = sum(len(before.nats) for before, _ in pairs)
    return record | {
        "documents_changed": sum(before.nats != after.nats for before, after in pairs),
        "max_abs_delta_nats": _rounded(max(apart, default=0.0)),
        "mean_abs_delta_nats": _rounded(math.fsum(apart) / count) if count else None,
    }


def _rounded(value: float) -> float | None:
    return round(value, DIGITS) if math.isfinite(value) else None


# ── prompt perturbations ──


def redrawn(part: Any, seed: int) -> Any:
    """A part whose worked examples are drawn from a shuffled pool.

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


def reordered(part: Any, columns: Mapping[str, Any], seed: int) -> Any:
    """A part with the options of every document, and of every worked example, in another order.

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


def permuted(doc: Mapping[str, Any], columns: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """A document with its options in another order, and its answer named accordingly; see
    `reordered`."""
    from slm_benchmark.tasks.requests import document_digest

    place, answer = columns["options"], columns["answer"]
    missing = [name for name in ([place] if isinstance(place, str) else place) if name not in doc]
    if missing or answer not in doc:
        raise _bad_columns("the dataset lacks a column", (missing or [answer])[0])
    options = list(doc[place]) if isinstance(place, str) else [doc[name] for name in place]
    names = [LABELS[columns["labels"]](number) for number in range(len(options))]
    if doc[answer] not in names:
        raise _bad_columns(f"the column {answer} names no option of a document", doc[answer])
    draw = random.Random(f"{seed} {document_digest(doc)}")
    order = draw.sample(range(len(options)), len(options))
    moved = [options[number] for number in order]
    changed = {place: moved} if isinstance(place, str) else dict(zip(place, moved, strict=True))
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

    found = [shows(document) for document in run.documents.values()]
    return 2 * sum(found) > len(found)


# ── the measurement ──


def measure_noise(
    cell: Cell, catalogue: Catalogue, folders: Folders, output: Path, threads: int
) -> Record:
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
    asking = CellRunner(cell, fewer, folders, output, threads)
    cell_run, found, reference = CellRun(), [], None
    # The libraries read these variables when they are imported.
    with engine_environment(threads):
        from slm_benchmark.tasks.requests import score_documents

        with recording(cell_run):
            if engine_name(cell.variant, catalogue.engine(cell.protocol)) == "vllm":
                raise NotApplicable("vLLM decides itself which requests run together")
            asking.ask(cell_run)
            samples = score_documents(cell_run.parts, cell_run.chosen)
            reference = read_run(samples, asking.entry, cell_run.parts)
        blocks = asking.blocks(cell_run)
        if reference is not None:
            perturbing = Perturbing(asking, cell_run, reference, blocks)
            columns = catalogue.noise["choice_columns"].get(cell.task)
            families: dict[str, Any] = {**plan["prompt"]}
            found = perturbing.prompts(families, columns)
            cell_run.engine.close()
            found = perturbing.numbers(plan["numerical"]) + found
    record = {key: value for key, value in blocks.items() if key != "tokens"}
    record |= {
        "kind": "noise",
        "reference": reference_block(reference, cell_run),
        "perturbations": found,
        "floor": floor(found, plan["prompt"]),
        **asking.closing(),
    }
    record["result_sha256"] = result_digest(record)
    write_record(output, record, "noise")
    for journal in (asking.journal, *(journal_file(asking, name) for name in plan["numerical"])):
        journal.unlink(missing_ok=True)
    return record


def with_documents(catalogue: Catalogue, cell: Cell, most: int) -> Catalogue:
    """The catalogue with a protocol that asks the cell's task for ``most`` documents at most."""
    asked = catalogue.documents(cell.task, cell.protocol)
    wanted = most if asked is None else min(asked, most)
    protocol: Protocol = {
        **catalogue.protocols[cell.protocol],
        "documents": {"default": wanted},
    }
    return dataclasses.replace(
        catalogue, protocols={**catalogue.protocols, cell.protocol: protocol}
    )


def journal_file(asking: CellRunner, name: str) -> Path:
    """Where the finished documents of a perturbation are kept until the record is written."""
    return asking.target.with_name(f"{asking.cell.task}.{name}.journal.jsonl")


def reference_block(reference: Run | None, cell_run: CellRun) -> Record | None:
    """The noise schema's ``reference``."""
    if reference is None:
        return None
    return {
        "value": reference.score,
        "n": sum(found.value is not None for found in reference.documents.values()),
        "settings": dict(cell_run.engine.lm.model.effective),
    }


class Perturbing:
    """The documents of one cell, to be asked again under perturbations.

    Args:
        asking: The cell.
        cell_run: Its attempt, with the loaded engine and all requests.
        reference: What came out of it.
        blocks: The record's blocks.
    """

    def __init__(
        self, asking: CellRunner, cell_run: CellRun, reference: Run, blocks: Record
    ) -> None:
        self._asking, self._attempt, self._reference = asking, cell_run, reference
        self._effective = dict(cell_run.engine.lm.model.effective)
        self._decisive = {
            **{key: blocks[key] for key in ("model", "variant", "environment", "hardware")},
            "sources": sources_sha256(),
        }

    # ── numerical ──

    def numbers(self, planned: Mapping[str, Mapping[str, Any]]) -> list[Record]:
        """One entry for each numerical perturbation; the reference's engine is closed before."""
        return [
            self._perturbed(
                name, "numerical", change, functools.partial(self._recomputed, name, change)
            )
            for name, change in planned.items()
        ]

    def _recomputed(self, name: str, change: Mapping[str, Any]) -> tuple[Run, Record]:
        """The same requests, put to an engine with other settings."""
        from slm_benchmark.engines.journal import Journal
        from slm_benchmark.engines.load import load_engine
        from slm_benchmark.tasks.requests import ask, score_documents

        self._check(change)
        asking, cell_run = self._asking, self._attempt
        settings = dataclasses.replace(cell_run.engine.settings, **change)
        decisive = {**self._decisive, "settings": asdict(settings)}
        engine = load_engine(
            engine_name(asking.cell.variant),
            asking.folders.weights,
            asking.folders.base,
            settings,
            progress=progress.documents(f"{asking.name} {name}"),
            journal=lambda block: Journal(
                journal_file(asking, name), {**decisive, "engine": block}
            ),
        )
        try:
            effective = engine.lm.model.effective
            if any(effective[key] != value for key, value in change.items()):
                raise NotApplicable(f"the engine keeps to {_words(effective, change)}")
            for part in cell_run.parts:
                for instance in part.task.instances:
                    instance.resps, instance.filtered_resps = [], {}
            ask(engine.lm, cell_run.parts)
        finally:
            engine.close()
        samples = score_documents(cell_run.parts, cell_run.chosen)
        return read_run(samples, asking.entry, cell_run.parts), engine.identity

    def _check(self, change: Mapping[str, Any]) -> None:
        """Refuse a change that is none.

        Raises:
            NotApplicable: saying why.
        """
        engine = self._attempt.engine.identity["name"]
        for key in change:
            if key not in self._effective:
                raise NotApplicable(f"{engine} has no setting {key}")
            if self._effective[key] is None:
                raise NotApplicable(f"{engine} has no choice of {key} for this model")
        if all(self._effective[key] == value for key, value in change.items()):
            raise NotApplicable(f"the reference runs with {_words(self._effective, change)}")

    # ── prompts ──

    def prompts(
        self, planned: Mapping[str, Sequence[int]], columns: Mapping[str, Any] | None
    ) -> list[Record]:
        """One entry for each draw of each family, or one that says why there are none."""
        found = []
        for family, seeds in planned.items():
            reason = self._unpromptable(family, columns)
            if reason is not None:
                found.append(_entry(family, "prompt", {}) | _nothing("not_applicable", reason))
                continue
            for seed in seeds:
                again = functools.partial(self._asked_otherwise, family, seed, columns)
                found.append(self._perturbed(f"{family}-{seed}", "prompt", {family: seed}, again))
        return found

    def _unpromptable(self, family: str, columns: Mapping[str, Any] | None) -> str | None:
        """Why a family does not apply to this task; None where it does."""
        if family == "fewshot_draw":
            drawn = self._asking.entry["num_fewshot"] > 0
            return None if drawn else "the task draws no worked examples"
        if columns is not None:
            return None
        if options_show(self._reference):
            task = self._asking.cell.task
            return f"config/noise.yaml does not say which columns hold the options of {task}"
        return "the order of the options is not in the prompt"

    def _asked_otherwise(
        self, family: str, seed: int, columns: Mapping[str, Any] | None
    ) -> tuple[Run, Record]:
        """Other prompts about the same documents, put to the reference's engine."""
        from slm_benchmark.tasks.requests import measure

        asking, cell_run = self._asking, self._attempt
        draws = asking.protocol["seed"]
        if family == "fewshot_draw":
            parts, draws = [redrawn(part, seed) for part in cell_run.parts], seed
        else:
            assert columns is not None
            parts = [reordered(part, columns, seed) for part in cell_run.parts]
        chat = asking.templated
        samples = measure(cell_run.engine.lm, parts, cell_run.chosen, draws, chat)
        run = read_run(samples, asking.entry, parts)
        if not compare(self._reference, run, "prompt")["documents_changed"]:
            raise NotApplicable("every prompt stayed the same")
        return run, cell_run.engine.identity

    # ── both ──

    def _perturbed(
        self, name: str, kind: str, setting: Mapping[str, Any], again: Callable[[], Any]
    ) -> Record:
        """The noise schema's entry of one perturbation.

        Raises:
            UserError: for bad input.
            RunEnvironmentError: when memory, the disk or the network gave out.
        """
        entry = _entry(name, kind, setting)
        try:
            run, engine = again()
        except NotApplicable as raised:
            return entry | _nothing("not_applicable", raised.message)
        except Exception as raised:
            raise_if_environment(raised)
            traceback.print_exc()
            return entry | _nothing("failed", f"{type(raised).__name__}: {raised}"[:2000])
        return entry | {"engine": engine} | compare(self._reference, run, kind)


def _entry(name: str, kind: str, setting: Mapping[str, Any]) -> Record:
    named = {"name": name, "kind": kind, "state": "ok", "reason": None}
    return {**named, "setting": dict(setting), "engine": None}


def _nothing(state: str, reason: str) -> Record:
    """The numbers of a perturbation that gave none."""
    numbers = (
        "value",
        "delta",
        "flips_to_right",
        "flips_to_wrong",
        "documents_changed",
        "max_abs_delta_nats",
        "mean_abs_delta_nats",
    )
    return {"state": state, "reason": reason, "n": 0, **dict.fromkeys(numbers)}


def _words(settings: Mapping[str, Any], names: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {settings[name]}" for name in names)


# ── the floor ──


def floor(found: Sequence[Record], families: Mapping[str, Any]) -> Record:
    """The noise schema's ``floor``.

    Args:
        found: The record's ``perturbations``.
        families: The families of prompt perturbations that were planned.
    """
    ran = [entry for entry in found if entry["state"] == "ok"]
    numerical = [entry for entry in ran if entry["kind"] == "numerical"]
    drawn = {
        family: _spread([entry for entry in ran if family in entry["setting"]])
        for family in families
    }
    return {"numerical": _numerical_floor(numerical), "prompt": _prompt_floor(drawn)}


def _numerical_floor(ran: Sequence[Record]) -> Record:
    deltas = {entry["name"]: abs(entry["delta"]) for entry in ran if entry["delta"] is not None}
    if not deltas:
        nothing = dict.fromkeys(("max_abs_delta", "by", "max_flip_rate", "flip_rate_upper95"))
        return nothing | {"reason": "no numerical perturbation gave a score"}
    flips = [
        (entry["flips_to_right"] + entry["flips_to_wrong"], entry["n"])
        for entry in ran
        if entry["flips_to_right"] is not None and entry["n"]
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


def _spread(draws: Sequence[Record]) -> Record:
    """How far the score moved over the draws of one family."""
    values = [entry["value"] for entry in draws if entry["value"] is not None]
    deltas = [abs(entry["delta"]) for entry in draws if entry["delta"] is not None]
    return {
        "draws": len(draws),
        "sd": statistics.stdev(values) if len(values) > 1 else None,
        "max_abs_delta": max(deltas, default=None),
    }


def _prompt_floor(drawn: Mapping[str, Record]) -> Record:
    def largest(name: str) -> float | None:
        return max((d[name] for d in drawn.values() if d[name] is not None), default=None)

    nothing = not any(each["draws"] for each in drawn.values())
    return {
        "sd": largest("sd"),
        "max_abs_delta": largest("max_abs_delta"),
        "families": dict(drawn),
        "reason": "no prompt perturbation applies to this task" if nothing else None,
    }


def describe_noise(record: Mapping[str, Any]) -> str:
    """A record in one line."""
    name = f"{record['model']['id']} {record['variant']['id']} {record['task']['id']}"
    if record["state"] != "ok":
        error = record["error"]["type"] if record["error"] else record.get("reason")
        return f"{name}: noise {record['state']}: {error}"
    numerical, prompt = record["floor"]["numerical"], record["floor"]["prompt"]
    words = []
    for title, found in (("numerical", numerical), ("prompt", prompt)):
        largest = found["max_abs_delta"]
        words.append(f"{title} {'none' if largest is None else f'±{largest:.4g}'}")
    return f"{name}: noise of {record['reference']['n']} documents: {'; '.join(words)}"
