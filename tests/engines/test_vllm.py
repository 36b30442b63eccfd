"""The way to vLLM: the protocol that chooses it, and the arguments of the harness's backend.

vLLM runs on a GPU only and is not in the locked environment. A stand-in of the same names takes
its place here, so that the harness's own backend is what reads our arguments.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance

from slm_benchmark.catalog.catalog import VARIANTS, load_catalogue
from slm_benchmark.catalog.run_config import RunConfig
from slm_benchmark.common.errors import UserError
from slm_benchmark.common.files import read_yaml
from slm_benchmark.common.paths import CONFIG
from slm_benchmark.engines.load import load_engine
from slm_benchmark.engines.settings import Settings
from slm_benchmark.engines.vllm import BATCH_INVARIANT, load_vllm, vllm_arguments
from slm_benchmark.workflow.rule_inputs import RuleInputs

PROTOCOL = "throughput-vllm"

STAND_IN = {
    "vllm/__init__.py": """
from types import SimpleNamespace

made = []

class LLM:
    def __init__(self, **arguments):
        made.append(arguments)
        config = SimpleNamespace(max_model_len=arguments["max_model_len"])
        self.llm_engine = SimpleNamespace(model_config=config)

    def generate(self, prompts, sampling_params, **options):
        # Every token has a log-probability of minus its own number.
        return [
            SimpleNamespace(
                prompt_logprobs=[{token: -float(token)} for token in prompt.prompt_token_ids],
                outputs=[SimpleNamespace(text="an answer")],
            )
            for prompt in prompts
        ]

class SamplingParams(SimpleNamespace):
    pass

class TokensPrompt(SimpleNamespace):
    pass
""",
    "vllm/lora/__init__.py": "",
    "vllm/lora/request.py": "LoRARequest = None",
    "vllm/renderers/__init__.py": "",
    "vllm/renderers/hf.py": "def resolve_chat_template(**arguments):\n    return None",
    "vllm/tokenizers.py": """
from transformers import AutoTokenizer

def get_tokenizer(name, tokenizer_mode, revision, trust_remote_code):
    return AutoTokenizer.from_pretrained(name)
""",
    "vllm-0.18.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: vllm\nVersion: 0.18.0\n",
}


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The module of lm_eval's vLLM backend, over the stand-in."""
    folder = tmp_path_factory.mktemp("stand_in")
    for name, text in STAND_IN.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        patch.setattr(torch.cuda, "is_available", lambda: True)
        yield importlib.import_module("lm_eval.models.vllm_causallms")
    for name in [name for name in sys.modules if name.split(".")[0] == "vllm"]:
        del sys.modules[name]


@pytest.fixture
def made(backend: Any) -> list[dict[str, Any]]:
    """Arguments of the stand-in's engines, as they are made."""
    found: list[dict[str, Any]] = sys.modules["vllm"].made
    found.clear()
    return found


@pytest.fixture
def variant(request: pytest.FixtureRequest, tiny_model: Path, tmp_path: Path) -> Path:
    """Folder of a variant, with the configuration that gptqmodel writes."""
    config = json.loads((tiny_model / "config.json").read_text())
    described = {
        "base": {},
        "gptq-4bit": {"quantization_config": {"quant_method": "gptq", "bits": 4}},
        "awq-4bit": {"quantization_config": {"quant_method": "awq", "bits": 4}},
    }[request.param]
    (tmp_path / "config.json").write_text(json.dumps({**config, **described}))
    return tmp_path


# --- the arguments -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variant", "quantization"),
    [("base", None), ("gptq-4bit", "gptq"), ("awq-4bit", "awq")],
    indirect=["variant"],
)
def test_the_harness_hands_our_arguments_to_vllm(
    backend: Any,
    made: list[dict[str, Any]],
    variant: Path,
    quantization: str | None,
    tiny_model: Path,
) -> None:
    settings = Settings(max_length=200, threads=1, device="cuda", seed=7)
    arguments = vllm_arguments(variant, tiny_model, settings)
    named = set(inspect.signature(backend.VLLM).parameters)
    # These three have the names of vLLM's own EngineArgs.
    assert set(arguments) - named == {
        "enable_prefix_caching",
        "gpu_memory_utilization",
        "max_num_seqs",
    }

    engine = load_vllm(variant, tiny_model, settings)
    (received,) = made
    expected = {
        "model": str(variant),
        "tokenizer": str(tiny_model),
        "dtype": "float16",
        "quantization": quantization,
        "max_model_len": 200,
        "seed": 7,
        "trust_remote_code": False,
        "enable_prefix_caching": False,
        "enable_lora": False,
        "tensor_parallel_size": 1,
    }
    assert expected.items() <= received.items()
    assert 0 < received["gpu_memory_utilization"] < 1
    assert received["max_num_seqs"] > 1
    assert isinstance(engine.lm, backend.VLLM)
    assert engine.lm.batch_size == "auto"
    assert engine.identity["name"] == "vllm"
    assert engine.identity["version"].startswith("0.18.0 ")
    assert engine.identity["kernel"] == quantization
    assert engine.identity["dtype"] == "float16"
    engine.close()


