"""The configuration of MiniCPM, written for a test from the paper; not the authors' own file."""

from __future__ import annotations

from transformers import LlamaConfig


class MiniCPMConfig(LlamaConfig):  # type: ignore[misc]
    """Llama's configuration with MiniCPM's three scales."""

    model_type = "minicpm"

    scale_emb: float = 1.0
    scale_depth: float = 1.0
    dim_model_base: int = 1
