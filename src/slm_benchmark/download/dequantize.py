"""A base model in transformers format from a GGUF file: weights, configuration and tokenizer."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from slm_benchmark.common.errors import RunEnvironmentError, UserError

FLOAT16_MAX = 65504.0


def read_gguf(path: Path, *, file: str, field: str) -> Any:
    """Open a GGUF file and check that all the data its header promises is there.

    Args:
        path: The GGUF file.
        file: The card that names it, for messages.
        field: The field of the card that names it.

    Returns:
        A `gguf.GGUFReader`.

    Raises:
        UserError: when the file is not GGUF, is cut short, or has a broken header.
    """
    from gguf import GGUFReader

    def broken(what: str) -> UserError:
        return UserError(
            f"truncated or broken GGUF file: {what}",
            file=file,
            field=field,
            value=str(path.name),
            fix="fetch the file again, or name another one",
        )

    size = path.stat().st_size
    with open(path, "rb") as stream:
        if stream.read(4) != b"GGUF":
            raise broken(f"it does not start with the magic bytes GGUF ({size} bytes)")
    try:
        reader = GGUFReader(path)
    except Exception as error:  # the reader has no error of its own: any kind comes out of it
        raise broken(f"it ends or breaks off after {size} bytes ({error})") from error
    parts = reader.get_field("split.count")
    if parts is not None and int(parts.contents()) > 1:
        number = int(reader.get_field("split.no").contents()) + 1
        raise UserError(
            f"this is part {number} of {int(parts.contents())} of a GGUF model",
            file=file,
            field=field,
            value=path.name,
            fix="join the parts (llama-gguf-split --merge FIRST-PART MERGED.gguf) and name the "
            "merged file",
        )
    if not reader.tensors:
        raise broken("it holds no tensors")
    needed = max(int(t.data_offset) + int(t.n_bytes) for t in reader.tensors)
    if needed > size:
        raise broken(f"the header promises {needed} bytes, the file has {size}")
    return reader


def main_type(reader: Any) -> str:
    """The tensor type that holds most of the weights, such as ``Q4_1``."""
    weights: Counter[str] = Counter()
    for tensor in reader.tensors:
        weights[tensor.tensor_type.name] += int(tensor.n_elements)
    return weights.most_common(1)[0][0]


def dequantize(path: Path, target: Path, *, file: str, field: str) -> dict[str, str]:
    """Write the model of a GGUF file into ``target`` as a transformers model.

    Weights are stored as float16. A 4-bit block times its scale has more digits than float16
    keeps, so a value may move by one part in 2048; that is far below the step of the
    quantization. In return the model has the size of an ordinary 16-bit release, and an F16 GGUF
    made from it holds the same numbers, so that comparing the two compares engines and nothing
    else. Should a value exceed the range of float16, all weights are stored as float32.

    The step ends with a forward pass: the files just written must give finite logits, equal to
    those of the model as it was read from the GGUF file.

    Args:
        path: The GGUF file.
        target: Existing folder.
        file: The card that names ``path``, for messages.
        field: The field of the card that names it.

    Returns:
        ``dequantised_from``, the type of most weights, and ``dtype``, the type stored.

    Raises:
        UserError: when the file is broken, its tokenizer cannot be rebuilt exactly, or it is of
            an architecture that transformers cannot read from GGUF.
        RunEnvironmentError: when the disk is full.
    """
    import torch
    from transformers import AutoModelForCausalLM

    reader = read_gguf(path, file=file, field=field)
    origin = main_type(reader)
    pre_tokenizer = _text(reader, "tokenizer.ggml.pre")
    del reader  # releases the memory map

    try:
        model, loading = AutoModelForCausalLM.from_pretrained(
            path.parent, gguf_file=path.name, dtype=torch.float32, output_loading_info=True
        )
    except (ValueError, KeyError, RuntimeError) as error:
        raise UserError(
            f"transformers cannot read this GGUF file: {error}",
            file=file,
            field=field,
            value=path.name,
            fix="use the model's original files (source.type: hub)",
        ) from error
    absent = sorted({*loading["missing_keys"]} - {*(model._tied_weights_keys or {})})
    weights = model.state_dict()
    unusable = [name for name, tensor in weights.items() if not tensor.isfinite().all()]
    if absent or unusable:
        what = (
            f"lacks {absent[0]}" if absent else f"has values that are not finite in {unusable[0]}"
        )
        raise UserError(
            f"truncated or broken GGUF file: it {what}",
            file=file,
            field=field,
            value=path.name,
            fix="fetch the file again, or name another one",
        )
    largest = max(float(tensor.abs().max()) for tensor in weights.values())
    dtype = torch.float16 if largest <= FLOAT16_MAX else torch.float32

    # A model that came from GGUF refuses to be saved. A fresh one made from the same
    # configuration takes over its weights.
    config = model.config
    config.architectures = [type(model).__name__]
    weights = {name: tensor.to(dtype) for name, tensor in weights.items()}
    with torch.device("meta"):
        fresh = AutoModelForCausalLM.from_config(config, dtype=dtype)
    fresh.load_state_dict(weights, assign=True)
    fresh.tie_weights()
    with full_disk(target):
        fresh.save_pretrained(target)
        _tidy_config(target / "config.json")
        _save_tokenizer(
            path, target, pre_tokenizer, config.max_position_embeddings, file=file, field=field
        )
    model.load_state_dict(weights)  # rounded in place, so that the forward passes must agree
    _check_forward(model, target, file=file, field=field)
    for written in target.glob("*.safetensors"):
        written.chmod(0o644)  # they are made unreadable for others
    return {"dequantised_from": origin, "dtype": str(dtype).removeprefix("torch.")}


def _text(reader: Any, key: str) -> str | None:
    value = reader.get_field(key)
    return None if value is None else str(value.contents())


def _tidy_config(path: Path) -> None:
    """Make config.json say what the files are now, to readers old and new.

    Left-overs of reading GGUF go: with ``quantization_config`` other programs would take the
    float weights for GGUF ones. ``rope_theta`` is repeated at the top level: transformers 5 writes
    it into ``rope_parameters`` only, where transformers 4 does not look; it would silently fall
    back to 10000 and give wrong logits.
    """
    config = json.loads(path.read_text())
    config.pop("quantization_config", None)
    config.pop("_model_name_or_path", None)
    theta = (config.get("rope_parameters") or {}).get("rope_theta")
    if theta is not None:
        config["rope_theta"] = theta
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def _save_tokenizer(
    path: Path,
    target: Path,
    pre_tokenizer: str | None,
    context_length: int,
    *,
    file: str,
    field: str,
) -> None:
    """Rebuild the tokenizer so that it cuts text exactly as llama.cpp does with the same file.

    Transformers rebuilds vocabulary and merges, but gives every byte-level tokenizer the pattern
    of GPT-2 and ignores the name of the pre-tokenizer in the file. Texts with spaces before
    digits would then be cut otherwise than the model was trained on.
    """
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    if pre_tokenizer == "smollm":  # cuts every digit off before the pattern of GPT-2 applies
        tokenizer.backend_tokenizer.pre_tokenizer = Sequence(
            [Digits(individual_digits=True), ByteLevel(add_prefix_space=False, use_regex=True)]
        )
    elif pre_tokenizer != "gpt-2":
        raise UserError(
            f"the tokenizer {pre_tokenizer!r} of this GGUF file cannot be rebuilt exactly",
            file=file,
            field=field,
            value=path.name,
            fix="use the model's original files (source.type: hub)",
        )
    tokenizer.model_max_length = context_length
    tokenizer.save_pretrained(target)
    path = target / "tokenizer_config.json"
    config = json.loads(path.read_text())
    for about_the_loading in ("is_local", "local_files_only"):
        config.pop(about_the_loading, None)
    config["tokenizer_class"] = "PreTrainedTokenizerFast"  # the name that transformers 4 knows too
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def _check_forward(model: Any, target: Path, *, file: str, field: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    reread = AutoModelForCausalLM.from_pretrained(target, dtype=torch.float32)
    tokens = torch.arange(32).unsqueeze(0) * 97 % model.config.vocab_size
    with torch.inference_mode():
        expected = model(tokens).logits
        logits = reread(tokens).logits
    if not logits.isfinite().all() or not torch.allclose(logits, expected, atol=1e-4):
        raise UserError(
            "the dequantized model does not compute what the GGUF file's model computes "
            f"(largest difference of logits {float((logits - expected).abs().max()):.3g})",
            file=file,
            field=field,
            fix="use the model's original files (source.type: hub)",
        )


@contextlib.contextmanager
def full_disk(path: Path) -> Iterator[None]:
    """Give the ``OSError`` back that safetensors wraps into an error of its own."""
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        if "os error 28" not in str(error) and "os error 122" not in str(error):
            raise
        raise RunEnvironmentError(
            "no space left on the disk; nothing half-written remains",
            file=path.parent,
            fix="free some space and run the same command again",
        ) from error
