"""gptqmodel's descriptions of architectures, corrected where they do not fit the model's layers.

A description names the layers of a block, and by numbers which of them take the same input. Two
kinds are wrong in gptqmodel 7.6:

- It splits the fused gate and up projection of Phi-3, GLM and their like before it quantizes, and
  writes two layers. Transformers has one, so the quantized layers are never loaded: GPTQ computes
  with uninitialized memory then, and AWQ finds no layer to scale. A fused layer is quantized as
  well as two: its outputs do not depend on each other.
- MiniCPM's projections all count as one group, although the last one takes what the others give, so
  AWQ fails.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from slm_benchmark.common.files import read_json

_FUSED = "mlp.gate_up_proj.weight"
"""End of the name of a fused layer's tensor."""

_ONE_GROUP = ("gate_proj", "up_proj", "down_proj")


def correct_definition(base: Path, tensors: Iterable[str]) -> None:
    """Correct what gptqmodel knows of a model's architecture, from now on in this process.

    Args:
        base: Folder of the base model.
        tensors: Names of its tensors.
    """
    from defuser.modeling import model_patches
    from gptqmodel.models import auto

    kind = read_json(base / "config.json")["model_type"]
    definition = auto.MODEL_MAP.get(kind)
    if definition is None or not definition.module_tree:
        return
    *outer, block = definition.module_tree
    if any(name.endswith(_FUSED) for name in tensors) and "mlp" in block:
        if model_patches._MODEL_PATCH_REGISTRY.pop(kind, None) is None:
            return
        block = _block(block["self_attn"], ("gate_up_proj:0", "down_proj:1"))
    elif isinstance(block, Mapping) and block.get("mlp") == _ONE_GROUP:
        attention = ("q_proj:0", "k_proj:0", "v_proj:0", "o_proj:1")
        block = _block(attention, ("gate_proj:0", "up_proj:0", "down_proj:1"))
    else:
        return
    corrected = {"module_tree": [*outer, block]}
    auto.MODEL_MAP[kind] = type(f"Corrected{definition.__name__}", (definition,), corrected)


def _block(attention: Any, mlp: tuple[str, ...]) -> dict[str, Any]:
    """A description with the norms, which AWQ scales; ``:!`` marks what stays as it is."""
    return {
        "input_layernorm": ("input_layernorm:!",),
        "self_attn": attention,
        "post_attention_layernorm": ("post_attention_layernorm:!",),
        "mlp": mlp,
    }
