"""Weights as people have them, and cards that say otherwise than the files: used or refused."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from slm_benchmark.catalog.model_cards import Model
from slm_benchmark.cli import main
from slm_benchmark.common.errors import UserError
from slm_benchmark.download.at_hand import check_downloaded, check_local
from slm_benchmark.download.base_model import download_model
from slm_benchmark.download.context import context_window, declared_lengths, window_of
from slm_benchmark.download.weights import read_manifest, weight_file
from slm_benchmark.quantize.shapes import linear_shapes
from slm_benchmark.records.provenance import weight_bytes
from tests.download.test_download import HUB, REPO, card, nothing_half_written
from tests.support.hub import Hub
from tests.support.members import member
from tests.support.models import write_gguf

WEIGHTS = "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"
PARAMETERS = 98_176
NAME = "model.layers.0.mlp.up_proj.weight"

Change = Callable[[Path], object]


def tensors_of(folder: Path) -> dict[str, Any]:
    """The tensors of a folder with one safetensors file."""
    from safetensors.torch import load_file

    return dict(load_file(folder / WEIGHTS))


def store(folder: Path, tensors: dict[str, Any], name: str = WEIGHTS) -> None:
    """Write tensors as Transformers does."""
    from safetensors.torch import save_file

    save_file(tensors, folder / name, metadata={"format": "pt"})


def shard(folder: Path, source: Path | None = None) -> None:
    """Write the weights of ``source`` into ``folder`` as two shards with their index."""
    tensors = tensors_of(source or folder)
    names = sorted(tensors)
    files: dict[str, str] = {}
    for number, part in enumerate((names[:5], names[5:]), start=1):
        file = f"model-{number:05}-of-00002.safetensors"
        store(folder, {name: tensors[name] for name in part}, file)
        files |= dict.fromkeys(part, file)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": files}))


def only_shards(folder: Path) -> None:
    """Replace the one weight file by two shards."""
    shard(folder)
    (folder / WEIGHTS).unlink()


def change_json(folder: Path, name: str, **values: Any) -> None:
    """Change fields of a JSON file."""
    path = folder / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def change_tensor(folder: Path, change: Callable[[Any], Any], name: str = NAME) -> None:
    """Replace one tensor."""
    tensors = tensors_of(folder)
    tensors[name] = change(tensors[name])
    store(folder, tensors)


@pytest.fixture
def folder(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model that a test may change."""
    return Path(shutil.copytree(tiny_model, tmp_path / "files"))


def local(folder: Path, **changes: Any) -> Model:
    """A card of a folder on this machine."""
    source = {"type": "local", "path": str(folder), "format": "transformers"}
    return card(**{"source": source, "chat": True, **changes})


def downloaded(folder: Path, **changes: Any) -> Path:
    """The base model that a card of ``folder`` gives."""
    target = folder.parent / "models" / "tiny" / "base"
    download_model(local(folder, **changes), target)
    return target


def refusal(folder: Path, **changes: Any) -> str:
    """What the download says where it refuses, in one line, having left nothing."""
    with pytest.raises(UserError) as caught:
        downloaded(folder, **changes)
    nothing_half_written(folder.parent / "models" / "tiny" / "base")
    text = str(caught.value)
    assert len(text.splitlines()) == 1
    assert text.startswith("models/tiny.yaml: ")
    assert "Fix: " in text
    assert str(folder.parent / "models") not in text  # the working folder is gone
    return text


def validate(folder: Path, **changes: Any) -> str:
    """What ``slm-benchmark validate`` says of a card of ``folder``; nothing where it is valid."""
    values = dataclasses.asdict(local(folder, **changes))
    stated = {key: value for key, value in values.items() if value != "" and key != "file"}
    del stated["remote_code"]
    written = folder.parent / "tiny.yaml"
    written.write_text(json.dumps({**stated, "quantizations": ["gptq-4bit"]}))
    with contextlib.redirect_stderr(io.StringIO()) as printed:
        code = main(["validate", str(written)])
    errors = [line for line in printed.getvalue().splitlines() if line.startswith("error: ")]
    assert len(errors) == code
    return "".join(errors)


# --- which weights -------------------------------------------------------------------------------


