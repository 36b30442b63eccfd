"""Folders of custom/: read, refused with a reason, and run; datasets that a script generates."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import lm_eval
import pytest
import yaml
from lm_eval.tasks import TaskManager

from slm_benchmark.catalog import custom
from slm_benchmark.catalog.catalog import load_catalogue
from slm_benchmark.catalog.custom import read_custom
from slm_benchmark.common.errors import UserError
from slm_benchmark.common.files import sha256_file
from slm_benchmark.common.paths import ROOT
from slm_benchmark.common.schemas import read_record
from slm_benchmark.download import generated
from slm_benchmark.download.datasets import load_splits, prepare_dataset
from slm_benchmark.tasks import loader
from tests.tasks.test_synthetic import Answering

Entry = dict[str, Any]

ROWS = [{"question": f"What is {n} + 1?", "answer": str(n + 1)} for n in range(6)]

HARNESS = """\
task: sums
dataset_path: own
test_split: test
output_type: generate_until
doc_to_text: question
doc_to_target: answer
process_results: !function sums.process_results
metric_list: [{metric: right, aggregation: mean, higher_is_better: true}]
"""

SCORING = """\
def process_results(doc, results):
    return {"right": float(results[0].strip() == doc["answer"])}
"""


def task(**changes: Any) -> Entry:
    """An entry of benchmark.yaml."""
    return {
        "title": "Sums",
        "category": "custom",
        "harness_task": "sums",
        "datasets": {"own": "sums"},
        "kind": "generate",
        "num_fewshot": 0,
        "metric": "right",
        "chance": 0,
        "runs_code": False,
        "state": "ready",
        **changes,
    }


def local(**changes: Any) -> Any:
    """An entry of a dataset that lies in the folder."""
    return {
        "source": "local",
        "files": {"test": "custom/mine/test.jsonl"},
        "license": "CC0-1.0",
        **changes,
    }


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A checkout that holds nothing but custom/mine, a complete folder of one task."""
    for changed in (custom, generated):
        monkeypatch.setattr(changed, "ROOT", tmp_path)
    monkeypatch.setattr(loader, "CUSTOM", tmp_path / "custom")
    loader.definitions.cache_clear()
    loader._task_manager.cache_clear()
    folder = tmp_path / "custom" / "mine"
    folder.mkdir(parents=True)
    (folder / "sums.yaml").write_text(HARNESS)
    (folder / "sums.py").write_text(SCORING)
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    describe(folder)
    yield tmp_path
    loader.definitions.cache_clear()
    loader._task_manager.cache_clear()


def describe(folder: Path, tasks: Any = None, datasets: Any = None, **more: Any) -> None:
    """Write the folder's benchmark.yaml."""
    described = {
        "tasks": {"my_sums": task()} if tasks is None else tasks,
        "datasets": {"sums": local()} if datasets is None else datasets,
        **more,
    }
    (folder / "benchmark.yaml").write_text(yaml.safe_dump(described))


def read(root: Path) -> tuple[dict[str, Entry], dict[str, Entry]]:
    """The entries of a checkout whose catalogue has one task and one dataset."""
    return read_custom(root / "custom", {"gsm8k": {"harness_task": "gsm8k"}}, {"gsm8k": {}})


# --- reading --------------------------------------------------------------------------------------


def test_a_folder_adds_its_tasks_and_datasets(root: Path) -> None:
    tasks, datasets = read(root)
    assert datasets == {"sums": local()}
    code = tasks["my_sums"].pop("code_sha256")
    assert tasks == {"my_sums": task()}
    assert len(code) == 64


def test_without_custom_there_is_nothing(tmp_path: Path) -> None:
    assert read_custom(tmp_path / "custom", {}, {}) == ({}, {})
    (tmp_path / "custom" / "__pycache__").mkdir(parents=True)
    (tmp_path / "custom" / "README.md").touch()
    assert read_custom(tmp_path / "custom", {}, {}) == ({}, {})


def test_a_task_may_read_a_dataset_of_the_catalogue(root: Path) -> None:
    describe(root / "custom/mine", {"my_sums": task(datasets={"hub": "gsm8k"})}, {})
    assert read(root)[0]["my_sums"]["datasets"] == {"hub": "gsm8k"}


