"""Quantizing: group sizes that fit, variants that compute, the same bytes from the same input."""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slm_benchmark.catalog.model_cards import Model
from slm_benchmark.common.errors import NotApplicable, UserError
from slm_benchmark.common.files import digest, read_json
from slm_benchmark.common.paths import ROOT
from slm_benchmark.download.datasets import prepare_dataset
from slm_benchmark.download.weights import read_manifest, verify_files, weight_file
from slm_benchmark.quantize.calibration import Calibration, load_calibration
from slm_benchmark.quantize.dispatch import quantizer
from slm_benchmark.quantize.gguf import convert_to_gguf, quantize_gguf
from slm_benchmark.quantize.manifest_4bit import FourBitJob
from slm_benchmark.quantize.shapes import (
    GROUP_SIZES,
    group_size,
    linear_in_features,
    linear_shapes,
    tensor_shapes,
)
from tests.support.models import add_manifest

PARAMETERS = 105_728

MODEL = Model(
    id="tiny",
    name="Tiny",
    hf_model_id="owner/tiny",
    revision=None,
    parameters=PARAMETERS,
    architecture="LlamaForCausalLM",
    context_length=256,
    languages=["en"],
    quantizations=["gptq-4bit", "awq-4bit", "gguf-q8_0", "gguf-q4_k_m"],
    tags=[],
    license="Apache-2.0",
    gated=False,
    reference=False,
    source={"type": "local", "path": "tiny", "format": "transformers"},
    file="models/tiny.yaml",
)


