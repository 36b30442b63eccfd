"""Both engines under the profiler: the tokens of a plain loop, sequence by sequence, every time."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from slm_benchmark.common.errors import UserError
from slm_benchmark.profiling.job import Job, Point
from slm_benchmark.profiling.runner import Runner, make_runner
from tests.support.models import write_gguf

PROMPT = [41, 300, 7, 8, 120, 55, 200, 11, 19, 260, 33, 90, 301, 77, 5, 140, 62, 250, 18, 99]
OTHER_TOKENS = [9, 210, 310]
POINT = Point(len(PROMPT), 8)
ENGINES = ["base", "gguf-q4_1"]


def job(variant: str, weights: Path, **changes: Any) -> Job:
    """A job on one thread, in float32."""
    choices: Any = {
        "variant": variant,
        "weights": str(weights),
        "base": str(weights),
        "device": "cpu",
        "threads": 1,
        "dtype": "float32",
        "trust_remote_code": False,
        "points": (POINT,),
        "repetitions": 1,
        "min_duration_s": 0.0,
        "max_warmups": 1,
        "warmup_bound": 1.0,
        "memory_limit_bytes": None,
    }
    return Job(**choices | changes)


def loaded(variant: str, weights: Path, point: Point = POINT, **changes: Any) -> Runner:
    runner = make_runner(job(variant, weights, **changes))
    runner.load()
    runner.prepare(point)
    return runner


@pytest.fixture
def weights(tiny_model: Path, tiny_gguf: Path) -> dict[str, Path]:
    return {"base": tiny_model, "gguf-q4_1": tiny_gguf.parent}


def generate(runner: Runner, prompt: Sequence[int], count: int) -> list[list[int]]:
    """Tokens of each step, all sequences."""
    runner.reset()
    runner.prefill(prompt)
    steps = [runner.greedy()]
    while len(steps) < count:
        runner.decode(steps[-1])
        steps.append(runner.greedy())
    return steps


def plain_transformers(folder: Path, prompt: Sequence[int], count: int) -> list[int]:
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    choices = GenerationConfig(
        max_new_tokens=count, do_sample=False, eos_token_id=None, pad_token_id=0
    )
    model.generation_config = choices
    found: list[int] = model.generate(torch.tensor([list(prompt)]), choices)[0].tolist()
    return found[len(prompt) :]


def plain_llamacpp(folder: Path, prompt: Sequence[int], count: int) -> list[int]:
    """Every token from an empty cache, through the bindings' own class."""
    from llama_cpp import Llama

    (file,) = folder.glob("*.gguf")
    model = Llama(str(file), n_ctx=64, n_threads=1, logits_all=True, verbose=False)
    tokens = list(prompt)
    for _ in range(count):
        model.reset()
        model.eval(tokens)
        tokens.append(int(model.scores[len(tokens) - 1].argmax()))
    return tokens[len(prompt) :]


@pytest.mark.parametrize("variant", ENGINES)
def test_the_tokens_are_those_of_a_plain_loop_each_time(
    variant: str, weights: dict[str, Path]
) -> None:
    plain = plain_llamacpp if variant.startswith("gguf") else plain_transformers
    expected = [[token] for token in plain(weights[variant], PROMPT, 8)]
    assert len({token for (token,) in expected}) > 1
    runner = loaded(variant, weights[variant])
    assert generate(runner, PROMPT, 8) == expected
    assert generate(runner, PROMPT[:9], 4) != expected[:4]
    assert generate(runner, PROMPT, 8) == expected
    runner.release_files()
    assert generate(runner, PROMPT, 8) == expected
    runner.check_finite()


@pytest.mark.parametrize("variant", ENGINES)
def test_sequences_do_not_see_each_other(variant: str, weights: dict[str, Path]) -> None:
    point = Point(len(PROMPT), 8, sequences=3)
    runner = loaded(variant, weights[variant])
    alone = generate(runner, PROMPT, 8)
    continued = []
    for token in OTHER_TOKENS:
        runner.reset()
        runner.prefill(PROMPT)
        runner.decode([token])
        continued += runner.greedy()
        runner.decode([continued[-1]])
        continued += runner.greedy()
    assert len(set(continued)) > 1

    runner.prepare(point)
    assert generate(runner, PROMPT, 8) == [tokens * 3 for tokens in alone]
    runner.reset()
    runner.prefill(PROMPT)
    runner.decode(OTHER_TOKENS)
    first = runner.greedy()
    runner.decode(first)
    assert first == continued[::2]
    assert runner.greedy() == continued[1::2]