def test_scores_follow_from_the_code_of_the_folder(root: Path) -> None:
    folder = root / "custom/mine"

    def code() -> str:
        return str(read(root)[0]["my_sums"]["code_sha256"])

    before = code()
    describe(folder, {"my_sums": task(note="A word to readers.")})
    (folder / "README.md").write_text("Read me.")
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "sums.py").touch()
    assert code() == before
    (folder / "sums.py").write_text(SCORING + "# more\n")
    changed = code()
    assert changed != before
    (folder / "sums.yaml").write_text(HARNESS + "# more\n")
    assert code() not in (before, changed)


def test_a_script_that_makes_rows_is_no_code_of_the_scores(root: Path) -> None:
    folder = root / "custom/mine"
    (folder / "rows.py").write_text("")
    describe(folder, None, {"sums": made()})
    before = read(root)[0]["my_sums"]["code_sha256"]
    (folder / "rows.py").write_text("# changed\n")
    assert read(root)[0]["my_sums"]["code_sha256"] == before


def test_the_checkout_has_the_synthetic_tasks() -> None:
    catalogue = load_catalogue()
    added = {name for name, entry in catalogue.tasks.items() if entry["category"] == "custom"}
    assert {"synthetic_arithmetic", "synthetic_retrieval", "synthetic_instructions"} <= added
    assert all("code_sha256" in catalogue.tasks[name] for name in added)
    # Nobody's own task runs unless it is named.
    for protocol in catalogue.protocols:
        assert added.isdisjoint(catalogue.protocol_tasks(protocol))


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tasks", "datasets", "message"),
    [
        ({}, None, r"tasks: "),
        ({"my_sums": task(metrics="acc")}, None, r"my_sums\.metrics: unknown key .*'metric'"),
        ({"my_sums": task(category="mine")}, None, r"my_sums\.category: unknown value"),
        ({"my_sums": task(harness_task=None)}, None, r"my_sums\.harness_task: "),
        (
            {"my_sums": task(harness_task="summs")},
            None,
            r"my_sums\.harness_task: no YAML file .*'summs'.* did you mean 'sums'",
        ),
        (
            {"my_sums": task(harness_task="sums_{part}", parts=["easy"])},
            None,
            r"my_sums\.harness_task: no YAML file .*'sums_easy'",
        ),
        ({"gsm8k": task()}, None, r"tasks\.gsm8k: another task has this id"),
        (None, {"gsm8k": local()}, r"datasets\.gsm8k: another dataset has this id"),
        (
            {"my_sums": task(datasets={"own": "sum"})},
            None,
            r"my_sums\.datasets\.own: unknown dataset .*did you mean 'sums'",
        ),
        (
            None,
            {"sums": local(files={"test": "custom/mine/../other.jsonl"})},
            r"sums\.files\.test: this file lies outside .*custom/mine/",
        ),
        (
            None,
            {"sums": local(files={"test": "custom/mine/absent.jsonl"})},
            r"sums\.files\.test: there is no such file",
        ),
    ],
)
def test_a_mistake_is_named(root: Path, tasks: Any, datasets: Any, message: str) -> None:
    describe(root / "custom/mine", tasks, datasets)
    with pytest.raises(UserError, match=rf"mine/benchmark\.yaml: .*{message}") as caught:
        read(root)
    assert "Fix: " in str(caught.value)


@pytest.mark.parametrize("script", ["rows.py", "/etc/rows.py", "custom/mine/../rows.py"])
def test_a_script_elsewhere_is_refused(root: Path, script: str) -> None:
    (root / "rows.py").touch()
    (root / "custom/rows.py").touch()
    describe(root / "custom/mine", None, {"sums": made(script=script)})
    with pytest.raises(UserError, match=r"datasets\.sums\.script: this file lies outside"):
        read(root)


def test_a_link_out_of_the_folder_is_refused(root: Path) -> None:
    outside = root / "outside.jsonl"
    outside.write_text("{}\n")
    (root / "custom/mine/linked.jsonl").symlink_to(outside)
    describe(
        root / "custom/mine", None, {"sums": local(files={"test": "custom/mine/linked.jsonl"})}
    )
    with pytest.raises(UserError, match=r"files\.test: this file lies outside"):
        read(root)


