"""MiniCPM's architecture, written for a test from the paper; not the authors' own file.

Llama, with the embeddings times ``scale_emb``, each residual branch times ``scale_depth`` over
the root of the number of layers, and the last state over the ratio of width to ``dim_model_base``.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers.models.llama.modeling_llama import (
    LlamaDecoderLayer,
    LlamaForCausalLM,
    LlamaModel,
)

from .configuration_minicpm import MiniCPMConfig


class MiniCPMDecoderLayer(LlamaDecoderLayer):  # type: ignore[misc]
    """A layer whose two branches are scaled."""

    def __init__(self, config: MiniCPMConfig, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        self.scale = config.scale_depth / config.num_hidden_layers**0.5

    def forward(self, hidden_states: torch.Tensor, **options: Any) -> torch.Tensor:
        attended, _ = self.self_attn(hidden_states=self.input_layernorm(hidden_states), **options)
        hidden_states = hidden_states + self.scale * attended
        inner = self.mlp(self.post_attention_layernorm(hidden_states))
        return hidden_states + self.scale * inner


class MiniCPMModel(LlamaModel):  # type: ignore[misc]
    """The layers between scaled embeddings and a scaled end."""

    config_class = MiniCPMConfig

    def __init__(self, config: MiniCPMConfig) -> None:
        super().__init__(config)
        self.layers = torch.nn.ModuleList(
            MiniCPMDecoderLayer(config, number) for number in range(config.num_hidden_layers)
        )
        self.post_init()

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        **options: Any,
    ) -> Any:
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids) * self.config.scale_emb
        output = super().forward(inputs_embeds=inputs_embeds, **options)
        output.last_hidden_state = output.last_hidden_state / (
            self.config.hidden_size / self.config.dim_model_base
        )
        return output


class MiniCPMForCausalLM(LlamaForCausalLM):  # type: ignore[misc]
    """The model with its head."""

    config_class = MiniCPMConfig

    def __init__(self, config: MiniCPMConfig) -> None:
        super().__init__(config)
        self.model = MiniCPMModel(config)
        self.post_init()
