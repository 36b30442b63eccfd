"""What one token costs: the bytes it must read and the arithmetic it must do, and their shares.

MBU, model bandwidth utilization, is the term of Databricks ("LLM Inference Performance
Engineering: Best Practices", M. Agarwal et al., 2023): bytes of weights and key-value cache per
token × tokens/s ÷ memory bandwidth. MFU, model FLOPs utilization, is that of PaLM (A. Chowdhery
et al., 2022): arithmetic that the model needs × tokens/s ÷ matrix rate, whatever the engine did
instead. Both divide by a data sheet's peak; here the divisor is what `roofline` measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slm_benchmark.profiling.job import Point
from slm_benchmark.profiling.types import RawTraffic

if TYPE_CHECKING:
    import torch

ROUTED = "experts"
"""Name of the module that holds the experts among which a router chooses, in every model of
Transformers that has some; experts that every token uses have another."""

_LOOKUPS = ("token_embd.weight", "position_embd.weight", "per_layer_token_embd.weight")
"""Tables of a GGUF file of which a token reads one row."""

_BATCH_OF_EXPERTS = (
    "mixture of experts: weights are those of one token's experts; several tokens at once need "
    "more, so MBU of a batch is too low"
)
_STATE = "layers without keys and values: what they carry from token to token is not counted"


@dataclass(frozen=True)
class Traffic:
    """What one token needs of one variant.

    Attributes:
        weight_bytes_per_token: Bytes of weights that generating one token reads, as they lie in
            memory: all that is multiplied, each once, and one row of each table that is only
            looked up.
        kv_bytes_per_position: Bytes of keys and values of one cached position, all layers.
        flops_per_token: Operations of all matrix products with weights, a multiplication and an
            addition counted as two.
        head_flops_per_token: The part of ``flops_per_token`` that turns the last state into
            logits; of a prompt, only the last token needs it.
        attention_flops_per_token_and_position: Operations of the products with keys and values
            for one token that looks at one position, all layers.
        notes: What the figures leave out, as sentences.
    """

    weight_bytes_per_token: int
    kv_bytes_per_position: int
    flops_per_token: int
    head_flops_per_token: int
    attention_flops_per_token_and_position: int
    notes: Sequence[str] = ()

    def as_json(self) -> RawTraffic:
        """The figures as a record has them."""
        return {
            "weight_bytes_per_token": self.weight_bytes_per_token,
            "kv_bytes_per_position": self.kv_bytes_per_position,
            "flops_per_token": self.flops_per_token,
            "head_flops_per_token": self.head_flops_per_token,
            "attention_flops_per_token_and_position": self.attention_flops_per_token_and_position,
            "notes": list(self.notes),
        }


def decode_bytes(
    traffic: Traffic, prompt_tokens: int, output_tokens: int, sequences: int = 1
) -> float:
    """Mean bytes that a generated token reads, of all after the first.

    The first one comes from the prompt's forward. The step to token i + 1 reads the weights, once
    for all sequences, and the keys and values of ``prompt_tokens`` + i positions of its own.

    Args:
        traffic: What a token needs.
        prompt_tokens: Tokens of each prompt.
        output_tokens: Tokens generated after each; at least 2.
        sequences: Prompts that are processed together.
    """
    positions = prompt_tokens + output_tokens / 2  # the mean of prompt + 1, …, prompt + output - 1
    weight_bytes = traffic.weight_bytes_per_token / sequences
    return weight_bytes + traffic.kv_bytes_per_position * positions


def prefill_flops(traffic: Traffic, prompt_tokens: int) -> int:
    """Operations that a prompt needs.

    Token i looks at i positions: what a kernel computes behind a causal mask is not needed. Logits
    are needed of the last token.
    """
    body = traffic.flops_per_token - traffic.head_flops_per_token
    seen = prompt_tokens * (prompt_tokens + 1) // 2
    return (
        prompt_tokens * body
        + traffic.head_flops_per_token
        + seen * traffic.attention_flops_per_token_and_position
    )


def mbu(traffic: Traffic, point: Point, tokens_per_s: float, bandwidth: float) -> float:
    """Share of the memory bandwidth that generation uses.

    Args:
        traffic: What a token needs.
        point: What was generated.
        tokens_per_s: Tokens after the first, of all sequences together.
        bandwidth: The machine's, in bytes/s.
    """
    token_bytes = decode_bytes(traffic, point.prompt_tokens, point.output_tokens, point.sequences)
    return token_bytes * tokens_per_s / bandwidth


def mfu(traffic: Traffic, prompt_tokens: int, tokens_per_s: float, flops_per_s: float) -> float:
    """Share of the matrix rate that processing of prompts uses.

    Args:
        traffic: What a token needs.
        prompt_tokens: Tokens of each prompt.
        tokens_per_s: Tokens of prompts, of all sequences together.
        flops_per_s: The machine's matrix rate.
    """
    return prefill_flops(traffic, prompt_tokens) / prompt_tokens * tokens_per_s / flops_per_s


def transformers_traffic(model: Any) -> Traffic:
    """What a token needs of a model that Transformers has loaded.

    Weights are counted as they lie in memory now: a quantized layer has its packed numbers, zero
    points, scales and order of columns, and counts its products by its logical widths. The sizes of
    keys and values are those of a real cache: one token runs through the model, so call it when
    nothing is measured any more.

    Args:
        model: A causal language model on its device.
    """
    import torch

    # Buffers that are not saved with a model (tables of rotations, masks) are no weights.
    saved = {id(tensor) for tensor in model.state_dict(keep_vars=True).values()}
    shared = {
        id(parameter)
        for module in model.modules()
        if not isinstance(module, torch.nn.Embedding)
        for parameter in module.parameters(recurse=False)
    }
    config = model.config.get_text_config()
    active, notes = _active_experts(model, config)
    head = model.get_output_embeddings()
    weight_bytes, flops, head_flops = Fraction(0), Fraction(0), 0
    for name, module in model.named_modules():
        held = (*module.parameters(recurse=False), *module.buffers(recurse=False))
        tensors = [tensor for tensor in held if id(tensor) in saved]
        if isinstance(module, torch.nn.Embedding):
            if id(module.weight) not in shared:  # tied, it counts where it is multiplied
                weight_bytes += module.weight[0].nbytes
            continue
        share = active if ROUTED in name.split(".") else Fraction(1)
        weight_bytes += share * sum(tensor.nbytes for tensor in tensors)
        module_flops = 2 * share * _multiplied(module, tensors)
        flops += module_flops
        if module is head:
            head_flops = int(module_flops)
    cached = _cached(model)
    if len(cached) < config.num_hidden_layers:
        notes.append(_STATE)
    if window := getattr(config, "sliding_window", None):
        notes.append(_windowed(window))
    return Traffic(
        weight_bytes_per_token=int(weight_bytes),
        kv_bytes_per_position=sum(keys.nbytes + values.nbytes for keys, values in cached),
        flops_per_token=int(flops),
        head_flops_per_token=head_flops,
        attention_flops_per_token_and_position=sum(
            2 * config.num_attention_heads * (keys.shape[-1] + values.shape[-1])
            for keys, values in cached
        ),
        notes=tuple(notes),
    )


def gguf_traffic(path: str | Path, cache_bits: int = 16) -> Traffic:
    """What a token needs of a GGUF file, whose tensors llama.cpp keeps as large as they are.

    Args:
        path: The file.
        cache_bits: Bits of each cached number.
    """
    from gguf import GGUFReader

    reader = GGUFReader(path)
    value = _Metadata(reader)
    names = {tensor.name for tensor in reader.tensors}
    head = "output.weight" if "output.weight" in names else "token_embd.weight"
    expert_count, used = value("expert_count", 0), value("expert_used_count", 0)
    weight_bytes, flops, head_flops = 0, 0, 0
    for tensor in reader.tensors:
        size_bytes, elements = int(tensor.n_bytes), int(tensor.n_elements)
        if tensor.name in _LOOKUPS and tensor.name != head:
            weight_bytes += size_bytes // int(tensor.shape[-1])
            continue
        if "_exps." in tensor.name and expert_count:
            size_bytes, elements = (n * used // expert_count for n in (size_bytes, elements))
        weight_bytes += size_bytes
        if len(tensor.shape) > 1:
            flops += 2 * elements
        if tensor.name == head:
            head_flops = 2 * elements
    layers = value("block_count", 0)
    heads = _per_layer(value("attention.head_count", 0), layers)
    kv_heads = _per_layer(value("attention.head_count_kv", heads), layers)
    usual = value("embedding_length", 0) // max(*heads, 1)
    width = value("attention.key_length", usual) + value("attention.value_length", usual)
    notes = [_BATCH_OF_EXPERTS] if expert_count else []
    if 0 in kv_heads:
        notes.append(_STATE)
    if window := value("attention.sliding_window", 0):
        notes.append(_windowed(window))
    return Traffic(
        weight_bytes_per_token=weight_bytes,
        kv_bytes_per_position=sum(kv_heads) * width * cache_bits // 8,
        flops_per_token=flops,
        head_flops_per_token=head_flops,
        attention_flops_per_token_and_position=sum(
            2 * width * heads[layer] for layer in range(layers) if kv_heads[layer]
        ),
        notes=tuple(notes),
    )


def _multiplied(module: torch.nn.Module, tensors: list[torch.Tensor]) -> int:
    """Weights that one token is multiplied with, by their number and not by how they are packed."""
    matrices = [tensor for tensor in tensors if tensor.ndim > 1]
    inputs, outputs = (getattr(module, name, None) for name in ("in_features", "out_features"))
    if matrices and inputs and outputs:
        return int(inputs) * int(outputs)
    return sum(tensor.numel() for tensor in matrices)


def _active_experts(model: torch.nn.Module, config: Any) -> tuple[Fraction, list[str]]:
    """Share of the routed experts that one token is sent through, and what to note."""
    names = ("num_local_experts", "num_experts", "n_routed_experts")
    count = next((n for name in names if (n := getattr(config, name, None))), None)
    if count is None:
        return Fraction(1), []
    used = getattr(config, "num_experts_per_tok", None)
    routed = any(ROUTED in name.split(".") for name, _ in model.named_modules())
    if used is None or not routed:
        return Fraction(1), ["mixture of experts: all experts are counted, not one token's"]
    return Fraction(used, count), [_BATCH_OF_EXPERTS]


def _cached(model: Any) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Keys and values of one position, each of shape (1, heads, 1, width); by layer."""
    import torch

    with torch.inference_mode():
        token = torch.zeros(1, 1, dtype=torch.long, device=model.device)
        cache = getattr(model(input_ids=token, use_cache=True), "past_key_values", None) or ()
    pairs = (
        [(getattr(layer, "keys", None), getattr(layer, "values", None)) for layer in cache.layers]
        if hasattr(cache, "layers")
        else [layer[:2] for layer in cache]  # of a model that brings its own, older code
    )
    return [(keys, values) for keys, values in pairs if torch.is_tensor(keys)]


def _windowed(window: int) -> str:
    return f"some layers look at {window} positions at most; all positions are counted"


class _Metadata:
    """The fields of a GGUF file that belong to its architecture."""

    def __init__(self, reader: Any) -> None:
        self._reader = reader
        self._architecture = reader.get_field("general.architecture").contents()

    def __call__(self, name: str, default: Any) -> Any:
        """The value of a field; ``default`` where there is none."""
        field = self._reader.get_field(f"{self._architecture}.{name}")
        return default if field is None else field.contents()


def _per_layer(value: int | list[int], layers: int) -> list[int]:
    """A number for each layer; most models have one for all."""
    return list(value) if isinstance(value, list) else [value] * layers