def test_an_absolute_data_file_may_lie_anywhere(root: Path) -> None:
    entry = local(files={"test": str(root / "private.jsonl")})
    describe(root / "custom/mine", None, {"sums": entry})
    assert read(root)[1] == {"sums": entry}


def test_a_folder_without_a_description_is_refused(root: Path) -> None:
    (root / "custom/empty").mkdir()
    with pytest.raises(UserError, match=r"custom/empty: this folder has no benchmark\.yaml"):
        read(root)


def test_an_unknown_part_of_the_description_is_refused(root: Path) -> None:
    describe(root / "custom/mine", models={})
    with pytest.raises(UserError, match=r"benchmark\.yaml: models: unknown key"):
        read(root)


def test_two_folders_may_not_share_names(root: Path) -> None:
    other = root / "custom/other"
    other.mkdir()
    describe(other, {"my_sums": task(harness_task="others")}, {})
    with pytest.raises(UserError, match=r"other/benchmark\.yaml: tasks\.my_sums: another task"):
        read(root)
    describe(other, {"others": task()}, {"sums": local()})
    with pytest.raises(UserError, match=r"other/benchmark\.yaml: datasets\.sums: another dataset"):
        read(root)
    describe(other, {"others": task()}, {})
    (other / "sums.yaml").write_text(HARNESS)
    with pytest.raises(UserError, match=r"other/sums\.yaml: task: .*mine/sums\.yaml has a harness"):
        read(root)


def test_a_stock_task_cannot_be_replaced(root: Path) -> None:
    (root / "custom/mine/again.yaml").write_text("task: gsm8k\n")
    with pytest.raises(UserError, match=r"again\.yaml: task: the catalogue has a harness task"):
        read(root)


def test_malformed_harness_yaml_is_named(root: Path) -> None:
    (root / "custom/mine/sums.yaml").write_text("task: [sums\n")
    with pytest.raises(UserError, match=r"mine/sums\.yaml: malformed YAML"):
        read(root)


# --- running --------------------------------------------------------------------------------------


def right(doc: Entry) -> str:
    return str(doc["answer"])


def run(root: Path, answer: Callable[[Entry], str], **changes: Any) -> tuple[set[float], list[str]]:
    """Values of the metric over all documents, and the prompts."""
    rows = {"test": "test.jsonl", "train": "test.jsonl"}
    files = {split: str(root / "custom/mine" / name) for split, name in rows.items()}
    prepare_dataset("sums", local(files=files), root / "datasets/sums")
    lm = Answering(answer)
    found = scores(lm, "my_sums", task(**changes), root / "datasets/sums")
    assert len(found) == len(ROWS)
    return {sample["right"] for sample in found}, lm.prompts


def scores(lm: Answering, task_id: str, entry: Any, dataset: Path) -> list[dict[str, Any]]:
    """The harness's samples of a task without parts."""
    (part,) = loader.load_parts(task_id, entry, dataset, "first_n", [""])
    assert loader.evaluation_split(part.task) == "test"
    results = lm_eval.simple_evaluate(
        model=lm,
        tasks=[part.task],
        bootstrap_iters=0,
        task_manager=TaskManager(include_defaults=False),
    )
    (samples,) = results["samples"].values()
    return list(samples)


def test_a_yaml_task_with_a_function_of_its_own_runs(root: Path) -> None:
    values, prompts = run(root, right)
    assert values == {1.0}
    assert prompts == [row["question"] for row in ROWS]
    assert run(root, lambda doc: "no")[0] == {0.0}


CLASS_YAML = """\
task: sums
class: !function sums.Sums
test_split: test
fewshot_split: train
output_type: generate_until
"""

CLASS = """\
from lm_eval.api.instance import Instance
from lm_eval.api.metrics import mean
from lm_eval.api.task import ConfigurableTask


class Sums(ConfigurableTask):
    VERSION = 3
    DATASET_PATH = "nobody/nowhere"

    {init}

    def has_training_docs(self):
        return False

    def has_validation_docs(self):
        return False

    def has_test_docs(self):
        return True

    def test_docs(self):
        return self.dataset["test"]

    def doc_to_text(self, doc, doc_to_text=None):
        return doc["question"]

    def doc_to_target(self, doc, doc_to_target=None):
        return doc["answer"]

    def construct_requests(self, doc, ctx, apply_chat_template=False, chat_template=None, **kwargs):
        arguments = (ctx, {{"until": ["."]}})
        return [
            Instance(request_type="generate_until", doc=doc, arguments=arguments, idx=0, **kwargs)
        ]

    def process_results(self, doc, results):
        return {{"right": float(results[0].strip() == doc["answer"])}}

    def aggregation(self):
        return {{"right": mean}}

    def higher_is_better(self):
        return {{"right": True}}
"""