def other_weights(folder: Path) -> None:
    """Put shards with other values beside the one file."""
    shard(folder)
    for file in folder.glob("model-*"):
        file.write_bytes(file.read_bytes()[:-64] + bytes(64))


@pytest.mark.parametrize(
    ("change", "left_out"),
    [
        pytest.param(
            other_weights,
            {INDEX, "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"},
            marks=member(
                "weights",
                "one file and shards with an index",
                "the one file is used, as Transformers does; sizes count it alone",
            ),
        ),
        pytest.param(
            lambda folder: shutil.copy(folder / WEIGHTS, folder / "pytorch_model.bin"),
            {"pytorch_model.bin"},
            marks=member("weights", "safetensors and .bin", "the safetensors are used"),
        ),
        pytest.param(
            lambda folder: shutil.copy(folder / WEIGHTS, folder / "model.fp16.safetensors"),
            {"model.fp16.safetensors"},
            marks=member("weights", "a variant fp16 beside the weights", "the variant is left out"),
        ),
        pytest.param(
            lambda folder: shutil.copy(folder / WEIGHTS, folder / "consolidated.safetensors"),
            {"consolidated.safetensors"},
            marks=member("weights", "consolidated.safetensors beside the weights", "left out"),
        ),
        pytest.param(
            lambda folder: shutil.copytree(folder, folder / "onnx"),
            {"onnx/model.safetensors"},
            marks=member("weights", "another copy in a folder inside", "left out"),
        ),
        pytest.param(
            lambda folder: (folder / "adapter_config.json").write_text("{}"),
            {"adapter_config.json"},
            marks=member("weights", "a LoRA adapter beside full weights", "left out"),
        ),
    ],
)
def test_one_set_of_weights_is_used(folder: Path, change: Change, left_out: set[str]) -> None:
    change(folder)
    files = read_manifest(downloaded(folder))["files"]
    assert WEIGHTS in files
    assert left_out.isdisjoint(files)
    assert all((folder / name).is_file() for name in left_out)  # the source is left alone
    manifest = read_manifest(folder.parent / "models" / "tiny" / "base")
    assert manifest["effective_bits_per_weight"] == 16
    assert weight_bytes(manifest) == (folder / WEIGHTS).stat().st_size


@member("weights", "a hub repository with two sets", "one is fetched; the other costs no download")
def test_one_set_is_fetched_from_the_hub(hub: Hub, tiny_model: Path, tmp_path: Path) -> None:
    source = hub.root / REPO
    shutil.copytree(tiny_model, source)
    other_weights(source)
    (source / "adapter_config.json").write_text("{}")
    download_model(card(HUB), tmp_path / "models" / "base", tmp_path / "downloads")
    files = read_manifest(tmp_path / "models" / "base")["files"]
    assert {name for name in files if name.endswith((".safetensors", INDEX))} == {WEIGHTS}
    assert not [line for line in hub.requests if "model-0000" in line or "adapter" in line]


@member("weights", "shards with an index", "used, and counted like one file")
def test_shards_are_used(folder: Path) -> None:
    only_shards(folder)
    manifest = read_manifest(downloaded(folder))
    assert manifest["effective_bits_per_weight"] == 16
    assert manifest["counted"]["parameters"] == PARAMETERS


