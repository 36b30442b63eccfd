"""Pinning: a branch, or no revision at all, becomes the commit that it stands for today."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from slm_benchmark.common.errors import UserError
from slm_benchmark.common.files import atomic_write_text, read_yaml
from slm_benchmark.common.paths import relative
from slm_benchmark.common.schemas import validate
from slm_benchmark.download.hub import Repository, repository_info

_COMMIT = re.compile(r"[0-9a-f]{40}")


def pin_card(path: Path) -> str:
    """Write the commit of a model's revision into its card; all other lines stay as they are.

    Args:
        path: ``models/<id>.yaml``; its revision may be null, a branch or a tag.

    Returns:
        What was done, in one line.

    Raises:
        UserError: when the card is invalid, or the hub has no such repository or revision.
        RunEnvironmentError: when the hub cannot be reached.
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
    unpinned = {name: {**entry, "revision": _unpinned(entry)} for name, entry in of_hub.items()}
    validate({**entries, **unpinned}, "datasets", shown)
    text, lines = path.read_text(encoding="utf-8"), []
    for name, entry in of_hub.items():
        if "{part}" in entry["repo"] or isinstance(entry["revision"], dict):
            text, done = _pin_parts(text, name, entry, shown)
        else:
            repository = Repository(
                entry["repo"],
                entry["revision"],
                "dataset",
                shown,
                f"{name}.repo",
                f"{name}.revision",
            )
            text, done = _pin(text, (name, "revision"), repository)
        lines.append(f"{shown}: {name}: {done}")
    _write(path, text, "datasets")
    return "\n".join(lines) or f"{shown}: nothing to pin, no dataset comes from the hub"


def _unpinned(entry: dict[str, Any]) -> dict[str, None] | None:
    """The entry's revision with nothing pinned: a branch is no valid one, and is to be mended."""
    revision = entry.get("revision")
    return dict.fromkeys(revision) if isinstance(revision, dict) else None


def _pin(text: str, keys: tuple[str, ...], repository: Repository) -> tuple[str, str]:
    revision = repository.revision
    if revision is not None and _COMMIT.fullmatch(revision):
        return text, f"already pinned to {revision}"
    commit: str = repository_info(repository).sha
    changed = _replace(text, keys, _written(commit), repository.file, repository.revision_field)
    return changed, f"{revision or 'main'} is now {commit}"


def _pin_parts(text: str, name: str, entry: dict[str, Any], file: str) -> tuple[str, str]:
    """Pin a dataset whose parts lie in repositories of their own: a mapping part → commit."""
    revision = entry["revision"]
    repositories = {
        part: Repository(
            entry["repo"].replace("{part}", part),
            revision.get(part) if isinstance(revision, dict) else revision,
            "dataset",
            file,
            f"{name}.repo",
            f"{name}.revision.{part}",
        )
        for part in entry["parts"]
    }
    if not isinstance(revision, dict):
        commits = {part: _written(repository_info(repositories[part]).sha) for part in repositories}
        written = "{" + ", ".join(f"{part}: {commit}" for part, commit in commits.items()) + "}"
        changed = _replace(text, (name, "revision"), written, file, f"{name}.revision")
        return changed, f"pinned {', '.join(commits)}"
    pinned = []
    for part, repository in repositories.items():
        before = text
        text, _ = _pin(text, (name, "revision", part), repository)
        pinned += [part] if text != before else []
    return text, f"pinned {', '.join(pinned)}" if pinned else "already pinned, each part on its own"


def _written(commit: str) -> str:
    """A commit as YAML; quoted where it would be read as a number."""
    return f'"{commit}"' if _is_number(commit) else commit


def _replace(text: str, keys: tuple[str, ...], written: str, file: str, field: str) -> str:
    """``text`` with another value under nested ``keys``; all else stays as it is."""
    node: Any = yaml.compose(text)
    for key in keys:
        node = next((value for name, value in node.value if name.value == key), None)
        if node is None:
            raise UserError(
                "required key is missing", file=file, field=field, fix=f"add it as: {key}: null"
            )
    start, end = node.start_mark.index, node.end_mark.index
    before = " " if start and text[start - 1] == ":" else ""
    return text[:start] + before + written + text[end:]


def _is_number(commit: str) -> bool:
    return not isinstance(yaml.safe_load(commit), str)


def _write(path: Path, text: str, schema: str) -> None:
    validate(yaml.safe_load(text), schema, relative(path))
    if text != path.read_text(encoding="utf-8"):
        atomic_write_text(path, text)
