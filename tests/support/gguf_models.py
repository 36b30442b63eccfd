"""Tiny random GGUF models whose cache is not a plain list of keys and values."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFWriter

from tests.support.models import add_tokenizer

SIZE, LAYERS, VOCABULARY, WINDOW = 64, 2, 377, 32


def _begin(path: Path, kind: str, tokenizer: Path) -> Any:
    writer = GGUFWriter(path, kind)
    writer.add_name("Tiny")
    writer.add_block_count(LAYERS)
    writer.add_context_length(512)
    writer.add_embedding_length(SIZE)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(VOCABULARY)
    add_tokenizer(writer, tokenizer)
    return writer


def _random(seed: int) -> Callable[..., Any]:
    """Gives random weights of the shape that it is asked for."""
    draw = np.random.default_rng(seed)
    return lambda *shape: draw.normal(0, 0.3, shape)


def _end(writer: Any, tensors: dict[str, Any]) -> None:
    for name, tensor in tensors.items():
        writer.add_tensor(name, np.ascontiguousarray(tensor, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_mamba(path: Path, tokenizer: Path) -> Path:
    """A recurrent model: its state stands for all tokens before."""
    weights = _random(5)
    inner, state, kernel, rank = 2 * SIZE, 8, 4, 4
    writer = _begin(path, "mamba", tokenizer)
    writer.add_feed_forward_length(0)
    writer.add_head_count(0)
    writer.add_ssm_conv_kernel(kernel)
    writer.add_ssm_inner_size(inner)
    writer.add_ssm_state_size(state)
    writer.add_ssm_time_step_rank(rank)
    tensors = {
        "token_embd.weight": weights(VOCABULARY, SIZE),
        "output_norm.weight": np.ones(SIZE),
    }
    for layer in range(LAYERS):
        block = f"blk.{layer}."
        tensors |= {
            block + "attn_norm.weight": np.ones(SIZE),
            block + "ssm_in.weight": weights(2 * inner, SIZE),
            block + "ssm_conv1d.weight": weights(inner, kernel),
            block + "ssm_conv1d.bias": weights(inner),
            block + "ssm_x.weight": weights(rank + 2 * state, inner),
            block + "ssm_dt.weight": weights(inner, rank),
            block + "ssm_dt.bias": weights(inner),
            block + "ssm_a": -np.tile(np.arange(1.0, state + 1), (inner, 1)),
            block + "ssm_d": np.ones(inner),
            block + "ssm_out.weight": weights(SIZE, inner),
        }
    _end(writer, tensors)
    return path


def write_long_rope(path: Path, tokenizer: Path) -> Path:
    """A model that says it was first trained on shorter texts, as those with LongRoPE do."""
    return write_gemma2(path, tokenizer, original_length=128)


def write_gemma2(path: Path, tokenizer: Path, original_length: int | None = None) -> Path:
    """A model of which every second layer sees the last `WINDOW` tokens only."""
    weights = _random(6)
    heads, kv_heads, head, inner = 4, 2, 16, 128
    writer = _begin(path, "gemma2", tokenizer)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_sliding_window(WINDOW)
    writer.add_attn_logit_softcapping(50.0)
    writer.add_final_logit_softcapping(30.0)
    if original_length:
        writer.add_rope_scaling_orig_ctx_len(original_length)
    tensors = {
        "token_embd.weight": weights(VOCABULARY, SIZE),
        "output_norm.weight": np.ones(SIZE),
    }
    for layer in range(LAYERS):
        block = f"blk.{layer}."
        norms = ("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm")
        tensors |= {f"{block}{name}.weight": np.ones(SIZE) for name in norms}
        tensors |= {
            block + "attn_q.weight": weights(heads * head, SIZE),
            block + "attn_k.weight": weights(kv_heads * head, SIZE),
            block + "attn_v.weight": weights(kv_heads * head, SIZE),
            block + "attn_output.weight": weights(SIZE, heads * head),
            block + "ffn_gate.weight": weights(inner, SIZE),
            block + "ffn_up.weight": weights(inner, SIZE),
            block + "ffn_down.weight": weights(SIZE, inner),
        }
    _end(writer, tensors)
    return path