def without_a_shard(folder: Path) -> None:
    only_shards(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()


def without_the_index(folder: Path) -> None:
    only_shards(folder)
    (folder / INDEX).unlink()


def a_tensor_twice(folder: Path) -> None:
    tensors = tensors_of(folder)
    only_shards(folder)
    second = {name: tensors[name] for name in sorted(tensors)[4:]}
    store(folder, second, "model-00002-of-00002.safetensors")


def index_of_another_upload(folder: Path) -> None:
    only_shards(folder)
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"]["model.extra.weight"] = "model-00001-of-00002.safetensors"
    (folder / INDEX).write_text(json.dumps(index))


def only(name: str, folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / name)


def in_a_folder(folder: Path) -> None:
    (folder / "weights").mkdir()
    (folder / WEIGHTS).rename(folder / "weights" / WEIGHTS)


def only_an_adapter(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{}")
    (folder / WEIGHTS).rename(folder / "adapter_model.safetensors")


def drop_tensor(folder: Path) -> None:
    tensors = tensors_of(folder)
    del tensors[NAME]
    store(folder, tensors)


def packed(method: str, folder: Path) -> None:
    """Weights as GPTQ packs them, with or without a word about it in config.json."""
    import torch

    tensors = tensors_of(folder)
    del tensors[NAME]
    tensors[NAME.replace("weight", "qweight")] = torch.zeros(8, 128, dtype=torch.int32)
    store(folder, tensors)
    if method:
        change_json(folder, "config.json", quantization_config={"quant_method": method, "bits": 4})
    else:
        (folder / "quantize_config.json").write_text('{"bits": 4}')


def eight_bit(folder: Path) -> None:
    import torch

    change_tensor(folder, lambda tensor: tensor.to(torch.float8_e4m3fn))


def spoilt(value: float, folder: Path) -> None:
    def spoil(tensor: Any) -> Any:
        tensor[3, 5] = value
        return tensor

    change_tensor(folder, spoil)


def fewer_layers(folder: Path) -> None:
    change_json(folder, "config.json", num_hidden_layers=1)


def junk(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / "pytorch_model.bin").write_bytes(b"junk")


def two_heads(folder: Path) -> None:
    tensors = tensors_of(folder)
    store(folder, {**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"] + 1})


def pointer(folder: Path) -> None:
    (folder / WEIGHTS).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\n")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        pytest.param(
            without_a_shard,
            "names a file that is not there: model-00002-of-00002.safetensors",
            marks=member("weights", "a shard is missing", "refused, naming the file"),
        ),
        pytest.param(
            without_the_index,
            "no model.safetensors.index.json",
            marks=member("weights", "shards without their index", "refused, naming the index"),
        ),
        pytest.param(
            a_tensor_twice,
            "two shards hold the tensor",
            marks=member("weights", "a tensor in two shards", "refused, naming tensor and shards"),
        ),
        pytest.param(
            index_of_another_upload,
            "says that model-00001-of-00002.safetensors holds model.extra.weight",
            marks=member("weights", "an index of another upload", "refused, naming the tensor"),
        ),
        pytest.param(
            functools.partial(only, "model.fp16.safetensors"),
            "only a variant of the weights",
            marks=member("weights", "nothing but a variant fp16", "refused, naming the file"),
        ),
        pytest.param(
            functools.partial(only, "consolidated.00.pth"),
            "authors' own format: consolidated.00.pth",
            marks=member("weights", "nothing but consolidated.00.pth", "refused, naming the file"),
        ),
        pytest.param(
            functools.partial(only, "tiny-Q4_K_M.gguf"),
            "GGUF files, which are no base model: tiny-Q4_K_M.gguf",
            marks=member("weights", "a repository of GGUF files", "refused; the fix names the way"),
        ),
        pytest.param(
            in_a_folder,
            "in a folder inside: weights/model.safetensors",
            marks=member("weights", "weights in a folder inside", "refused, naming the folder"),
        ),
        pytest.param(
            only_an_adapter,
            "a LoRA adapter and no model",
            marks=member("weights", "nothing but a LoRA adapter", "refused: merge it first"),
        ),
        pytest.param(
            drop_tensor,
            f"lack the tensor {NAME}",
            marks=member(
                "weights", "a tensor is missing", "refused, where Transformers invents it"
            ),
        ),
        *(
            pytest.param(
                functools.partial(packed, method),
                f"quantized already (config.json: quantization_config: {method})",
                id=method,
            )
            for method in ("awq", "bitsandbytes", "fp8", "compressed-tensors", "hqq", "torchao")
        ),
        pytest.param(
            functools.partial(packed, "gptq"),
            "quantized already (config.json: quantization_config: gptq)",
            marks=member("weights", "a quantized base, any method", "refused, naming the method"),
        ),
        pytest.param(
            functools.partial(packed, ""),
            "is I32, quantize_config.json)",
            marks=member(
                "weights", "packed weights without a word in config.json", "refused by their format"
            ),
        ),
        pytest.param(
            eight_bit,
            f"{NAME} is F8_E4M3",
            marks=member("weights", "8-bit floats", "refused by their format"),
        ),
        pytest.param(
            functools.partial(spoilt, float("nan")),
            f"the tensor {NAME} in model.safetensors has values that are NaN (1 of 8192",
            marks=member("weights", "NaN in a tensor", "refused, naming the tensor"),
        ),
        pytest.param(
            functools.partial(spoilt, float("-inf")),
            f"the tensor {NAME} in model.safetensors has values that are infinite",
            marks=member("weights", "an infinite value in a tensor", "refused, naming the tensor"),
        ),
        pytest.param(
            fewer_layers,
            "the weights hold model.layers.1.input_layernorm.weight, a layer more",
            marks=member("weights", "more layers than config.json asks for", "refused, with one"),
        ),
        pytest.param(
            lambda folder: change_json(
                folder, "config.json", architectures=["LlamaForSequenceClassification"]
            ),
            "no language model (config.json: architectures: LlamaForSequenceClassification)",
            marks=member("card", "a model that labels texts", "refused by its architecture"),
        ),
        pytest.param(
            junk,
            "pytorch_model.bin: truncated or broken checkpoint",
            marks=member("weights", "a .bin that is none", "refused, naming the file"),
        ),
        pytest.param(
            two_heads,
            "ties lm_head.weight to model.embed_tokens.weight",
            marks=member("weights", "a tied head that differs", "refused: loaders disagree on it"),
        ),
        pytest.param(
            pointer,
            "model.safetensors: this is a pointer of Git LFS",
            marks=member("weights", "a pointer of Git LFS", "refused: git lfs pull"),
        ),
        pytest.param(
            lambda folder: (folder / WEIGHTS).write_bytes(b""),
            "model.safetensors: the weight file is empty",
            marks=member("weights", "an empty weight file", "refused, naming the file"),
        ),
        pytest.param(
            lambda folder: (folder / "config.json").unlink(),
            "no config.json",
            marks=member("card", "a source without config.json", "refused in one line"),
        ),
        pytest.param(
            lambda folder: (folder / "config.json").write_text("{"),
            "config.json: the file cannot be read",
            marks=member("card", "a broken config.json", "refused, naming the file"),
        ),
        pytest.param(
            lambda folder: change_json(folder, "config.json", model_type="unheard-of"),
            "Transformers cannot load this model",
            marks=member("card", "an architecture that Transformers lacks", "refused at download"),
        ),
        pytest.param(
            lambda folder: change_json(folder, "config.json", intermediate_size=256),
            "has the shape [64, 128], where config.json asks for [64, 256]",
            marks=member("card", "another model's config.json", "refused, with both shapes"),
        ),
        pytest.param(
            lambda folder: (folder / "chat_template.jinja").unlink(),
            "chat: the model's files hold no chat template (got True)",
            marks=member("card", "a chat model without a template", "refused at download"),
        ),
    ],
)
def test_refused_in_one_line(folder: Path, change: Change, said: str) -> None:
    change(folder)
    assert said in refusal(folder)
    # The values of weights are read at download alone.
    of_values = change is two_heads or getattr(change, "func", None) is spoilt
    assert said in validate(folder) or of_values


@member("weights", "a tied head stored twice", "stored once; sizes and bits count it once")
@pytest.mark.parametrize("pickled", [False, True])
def test_a_tied_head_counts_once(folder: Path, pickled: bool) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    tensors = tensors_of(folder)
    twice = {**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"].clone()}
    if pickled:
        torch.save(twice, folder / "pytorch_model.bin")
        (folder / WEIGHTS).unlink()
    else:
        store(folder, twice)
    before = {path.name: path.stat().st_size for path in folder.iterdir()}
    target = downloaded(folder)
    manifest = read_manifest(target)
    assert manifest["effective_bits_per_weight"] == 16
    assert manifest["source"]["left_out_tensors"] == ["lm_head.weight"]
    assert weight_bytes(manifest) < 2.1 * PARAMETERS + 8192 * pickled
    assert {path.name: path.stat().st_size for path in folder.iterdir()} == before
    model = AutoModelForCausalLM.from_pretrained(target, dtype=torch.float16)
    assert torch.equal(model.lm_head.weight, tensors["model.embed_tokens.weight"])


@member("weights", "nothing but .bin, in shards", "used; group sizes follow as from safetensors")
def test_pickled_shards(folder: Path) -> None:
    import torch

    expected = linear_shapes(folder)
    tensors = tensors_of(folder)
    names = sorted(tensors)
    files: dict[str, str] = {}
    for number, part in enumerate((names[:5], names[5:]), start=1):
        file = f"pytorch_model-{number:05}-of-00002.bin"
        torch.save({name: tensors[name] for name in part}, folder / file)
        files |= dict.fromkeys(part, file)
    (folder / "pytorch_model.bin.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": files})
    )
    (folder / WEIGHTS).unlink()
    target = downloaded(folder)
    assert read_manifest(target)["effective_bits_per_weight"] == 16
    assert linear_shapes(target) == expected


