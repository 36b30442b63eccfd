"""What a model is, counted from its files; and a card that says otherwise."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slm_benchmark.catalog.model_cards import Model
from slm_benchmark.common.errors import UserError
from slm_benchmark.download.chat_template import ChatTemplate, read_templates
from slm_benchmark.download.checkpoint import INDEX, read_index
from slm_benchmark.download.context import (
    declared_lengths,
    read_configuration,
    text_configuration,
)
from slm_benchmark.download.origin import Origin
from slm_benchmark.download.tensors import Tensor, bytes_by_type, read_tensors
from slm_benchmark.download.tokenizer import check_rows, load_tokenizer
from slm_benchmark.records.types import ModelFacts, WeightsManifest

TOLERANCE = 0.01
"""Share of a number by which card and files may differ: cards are written with rounded numbers."""

_PACKED = ("I8", "U8", "I16", "U16", "I32", "U32", "U64", "F8", "F4", "F6_", "E8M0")
"""How the number formats begin that hold no plain weights."""

_OTHER_TASKS = (
    *("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering"),
    *("ForMaskedLM", "ForMultipleChoice", "ForRewardModel", "RewardModel"),
)
"""How architectures end that write no text."""

_NUMBER = re.compile(r"\.\d+\.")
"""The number of a layer within a tensor's name."""

_SETTINGS = ("quantization_config", "compression_config", "quantization")
"""Fields of config.json that say how the weights were quantized."""


@dataclass(frozen=True)
class Checkpoint:
    """The weights of a folder in Transformers format, as Transformers reads them.

    Attributes:
        facts: What they are.
        tensors: Those of the weight files.
        tied: Names of those that repeat a tensor that the model ties them to.
        unused: Names of those that the model does not use.
    """

    facts: ModelFacts
    tensors: list[Tensor]
    tied: dict[str, str]
    unused: frozenset[str]


def read_checkpoint(model: Model, folder: Path, chosen: str) -> Checkpoint:
    """Count what is in a model's files, without reading the weights themselves.

    Args:
        model: The card.
        folder: In Transformers format.
        chosen: The file that the weights are read from, see `checkpoint.weight_set`.

    Raises:
        UserError: when the weights are quantized already, are incomplete or broken, or are of an
            architecture that Transformers does not know.
    """
    origin = Origin.of(model)
    config_file = folder / "config.json"
    if not config_file.is_file():
        raise origin.refuse(
            "the source has no config.json",
            "name a repository, package or folder in Transformers format",
        )
    config = read_configuration(config_file)
    refuse_quantized(config, origin)
    _refuse_other_tasks(config, origin)
    tensors = _checked_tensors(folder, chosen, origin)
    _refuse_packed(folder, tensors, origin)
    built, unused = _build(model, folder, origin)
    used = [tensor for tensor in tensors if tensor.name not in unused]
    _refuse_more_layers(used, unused, origin)
    elements = _elements(built)
    parameters = sum(elements.values())
    embeddings = sum(elements.get(weight, 0) for weight in _embeddings(built))
    lengths = declared_lengths(folder)
    facts: ModelFacts = {
        "parameters": parameters,
        "parameters_without_embeddings": parameters - embeddings,
        "architecture": str((config.get("architectures") or [type(built).__name__])[0]),
        "context_length": next(iter(lengths.values()), None),
        "vocabulary": int(built.get_input_embeddings().weight.shape[0]),
        "number_format": bytes_by_type(used).most_common(1)[0][0],
        "chat_template": bool(read_templates(folder)),
    }
    extra = frozenset(tensor.name for tensor in tensors if tensor.name in unused)
    return Checkpoint(facts, tensors, _tied(built, used), extra)


def refuse_quantized(config: dict[str, Any], origin: Origin) -> None:
    """Refuse a configuration that says that the weights are quantized.

    Raises:
        UserError: naming the method.
    """
    for block in (config, text_configuration(config)):
        for field in _SETTINGS:
            if settings := block.get(field):
                named = settings if isinstance(settings, dict) else {}
                method = named.get("quant_method") or named.get("quantization_method")
                bits = "bitsandbytes" if any(key.startswith("load_in_") for key in named) else None
                raise _quantized(origin, f"config.json: {field}", str(method or bits or settings))


