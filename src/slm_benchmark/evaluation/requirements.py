"""What a task needs beside model and dataset: pinned inputs, a judge, an isolation for code."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from slm_benchmark.catalog.catalog import Catalogue
from slm_benchmark.catalog.types import Task
from slm_benchmark.common.errors import NotRun, UserError, require_known
from slm_benchmark.common.paths import ROOT

JUDGE_PROMPTS = "mt_bench_judge_prompts"
"""Dataset of the published grading prompts."""


@dataclass
class Used:
    """What a scoring used.

    Attributes:
        decisive: What decides the scores: the cell schema's ``scoring``.
        seen: What was seen on the way, such as how many programs ran into a limit.
    """

    decisive: dict[str, object] = field(default_factory=dict)
    seen: dict[str, object] = field(default_factory=dict)


@contextlib.contextmanager
def task_resources(entry: Task) -> Iterator[dict[str, str]]:
    """Let a task find its pinned inputs, from loading it to scoring its answers.

    Yields:
        Resource → digest of its content.

    Raises:
        UserError: when one is missing or was changed.
    """
    with contextlib.ExitStack() as stack:
        digests = {}
        if "nltk" in entry.get("resources", ()):
            from slm_benchmark.download.nltk_data import nltk_environment

            digests["nltk"] = stack.enter_context(nltk_environment(ROOT / "resources/tools/nltk"))
        if entry["runs_code"]:
            # The harness's code tasks try their metric when they are loaded: nothing runs there.
            from slm_benchmark.tasks.code_eval import code_eval_metric

            stack.enter_context(code_eval_metric(None))
        yield digests


@contextlib.contextmanager
def scoring_tools(
    entry: Task, catalogue: Catalogue, judge: str | None, verdicts: Path, threads: int
) -> Iterator[Used]:
    """Let a task's scoring find what it needs.

    Args:
        entry: The task's entry in config/tasks.yaml.
        catalogue: The catalogue of the checkout.
        judge: Id of the judge; None where there is none.
        verdicts: Where the judge's verdicts are stored until the record is written.
        threads: CPU threads of a judge that runs on this machine.

    Yields:
        What is used, complete when the block ends.

    Raises:
        NotRun: when this machine cannot confine generated code, or has no judge.
    """
    used = Used()
    with contextlib.ExitStack() as stack:
        resources = stack.enter_context(task_resources(entry))
        if resources:
            used.decisive["resources"] = resources
        if entry["harness_task"] == "bold":
            from slm_benchmark.tasks.classifiers import classifiers, use_hub_classifiers

            chosen = entry.get("hub_classifiers", [])
            stack.enter_context(use_hub_classifiers(chosen, field="hub_classifiers"))
            used.decisive["classifiers"] = classifiers()
        if entry["harness_task"] == "flores":
            used.decisive["signatures"] = _signatures(entry["parts"])
        if entry["runs_code"]:
            stack.enter_context(_confined_code(catalogue, used))
        if entry.get("judged"):
            stack.enter_context(_judge(catalogue, judge, verdicts, threads, used))
        yield used


def _signatures(directions: Iterable[str]) -> dict[str, dict[str, str]]:
    """Signatures of the metrics by direction: they depend on the target's script."""
    from slm_benchmark.tasks.corpus_metrics import signatures

    targets = {direction: direction.split("-")[1] for direction in directions}
    known = {target: signatures(target) for target in sorted(set(targets.values()))}
    return {direction: known[target] for direction, target in targets.items()}


@contextlib.contextmanager
def _confined_code(catalogue: Catalogue, used: Used) -> Iterator[None]:
    from slm_benchmark.sandbox import Limits, require_confinement, run_program
    from slm_benchmark.tasks.code_eval import CodeEval, code_eval_metric

    limits = Limits(**catalogue.sandbox["limits"])
    backend = require_confinement()
    programs = CodeEval(lambda candidate, tests: run_program(candidate, tests, limits, backend))
    with code_eval_metric(programs):
        yield
    used.decisive["code"] = dict(catalogue.sandbox)
    used.seen["confinement"] = backend.name
    used.seen["programs"] = programs.counts()


@contextlib.contextmanager
def _judge(
    catalogue: Catalogue, judge: str | None, verdicts: Path, threads: int, used: Used
) -> Iterator[None]:
    from slm_benchmark.judge.active import use_judge
    from slm_benchmark.judge.grading import Grader, load_templates
    from slm_benchmark.judge.load import load_judge

    if judge is None:
        raise NotRun(
            "no judge is configured",
            file="config/config.yaml",
            field="judge",
            value=None,
            fix="name one of config/judges.yaml, or score the answers where there is one",
        )
    templates = load_templates(ROOT / "resources/datasets" / JUDGE_PROMPTS)
    require_known("judge", judge, catalogue.judges, "config/judges.yaml")
    loaded = load_judge(judge, catalogue.judges[judge], threads)
    grader = Grader(loaded, templates, verdicts)
    try:
        with use_judge(grader):
            yield
    finally:
        loaded.close()
    used.decisive["judge"] = grader.identity


def can_score(entry: Task, judge: str | None) -> bool:
    """Whether this machine has what scoring a task needs."""
    if entry["runs_code"]:
        from slm_benchmark.sandbox import Unavailable, confinement

        if isinstance(confinement(), Unavailable):
            return False
    return not (entry.get("judged") and judge is None)


def prepare_tools(catalogue: Catalogue, task: str, protocol: str, judged: bool) -> Path:
    """Prepare what scoring a task's answers reads, where it is missing.

    Args:
        catalogue: The catalogue of the checkout.
        task: Id of the task.
        protocol: Id of the protocol of the answers.
        judged: Whether there is a judge.

    Returns:
        Folder of the task's dataset.

    Raises:
        UserError: when the protocol has no dataset for the task, or one cannot be prepared.
    """
    # Scoring is offline. What these libraries find in the environment when they are imported holds
    # for the whole process, and the next answers may need another dataset.
    import datasets  # noqa: F401
    import huggingface_hub  # noqa: F401

    from slm_benchmark.download.datasets import prepare_dataset
    from slm_benchmark.download.nltk_data import prepare_punkt

    entry = catalogue.tasks[task]
    dataset = catalogue.dataset_id(task, protocol)
    if dataset is None:
        raise UserError(
            f"the protocol {protocol} has no dataset for this task",
            file="config/tasks.yaml",
            field=f"{task}.datasets",
            fix="score answers of another protocol",
        )
    for needed in [dataset, *([JUDGE_PROMPTS] if judged and entry.get("judged") else [])]:
        if not (folder := ROOT / "resources/datasets" / needed).is_dir():
            prepare_dataset(needed, catalogue.datasets[needed], folder)
    nltk = ROOT / "resources/tools/nltk"
    if "nltk" in entry.get("resources", ()) and not nltk.is_dir():
        prepare_punkt(nltk)
    return ROOT / "resources/datasets" / dataset