@member("weights", "tensors that the model does not use", "left out of files, size and bits")
@pytest.mark.parametrize("sharded", [False, True])
def test_tensors_that_the_model_does_not_use(
    folder: Path, sharded: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    before = downloaded(folder)
    tensors = tensors_of(folder)
    store(folder, tensors | {"visual.patch.weight": torch.ones(640, 64, dtype=torch.float16)})
    if sharded:
        only_shards(folder)
    target = downloaded(folder)
    assert "left out, as the model does not use it: visual.patch.weight" in capsys.readouterr().err
    manifest = read_manifest(target)
    assert manifest["source"]["left_out_tensors"] == ["visual.patch.weight"]
    assert manifest["effective_bits_per_weight"] == 16
    assert weight_bytes(manifest) < weight_bytes(read_manifest(before)) + 1000


@member("weights", "64-bit floats", "used; bits count them as they are stored")
def test_wide_floats(folder: Path) -> None:
    change_tensor(folder, lambda tensor: tensor.double())
    expected = 16 + 48 * 8192 / PARAMETERS
    manifest = read_manifest(downloaded(folder))
    assert manifest["effective_bits_per_weight"] == pytest.approx(expected, abs=1e-6)


@member("weights", "a mix of number formats", "each is counted as it is stored")
def test_a_mix_of_number_formats(folder: Path) -> None:
    change_tensor(folder, lambda tensor: tensor.float())
    manifest = read_manifest(downloaded(folder))
    assert manifest["counted"]["number_format"] == "F16"
    expected = 16 + 16 * 8192 / PARAMETERS
    assert manifest["effective_bits_per_weight"] == pytest.approx(expected, abs=1e-6)


# --- GGUF files ----------------------------------------------------------------------------------


@member("weights", "one part of a GGUF model", "refused: part 1 of n, and how to join them")
def test_a_gguf_in_parts(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import gguf

    whole = gguf.GGUFWriter
    monkeypatch.setattr(gguf, "GGUFWriter", functools.partial(whole, split_max_tensors=6))
    write_gguf(tmp_path / "m.gguf", tiny_model, linear="F16", embedding="F16")
    first, *others = sorted(tmp_path.glob("*.gguf"))
    source = {"type": "local", "path": str(first), "format": "gguf"}
    with pytest.raises(UserError, match=rf"part 1 of {len(others) + 1} .*--merge"):
        download_model(card(source), tmp_path / "models" / "base")


@member("weights", "a folder with several GGUF files", "refused, naming them")
def test_a_folder_of_gguf_files(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / "files" / name).write_bytes(b"GGUF")
    source = {"type": "local", "path": str(tmp_path / "files"), "format": "gguf"}
    with pytest.raises(UserError, match=r"this is a folder, which holds a\.gguf, b\.gguf"):
        download_model(card(source), tmp_path / "models" / "base")
    with pytest.raises(UserError, match=r"holds 2 GGUF files: a\.gguf, b\.gguf"):
        weight_file(tmp_path / "files")


# --- the card ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        pytest.param(
            {"parameters": 10 * PARAMETERS},
            f"parameters: the model's files have {PARAMETERS} (got {10 * PARAMETERS})",
            marks=member("card", "ten times too many parameters", "refused, with both numbers"),
        ),
        pytest.param(
            {"parameters": round(0.98 * PARAMETERS)},
            f"parameters: the model's files have {PARAMETERS}",
            marks=member("card", "two percent too few parameters", "refused, with both numbers"),
        ),
        pytest.param(
            {"architecture": "Qwen2ForCausalLM"},
            "architecture: the model's files are of LlamaForCausalLM (got 'Qwen2ForCausalLM')",
            marks=member("card", "another architecture", "refused, with both names"),
        ),
        pytest.param(
            {"context_length": 131072},
            "context_length: the model's files have 256 (got 131072)",
            marks=member("card", "a longer context than the files'", "refused, with both numbers"),
        ),
    ],
)
def test_a_card_that_says_otherwise(folder: Path, changes: dict[str, Any], said: str) -> None:
    assert said in refusal(folder, **changes)
    assert said in validate(folder, **changes)