FORMS = {
    "plain": "",
    "passes config on": (
        "def __init__(self, config=None):\n        super().__init__(config=config)"
    ),
    "config of its own": (
        "def __init__(self, config=None):\n"
        '        super().__init__(config={"metadata": {"version": self.VERSION}})'
    ),
    "no config": "def __init__(self):\n        super().__init__(config={'repeats': 1})",
}


@pytest.mark.parametrize("form", FORMS)
def test_a_python_class_runs_in_every_form(root: Path, form: str) -> None:
    folder = root / "custom/mine"
    (folder / "sums.yaml").write_text(CLASS_YAML)
    (folder / "sums.py").write_text(CLASS.format(init=FORMS[form]))
    read(root)
    values, prompts = run(root, right, num_fewshot=1)
    assert values == {1.0}
    example = f"{ROWS[0]['question']} {ROWS[0]['answer']}\n\n"
    assert prompts == [example + row["question"] for row in ROWS]
    assert run(root, lambda doc: "no")[0] == {0.0}


@pytest.mark.parametrize(
    ("yaml_text", "code", "message"),
    [
        (
            CLASS_YAML.replace("test_split: test\n", ""),
            CLASS.format(init=""),
            r"sums\.yaml: test_split: .*must name the split",
        ),
        (CLASS_YAML, "class Sums:\n    pass\n", r"sums\.yaml: class: .*ConfigurableTask.*'Sums'"),
    ],
)
def test_a_class_that_cannot_run_is_named(
    root: Path, yaml_text: str, code: str, message: str
) -> None:
    (root / "custom/mine/sums.yaml").write_text(yaml_text)
    (root / "custom/mine/sums.py").write_text(code)
    with pytest.raises(UserError, match=message):
        run(root, right)


def test_the_guide_works_as_written(root: Path) -> None:
    guide = (ROOT / "docs/how-to/custom-tasks.md").read_text(encoding="utf-8")
    shown = re.findall(r'```\w+ title="([^"]+)"\n(.*?)```', guide, re.DOTALL)
    for name, text in shown:
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    tasks, datasets = read(root)
    assert {"cities", "capitals"} <= set(tasks)
    cities = json.dumps(datasets["cities"]).replace("custom/", f"{root}/custom/")
    prepare_dataset("cities", json.loads(cities), root / "datasets/cities")
    for name, metric in (("cities", "exact_match"), ("capitals", "named")):
        for answer, score in ((right, 1.0), (lambda doc: "Rome", 0.0)):
            values = scores(Answering(answer), name, tasks[name], root / "datasets/cities")
            assert [value[metric] for value in values] == [score] * 3


# --- rows that a script makes ---------------------------------------------------------------------

SCRIPT = """\
import random


def rows(seed, count, first=0):
    rng = random.Random(seed)
    print("a script may print")
    numbers = [first + rng.randrange(100) for _ in range(count)]
    return {"test": [{"number": n} for n in numbers], "train": [{"number": -1}]}
"""


def made(**changes: Any) -> Any:
    """An entry of a dataset that a script makes."""
    return {
        "source": "generated",
        "script": "custom/mine/rows.py",
        "function": "rows",
        "arguments": {"seed": 1, "count": 4},
        "version": 2,
        "splits": ["test", "train"],
        "sha256": None,
        "license": "CC0-1.0",
        "description": "Numbers.",
        **changes,
    }