@pytest.fixture(scope="module")
def base(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with a manifest."""
    folder = tmp_path_factory.mktemp("tiny") / "base"
    shutil.copytree(tiny_model, folder)
    return add_manifest(folder, "base")


@pytest.fixture(scope="module")
def square(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The like with as many key-value heads as heads: AWQ wants 64 outputs of every layer."""
    import torch
    from transformers import AutoConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("square") / "base"
    ignored = shutil.ignore_patterns("manifest.json", "*.safetensors")
    shutil.copytree(tiny_model, folder, ignore=ignored)
    config = AutoConfig.from_pretrained(tiny_model, num_key_value_heads=4)
    state = torch.get_rng_state()
    torch.manual_seed(21)
    LlamaForCausalLM(config).to(torch.float16).save_pretrained(folder)
    torch.set_rng_state(state)
    return add_manifest(folder, "base")


def parameters_of(base: Path) -> int:
    from safetensors import safe_open

    with safe_open(base / "model.safetensors", framework="np") as tensors:
        shapes = [tensors.get_slice(name).get_shape() for name in tensors.keys()]  # noqa: SIM118
    return sum(shape[0] * (shape[1] if len(shape) > 1 else 1) for shape in shapes)


# --- group sizes -------------------------------------------------------------------------------

WIDTHS = st.lists(st.integers(1, 300).map(lambda n: 16 * n), min_size=1, max_size=6)


@given(WIDTHS, st.sampled_from([None, *GROUP_SIZES]))
def test_a_group_size_divides_every_width_or_is_refused(
    widths: list[int], wanted: int | None
) -> None:
    fitting = [size for size in GROUP_SIZES if not any(width % size for width in widths)]
    if wanted in fitting or (wanted is None and fitting):
        found = group_size(widths, "tiny", wanted)
        assert not any(width % found for width in widths)
        assert found == (wanted or max(fitting))
        return
    with pytest.raises(UserError) as refusal:
        group_size(widths, "tiny", wanted)
    error = refusal.value
    if wanted is None:
        assert (error.file, error.field) == ("models/tiny.yaml", "quantizations")
        assert "gptq-4bit" in str(error.fix)
    else:
        assert (error.file, error.field) == ("config/config.yaml", "quantization.group_size")
        assert f"(got {wanted})" in str(error)
        assert (str(fitting) if fitting else "drop tiny's") in str(error.fix)


def test_the_widths_are_those_of_the_quantized_layers(base: Path) -> None:
    assert linear_in_features(base) == {64, 128}
    assert group_size(linear_in_features(base), "tiny") == 64


def test_rows_that_awq_cannot_take_are_refused_before_the_work(base: Path, tmp_path: Path) -> None:
    target = tmp_path / "awq-4bit"
    with pytest.raises(UserError, match=r"models/tiny\.yaml: quantizations: .* \[32\]") as refusal:
        quantizer("gptqmodel")(FourBitJob(MODEL, base, "awq-4bit", calibration()), target, 2)
    assert refusal.value.fix == "take awq-4bit out of the list"
    assert not target.exists()


# --- GPTQ and AWQ --------------------------------------------------------------------------------


def calibration(rows: int = 6, tokens: int = 48) -> Calibration:
    draw = random.Random(5)
    return Calibration(
        "texts", [[draw.randrange(3, 370) for _ in range(tokens)] for _ in range(rows)]
    )


@pytest.mark.parametrize(
    ("variant", "symmetric", "kernel"), [("gptq-4bit", True, "Linear"), ("awq-4bit", False, "Awq")]
)
def test_four_bits(
    variant: str, symmetric: bool, kernel: str, square: Path, tmp_path: Path
) -> None:
    import torch

    from slm_benchmark.engines.transformers import load_transformers

    quantize = quantizer("gptqmodel")
    folders = [tmp_path / name / variant for name in ("first", "second")]
    texts = calibration()
    model = dataclasses.replace(MODEL, parameters=parameters_of(square))
    for folder in folders:
        quantize(FourBitJob(model, square, variant, texts), folder, 2)
        assert [path.name for path in folder.parent.iterdir()] == [variant]
    first, second = folders
    assert read_json(first / "weights.json") == read_json(second / "weights.json")

    manifest = read_manifest(first)
    verify_files(first)
    assert (manifest["method"], manifest["group_size"]) == (variant.split("-")[0], 64)
    assert manifest["symmetric"] is symmetric
    assert manifest["calibration"] == {
        "name": "texts",
        "sha256": digest(texts.rows),
        "texts": 6,
        "tokens": 6 * 48,
    }
    assert manifest["kernel"] is not None
    assert kernel in manifest["kernel"]
    assert manifest["source"] == {"base_sha256": read_manifest(square)["sha256"]}
    assert manifest["nominal_bits_per_weight"] == 4
    # A quarter of the weights are embeddings, which stay at 16 bits.
    assert 4 < manifest["effective_bits_per_weight"] < 16
    assert sum(manifest["tensor_types"].values()) == pytest.approx(1, abs=1e-5)
    assert "I32" in manifest["tensor_types"]

    for path in first.iterdir():
        if path.suffix in (".json", ".csv", ".txt", ".jinja", ".md"):
            text = path.read_text()
            assert str(tmp_path) not in text, path.name
            assert "/tmp/" not in text, path.name
    assert not list(first.glob("*.csv"))
    settings = read_json(first / "config.json")["quantization_config"]
    assert (settings["bits"], settings["group_size"]) == (4, 64)
    assert settings["sym"] if symmetric else settings["zero_point"]

    tokens = torch.tensor([texts.rows[0]])
    with torch.inference_mode():
        found = load_transformers(first, "auto", "cpu").model(tokens).logits
        exact = load_transformers(square, "float32", "cpu").model(tokens).logits
    assert torch.isfinite(found).all()
    # Rounded to 4 bits, it is still this model: far nearer to it than its rows are to each other.
    error = (found - exact).pow(2).mean()
    assert 0 < error < 0.5 * (exact - exact.roll(1, dims=1)).pow(2).mean()


@pytest.mark.parametrize(
    ("kind", "variant"), [("Phi3", "gptq-4bit"), ("Phi3", "awq-4bit"), ("Glm", "awq-4bit")]
)
def test_a_layer_in_one_piece_is_quantized_in_one_piece(
    kind: str, variant: str, tiny_model: Path, tmp_path: Path
) -> None:
    """What gptqmodel splits on its own is not loaded again: garbage, or an error of the library."""
    import torch
    import transformers

    from slm_benchmark.engines.transformers import load_transformers

    folder = tmp_path / "base"
    shutil.copytree(tiny_model, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    state = torch.get_rng_state()
    torch.manual_seed(22)
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=400,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=16,
        max_position_embeddings=256,
        initializer_range=0.2,
        pad_token_id=2,
    )
    made = transformers.AutoModelForCausalLM.from_config(config)
    made.to(torch.float16).save_pretrained(folder)
    torch.set_rng_state(state)
    base = add_manifest(folder, "base")
    model = dataclasses.replace(MODEL, parameters=made.num_parameters())
    target = tmp_path / variant
    quantizer("gptqmodel")(FourBitJob(model, base, variant, calibration()), target, 2)

    names = set(tensor_shapes(target))
    assert "model.layers.0.mlp.gate_up_proj.qweight" in names
    assert not any("up_proj" in name and "gate_up_proj" not in name for name in names)
    tokens = torch.tensor([calibration().rows[0]])
    with torch.inference_mode():
        found = load_transformers(target, "auto", "cpu").model(tokens).logits
        exact = load_transformers(base, "float32", "cpu").model(tokens).logits
    error = (found - exact).pow(2).mean()
    assert 0 < error < 0.5 * (exact - exact.roll(1, dims=1)).pow(2).mean()


def test_an_error_of_the_library_is_one_line_and_leaves_nothing(
    square: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import gptqmodel

    def fail(*_: Any, **__: Any) -> None:
        raise KeyError("q_zeros")

    monkeypatch.setattr(gptqmodel.GPTQModel, "load", fail)
    job = FourBitJob(MODEL, square, "gptq-4bit", calibration())
    with pytest.raises(UserError) as refusal:
        quantizer("gptqmodel")(job, tmp_path / "x", 2)
    assert str(refusal.value) == (
        "models/tiny.yaml: quantizations: gptqmodel cannot make this variant of LlamaForCausalLM: "
        "KeyError: 'q_zeros' (got 'gptq-4bit'). "
        "Fix: take this variant out of the card's list and report the model"
    )
    assert list(tmp_path.iterdir()) == []


def test_the_widths_are_the_same_in_pickled_files_and_without_routers(
    base: Path, tmp_path: Path
) -> None:
    import torch
    from safetensors.torch import load_file

    weights = load_file(base / "model.safetensors")
    others = {
        "model.layers.0.mlp.gate.weight": torch.zeros(8, 48),
        "transformer.wte.weight": torch.zeros(500, 48),
    }
    torch.save(weights | others, tmp_path / "pytorch_model.bin")
    assert linear_shapes(tmp_path) == linear_shapes(base)


def test_a_group_size_that_fits_nothing_leaves_nothing(base: Path, tmp_path: Path) -> None:
    job = FourBitJob(MODEL, base, "gptq-4bit", calibration(), 128)
    with pytest.raises(UserError, match=r"quantization\.group_size: .* \(got 128\)"):
        quantizer("gptqmodel")(job, tmp_path / "x", 1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("variant", ["gptq-4bit", "awq-4bit"])
def test_the_original_libraries_need_a_gpu(
    variant: str, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    library = "auto-gptq" if variant == "gptq-4bit" else "autoawq"
    quantize = quantizer(library)
    assert {"auto_gptq", "awq"}.isdisjoint(sys.modules)
    with pytest.raises(UserError) as refusal:
        quantize(FourBitJob(MODEL, base, variant, calibration()), tmp_path / "x", 1)
    method = variant.split("-")[0]
    assert str(refusal.value) == (
        f"config/config.yaml: quantization.{method}_backend: {library} needs a CUDA device "
        f"(got '{library}'). Fix: use gptqmodel"
    )
    assert list(tmp_path.iterdir()) == []


# --- calibration texts ---------------------------------------------------------------------------


@pytest.fixture
def passages(tmp_path: Path) -> Path:
    """A prepared dataset of 20 passages."""
    file = tmp_path / "passages.jsonl"
    rows = [{"text": f"The fox jumps over {i} dogs, of course."} for i in range(20)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    entry: Any = {"source": "local", "files": {"train": str(file)}, "license": "CC0-1.0"}
    prepare_dataset("passages", entry, tmp_path / "passages")
    return tmp_path / "passages"


def test_calibration_rows_are_of_one_length_and_in_order(passages: Path, base: Path) -> None:
    from transformers import AutoTokenizer

    found = load_calibration(passages, base, texts=5, tokens=32)
    assert [len(row) for row in found.rows] == [32] * 5
    together = [token for row in found.rows for token in row]
    text = AutoTokenizer.from_pretrained(base).decode(together)
    assert text.startswith("The fox jumps over 0 dogs, of course.\n\nThe fox jumps over 1 dogs")
    assert load_calibration(passages, base, texts=3, tokens=32).rows == found.rows[:3]
    assert found.manifest() == {
        "name": "passages",
        "sha256": digest(found.rows),
        "texts": 5,
        "tokens": 160,
    }


def test_too_few_texts_are_one_clear_error(passages: Path, base: Path) -> None:
    with pytest.raises(UserError) as refusal:
        load_calibration(passages, base, texts=1000, tokens=32)
    error = refusal.value
    assert (error.file, error.field) == (
        "config/config.yaml",
        "quantization.calibration.texts",
    )
    assert "(got 1000)" in str(error)
    enough = int(str(error.fix).split()[-2])
    assert len(load_calibration(passages, base, texts=enough, tokens=32).rows) == enough


# --- GGUF ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variant", "types"),
    [("gguf-q8_0", {"Q8_0", "F32"}), ("gguf-q4_k_m", {"Q5_0", "Q8_0", "F32"})],
)
def test_gguf_variants(
    variant: str, types: set[str], base: Path, tiny_gguf_f16: Path, tmp_path: Path
) -> None:
    """A width of 64 is no multiple of 256, so llama.cpp falls back from Q4_K to Q5_0."""
    source = tmp_path / "gguf-f16"
    source.mkdir()
    shutil.copy(tiny_gguf_f16, source)
    model = dataclasses.replace(MODEL, parameters=parameters_of(base))
    folders = [tmp_path / name / variant for name in ("first", "second")]
    for folder in folders:
        quantize_gguf(model, source, folder, base, variant)
    first, second = folders
    assert read_json(first / "weights.json") == read_json(second / "weights.json")
    assert weight_file(first).name == f"tiny-{variant.removeprefix('gguf-')}.gguf"
    manifest = read_manifest(first)
    verify_files(first)
    assert set(manifest["tensor_types"]) == types
    assert manifest["method"] == "gguf"
    assert manifest["source"] == {"base_sha256": read_manifest(base)["sha256"]}
    nominal, effective = manifest["nominal_bits_per_weight"], manifest["effective_bits_per_weight"]
    assert (nominal == 8.5 < effective < 9) if variant == "gguf-q8_0" else (5 < effective < 8.5)
    assert manifest["libraries"].keys() == {"llama-cpp-python", "gguf"}


@pytest.mark.parametrize("damage", ["truncated", "quantized"])
def test_an_input_that_cannot_be_quantized(
    damage: str, base: Path, tiny_gguf: Path, tiny_gguf_f16: Path, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    if damage == "quantized":
        shutil.copy(tiny_gguf, source)  # llama.cpp does not quantize a second time
    else:
        (source / "cut.gguf").write_bytes(tiny_gguf_f16.read_bytes()[:-5000])
    with pytest.raises(UserError) as refusal:
        quantize_gguf(MODEL, source, tmp_path / "target", base, "gguf-q4_k_m")
    assert str(refusal.value).startswith(f"{weight_file(source)}: llama.cpp's quantizer answered")
    assert "\n" not in str(refusal.value)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


Converter = Callable[[str], Path]


@pytest.fixture
def converter(tmp_path: Path) -> Converter:
    """Makes a stand-in for llama.cpp's converter from a few lines of Python."""

    def make(script: str) -> Path:
        folder = tmp_path / "converter"
        folder.mkdir()
        (folder / "convert_hf_to_gguf.py").write_text(script)
        return folder

    return make


def test_the_converter_gets_what_it_needs(
    converter: Converter, base: Path, tiny_gguf_f16: Path, tmp_path: Path
) -> None:
    copy = f"""
import json, shutil, sys
out = sys.argv[sys.argv.index("--outfile") + 1]
shutil.copy({str(tiny_gguf_f16)!r}, out)
open({str(tmp_path / "call")!r}, "w").write(json.dumps(sys.argv[1:]))
"""
    target = tmp_path / "tiny" / "gguf-f16"
    convert_to_gguf(MODEL, base, converter(copy), target)
    call = json.loads((tmp_path / "call").read_text())
    assert call[0] == str(base)
    assert call[-4:] == ["--outtype", "f16", "--model-name", "Tiny"]
    manifest = read_manifest(target)
    verify_files(target)
    assert list(manifest["files"]) == ["tiny-f16.gguf"]
    assert set(manifest["tensor_types"]) == {"F16", "F32"}
    assert manifest["nominal_bits_per_weight"] == 16


@pytest.mark.parametrize(
    "script",
    [
        "raise NotImplementedError('BPE pre-tokenizer was not recognized')",
        "print('done, it says')",
        "import os, sys; print('half', file=sys.stderr); os.kill(os.getpid(), 9)",
    ],
)
def test_a_failing_converter_is_one_clear_error(
    script: str, converter: Converter, base: Path, tmp_path: Path
) -> None:
    folder = converter(script)
    with pytest.raises(UserError) as refusal:
        convert_to_gguf(MODEL, base, folder, tmp_path / "target")
    message = str(refusal.value)
    assert message.startswith("models/tiny.yaml: quantizations: llama.cpp's converter failed: ")
    assert "\n" not in message
    if "NotImplementedError" in script:
        assert "BPE pre-tokenizer was not recognized" in message
    assert [path.name for path in tmp_path.iterdir()] == ["converter"]


def test_an_architecture_that_the_converter_does_not_know_is_refused_before_it_runs(
    converter: Converter, base: Path, tmp_path: Path
) -> None:
    model = dataclasses.replace(MODEL, architecture="OwnForCausalLM")
    with pytest.raises(
        NotApplicable, match=r"models/tiny\.yaml: architecture: llama\.cpp's .* Own"
    ):
        convert_to_gguf(model, base, converter("raise SystemExit(9)"), tmp_path / "target")
    assert not (tmp_path / "target").exists()


def test_llama_cpp_s_own_converter_names_an_unknown_tokenizer(base: Path, tmp_path: Path) -> None:
    converter = ROOT / "resources" / "tools" / "llama.cpp"
    if not (converter / "convert_hf_to_gguf.py").exists():
        pytest.skip("the converter is not fetched yet")
    with pytest.raises(UserError, match=r"converter failed: .*pre-tokenizer was not recognized"):
        convert_to_gguf(MODEL, base, converter, tmp_path / "target")
    assert list(tmp_path.iterdir()) == []
