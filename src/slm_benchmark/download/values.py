"""The values of downloaded weights: none that is no number, none stored twice, and none unused."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Collection, Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from slm_benchmark.common.files import atomic_write_json
from slm_benchmark.download.checkpoint import INDEX
from slm_benchmark.download.origin import Origin
from slm_benchmark.download.tensors import Tensor, load_pickled

if TYPE_CHECKING:
    import torch


def check_finite(folder: Path, tensors: list[Tensor], origin: Origin) -> None:
    """Refuse weights that are not finite.

    Args:
        folder: Holds the weight files.
        tensors: The tensors to look at.
        origin: Where they come from, for the message.

    Raises:
        UserError: for the first tensor with NaN or an infinite value.
    """
    import torch

    for tensor, values in _values(folder, tensors):
        if not values.is_floating_point():
            continue
        odd = values[~torch.isfinite(values)]
        if odd.numel():
            kind = "NaN" if bool(odd.isnan().any()) else "infinite"
            raise origin.refuse(
                f"the tensor {tensor.name} in {tensor.file} has values that are {kind} "
                f"({odd.numel()} of {tensor.elements} are not finite)",
                "fetch the files again; if it stays, report it to the model's authors",
            )


def check_tied(
    folder: Path, tensors: list[Tensor], tied: Mapping[str, str], origin: Origin
) -> None:
    """Refuse tensors that the model ties to others whose values differ, so that loaders disagree.

    Args:
        folder: Holds the weight files.
        tensors: All tensors.
        tied: Name of the copy → name of the tensor it repeats.
        origin: Where they come from, for the message.

    Raises:
        UserError: naming both.
    """
    import torch

    by_name = {tensor.name: tensor for tensor in tensors}
    for copy, original in tied.items():
        pair = [by_name[copy], by_name[original]]
        values = {tensor.name: value for tensor, value in _values(folder, pair)}
        if not torch.equal(values[copy], values[original]):
            raise origin.refuse(
                f"config.json ties {copy} to {original} (tie_word_embeddings: true), but the "
                "weights hold two that differ, and not all loaders use the same one",
                "copy the model to this machine, write tie_word_embeddings: false into its "
                "config.json if the head is one of its own, and name the copy in source.path",
            )


def drop_tensors(folder: Path, tensors: list[Tensor], names: Collection[str]) -> list[Tensor]:
    """Take tensors out of weight files that the model does not use, or has in another one.

    They would count in every size, and be quantized as tensors of their own in GGUF files.

    Args:
        folder: Holds the weight files, which are replaced, not changed in place.
        tensors: All tensors.
        names: Names of those to take out.

    Returns:
        The other tensors.
    """
    left = [tensor for tensor in tensors if tensor.name not in names]
    for file in {tensor.file for tensor in tensors if tensor.name in names}:
        _rewrite_without(folder / file, set(names))
    for index in folder.glob(f"*{INDEX}") if names else ():
        content = json.loads(index.read_text(encoding="utf-8"))
        content["weight_map"] = {tensor.name: tensor.file for tensor in left}
        content["metadata"] = {"total_size": sum(tensor.size_bytes for tensor in left)}
        atomic_write_json(index, content)
    return left


def _values(folder: Path, tensors: list[Tensor]) -> Iterator[tuple[Tensor, torch.Tensor]]:
    """The tensors with their values, one after the other."""
    from safetensors import safe_open

    in_files = sorted(tensors, key=lambda tensor: (tensor.file, tensor.name))
    for file, inside in groupby(in_files, key=lambda tensor: tensor.file):
        if file.endswith(".safetensors"):
            with safe_open(folder / file, framework="pt") as opened:
                for tensor in inside:
                    yield tensor, opened.get_tensor(tensor.name)
        else:
            loaded = load_pickled(folder / file)
            for tensor in inside:
                yield tensor, loaded[tensor.name]


def _rewrite_without(path: Path, names: set[str]) -> None:
    """Replace a weight file by one that lacks some tensors; one that is left empty goes."""
    import torch
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    safe = path.suffix == ".safetensors"
    tensors = load_file(path) if safe else load_pickled(path)
    left = {name: tensor for name, tensor in tensors.items() if name not in names}
    if not left:
        path.unlink()
        return
    # A pickled checkpoint holds its own name, so the new one has it from the start.
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        written = Path(folder) / path.name
        if safe:
            with safe_open(path, framework="pt") as opened:
                save_file(left, written, metadata=opened.metadata())
        else:
            torch.save(left, written)
        written.chmod(0o644)
        written.replace(path)
