"""The engines as lm_eval sees them: by name, from its command line and from Python."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lm_eval
import pytest
import yaml
from lm_eval.api.registry import get_model
from lm_eval.tasks import TaskManager

from slm_benchmark.common.errors import UserError
from slm_benchmark.common.paths import ROOT
from slm_benchmark.engines import lm_eval_models

QUESTIONS = (
    ("Which of these is a planet?", ["Mars", "the Moon", "a small dog"], 0),
    ("Which word comes next?", ["jumps", "brown", "345 seconds"], 1),
    ("def add(first, second):", ["return first", "return second", "a planet"], 0),
    ("The quick brown fox", ["reads a text", "jumps over", "is 12"], 1),
    ("", ["A small model", "Of course; not."], 0),
    ("Café, naïve – 12 €", ["é", "n", "7"], 2),
)

Run = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two local tasks: `choose` between endings, and `write` an answer."""
    folder = tmp_path_factory.mktemp("tasks")
    rows = [dict(zip(("question", "choices", "answer"), row, strict=True)) for row in QUESTIONS]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    common: dict[str, Any] = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / "rows.jsonl")}},
        "test_split": "test",
        "doc_to_text": "{{question}}",
    }
    metrics = [
        {"metric": metric, "aggregation": "mean", "higher_is_better": True}
        for metric in ("acc", "acc_norm", "exact_match")
    ]
    choose = {
        "task": "slm_choose",
        "output_type": "multiple_choice",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "answer",
        "metric_list": metrics[:2],
    }
    write = {
        "task": "slm_write",
        "output_type": "generate_until",
        "doc_to_text": "Write: {{question}}",
        "doc_to_target": "{{choices[answer]}}",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 12, "do_sample": False},
        "metric_list": metrics[2:],
    }
    for task in (choose, write):
        (folder / f"{task['task']}.yaml").write_text(yaml.safe_dump({**common, **task}))
    return folder


@pytest.fixture(scope="module")
def run(tasks: Path) -> Run:
    """Scores both tasks with a model of the harness's registry."""

    def call(model: Any, model_args: Any, **options: Any) -> dict[str, Any]:
        results: dict[str, Any] = lm_eval.simple_evaluate(
            model=model,
            model_args=model_args,
            tasks=["slm_choose", "slm_write"],
            task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
            bootstrap_iters=0,
            **options,
        )
        return results

    return call


@pytest.fixture(scope="module")
def reference(run: Run, tiny_model: Path) -> dict[str, Any]:
    return run("hf", f"pretrained={tiny_model},dtype=float32", device="cpu")


def log_probabilities(samples: list[dict[str, Any]]) -> list[float]:
    """Of every choice, in the order of the documents."""
    ordered = sorted(samples, key=lambda sample: int(sample["doc_id"]))
    return [float(choice[0]) for sample in ordered for choice in sample["filtered_resps"]]


def answers(samples: list[dict[str, Any]]) -> list[Any]:
    ordered = sorted(samples, key=lambda sample: int(sample["doc_id"]))
    return [sample["filtered_resps"] for sample in ordered]


def scores(results: dict[str, Any]) -> dict[str, float]:
    return {
        f"{task} {key}": float(value)
        for task, found in results["results"].items()
        for key, value in found.items()
        if key.endswith(",none") and "stderr" not in key
    }


