"""Tiny models and datasets on disk, made as the workflow makes real ones."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from slm_benchmark.download.datasets import prepare_dataset
from slm_benchmark.download.weights import write_manifest

SPIN = "while True: pass"
"""A program that keeps one CPU busy."""


def write_gguf(path: Path, tiny_model: Path, linear: str, embedding: str) -> Path:
    import numpy as np
    from gguf import GGMLQuantizationType, GGUFWriter
    from gguf.quants import quantize
    from safetensors.numpy import load_file

    config = json.loads((tiny_model / "config.json").read_text())
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    writer = GGUFWriter(path, "llama")
    writer.add_name("Tiny")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_rope_dimension_count(config["hidden_size"] // heads)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    add_tokenizer(writer, tiny_model, config["vocab_size"])

    names = {
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
    }
    outer = {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.norm.weight": "output_norm.weight",
        "lm_head.weight": "output.weight",
    }
    for name, stored in sorted(load_file(tiny_model / "model.safetensors").items()):
        tensor = stored.astype(np.float32)
        if name in outer:
            named = outer[name]
        else:
            _, _, layer, rest = name.split(".", 3)
            named = f"blk.{layer}.{names[rest.removesuffix('.weight')]}.weight"
        for kind, count in (("attn_q", heads), ("attn_k", kv_heads)):
            if kind in named:  # llama.cpp keeps the two halves of a rotation side by side
                halves = tensor.reshape(count, 2, tensor.shape[0] // count // 2, tensor.shape[1])
                tensor = halves.swapaxes(1, 2).reshape(tensor.shape)
        if tensor.ndim == 1:
            writer.add_tensor(named, tensor)
        else:
            kind_of = GGMLQuantizationType[embedding if named == "token_embd.weight" else linear]
            writer.add_tensor(
                named, quantize(np.ascontiguousarray(tensor), kind_of), raw_dtype=kind_of
            )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def add_tokenizer(writer: Any, folder: Path, rows: int = 0) -> None:
    """Put the tokenizer of a model's folder into a GGUF file, padded to the model's rows."""
    from gguf import TokenType

    described = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = sorted(described["model"]["vocab"].items(), key=lambda item: item[1])
    special = {token["content"] for token in described["added_tokens"]}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    padding = [f"[PAD{number}]" for number in range(len(vocabulary), rows)]
    writer.add_token_list([*(token for token, _ in vocabulary), *padding])
    kinds = [TokenType.CONTROL if token in special else TokenType.NORMAL for token, _ in vocabulary]
    writer.add_token_types([*kinds, *(TokenType.UNUSED for _ in padding)])
    merges = described["model"]["merges"]
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_add_bos_token(False)
    writer.add_add_space_prefix(False)
    template = folder / "chat_template.jinja"
    if template.exists():
        writer.add_chat_template(template.read_text())


def add_manifest(folder: Path, variant: str) -> Path:
    """Describe the files of a finished folder as the workflow does."""
    write_manifest(
        folder,
        "tiny",
        variant,
        source={"type": "local", "path": "tiny"},
        method="download",
        nominal_bits_per_weight=16,
        effective_bits_per_weight=16,
        tensor_types={"F16": 1.0},
        libraries={},
        duration_s=0,
    )
    return folder


def prepare_splits(
    folder: Path, tasks: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]]
) -> Path:
    """Prepare rows as local datasets, one for each task, in folders of their names."""
    for task, splits in tasks.items():
        files = {}
        for name, rows in splits.items():
            files[name] = str(folder / f"{task}-{name}.jsonl")
            Path(files[name]).write_text("".join(json.dumps(row) + "\n" for row in rows))
        entry: Any = {"source": "local", "files": files, "license": "CC0-1.0"}
        prepare_dataset(task, entry, folder / task)
    return folder