@member("card", "half a percent off", "accepted; bits per weight follow from the files' count")
def test_a_rounded_number_enters_nothing(folder: Path) -> None:
    target = downloaded(folder, parameters=round(1.005 * PARAMETERS))
    assert read_manifest(target)["effective_bits_per_weight"] == 16


@member("card", "a card that is changed after the download", "the next run refuses it")
def test_a_card_that_is_changed_later(folder: Path) -> None:
    models = downloaded(folder).parents[1]
    model = local(folder)
    check_downloaded(model, models)
    with pytest.raises(UserError, match=f"files have {PARAMETERS} "):
        check_downloaded(dataclasses.replace(model, parameters=3 * PARAMETERS), models)
    # Another source is another model: it is fetched first.
    elsewhere = dataclasses.replace(model, parameters=3 * PARAMETERS, source=HUB)
    check_downloaded(elsewhere, models)


@member(
    "card", "a download of before, with another card's bits", "the next run says what to delete"
)
def test_a_download_of_an_earlier_version(folder: Path) -> None:
    target = downloaded(folder)
    manifest = json.loads((target / "manifest.json").read_text())
    del manifest["counted"]
    manifest["effective_bits_per_weight"] /= 10
    (target / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="so that all is made anew"):
        check_downloaded(local(folder), target.parents[1])


