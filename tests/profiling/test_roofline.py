"""The machine's own limits, and what a token needs of them."""

from __future__ import annotations

import importlib.util
import json
import time
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from slm_benchmark.common.errors import RunEnvironmentError
from slm_benchmark.profiling import roofline
from slm_benchmark.profiling.job import Point
from slm_benchmark.profiling.traffic import (
    Traffic,
    decode_bytes,
    gguf_traffic,
    mbu,
    mfu,
    prefill_flops,
    transformers_traffic,
)
from tests.support.gguf_models import WINDOW, write_gemma2, write_mamba
from tests.support.models import add_tokenizer

MIB = 2**20

# The tiny model of conftest.py: hidden size 64, 4 heads of width 16 over 2, 128 inside, 2 layers.
LINEAR = 2 * (64 * 64 + 2 * 32 * 64 + 64 * 64 + 3 * 128 * 64)
NORMS = (2 * 2 + 1) * 64


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a measurement take seconds; its numbers then mean nothing."""
    monkeypatch.setattr(roofline, "TRIAL_S", 0.01)
    monkeypatch.setattr(roofline, "WORKING_SET_BYTES", 8 * MIB)
    monkeypatch.setattr(roofline, "CPU_SIZES", (64, 96))
    monkeypatch.setattr(roofline, "CUDA_SIZES", (64,))
    monkeypatch.setattr(roofline, "last_level_cache_bytes", lambda: MIB)


# Machine


def _add_cache(folder: Path, cpu: int, index: int, level: int, size: str, shared: str) -> None:
    place = folder / f"cpu{cpu}" / "cache" / f"index{index}"
    place.mkdir(parents=True)
    for name, value in (("level", str(level)), ("size", size), ("shared_cpu_list", shared)):
        (place / name).write_text(value + "\n")


def test_a_cache_that_cores_share_counts_once_and_lower_levels_not(tmp_path: Path) -> None:
    for cpu in roofline.allowed_cpus():
        _add_cache(tmp_path, cpu, 0, 2, "1024K", str(cpu))
        _add_cache(tmp_path, cpu, 1, 3, "32768K", "0-63")
    assert roofline.last_level_cache_bytes(tmp_path) == 32 * MIB


def test_separate_last_level_caches_add_up(tmp_path: Path) -> None:
    cpus = list(roofline.allowed_cpus())
    for cpu in cpus:
        _add_cache(tmp_path, cpu, 0, 3, "16384K", str(cpu))
    assert roofline.last_level_cache_bytes(tmp_path) == len(cpus) * 16 * MIB


def test_an_unknown_cache_is_none(tmp_path: Path) -> None:
    assert roofline.last_level_cache_bytes(tmp_path) is None


@pytest.mark.parametrize(
    ("cache", "free", "expected"),
    [
        (None, 8192, 512),
        (32, 8192, 512),
        (256, 8192, 1024),
        (32, 300, 150),
    ],
)
def test_the_arrays_leave_the_cache_and_half_of_the_memory(
    cache: int | None, free: int, expected: int
) -> None:
    found = roofline.working_set_bytes(cache and cache * MIB, free * MIB)
    assert found == expected * MIB


def test_a_bandwidth_of_the_cache_is_refused() -> None:
    with pytest.raises(RunEnvironmentError, match="too little free memory"):
        roofline.working_set_bytes(32 * MIB, 255 * MIB)


def test_a_trial_lasts_long_enough_and_gives_the_rate() -> None:
    asked = []

    def seconds(passes: int) -> float:
        asked.append(passes)
        return passes * 0.01

    rates = roofline.trials(roofline.Operation("", 300, seconds), count=3, trial_s=0.2)
    assert rates == pytest.approx([30000] * 3)
    assert asked == [1, 1, 20, 20, 20]


@pytest.mark.usefixtures("quick")
def test_a_cpu_has_all_blocks_and_both_ways_read_everything() -> None:
    found = json.loads(json.dumps(roofline.measure_roofline("cpu", 2, "auto")))
    assert found["working_set_bytes"] == 8 * MIB
    assert found["cache_bytes"] == MIB
    assert found["reason"] is None
    trials = found["bandwidth_trials"]
    assert [len(rates) for rates in trials.values()] == [roofline.TRIALS] * 2
    best = {name: max(rates) for name, rates in trials.items()}
    assert found["bandwidth_bytes_per_s"] == max(best.values())
    assert found["bandwidth_method"].startswith(max(best, key=lambda name: best[name]))
    assert 0 < found["bandwidth_median_bytes_per_s"] <= found["bandwidth_bytes_per_s"]
    # A search that found its byte would end at once, thousands of times faster than a reader.
    assert max(best.values()) < 50 * min(best.values())
    assert found["bandwidth_in_cache_bytes_per_s"] > 0
    assert found["matrix_dtype"] == "float32"
    assert found["matrix_flops_per_s"] == found["matrix_flops_per_s_by_dtype"]["float32"] > 0


@pytest.mark.usefixtures("quick")
def test_another_format_is_measured_beside_float32() -> None:
    found = roofline.measure_roofline("cpu", 1, "bfloat16")
    assert set(found["matrix_flops_per_s_by_dtype"]) == {"float32", "bfloat16"}
    assert found["matrix_flops_per_s"] == found["matrix_flops_per_s_by_dtype"]["bfloat16"]


@pytest.mark.usefixtures("quick")
def test_numpy_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "torch" else find(name)
    )
    found = roofline.measure_roofline("cpu", 1, "bfloat16")
    assert found["matrix_dtype"] == "float32"
    assert found["matrix_method"]["float32"].startswith("numpy.matmul")


@pytest.mark.usefixtures("quick")
def test_a_simulated_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The path of a GPU, with tensors in main memory and its clock simulated."""
    import torch

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            self.at = time.perf_counter()

        def synchronize(self) -> None: ...

        def elapsed_time(self, end: Event) -> float:
            return 1000 * (end.at - self.at)

    ones = torch.ones
    monkeypatch.setattr(torch, "ones", lambda *sizes, device, **rest: ones(*sizes, **rest))
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (64 * MIB, 128 * MIB))
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda _: SimpleNamespace(L2_cache_size=4 * MIB)
    )
    found = roofline.measure_roofline("cuda", 1, "auto")
    assert found["working_set_bytes"] == 16 * MIB
    assert found["matrix_dtype"] == "float16"
    assert set(found["matrix_flops_per_s_by_dtype"]) == {"float32", "float16"}
    assert len(found["bandwidth_trials"]) == 3
    assert found["bandwidth_in_cache_bytes_per_s"] is None
    assert found["bandwidth_bytes_per_s"] > 0


