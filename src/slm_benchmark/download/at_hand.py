"""A card beside the files of its model that are on this machine already."""

from __future__ import annotations

from pathlib import Path

from slm_benchmark.catalog.model_cards import Model
from slm_benchmark.common.errors import UserError
from slm_benchmark.common.paths import ROOT, relative
from slm_benchmark.download.chat_template import ChatTemplate, read_templates
from slm_benchmark.download.checkpoint import INDEX, weights_in
from slm_benchmark.download.local_source import local_source
from slm_benchmark.download.model_facts import check_card, check_texts, read_checkpoint
from slm_benchmark.download.origin import Origin
from slm_benchmark.download.weights import read_manifest
from slm_benchmark.records.provenance import weight_bytes
from slm_benchmark.records.types import WeightsManifest

_UNCOUNTED_TOLERANCE = 0.1
"""As `TOLERANCE` of counted parameters, where they follow from the sizes of files alone."""


def check_downloaded(model: Model, models: Path = ROOT / "resources" / "models") -> None:
    """Refuse a card that says otherwise than what was downloaded for it.

    Where the source was changed since, there is nothing to compare: it will be fetched anew.

    Args:
        model: The card.
        models: Folder of the downloaded models.

    Raises:
        UserError: for the first field that differs.
    """
    folder = models / model.id
    if not (folder / "base" / "manifest.json").is_file():
        return
    manifest = read_manifest(folder / "base")
    if not _is_of(manifest, model):
        return
    if model.chat and read_templates(folder / "base"):
        ChatTemplate(None, folder / "base").check_program()
    if "counted" in manifest:
        check_card(model, manifest["counted"])
        return
    implied = 8 * weight_bytes(manifest) / manifest["effective_bits_per_weight"]
    if abs(model.parameters - implied) > _UNCOUNTED_TOLERANCE * implied:
        raise UserError(
            f"the bits per weight in {relative(folder)} were computed for about {implied:.0f}",
            file=model.file,
            field="parameters",
            value=model.parameters,
            fix=f"correct the card, or delete {relative(folder)} so that all is made anew",
        )


def check_local(model: Model) -> None:
    """Refuse a card that says otherwise than the folder on this machine that it names.

    Raises:
        UserError: as `download_model`; the values of the weights are not read.
    """
    if model.source["type"] != "local":
        return
    path = local_source(model)
    if model.source["format"] == "transformers":
        chosen, _ = weights_in(path, Origin.of(model))
        facts = read_checkpoint(model, path, chosen).facts
        check_card(model, facts)
        check_texts(model, path, facts)


def _is_of(manifest: WeightsManifest, model: Model) -> bool:
    """Whether the downloaded files are those that the card names now."""
    source = manifest["source"]
    if any(source.get(key) != value for key, value in model.source.items()):
        return False
    if model.source["type"] == "hub":
        named = (source.get("hf_model_id"), source.get("requested_revision"))
        pinned = source.get("revision") == model.revision
        return named[0] == model.hf_model_id and (pinned or named[1] == model.revision)
    if model.source["type"] == "package":
        return True
    folder = ROOT / str(model.source["path"])
    # Weights that lack tensors of the source have another size than there.
    rewritten = (".safetensors", ".bin", INDEX) if "left_out_tensors" in source else ()
    return folder.is_dir() and all(
        (folder / name).is_file()
        and (name.endswith(rewritten) or (folder / name).stat().st_size == entry["size_bytes"])
        for name, entry in manifest["files"].items()
    )
