"""The weight files of a model in Transformers format: of several sets, the one that is used."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Collection
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from slm_benchmark.download.origin import Origin

INDEX = ".index.json"
"""How the name of a file ends that says which shard holds which tensor."""

SETS = (
    "model.safetensors",
    f"model.safetensors{INDEX}",
    "pytorch_model.bin",
    f"pytorch_model.bin{INDEX}",
)
"""The file that a set of weights is read from, in the order in which Transformers looks for it.

llama.cpp's converter looks for them in another order. So a folder keeps one set only.
"""

_WEIGHTS = (
    "*.safetensors",
    "*.bin",
    f"*{INDEX}",
    "*.gguf",
    "*.pt",
    "*.pth",
    "*.ckpt",
    "*.h5",
    "*.msgpack",
    "*.onnx",
    "*.onnx_data",
    "adapter_config.json",
)
"""Names of files that hold weights of some kind, or send a loader after them."""


class _Otherwise(NamedTuple):
    """Weights that are no set of `SETS`.

    Attributes:
        pattern: Names of such files.
        what: What a source that has only these is.
        fix: What to do about it.
    """

    pattern: str
    what: str
    fix: str


_OTHERWISE = (
    _Otherwise(
        "adapter_*",
        "this is a LoRA adapter and no model",
        "merge it into its base model (peft: merge_and_unload, save_pretrained) and name the "
        "result",
    ),
    _Otherwise(
        "model-?????-of-?????.safetensors",
        f"there are shards, but no model.safetensors{INDEX} that says what they hold",
        "fetch the index too",
    ),
    _Otherwise(
        "pytorch_model-?????-of-?????.bin",
        f"there are shards, but no pytorch_model.bin{INDEX} that says what they hold",
        "fetch the index too",
    ),
    _Otherwise(
        "model.*.safetensors",
        "there is only a variant of the weights, which no loader reads by itself",
        "name a repository or folder with model.safetensors",
    ),
    _Otherwise(
        "pytorch_model.*.bin",
        "there is only a variant of the weights, which no loader reads by itself",
        "name a repository or folder with model.safetensors",
    ),
    _Otherwise(
        "consolidated*",
        "the weights are in their authors' own format",
        "name a repository or folder whose weights were converted to Transformers format",
    ),
    _Otherwise(
        "*.gguf",
        "the weights are GGUF files, which are no base model",
        "name the model's original repository, or one of these files in a card with source "
        "{type: local, path: FILE, format: gguf}",
    ),
    _Otherwise(
        "*/*.safetensors",
        "the weights lie in a folder inside",
        "copy that folder to this machine and name it in source.path",
    ),
    _Otherwise(
        "*/*.bin",
        "the weights lie in a folder inside",
        "copy that folder to this machine and name it in source.path",
    ),
    _Otherwise(
        "*.safetensors",
        "the weights have a name that no loader reads",
        "name the file model.safetensors",
    ),
    _Otherwise(
        "*.bin", "the weights have a name that no loader reads", "name the file pytorch_model.bin"
    ),
)


def weight_set(names: Collection[str], origin: Origin) -> str:
    """The file of `SETS` that the weights are read from.

    Args:
        names: Paths of a source's files, relative to its root.
        origin: The source, for messages.

    Raises:
        UserError: when there is none, naming what there is instead.
    """
    for name in SETS:
        if name in names:
            return name
    for other in _OTHERWISE:
        slashes = other.pattern.count("/")
        matching = sorted(
            name
            for name in names
            if fnmatch.fnmatch(name, other.pattern) and (slashes > 0) == ("/" in name)
        )
        if matching:
            more = f" and {len(matching) - 1} more" if len(matching) > 1 else ""
            raise origin.refuse(f"{other.what}: {matching[0]}{more}", other.fix)
    raise origin.refuse(
        "the source has no weights (*.safetensors, *.bin)",
        "name a repository, package or folder in Transformers format",
    )


def weight_files(chosen: str, folder: Path, names: Collection[str], origin: Origin) -> list[str]:
    """The weight files of a set, sorted, its index apart.

    Args:
        chosen: What `weight_set` returned.
        folder: Holds at least that file.
        names: Paths of all of the source's files.
        origin: The source, for messages.

    Raises:
        UserError: when the index cannot be read, or names a file that is not there.
    """
    if not chosen.endswith(INDEX):
        return [chosen]
    files = sorted({*read_index(folder / chosen, origin).values()})
    absent = [name for name in files if name not in names]
    if absent:
        raise origin.refuse(
            f"{chosen} names a file that is not there: {absent[0]} ({len(absent)} of {len(files)} "
            "files are missing)",
            "fetch the missing files, or name a complete repository",
        )
    return files


def read_index(path: Path, origin: Origin) -> dict[str, str]:
    """Tensor → file that holds it, from an index.

    Raises:
        UserError: when the file is no index.
    """
    try:
        by_tensor = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        files = {str(tensor): str(file) for tensor, file in by_tensor.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise origin.refuse(
            f"{path.name} cannot be read as an index of shards", "fetch the file again"
        ) from error
    if not files or any(PurePosixPath(file).name != file for file in files.values()):
        raise origin.refuse(
            f"{path.name} names no shard, or one outside its folder", "fetch the file again"
        )
    return files


def weights_in(folder: Path, origin: Origin) -> tuple[str, list[str]]:
    """The file of `SETS` that a folder's weights are read from, and all weights of other sets.

    Raises:
        UserError: as `weight_set` and `weight_files`.
    """
    names = file_names(folder)
    chosen = weight_set(names, origin)
    return chosen, unused_weights(names, chosen, weight_files(chosen, folder, names, origin))


def file_names(folder: Path) -> list[str]:
    """Paths of all files below ``folder``, relative to it; hidden ones stay out."""
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(p.as_posix() for p in paths if not any(part[0] == "." for part in p.parts))


def unused_weights(names: Collection[str], chosen: str, files: Collection[str]) -> list[str]:
    """Files of ``names`` that hold weights and belong to another set, sorted.

    Args:
        names: Paths of a source's files.
        chosen: What `weight_set` returned.
        files: What `weight_files` returned.
    """
    return sorted(
        name
        for name in names
        if name != chosen
        and name not in files
        and any(fnmatch.fnmatch(name.rsplit("/", 1)[-1], pattern) for pattern in _WEIGHTS)
    )