# Formulae


TRAFFIC = Traffic(
    weight_bytes_per_token=10_000,
    kv_bytes_per_position=30,
    flops_per_token=5_000,
    head_flops_per_token=1_000,
    attention_flops_per_token_and_position=7,
)


@pytest.mark.parametrize(("prompt", "output"), [(1, 2), (5, 2), (512, 128), (7, 33)])
def test_decode_bytes_is_the_mean_over_all_steps(prompt: int, output: int) -> None:
    steps = [10_000 + 30 * (prompt + i) for i in range(1, output)]
    assert decode_bytes(TRAFFIC, prompt, output) == pytest.approx(np.mean(steps))


def test_sequences_share_weights_and_have_caches_of_their_own() -> None:
    assert decode_bytes(TRAFFIC, 5, 2, sequences=4) == 10_000 / 4 + 30 * 6


@pytest.mark.parametrize("prompt", [1, 2, 512])
def test_prefill_flops_is_the_sum_over_all_tokens(prompt: int) -> None:
    tokens = [4_000 + 7 * position for position in range(1, prompt + 1)]
    assert prefill_flops(TRAFFIC, prompt) == sum(tokens) + 1_000


@pytest.mark.parametrize("sequences", [1, 8])
def test_a_machine_at_its_limit_has_utilisation_one(sequences: int) -> None:
    point = Point(100, 20, sequences)
    tokens_per_s = 1e9 / decode_bytes(TRAFFIC, 100, 20, sequences)
    assert mbu(TRAFFIC, point, tokens_per_s, bandwidth=1e9) == pytest.approx(1)
    assert mbu(TRAFFIC, point, tokens_per_s / 2, bandwidth=1e9) == pytest.approx(0.5)
    prompts_per_s = 1e9 / prefill_flops(TRAFFIC, 100)
    assert mfu(TRAFFIC, 100, 100 * prompts_per_s, flops_per_s=1e9) == pytest.approx(1)


