"""Pinning: a branch, or no revision at all, becomes the commit that it stands for today."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from slm_benchmark.errors import UserError
from slm_benchmark.files import atomic_write_text, read_yaml
from slm_benchmark.hub import Repository, repository_info
from slm_benchmark.paths import relative
from slm_benchmark.schemas import validate

_COMMIT = re.compile(r"[0-9a-f]{40}")


def pin_card(path: Path) -> str:
    """Write the commit of a model's revision into its card; all other lines stay as they are.

    Args:
        path: ``models/<id>.yaml``; its revision may be null, a branch or a tag.

    Returns:
        What was done, in one line.

    Raises:
        UserError: when the card is invalid, or the hub has no such repository or revision.
        EnvironmentFault: when the hub cannot be reached.
    """
    path, shown = Path(path), relative(path)
    card = read_yaml(path)
    # A branch is no valid revision of a card: that is what pinning is there to mend.
    validate({**card, "revision": None} if isinstance(card, dict) else card, "model", shown)
    if card.get("source", {}).get("type") != "hub":
        return f"{shown}: nothing to pin, source.type is {card['source']['type']}"
    repository = Repository(
        card["hf_model_id"], card.get("revision"), "model", shown, "hf_model_id", "revision"
    )
    text, done = _pin(path.read_text(encoding="utf-8"), ("revision",), repository)
    _write(path, text, "model")
    return f"{shown}: {done}"


def pin_datasets(path: Path) -> str:
    """Pin every dataset of config/datasets.yaml that comes from the hub; as `pin_card`.

    Returns:
        What was done, one line per dataset of the hub.
    """
    path, shown = Path(path), relative(path)
    entries = read_yaml(path)
    if not isinstance(entries, dict):
        validate(entries, "datasets", shown)
    of_hub = {
        name: entry
        for name, entry in entries.items()
        if isinstance(entry, dict) and entry.get("source") == "hub"
    }
    validate(
        {**entries, **{name: {**entry, "revision": None} for name, entry in of_hub.items()}},
        "datasets",
        shown,
    )
    text, lines = path.read_text(encoding="utf-8"), []
    for name, entry in of_hub.items():
        repository = Repository(
            entry["repo"], entry["revision"], "dataset", shown, f"{name}.repo", f"{name}.revision"
        )
        text, done = _pin(text, (name, "revision"), repository)
        lines.append(f"{shown}: {name}: {done}")
    _write(path, text, "datasets")
    return "\n".join(lines) or f"{shown}: nothing to pin, no dataset comes from the hub"


def _pin(text: str, keys: tuple[str, ...], repository: Repository) -> tuple[str, str]:
    revision = repository.revision
    if revision is not None and _COMMIT.fullmatch(revision):
        return text, f"already pinned to {revision}"
    commit: str = repository_info(repository).sha
    node = _scalar(yaml.compose(text), keys)
    if node is None:
        raise UserError(
            "required key is missing",
            file=repository.file,
            field=repository.revision_field,
            fix="add it as: revision: null",
        )
    start, end = node.start_mark.index, node.end_mark.index
    # Quoted, as a commit of digits alone would be read as a number.
    written = f'"{commit}"' if _is_number(commit) else commit
    before = " " if start and text[start - 1] == ":" else ""
    return text[:start] + before + written + text[end:], f"{revision or 'main'} is now {commit}"


def _scalar(node: Any, keys: tuple[str, ...]) -> yaml.ScalarNode | None:
    """The value under nested ``keys``, with its place in the text."""
    for key in keys:
        node = next((value for name, value in node.value if name.value == key), None)
        if node is None:
            return None
    return node if isinstance(node, yaml.ScalarNode) else None


def _is_number(commit: str) -> bool:
    return not isinstance(yaml.safe_load(commit), str)


def _write(path: Path, text: str, schema: str) -> None:
    validate(yaml.safe_load(text), schema, relative(path))
    if text != path.read_text(encoding="utf-8"):
        atomic_write_text(path, text)