def a_file(folder: Path) -> Path:
    return folder / "config.json"


def an_empty_folder(folder: Path) -> Path:
    (folder / "empty").mkdir()
    return folder / "empty"


@pytest.mark.parametrize(
    ("place", "said"),
    [
        pytest.param(
            lambda folder: folder / "absent",
            "there is no such folder",
            marks=member("card", "a path that does not exist", "refused in one line"),
        ),
        pytest.param(
            a_file,
            "this is a file, and the format transformers is a folder",
            marks=member("card", "a file where a folder belongs", "refused in one line"),
        ),
        pytest.param(
            an_empty_folder,
            "this folder is empty",
            marks=member("card", "an empty folder", "refused in one line"),
        ),
    ],
)
def test_places_that_are_none(folder: Path, place: Callable[[Path], Path], said: str) -> None:
    source = {"type": "local", "path": str(place(folder)), "format": "transformers"}
    for act in (lambda: check_local(card(source)), lambda: downloaded(folder, source=source)):
        with pytest.raises(UserError, match=rf"models/tiny\.yaml: source\.path: {said}.*Fix: "):
            act()


# --- windows -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "tokenizer", "window"),
    [
        ({"max_position_embeddings": 4096, "sliding_window": 2047}, 4096, 4096),
        ({"n_positions": 1024, "n_ctx": 1024}, 1024, 1024),
        ({"max_position_embeddings": 2048}, 10**30, 2048),
        ({"max_position_embeddings": 8192}, 2048, 2048),
        ({"text_config": {"max_position_embeddings": 512}}, None, 512),
        (
            {"max_position_embeddings": 2048, "rope_scaling": {"type": "linear", "factor": 4.0}},
            None,
            8192,
        ),
        (
            {
                "max_position_embeddings": 131072,
                "rope_scaling": {"rope_type": "longrope", "original_max_position_embeddings": 4096},
            },
            None,
            131072,
        ),
        ({}, None, None),
    ],
)
@member("card", "windows of configuration and tokenizer", "the least of all is used")
def test_the_window_is_the_least(
    tmp_path: Path, config: dict[str, Any], tokenizer: int | None, window: int | None
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    described = {} if tokenizer is None else {"model_max_length": tokenizer}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(described))
    assert context_window(tmp_path) == window
    assert window_of(card(HUB, context_length=300), tmp_path) == min(300, window or 300)
    assert all(length > 0 for length in declared_lengths(tmp_path).values())