def test_traffic_survives_a_record() -> None:
    again = Traffic(**json.loads(json.dumps(asdict(TRAFFIC))))
    assert asdict(again) | {"notes": ()} == asdict(TRAFFIC)


# Transformers


def _load(folder: Path, dtype: str = "float16", **changes: Any) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype), **changes)
    return loaded.eval()


@pytest.mark.parametrize(("dtype", "number_bytes"), [("float16", 2), ("float32", 4)])
def test_tied_embeddings_count_once_and_whole(
    tiny_model: Path, dtype: str, number_bytes: int
) -> None:
    model = _load(tiny_model, dtype)
    table = model.config.vocab_size * 64
    assert transformers_traffic(model) == Traffic(
        weight_bytes_per_token=number_bytes * (table + LINEAR + NORMS),
        kv_bytes_per_position=number_bytes * 2 * (2 * 2 * 16),
        flops_per_token=2 * (table + LINEAR),
        head_flops_per_token=2 * table,
        attention_flops_per_token_and_position=4 * 2 * (4 * 16),
    )


def test_an_untied_table_counts_one_row(tiny_model: Path) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(tiny_model)
    config.tie_word_embeddings = False
    model = AutoModelForCausalLM.from_config(config).float().eval()
    table = config.vocab_size * 64
    found = transformers_traffic(model)
    assert found.weight_bytes_per_token == 4 * (64 + table + LINEAR + NORMS)
    assert found.flops_per_token == 2 * (table + LINEAR)
    assert found.head_flops_per_token == 2 * table


def test_a_packed_layer_counts_its_bytes_and_its_logical_products(tiny_model: Path) -> None:
    import torch

    class Packed(torch.nn.Module):  # type: ignore[misc]
        """128 × 64 weights of 4 bits in groups of 32, laid out as GPTQ does."""

        def __init__(self) -> None:
            super().__init__()
            self.in_features, self.out_features = 128, 64
            self.register_buffer("qweight", torch.zeros(16, 64, dtype=torch.int32))
            self.register_buffer("qzeros", torch.zeros(4, 8, dtype=torch.int32))
            self.register_buffer("scales", torch.zeros(4, 64, dtype=torch.float16))
            self.register_buffer("g_idx", torch.zeros(128, dtype=torch.int32))
            self.register_buffer("shifts", torch.zeros(999), persistent=False)

        def forward(self, states: Any) -> Any:
            return states[..., :64]

    model = _load(tiny_model)
    before = transformers_traffic(model)
    model.model.layers[1].mlp.down_proj = Packed()
    after = transformers_traffic(model)
    packed_bytes = 16 * 64 * 4 + 4 * 8 * 4 + 4 * 64 * 2 + 128 * 4
    assert (
        after.weight_bytes_per_token == before.weight_bytes_per_token - 2 * 128 * 64 + packed_bytes
    )
    assert after.flops_per_token == before.flops_per_token