@pytest.mark.parametrize(
    ("program", "engine"),
    [
        ([str(Path(sys.executable).with_name("lm_eval"))], "slm-llamacpp"),
        ([sys.executable, "-m", "lm_eval"], "slm-transformers"),
    ],
)
def test_the_command_line_gives_the_scores_of_hf(
    program: list[str],
    engine: str,
    reference: dict[str, Any],
    tasks: Path,
    tiny_model: Path,
    tiny_gguf_f16: Path,
    tmp_path: Path,
) -> None:
    model_args = {
        "slm-llamacpp": f"pretrained={tiny_gguf_f16},tokenizer={tiny_model},threads=1",
        "slm-transformers": f"pretrained={tiny_model},dtype=float32,threads=1",
    }[engine]
    command = [*program, "--model", engine, "--model_args", model_args]
    command += ["--tasks", "slm_choose,slm_write", "--include_path", str(tasks)]
    command += ["--batch_size", "8", "--log_samples", "--output_path", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"{engine}: batch_size has no effect" in done.stderr

    (found,) = tmp_path.rglob("results_*.json")
    results = json.loads(found.read_text())
    assert scores(results).keys() == {
        "slm_choose acc,none",
        "slm_choose acc_norm,none",
        "slm_write exact_match,none",
    }
    assert scores(results) == pytest.approx(scores(reference), abs=1e-9)
    name = {"slm-llamacpp": "llama.cpp", "slm-transformers": "transformers"}[engine]
    assert results["config"]["engine"]["name"] == name
    assert results["config"]["engine"]["threads"] == 1

    samples = {
        task: [json.loads(line) for line in next(tmp_path.rglob(f"samples_{task}_*")).open()]
        for task in ("slm_choose", "slm_write")
    }
    # llama.cpp computes with float16 keys and values.
    tolerance = {"slm-llamacpp": 0.05, "slm-transformers": 1e-4}[engine]
    assert log_probabilities(samples["slm_choose"]) == pytest.approx(
        log_probabilities(reference["samples"]["slm_choose"]), abs=tolerance
    )
    assert answers(samples["slm_write"]) == answers(reference["samples"]["slm_write"])


def test_the_command_line_ends_with_the_error(tasks: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lm_eval", "--model", "slm-transformers"]
    command += ["--model_args", f"pretrained={tmp_path},thread=1", "--tasks", "slm_choose"]
    command += ["--include_path", str(tasks)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode != 0
    assert "UserError: --model_args: thread: unknown argument" in done.stderr.splitlines()[-1]


def test_a_program_can_use_the_names(run: Run, tiny_model: Path, tiny_gguf_f16: Path) -> None:
    typed = {"pretrained": str(tiny_gguf_f16), "tokenizer": str(tiny_model), "threads": 1}
    as_text = ",".join(f"{key}={value}" for key, value in typed.items())
    first, second = run("slm-llamacpp", typed), run("slm-llamacpp", as_text)
    assert first["config"]["engine"]["name"] == "llama.cpp"
    for task in ("slm_choose", "slm_write"):
        assert answers(first["samples"][task]) == answers(second["samples"][task])


def test_the_harness_cache_and_chat_templates_work(
    run: Run, tiny_model: Path, tiny_gguf_f16: Path, tmp_path: Path
) -> None:
    model_args = f"pretrained={tiny_gguf_f16},tokenizer={tiny_model},threads=1"
    options = {
        "apply_chat_template": True,
        "system_instruction": "Be short.",
        "use_cache": str(tmp_path / "cache"),
        "gen_kwargs": "max_gen_toks=3",
    }
    first, second = (run("slm-llamacpp", model_args, **options) for _ in range(2))
    for task in ("slm_choose", "slm_write"):
        prompts = [sample["arguments"][0][0] for sample in first["samples"][task]]
        assert all("Be short.<|im_end|>" in prompt for prompt in prompts)
        assert answers(first["samples"][task]) == answers(second["samples"][task])
    expected = run(
        "hf",
        f"pretrained={tiny_model},dtype=float32",
        device="cpu",
        **{key: value for key, value in options.items() if key != "use_cache"},
    )
    assert answers(first["samples"]["slm_write"]) == answers(expected["samples"]["slm_write"])


def test_answers_are_kept_for_exactly_the_same_model(
    run: Run, tiny_model: Path, tiny_gguf: Path, tiny_gguf_f16: Path, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(tiny_model, tmp_path / "other"))
    settings = json.loads((other / "tokenizer_config.json").read_text())
    (other / "tokenizer_config.json").write_text(json.dumps({**settings, "note": "changed"}))
    given = {"pretrained": tiny_gguf, "tokenizer": tiny_model, "threads": 1}

    def forwarded(engine: str, **arguments: Any) -> tuple[int, list[Any]]:
        """Tokens that a run with the same folder forwards, and its answers."""
        lm = get_model(engine)(**arguments, resume=tmp_path / "kept")
        samples = run(lm, None)["samples"]
        return lm.model.forwarded_tokens, [answers(samples[task]) for task in sorted(samples)]

    tokens, first = forwarded("slm-llamacpp", **given)
    assert tokens > 0
    assert forwarded("slm-llamacpp", **given) == (0, first)
    assert forwarded("slm-llamacpp", **given, memory_budget_mb=64) == (0, first)
    for change in (
        {"pretrained": tiny_gguf_f16},
        {"tokenizer": other},
        {"max_length": 200},
        {"seed": 1},
    ):
        assert forwarded("slm-llamacpp", **{**given, **change})[0] > 0, change
    given["pretrained"] = tiny_model
    for dtype in ("float32", "bfloat16"):
        assert forwarded("slm-transformers", **given, dtype=dtype)[0] > 0
        assert forwarded("slm-transformers", **given, dtype=dtype)[0] == 0


def test_importing_the_module_is_enough_where_nothing_watches() -> None:
    """As in a conda environment, which has no .pth file."""
    paths = [str(ROOT / "src"), sysconfig.get_path("purelib")]
    program = (
        f"import sys; sys.path[:0] = {paths!r}\n"
        "assert not any('_Watch' in type(finder).__name__ for finder in sys.meta_path)\n"
        "import slm_benchmark.engines.lm_eval_models as lm_eval_models\n"
        "from lm_eval.api.registry import get_model, model_registry\n"
        "assert get_model('slm-llamacpp') is lm_eval_models.SlmLlamaCpp\n"
        "assert 'vllm' in model_registry"
    )
    done = subprocess.run([sys.executable, "-S", "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# --- arguments -----------------------------------------------------------------------------------


@pytest.fixture
def places(tmp_path: Path, tiny_model: Path, tiny_gguf: Path, tiny_gguf_f16: Path) -> Path:
    """Folders by name: hf, one (GGUF), two (GGUFs), empty, half (a tokenizer without config)."""
    (tmp_path / "hf").symlink_to(tiny_model)
    for name in ("one", "two", "empty", "half"):
        (tmp_path / name).mkdir()
    shutil.copy(tiny_gguf, tmp_path / "one")
    for file in (tiny_gguf, tiny_gguf_f16):
        shutil.copy(file, tmp_path / "two")
    shutil.copy(tiny_model / "tokenizer.json", tmp_path / "half")
    return tmp_path


@pytest.mark.parametrize(
    ("engine", "arguments", "field", "says"),
    [
        ("slm-llamacpp", "pretrained=one,tokenizer=hf,dtype=float32", "dtype", "max_length, mem"),
        ("slm-transformers", "pretrained=hf,revision=main", "revision", "unknown argument"),
        ("slm-transformers", "tokenizer=hf", "pretrained", "add pretrained="),
        ("slm-transformers", "pretrained=org/name", "pretrained", "nothing is downloaded"),
        ("slm-transformers", "pretrained=one", "pretrained", "use --model slm-llamacpp"),
        ("slm-transformers", "pretrained=empty", "pretrained", "config.json"),
        ("slm-llamacpp", "pretrained=hf,tokenizer=hf", "pretrained", "--model slm-transformers"),
        ("slm-llamacpp", "pretrained=two,tokenizer=hf", "pretrained", "tiny.Q4_1.gguf"),
        ("slm-llamacpp", "pretrained=empty,tokenizer=hf", "pretrained", "give a GGUF file"),
        ("slm-llamacpp", "pretrained=one", "tokenizer", "encodes for every format"),
        ("slm-llamacpp", "pretrained=one,tokenizer=empty", "tokenizer", "no tokenizer.json or"),
        ("slm-llamacpp", "pretrained=one,tokenizer=half", "tokenizer", "or config.json"),
        ("slm-llamacpp", "pretrained=one,tokenizer=hf,device=cuda", "device", "use cpu"),
        ("slm-llamacpp", "pretrained=one,tokenizer=hf,threads=0", "threads", "≥ 1"),
        ("slm-llamacpp", "pretrained=one,tokenizer=hf,threads=two", "threads", "got 'two'"),
        ("slm-llamacpp", "pretrained=one,tokenizer=hf,memory_budget_mb=0", "memory_budget_mb", "≥"),
        ("slm-llamacpp", "pretrained=one,tokenizer=hf,max_length=257", "max_length", "most 256"),
        ("slm-transformers", "pretrained=hf,max_length=4097", "max_length", "most 256"),
        ("slm-transformers", "pretrained=hf,dtype=int8", "dtype", "auto or float32 or"),
        ("slm-transformers", "pretrained=hf,device=tpu", "device", "cpu"),
        ("slm-transformers", "pretrained=hf,seed=-1", "seed", "≥ 0"),
    ],
)
def test_a_bad_argument_is_one_clear_line(
    places: Path,
    monkeypatch: pytest.MonkeyPatch,
    engine: str,
    arguments: str,
    field: str,
    says: str,
) -> None:
    monkeypatch.chdir(places)
    with pytest.raises(UserError) as caught:
        get_model(engine).create_from_arg_string(arguments, {"batch_size": 1, "device": "cuda:0"})
    assert caught.value.field == field
    assert caught.value.fix
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("engine", ["slm-llamacpp", "slm-transformers"])
def test_the_window_is_the_models_up_to_a_limit(
    places: Path, monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    weights = {"slm-llamacpp": "one", "slm-transformers": "hf"}[engine]
    given = {"pretrained": str(places / weights), "tokenizer": str(places / "hf"), "threads": 1}

    def window(**more: Any) -> int:
        return int(get_model(engine).create_from_arg_obj({**given, **more}).max_length)

    assert window() == 256
    monkeypatch.setattr(lm_eval_models, "DEFAULT_MAX_LENGTH", 100)
    assert window() == 100
    assert window(max_length=200) == 200


def test_a_split_gguf_is_one_model(tmp_path: Path) -> None:
    for number in (1, 2):
        (tmp_path / f"m-0000{number}-of-00002.gguf").touch()
    first = tmp_path / "m-00001-of-00002.gguf"
    for given in (tmp_path, first):
        assert lm_eval_models.SlmLlamaCpp._weights(given) == first
    assert lm_eval_models._parts(first) == sorted(tmp_path.iterdir())
