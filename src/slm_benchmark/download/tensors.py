"""Names, shapes and number formats of the tensors in weight files, from their headers alone."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from slm_benchmark.common.errors import UserError

if TYPE_CHECKING:
    import torch

_POINTER = b"version https://git-lfs"


@dataclass(frozen=True)
class Tensor:
    """One tensor of a weight file.

    Attributes:
        name: As the file has it.
        dtype: Number format, such as F16.
        shape: Its shape.
        size_bytes: Bytes of its values.
        file: Name of the file.
        storage: The same for tensors that share their values.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    size_bytes: int
    file: str
    storage: str

    @property
    def elements(self) -> int:
        """Number of its values."""
        return math.prod(self.shape)


def read_tensors(paths: Iterable[Path]) -> list[Tensor]:
    """The tensors of weight files, by file and name.

    Args:
        paths: Safetensors files and pickled checkpoints.

    Raises:
        UserError: when a file is empty, a pointer of Git LFS, cut short or broken.
    """
    return [
        tensor
        for path in sorted(paths)
        for tensor in (_safetensors if path.suffix == ".safetensors" else _pickled)(path)
    ]


def folder_tensors(folder: Path) -> list[Tensor]:
    """The tensors of a model in Transformers format whose folder holds one set of weights.

    Raises:
        UserError: as `read_tensors`.
    """
    return read_tensors(list(folder.glob("*.safetensors")) or list(folder.glob("*.bin")))


def bytes_by_type(tensors: Iterable[Tensor]) -> Counter[str]:
    """Bytes per number format; tensors that share their values count once."""
    sizes: Counter[str] = Counter()
    for tensor in {tensor.storage: tensor for tensor in tensors}.values():
        sizes[tensor.dtype] += tensor.size_bytes
    return sizes


def _safetensors(path: Path) -> list[Tensor]:
    _refuse_placeholder(path)
    broken = _broken(path, "safetensors file")
    with open(path, "rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if not 0 < length <= path.stat().st_size - 8:
            raise broken
        try:
            header = json.loads(stream.read(length))
            header.pop("__metadata__", None)
            tensors, ends = [], [0]
            for name, entry in header.items():
                start, end = entry["data_offsets"]
                shape = tuple(map(int, entry["shape"]))
                storage = f"{path.name}:{start}:{end}"
                dtype = str(entry["dtype"])
                tensors.append(Tensor(name, dtype, shape, end - start, path.name, storage))
                ends.append(end)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise broken from error
    if max(ends) != path.stat().st_size - 8 - length:
        raise broken
    return tensors


def _pickled(path: Path) -> list[Tensor]:
    return [
        Tensor(
            name,
            _type_name(tensor),
            tuple(tensor.shape),
            tensor.nbytes,
            path.name,
            f"{path.name}:{tensor.data_ptr()}:{tensor.nbytes}",
        )
        for name, tensor in load_pickled(path).items()
    ]


def load_pickled(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a pickled checkpoint, read from disk as they are used.

    Raises:
        UserError: when the file is broken, or holds what is no tensor.
    """
    import torch

    _refuse_placeholder(path)
    try:
        try:
            read = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError:  # files of PyTorch before 1.6 cannot be mapped
            read = torch.load(path, map_location="cpu", weights_only=True)
        return {
            str(name): tensor for name, tensor in read.items() if isinstance(tensor, torch.Tensor)
        }
    except Exception as error:  # a pickle can break in any way
        raise _broken(path, "checkpoint, or one that holds more than tensors") from error


def _type_name(tensor: torch.Tensor) -> str:
    """The name that safetensors gives to a tensor's number format."""
    name = str(tensor.dtype).removeprefix("torch.")
    names = {"bfloat16": "BF16", "bool": "BOOL"}
    plain = name.replace("uint", "U").replace("float", "F").replace("int", "I")
    return names.get(name, plain.upper())


def _refuse_placeholder(path: Path) -> None:
    with open(path, "rb") as stream:
        start = stream.read(len(_POINTER))
    if not start:
        raise UserError("the weight file is empty", file=path, fix="fetch the file again")
    if start == _POINTER:
        raise UserError(
            "this is a pointer of Git LFS and not the weights",
            file=path,
            fix="run `git lfs pull` in the folder that it comes from",
        )


def _broken(path: Path, kind: str) -> UserError:
    return UserError(f"truncated or broken {kind}", file=path, fix="fetch the file again")