def contradictions(model: Model, facts: ModelFacts) -> Iterator[UserError]:
    """What a card says otherwise than its model's files, one error for each field.

    Args:
        model: The card.
        facts: Counted from the files.
    """
    counts = {"parameters": (model.parameters, facts["parameters"])}
    if facts["context_length"] is not None:
        counts["context_length"] = (model.context_length, facts["context_length"])
    for field, (stated, counted) in counts.items():
        if abs(stated - counted) > TOLERANCE * counted:
            yield UserError(
                f"the model's files have {counted}",
                file=model.file,
                field=field,
                value=stated,
                fix=f"write {field}: {counted}, or correct the source",
            )
    if model.architecture != facts["architecture"]:
        yield UserError(
            f"the model's files are of {facts['architecture']}",
            file=model.file,
            field="architecture",
            value=model.architecture,
            fix=f"write architecture: {facts['architecture']}, or correct the source",
        )
    if model.chat and not facts["chat_template"]:
        yield UserError(
            "the model's files hold no chat template",
            file=model.file,
            field="chat",
            value=True,
            fix="write chat: false, or name the instruct model",
        )


def check_card(model: Model, facts: ModelFacts) -> None:
    """Refuse a card that says otherwise than its model's files.

    Raises:
        UserError: for the first such field, with both values.
    """
    for error in contradictions(model, facts):
        raise error


def check_texts(model: Model, folder: Path, facts: ModelFacts) -> None:
    """Refuse a tokenizer that cannot be loaded or is another model's and, for a chat model, a
    template that no prompt can be made with.

    Args:
        model: The card.
        folder: In Transformers format.
        facts: Counted from the files.

    Raises:
        UserError: naming the file.
    """
    tokenizer = load_tokenizer(folder, model.trust_remote_code)
    check_rows(tokenizer, folder, facts["vocabulary"])
    if model.chat:
        template = ChatTemplate(tokenizer, folder)
        template.select()
        template.check()


def parameters(model: Model, base: WeightsManifest) -> int:
    """Number of parameters of a downloaded model: as counted, or as its card says.

    Args:
        model: The card.
        base: The base model's manifest; those of earlier versions hold no count.
    """
    return base["counted"]["parameters"] if "counted" in base else model.parameters


def _quantized(origin: Origin, where: str, method: str) -> UserError:
    return origin.refuse(
        f"the weights are quantized already ({where}: {method}), so they are no base model",
        "name the original repository, and the variants that you want under quantizations",
    )


def _checked_tensors(folder: Path, chosen: str, origin: Origin) -> list[Tensor]:
    """The tensors of one set of weights; those of shards are compared with their index."""
    if not chosen.endswith(INDEX):
        return read_tensors([folder / chosen])
    index = read_index(folder / chosen, origin)
    tensors = read_tensors({folder / file for file in index.values()})
    again = "fetch all files again, or name a repository whose index and shards belong together"
    places: dict[str, str] = {}
    for tensor in tensors:
        if tensor.name in places:
            both = f"{places[tensor.name]} and {tensor.file}"
            raise origin.refuse(f"two shards hold the tensor {tensor.name}: {both}", again)
        if tensor.name not in index:
            what = f"{tensor.file} holds a tensor that {chosen} does not name: {tensor.name}"
            raise origin.refuse(what, again)
        places[tensor.name] = tensor.file
    for name, file in index.items():
        if places.get(name) != file:
            raise origin.refuse(f"{chosen} says that {file} holds {name}, which it does not", again)
    return tensors


def _refuse_packed(folder: Path, tensors: Collection[Tensor], origin: Origin) -> None:
    """Refuse weights whose number format is none of plain weights, whatever config.json says."""
    for tensor in tensors:
        # Masks of attention are stored as bytes in old checkpoints, under the name of a bias.
        mask = tensor.name.endswith("bias") and len(tensor.shape) > 2
        if tensor.dtype.startswith(_PACKED) and tensor.elements > 1 and not mask:
            files = ("quantize_config.json", "quant_config.json", "hf_quant_config.json")
            beside = [name for name in files if (folder / name).is_file()]
            where = ", ".join([f"{tensor.name} is {tensor.dtype}", *beside])
            raise _quantized(origin, tensor.file, where)