def test_rows_are_made_prepared_and_described(root: Path) -> None:
    script = root / "custom/mine/rows.py"
    script.write_text(SCRIPT)
    entry: Any = made(parts={"low": {}, "high": {"first": 1000}})
    describe(root / "custom/mine", None, {"sums": entry})
    assert read(root)[1] == {"sums": entry}
    target = root / "datasets/sums"
    prepare_dataset("sums", entry, target)
    manifest = read_record(target / "manifest.json", "dataset_manifest")
    assert manifest["revision"] == f"rows 2 (script sha256 {sha256_file(script)})"
    assert manifest["pinned"] is False
    assert set(manifest["splits"]) == {"low/test", "low/train", "high/test", "high/train"}
    low, high = (load_splits(target, part)["test"].to_list() for part in ("low", "high"))
    assert len(low) == 4
    assert [row["number"] + 1000 for row in low] == [row["number"] for row in high]

    prepare_dataset("sums", cast(Any, {**entry, "sha256": manifest["sha256"]}), target)
    assert read_record(target / "manifest.json", "dataset_manifest")["pinned"] is True
    with pytest.raises(UserError, match=r"mine/rows\.py: sums\.sha256: .*other rows"):
        prepare_dataset("sums", cast(Any, {**entry, "sha256": "0" * 64}), target)


def test_without_parts_the_splits_are_named_as_they_are(root: Path) -> None:
    (root / "custom/mine/rows.py").write_text(SCRIPT)
    splits = generated.generated_splits("sums", made())
    assert {name: len(rows) for name, rows in splits.items()} == {"test": 4, "train": 1}
    other = generated.generated_splits("sums", made(arguments={"seed": 2, "count": 4}))
    assert other["test"] != splits["test"]


@pytest.mark.parametrize(
    "number",
    [
        "hash('a')",
        "list({'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h'})",
        "time.time_ns()",
        "random.random()",
        "os.getpid()",
    ],
)
def test_rows_that_change_from_call_to_call_are_refused(root: Path, number: str) -> None:
    (root / "custom/mine/rows.py").write_text(
        "import os, random, time\n\n\n"
        f"def rows():\n    return {{'test': [{{'number': {number}}}]}}\n"
    )
    with pytest.raises(UserError, match=r"mine/rows\.py: rows: two calls .* different rows"):
        generated.generated_splits("sums", made(arguments={}, splits=["test"]))


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("import absent_module_of_nobody\n", r"cannot be imported: ModuleNotFoundError"),
        ("def lines():\n    pass\n", r"sums\.function: the script has no such function"),
        ("def rows(seed):\n    pass\n", r"failed with .*'count': 4.*TypeError"),
        ("def rows(**_):\n    raise ValueError('no more')\n", r"ValueError: no more"),
        ("def rows(**_):\n    return [{}]\n", r"must return a mapping from the splits"),
        ("def rows(**_):\n    return {'test': [{}]}\n", r"must return .*\['test'\]"),
        (
            "def rows(**_):\n    return {'test': [], 'train': [{'a': 1}]}\n",
            r"test must be a list of at least one row",
        ),
        (
            "def rows(**_):\n    return {'test': [{'a': 1}, {'b': 1}], 'train': [{'a': 1}]}\n",
            r"test must be .* with the same keys",
        ),
        (
            "def rows(**_):\n    return {'test': [{'a': {1}}], 'train': [{'a': 1}]}\n",
            r"a row of test is not plain data",
        ),
        (
            "def rows(**_):\n    return {'test': [{'a': float('nan')}], 'train': [{'a': 1}]}\n",
            r"a row of test is not plain data",
        ),
    ],
)
def test_a_script_that_cannot_be_used_is_named(root: Path, script: str, message: str) -> None:
    (root / "custom/mine/rows.py").write_text(script)
    with pytest.raises(UserError, match=rf"custom/mine/rows\.py: .*{message}") as caught:
        generated.generated_splits("sums", made())
    assert "Fix: " in str(caught.value)


def test_a_script_that_runs_only_here_is_named(root: Path) -> None:
    (root / "custom/mine/rows.py").write_text(
        "import sys\n\n\ndef rows():\n    return {'test': [{'a': str(sys.modules['pytest'])}]}\n"
    )
    with pytest.raises(UserError, match=r"rows\.py: rows: ran here, but not .*KeyError: 'pytest'"):
        generated.generated_splits("sums", made(arguments={}, splits=["test"]))


def test_an_absent_script_is_named(root: Path) -> None:
    with pytest.raises(UserError, match=r"sums: script: there is no such file .*rows\.py"):
        generated.generated_splits("sums", made())