@pytest.mark.parametrize("variant", ["base"], indirect=True)
def test_the_record_says_whether_scores_depend_on_the_batch(
    backend: Any, variant: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(max_length=200, threads=1)
    monkeypatch.delenv(BATCH_INVARIANT, raising=False)
    default = load_vllm(variant, tiny_model, settings).identity["schedule"]
    monkeypatch.setenv(BATCH_INVARIANT, "1")
    chosen = load_vllm(variant, tiny_model, settings).identity["schedule"]
    assert default.endswith("; depends on the batch")
    assert chosen.endswith("do not depend on the batch")


@pytest.mark.parametrize("variant", ["base"], indirect=True)
def test_requests_are_those_of_our_engines(backend: Any, variant: Path, tiny_model: Path) -> None:
    settings = Settings(max_length=200, threads=1)
    ours = load_engine("transformers", tiny_model, tiny_model, settings).lm
    theirs = load_vllm(variant, tiny_model, settings).lm
    pairs = [("Which is a planet?", " Mars"), ("", "A small model"), ("Two spaces  ", "é €")]
    for pair in pairs:
        assert theirs.encode(*pair) == ours.encode(*pair)
    requests = [
        Instance("loglikelihood", {}, pair, 0, ("task", number, 1))
        for number, pair in enumerate(pairs)
    ]
    expected = [-float(sum(ours.encode(*pair)[1])) for pair in pairs]
    assert [value for value, _ in theirs.loglikelihood(requests)] == expected


@pytest.mark.parametrize("variant", ["base"], indirect=True)
def test_contexts_that_are_cut_are_counted(backend: Any, variant: Path, tiny_model: Path) -> None:
    lm = load_vllm(variant, tiny_model, Settings(max_length=40, threads=1)).lm
    endings = ("loglikelihood", " Mars"), ("generate_until", {"max_gen_toks": 5, "until": []})
    for kind, ending in endings:
        requests = [
            Instance(kind, {}, ("planet " * words, ending), 0, (kind, number, 1))
            for number, words in enumerate((1, 80, 2))
        ]
        assert len(getattr(lm, kind)(requests)) == 3
    assert lm.truncated == {("loglikelihood", 1), ("generate_until", 1)}


# --- without it ----------------------------------------------------------------------------------


def test_a_missing_vllm_is_one_clear_error(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="vLLM is not installed") as caught:
        load_vllm(tiny_model, tiny_model, Settings(max_length=200, threads=1))
    assert "docs/how-to/lm-eval.md" in str(caught.value)


def test_a_missing_gpu_is_one_clear_error(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "vllm.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="needs a CUDA device") as caught:
        load_vllm(tiny_model, tiny_model, Settings(max_length=200, threads=1))
    assert caught.value.fix


# --- the choice ----------------------------------------------------------------------------------


def plan(**changes: Any) -> RunConfig:
    choices = {
        "models": ["smollm2-135m-instruct"],
        "variants": list(VARIANTS),
        "tasks": "all",
        "hardware": "t4",
        "protocol": PROTOCOL,
        "quantization": {
            "calibration": {"dataset": "calibration-boolq", "texts": 32, "tokens": 512}
        },
    }
    return RunConfig.from_config({**choices, **changes}, load_catalogue())


def test_the_protocol_plans_what_vllm_runs() -> None:
    variants = {cell.variant for cell in plan().cells()}
    assert variants == {"base", "gptq-4bit", "awq-4bit"}
    assert {cell.variant for cell in plan(protocol="full").cells()} == set(VARIANTS)
    assert RuleInputs(plan()).performance() == []
    assert len(RuleInputs(plan(protocol="full")).performance()) == len(VARIANTS)


@pytest.mark.parametrize(
    ("changes", "field"),
    [({"hardware": "local"}, "hardware"), ({"variants": ["gguf-q8_0", "gguf-f16"]}, "variants")],
)
def test_what_vllm_cannot_run_is_refused(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(UserError, match="runs on vLLM") as caught:
        plan(**changes)
    assert caught.value.field == field
    assert caught.value.fix
    assert plan(**changes, protocol="full").cells()


def test_the_engine_is_a_measured_choice_that_readers_see() -> None:
    catalogue = load_catalogue()
    entry = catalogue.protocols[PROTOCOL]
    assert "vLLM" in entry["title"]
    assert not entry["ranked"]
    choices = {
        name: catalogue.scoring_choices("arc_challenge", name) for name in ("full", PROTOCOL)
    }
    assert choices["full"].pop("engine") == "default"
    assert choices[PROTOCOL].pop("engine") == "vllm"
    assert choices["full"] == choices[PROTOCOL]
    shipped = read_yaml(CONFIG / "protocols.yaml")
    assert [name for name, found in shipped.items() if found.get("engine") == "vllm"] == [PROTOCOL]
