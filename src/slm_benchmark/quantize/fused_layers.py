"""Layers that a model has in one piece, kept in one piece by gptqmodel.

gptqmodel splits the fused gate and up projection of Phi-3, GLM and their like before it quantizes,
and writes two layers. Transformers has one, so the quantized layers are never loaded: GPTQ computes
with uninitialized memory then, and AWQ finds no layer to scale. A fused layer is quantized as well
as two: its outputs do not depend on each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from slm_benchmark.common.files import read_json

FUSED = "mlp.gate_up_proj.weight"
"""End of the name of such a layer's tensor."""


def keep_fused_layers(base: Path, tensors: Iterable[str]) -> None:
    """Let gptqmodel quantize fused layers as they are, from now on in this process.

    Args:
        base: Folder of the base model.
        tensors: Names of its tensors; without a fused layer among them nothing happens.
    """
    if not any(name.endswith(FUSED) for name in tensors):
        return
    from defuser.modeling import model_patches
    from gptqmodel.models import auto

    kind = read_json(base / "config.json")["model_type"]
    definition = auto.MODEL_MAP.get(kind)
    if definition is None or model_patches._MODEL_PATCH_REGISTRY.pop(kind, None) is None:
        return
    *outer, layer = definition.module_tree
    fused = {"module_tree": [*outer, _fused(layer)]}
    auto.MODEL_MAP[kind] = type(f"Fused{definition.__name__}", (definition,), fused)


def _fused(layer: Mapping[str, Any]) -> dict[str, Any]:
    """gptqmodel's description of a layer, with its norms, which AWQ scales, and fused projections.

    ``:!`` marks what stays as it is, a number what is quantized together.
    """
    return {
        "input_layernorm": ("input_layernorm:!",),
        "self_attn": layer["self_attn"],
        "post_attention_layernorm": ("post_attention_layernorm:!",),
        "mlp": ("gate_up_proj:0", "down_proj:1"),
    }