def _refuse_other_tasks(config: Mapping[str, Any], origin: Origin) -> None:
    """Refuse a model that was made to label texts; its body alone would be loaded."""
    for name in config.get("architectures") or []:
        if str(name).endswith(_OTHER_TASKS):
            raise origin.refuse(
                f"the model is no language model (config.json: architectures: {name})",
                "name a model that writes text, whose architecture mostly ends in ForCausalLM",
            )


def _build(model: Model, folder: Path, origin: Origin) -> tuple[Any, frozenset[str]]:
    """The model with the shapes of its files but no values, and names of tensors it leaves out."""
    from transformers import AutoModelForCausalLM

    try:
        with _quiet():
            built, loading = AutoModelForCausalLM.from_pretrained(
                folder,
                device_map="meta",
                dtype="auto",
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                local_files_only=True,
                trust_remote_code=model.trust_remote_code,
            )
    except Exception as error:  # a configuration can break any line of a model's code
        lines = (str(error).strip() or type(error).__name__).splitlines()
        said = " ".join(line.strip() for line in lines[:2])
        raise origin.refuse(
            f"Transformers cannot load this model: {said}",
            "name a causal language model that this version of Transformers knows, or see "
            "remote_code in docs/how-to/adding-a-model.md",
        ) from error
    for name in sorted(loading["missing_keys"]):
        raise origin.refuse(
            f"the weights lack the tensor {name} that the configuration asks for",
            "fetch all files again, or name a complete repository",
        )
    for name, stored, expected in sorted(loading["mismatched_keys"]):
        raise origin.refuse(
            f"the tensor {name} has the shape {list(stored)}, where config.json asks for "
            f"{list(expected)}",
            "name a repository whose config.json belongs to its weights",
        )
    return built, frozenset(str(name) for name in loading["unexpected_keys"])


def _refuse_more_layers(used: Collection[Tensor], unused: Collection[str], origin: Origin) -> None:
    """Refuse weights with more layers than the configuration asks for: they are of another model.

    Loaders leave the rest out without a word.
    """
    kinds = {_NUMBER.sub(".0.", tensor.name) for tensor in used}
    for name in sorted(unused):
        if _NUMBER.search(name) and _NUMBER.sub(".0.", name) in kinds:
            raise origin.refuse(
                f"the weights hold {name}, a layer more than config.json asks for",
                "name a repository whose config.json belongs to its weights",
            )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep Transformers' reports and progress bars off the terminal: errors say it in one line."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _elements(built: Any) -> dict[int, int]:
    """Identity of a parameter → its values; those that the model ties to another are left out.

    Without values, Transformers cannot see that a head which files hold twice is the same.
    """
    copies = built.get_expanded_tied_weights_keys(all_submodels=True)
    return {
        id(parameter): int(parameter.numel())
        for name, parameter in built.named_parameters(remove_duplicate=False)
        if name not in copies
    }


def _embeddings(built: Any) -> set[int]:
    """Identities of the weights that stand for tokens, those of the head included."""
    layers = (built.get_input_embeddings(), built.get_output_embeddings())
    return {id(layer.weight) for layer in layers if layer is not None}


def _tied(built: Any, tensors: Collection[Tensor]) -> dict[str, str]:
    """Stored tensor → the stored tensor that the model ties it to, where files have both."""
    names = [tensor.name for tensor in tensors]

    def stored(wanted: str) -> str | None:
        """Some checkpoints leave out the first part of all names."""
        return next((n for n in names if wanted == n or wanted.endswith(f".{n}")), None)

    pairs = built.get_expanded_tied_weights_keys(all_submodels=True).items()
    pairs_stored = [(stored(copy), stored(original)) for copy, original in pairs]
    return {
        copy: original for copy, original in pairs_stored if copy and original and copy != original
    }