def test_a_prompt_in_several_decodes_is_the_same_prompt(
    weights: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    point = Point(len(PROMPT), 8, sequences=2)
    whole = generate(loaded("gguf-q4_1", weights["gguf-q4_1"], point), PROMPT, 8)
    monkeypatch.setattr("slm_benchmark.profiling.llamacpp.BATCH", 7)
    assert generate(loaded("gguf-q4_1", weights["gguf-q4_1"], point), PROMPT, 8) == whole


# --- what the record says of an engine --------------------------------------------------------


@pytest.mark.parametrize("variant", ENGINES)
def test_an_engine_names_itself(variant: str, weights: dict[str, Path]) -> None:
    runner = loaded(variant, weights[variant])
    engine: Any = runner.engine()
    assert sorted(engine) == ["dtype", "kernel", "kernel_detail", "name", "schedule", "version"]
    assert all(isinstance(engine[name], str) for name in engine if name != "kernel_detail")
    assert runner.device_memory() is None
    assert runner.traffic()


def test_the_layers_that_multiply_are_named(weights: dict[str, Path]) -> None:
    import torch

    engine = loaded("base", weights["base"]).engine()
    assert engine["kernel"].startswith("torch.nn.Linear, ")
    assert engine["kernel"].endswith(torch.backends.cpu.get_cpu_capability())
    assert engine["kernel_detail"]["linear_layers"] == {"Linear": 2 * 7 + 1}
    assert engine["dtype"] == "float32"


def test_quantized_layers_are_named_and_the_plain_output_layer_is_not(
    weights: dict[str, Path],
) -> None:
    import torch

    from slm_benchmark.profiling.transformers import _kernel_classes, _linear_layers

    class TorchAtenLinear(torch.nn.Module):  # type: ignore[misc]
        pass

    model = torch.nn.ModuleList([TorchAtenLinear(), TorchAtenLinear(), torch.nn.Linear(2, 2)])
    layers = _linear_layers(model)
    assert layers == {"Linear": 1, "TorchAtenLinear": 2}
    assert _kernel_classes(layers) == ["TorchAtenLinear"]


def test_repacked_weights_are_told_from_mapped_ones(
    weights: dict[str, Path], tiny_gguf_f16: Path, tmp_path: Path
) -> None:
    from llama_cpp import llama_cpp as api

    parameters = api.llama_model_quantize_default_params()
    parameters.ftype = api.LLAMA_FTYPE_MOSTLY_Q4_0
    file = tmp_path / "tiny.gguf"
    assert (
        api.llama_model_quantize(str(tiny_gguf_f16).encode(), str(file).encode(), parameters) == 0
    )
    engine = loaded("gguf-q4_0", tmp_path).engine()
    detail = engine["kernel_detail"]
    if "AVX2" in detail["features"]:
        assert detail["repacked_tensors"] == {"q4_0_8x8": 2 * 7}
        assert 0 < detail["repacked_bytes"] <= file.stat().st_size
        assert "repacked 14 × q4_0_8x8 (" in engine["kernel"]
    assert all(feature in engine["kernel"] for feature in detail["features"])
    plain = loaded("gguf-q4_1", weights["gguf-q4_1"]).engine()  # no faster layout on any CPU
    assert plain["kernel_detail"]["repacked_bytes"] == 0
    assert plain["kernel_detail"]["repacked_tensors"] == {}
    assert plain["kernel"].endswith("; no weights repacked")
    assert plain["kernel_detail"]["weights_bytes"]["CPU_Mapped"] > 0


def test_features_that_are_off_are_left_out() -> None:
    from slm_benchmark.profiling.llamacpp import _features

    assert _features("CPU : NEON = 1 | ARM_FMA = 0 | SVE_CNT = 16 | ") == ["NEON", "SVE_CNT"]


# --- overflow ---------------------------------------------------------------------------------


def scaled(model: Path, folder: Path, part: str, factor: float) -> Path:
    """The model with the weights whose name contains ``part`` multiplied, still in float16."""
    from safetensors.numpy import load_file, save_file

    shutil.copytree(model, folder)
    file = folder / "model.safetensors"
    tensors = {
        name: (tensor * tensor.dtype.type(factor) if part in name else tensor)
        for name, tensor in load_file(file).items()
    }
    save_file(tensors, file, metadata={"format": "pt"})
    return folder


def test_a_value_beyond_float16_is_told_with_the_format(tiny_model: Path, tmp_path: Path) -> None:
    folder = scaled(tiny_model, tmp_path / "scaled", "up_proj", 20000.0)
    for dtype in ("float32", "float16"):
        runner = loaded("base", folder, dtype=dtype)
        generate(runner, PROMPT, 3)
        if dtype == "float32":
            runner.check_finite()
        else:
            with pytest.raises(ArithmeticError, match=r"logits are not finite.*in float16"):
                runner.check_finite()


def test_a_value_beyond_the_cache_of_llamacpp_is_told(tiny_model: Path, tmp_path: Path) -> None:
    folder = scaled(tiny_model, tmp_path / "scaled", "v_proj", 60000.0)
    write_gguf(folder / "tiny.gguf", folder, linear="F16", embedding="F16")
    runner = loaded("gguf-f16", folder)
    generate(runner, PROMPT, 3)
    with pytest.raises(ArithmeticError, match=r"tiny\.gguf are not finite.*cache float16"):
        runner.check_finite()


def test_a_damaged_gguf_is_named(tmp_path: Path) -> None:
    (tmp_path / "tiny.gguf").write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(UserError, match=re.escape(str(tmp_path / "tiny.gguf"))) as caught:
        loaded("gguf-f16", tmp_path)
    assert "no reason given" not in str(caught.value)


# --- on a GPU that is simulated: which calls are made, not what a GPU does ----------------------


class Gpu:
    """Counts, and has 1000 bytes of which 100 were taken before the model came."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.used_bytes = 100

    def call(self, name: str, answer: Any = None) -> Any:
        def called(*_: Any) -> Any:
            self.calls.append(name)
            return answer

        return called

    def mem_get_info(self) -> tuple[int, int]:
        return 1000 - self.used_bytes, 1000


def test_a_gpu_is_waited_for_and_its_memory_is_counted_above_the_baseline(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    gpu = Gpu()
    answers = {
        "synchronize": None,
        "empty_cache": None,
        "reset_peak_memory_stats": None,
        "max_memory_allocated": 330,
        "max_memory_reserved": 450,
        "get_device_name": "Simulated",
    }
    for name, answer in answers.items():
        monkeypatch.setattr(torch.cuda, name, gpu.call(name, answer))
    monkeypatch.setattr(torch.cuda, "mem_get_info", gpu.mem_get_info)
    on_cpu = AutoModelForCausalLM.from_pretrained
    devices = []

    def from_pretrained(*arguments: Any, device_map: str, **options: Any) -> Any:
        devices.append((device_map, options["dtype"]))
        return on_cpu(*arguments, **options)

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", from_pretrained)
    runner = loaded("base", tiny_model, device="cuda", dtype="auto")
    assert devices == [("cuda", torch.float16)]
    assert gpu.calls == ["synchronize", "empty_cache", "reset_peak_memory_stats"]
    gpu.calls.clear()
    runner.prefill(PROMPT)
    runner.decode(runner.greedy())
    assert gpu.calls == ["synchronize", "synchronize"]
    gpu.used_bytes = 700
    assert runner.device_memory() == {
        "device_peak_bytes": 600,
        "device_baseline_bytes": 100,
        "allocator_peak_bytes": 330,
        "reserved_peak_bytes": 450,
    }
    assert runner.engine()["kernel"] == f"torch.nn.Linear, CUDA {torch.version.cuda}, Simulated"
