"""What the shapes of a base model allow: the group size of grouped quantization."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from slm_benchmark.common.errors import UserError
from slm_benchmark.common.files import read_json
from slm_benchmark.download.tensors import Tensor, folder_tensors

GROUP_SIZES = (128, 64, 32)
"""Group sizes that the 4-bit kernels know, the cheapest first."""

AWQ_ROWS = 64
"""gptqmodel's search for AWQ's clipping bounds takes this many output rows at once."""

_ROUTERS = {"gate", "router", "shared_expert_gate"}
"""Names of modules that choose among experts, which no 4-bit method quantizes."""

_UNQUANTIZED = ("embed", "norm", "head", "wte", "wpe")
"""Parts of names of other modules that stay as they are."""

_TRANSPOSED = ("gpt2", "openai-gpt")
"""Types of models whose linear layers are stored as (input, output)."""


def tensor_shapes(base: Path) -> dict[str, list[int]]:
    """The shape of each tensor of a base model, by name, from safetensors or pickled files.

    Args:
        base: Folder of the base model in Transformers format.
    """
    return {tensor.name: list(tensor.shape) for tensor in folder_tensors(base)}


def linear_shapes(base: Path) -> set[tuple[int, int]]:
    """(output, input) widths of the linear layers that a 4-bit method would quantize.

    These are matrices inside the numbered blocks of a model.

    Args:
        base: Folder of the base model in Transformers format, safetensors or pickled.
    """
    config = base / "config.json"
    kind = read_json(config).get("model_type") if config.is_file() else None
    shapes = {tensor.shape for tensor in folder_tensors(base) if _is_linear(tensor)}
    widths = {(int(first), int(second)) for first, second in shapes}
    return {(second, first) for first, second in widths} if kind in _TRANSPOSED else widths


def _is_linear(tensor: Tensor) -> bool:
    modules = tensor.name.split(".")
    return (
        len(tensor.shape) == 2
        and any(module.isdecimal() for module in modules)
        and _ROUTERS.isdisjoint(modules)
        and not any(part in module for module in modules for part in _UNQUANTIZED)
    )


def linear_in_features(base: Path) -> set[int]:
    """Input widths of those layers."""
    return {width for _, width in linear_shapes(base)}


def check_awq_rows(base: Path, model: str) -> None:
    """Refuse a model that gptqmodel's AWQ would fail on minutes later, with a killed process.

    Raises:
        UserError: when an output width is no multiple of `AWQ_ROWS`.
    """
    odd = sorted({rows for rows, _ in linear_shapes(base) if rows % AWQ_ROWS})
    if odd:
        raise UserError(
            f"AWQ needs output widths that are multiples of {AWQ_ROWS}; here are {odd}",
            file=f"models/{model}.yaml",
            field="quantizations",
            value="awq-4bit",
            fix="take awq-4bit out of the list",
        )


def group_size(widths: Iterable[int], model: str, wanted: int | None = None) -> int:
    """The group size to quantize with.

    A group size that does not divide every input width quantizes and loads without an error and
    fails at the first forward pass, so it is refused here.

    Args:
        widths: Input widths of the linear layers.
        model: Id of the model, for the message.
        wanted: A group size from the configuration; None takes the largest that fits.

    Raises:
        UserError: when the wanted group size, or every known one, leaves a remainder.
    """
    widths = sorted(widths)
    fitting = [size for size in GROUP_SIZES if all(width % size == 0 for width in widths)]
    if wanted is not None and wanted not in fitting:
        raise UserError(
            f"the group size does not divide the layer widths {widths} of {model}",
            file="config/config.yaml",
            field="quantization.group_size",
            value=wanted,
            fix=f"use one of {fitting} or auto" if fitting else f"drop {model}'s 4-bit variants",
        )
    if not fitting:
        raise UserError(
            f"no group size of {list(GROUP_SIZES)} divides the layer widths {widths}",
            file=f"models/{model}.yaml",
            field="quantizations",
            fix="take gptq-4bit and awq-4bit out of the list",
        )
    return wanted or fitting[0]