def test_a_token_needs_the_experts_that_it_is_sent_to() -> None:
    from transformers import MixtralConfig, MixtralForCausalLM

    config = MixtralConfig(
        vocab_size=100,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=1,
        num_local_experts=8,
        num_experts_per_tok=2,
        tie_word_embeddings=False,
    )
    found = transformers_traffic(MixtralForCausalLM(config).float().eval())
    attention, router, expert = 32 * (32 + 8 + 8 + 32), 32 * 8, 3 * 32 * 48
    matrices = 2 * (attention + router + 2 * expert) + 100 * 32
    assert found.flops_per_token == 2 * matrices
    assert found.weight_bytes_per_token == 4 * (matrices + 32 + 5 * 32)
    assert [note for note in found.notes if "experts" in note]


# GGUF


def _table(tiny_model: Path) -> int:
    return int(json.loads((tiny_model / "config.json").read_text())["vocab_size"]) * 64


def test_gguf_counts_blocks_as_they_are_stored(tiny_model: Path, tiny_gguf: Path) -> None:
    table = _table(tiny_model)
    q8_0, q4_1 = 34 / 32, 20 / 32  # bytes of a number
    assert gguf_traffic(tiny_gguf) == Traffic(
        weight_bytes_per_token=int(table * q8_0 + LINEAR * q4_1 + NORMS * 4),
        kv_bytes_per_position=2 * 2 * (2 * 2 * 16),
        flops_per_token=2 * (table + LINEAR),
        head_flops_per_token=2 * table,
        attention_flops_per_token_and_position=4 * 2 * (4 * 16),
    )
    assert gguf_traffic(tiny_gguf, cache_bits=8).kv_bytes_per_position == 2 * (2 * 2 * 16)


def test_both_engines_need_the_same_of_the_same_model(
    tiny_model: Path, tiny_gguf_f16: Path
) -> None:
    ours, theirs = gguf_traffic(tiny_gguf_f16), transformers_traffic(_load(tiny_model))
    more = {"weight_bytes_per_token": theirs.weight_bytes_per_token + 2 * NORMS}  # norms in F32
    assert asdict(ours) == asdict(theirs) | more


def test_gguf_with_a_head_of_its_own_and_experts(tiny_model: Path, tmp_path: Path) -> None:
    from gguf import GGUFWriter

    writer = GGUFWriter(tmp_path / "moe.gguf", "llama")
    writer.add_block_count(2)
    writer.add_embedding_length(32)
    writer.add_head_count(4)
    writer.add_head_count_kv([1, 2])
    writer.add_key_length(8)
    writer.add_value_length(8)
    writer.add_expert_count(8)
    writer.add_expert_used_count(2)
    add_tokenizer(writer, tiny_model)
    for name, shape in {
        "token_embd.weight": (100, 32),
        "output.weight": (100, 32),
        "output_norm.weight": (32,),
        "blk.0.ffn_gate_inp.weight": (8, 32),
        "blk.0.ffn_up_exps.weight": (8, 48, 32),
    }.items():
        writer.add_tensor(name, np.ones(shape, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = gguf_traffic(tmp_path / "moe.gguf")
    matrices = 100 * 32 + 8 * 32 + 2 * 48 * 32
    assert found.flops_per_token == 2 * matrices
    assert found.head_flops_per_token == 2 * 100 * 32
    assert found.weight_bytes_per_token == 4 * (32 + 32 + matrices)
    assert found.kv_bytes_per_position == (1 + 2) * (8 + 8) * 2
    assert found.attention_flops_per_token_and_position == 2 * 4 * (4 * 8)
    assert [note for note in found.notes if "experts" in note]


def test_what_is_not_counted_is_noted(tiny_model: Path, tmp_path: Path) -> None:
    windowed = gguf_traffic(write_gemma2(tmp_path / "gemma2.gguf", tiny_model))
    assert [note for note in windowed.notes if str(WINDOW) in note]
    recurrent = gguf_traffic(write_mamba(tmp_path / "mamba.gguf", tiny_model))
    assert recurrent.kv_bytes_per_position == 0
    assert recurrent.attention_flops_per_token_and_position == 0
    assert [note for note in recurrent.notes if "keys and values" in note]
