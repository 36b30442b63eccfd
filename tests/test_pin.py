"""Pinning writes the commit into the file and touches nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from slm_benchmark.errors import EnvironmentFault, UserError
from slm_benchmark.files import read_yaml
from slm_benchmark.pin import pin_card, pin_datasets
from tests.hub import Hub

CARD = """\
# A card with a comment that must stay.
name: Tiny   # shown to readers
hf_model_id: owner/tiny
id: tiny

revision: {revision} # to be pinned
parameters: 100032
architecture: LlamaForCausalLM
context_length: 256
languages: [en]
quantizations: []
tags: []
license: Apache-2.0
gated: false
reference: false
source: {{type: hub}}
"""

DATASETS = """\
# Datasets.
sums:
  source: hub
  repo: owner/sums
  config: null   # the only one
  revision: null # not yet
  splits: [test]
  license: MIT
other:
  license: MIT
  source: hub
  revision: main
  repo: owner/tiny
  splits: [train]
files:
  source: local
  files: {test: a.jsonl}
  license: MIT
"""


@pytest.fixture
def repositories(hub: Hub) -> Hub:
    """The stand-in with two repositories."""
    for repo in ("owner/tiny", "owner/sums"):
        (hub.root / repo).mkdir(parents=True)
        (hub.root / repo / "README.md").write_text(repo)
    return hub


@pytest.fixture
def card(tmp_path: Path) -> Path:
    """A card whose revision is null."""
    path = tmp_path / "tiny.yaml"
    path.write_text(CARD.format(revision="null"))
    return path


@pytest.mark.parametrize("revision", ["null", "main", "~", '"main"', ""])
def test_only_the_revision_changes(repositories: Hub, card: Path, revision: str) -> None:
    card.write_text(CARD.format(revision=revision))
    commit = repositories.commit("owner/tiny")
    assert commit in pin_card(card)
    # Where nothing was written, a space is needed before the commit.
    assert card.read_text() == CARD.format(revision=commit if revision else f"{commit} ")
    assert read_yaml(card)["revision"] == commit


def test_a_pinned_card_is_left_alone(repositories: Hub, card: Path) -> None:
    pin_card(card)
    before, asked = card.read_bytes(), len(repositories.requests)
    assert "already pinned" in pin_card(card)
    assert card.read_bytes() == before
    assert len(repositories.requests) == asked


def test_a_commit_of_digits_alone_stays_a_text(
    repositories: Hub, card: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for commit in ("1" * 40, "12345e" + "0" * 34):
        monkeypatch.setattr(Hub, "commit", lambda self, repo, commit=commit: commit)
        card.write_text(CARD.format(revision="null"))
        pin_card(card)
        assert read_yaml(card)["revision"] == commit


def test_a_package_has_nothing_to_pin(card: Path) -> None:
    text = card.read_text().replace(
        "source: {type: hub}", "source: {type: local, path: x, format: gguf}"
    )
    card.write_text(text)
    assert "nothing to pin" in pin_card(card)
    assert card.read_text() == text


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("owner/tiny", "owner/absent", r"tiny\.yaml: hf_model_id: there is no such model"),
        ("revision: null", "revision: gone", r"tiny\.yaml: revision: .*no such revision.*'gone'"),
        ("gated: false", "gate: false", r"tiny\.yaml: gate.*: "),
        ("gated: false", "gated: [", "malformed YAML"),
    ],
)
def test_errors_name_the_line_and_change_nothing(
    repositories: Hub, card: Path, old: str, new: str, message: str
) -> None:
    card.write_text(card.read_text().replace(old, new))
    before = card.read_bytes()
    with pytest.raises(UserError, match=message):
        pin_card(card)
    assert card.read_bytes() == before


def test_a_hub_that_is_down(repositories: Hub, card: Path) -> None:
    repositories.status = 503
    before = card.read_bytes()
    with pytest.raises(EnvironmentFault, match="hf_model_id: the hub cannot be reached"):
        pin_card(card)
    assert card.read_bytes() == before


def test_datasets(repositories: Hub, tmp_path: Path) -> None:
    path = tmp_path / "datasets.yaml"
    path.write_text(DATASETS)
    done = pin_datasets(path)
    sums, other = repositories.commit("owner/sums"), repositories.commit("owner/tiny")
    assert sums != other
    assert path.read_text() == DATASETS.replace("null # not", f"{sums} # not").replace(
        "revision: main", f"revision: {other}"
    )
    assert done.splitlines() == [
        f"{path}: sums: main is now {sums}",
        f"{path}: other: main is now {other}",
    ]
    assert pin_datasets(path).count("already pinned") == 2


def test_one_missing_dataset_leaves_the_file_as_it_was(repositories: Hub, tmp_path: Path) -> None:
    path = tmp_path / "datasets.yaml"
    path.write_text(DATASETS.replace("repo: owner/tiny", "repo: owner/absent"))
    before = path.read_bytes()
    with pytest.raises(UserError, match=r"other\.repo: there is no such dataset"):
        pin_datasets(path)
    assert path.read_bytes() == before
