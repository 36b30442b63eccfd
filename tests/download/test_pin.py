"""Pinning writes the commit into the file and touches nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from slm_benchmark.common.errors import RunEnvironmentError, UserError
from slm_benchmark.common.files import read_yaml
from slm_benchmark.download.pin import pin_card, pin_datasets
from tests.support.hub import Hub

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
    with pytest.raises(RunEnvironmentError, match="hf_model_id: the hub cannot be reached"):
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


PARTED = """\
sums: # of three languages
  source: hub
  repo: owner/sums_{{part}}
  parts: [en, de, fr]
  revision: {revision} # one for each
  splits: [test]
  license: MIT
"""


@pytest.fixture
def parted(hub: Hub, tmp_path: Path) -> Path:
    """A catalogue with a dataset of three repositories, which the stand-in has."""
    for part in ("en", "de", "fr"):
        (hub.root / f"owner/sums_{part}").mkdir(parents=True)
        (hub.root / f"owner/sums_{part}" / "README.md").write_text(part)
    path = tmp_path / "datasets.yaml"
    path.write_text(PARTED.format(revision="null"))
    return path


def commits(hub: Hub) -> dict[str, str]:
    found = {part: hub.commit(f"owner/sums_{part}") for part in ("en", "de", "fr")}
    assert len(set(found.values())) == 3
    return found


def flow(commits: dict[str, str]) -> str:
    return "{" + ", ".join(f"{part}: {commit}" for part, commit in commits.items()) + "}"


@pytest.mark.parametrize("revision", ["null", "main", "~", ""])
def test_parts_in_repositories_of_their_own_get_a_commit_each(
    hub: Hub, parted: Path, revision: str
) -> None:
    parted.write_text(PARTED.format(revision=revision))
    assert pin_datasets(parted) == f"{parted}: sums: pinned en, de, fr"
    space = "" if revision else " "
    assert parted.read_text() == PARTED.format(revision=flow(commits(hub)) + space)
    assert read_yaml(parted)["sums"]["revision"] == commits(hub)
    before, asked = parted.read_bytes(), len(hub.requests)
    assert "already pinned" in pin_datasets(parted)
    assert (parted.read_bytes(), len(hub.requests)) == (before, asked)


BLOCK = """revision:
    en: EN   # pinned last year
    # German is moving.
    de: DE
    fr: FR"""


@pytest.mark.parametrize("open_", ["null", "main", "~"])
@pytest.mark.parametrize(
    "layout",
    [
        "revision: {en: EN, de: DE, fr: FR} # one for each",
        "revision: {en: EN,\n    de: DE, fr: FR}",
        BLOCK,
        f"{BLOCK}\n\n  # Next.",
    ],
)
def test_only_the_parts_that_are_open_change(
    hub: Hub, parted: Path, layout: str, open_: str
) -> None:
    whole = PARTED.replace("{{part}}", "{part}").replace(
        "revision: {revision} # one for each", layout
    )

    def written(german: str) -> str:
        # What is pinned stays, though the hub has something newer.
        return whole.replace("EN", "1a" * 20).replace("DE", german).replace("FR", "2b" * 20)

    parted.write_text(written(open_))
    assert pin_datasets(parted) == f"{parted}: sums: pinned de"
    assert parted.read_text() == written(commits(hub)["de"])
    assert read_yaml(parted)["sums"]["revision"]["de"] == commits(hub)["de"]


def test_a_part_without_a_line_is_named(hub: Hub, parted: Path) -> None:
    parted.write_text(PARTED.format(revision="{en: null, fr: null}"))
    before = parted.read_bytes()
    with pytest.raises(UserError, match=r"sums\.revision\.de: required key is missing.*de: null"):
        pin_datasets(parted)
    assert parted.read_bytes() == before


def test_a_part_that_the_hub_lacks_is_named_and_changes_nothing(hub: Hub, parted: Path) -> None:
    parted.write_text(PARTED.format(revision="null").replace("[en, de, fr]", "[en, it]"))
    before = parted.read_bytes()
    with pytest.raises(UserError, match=r"sums\.repo: there is no such dataset.*owner/sums_it"):
        pin_datasets(parted)
    assert parted.read_bytes() == before
    parted.write_text(PARTED.format(revision="{en: null, de: gone, fr: null}"))
    with pytest.raises(UserError, match=r"sums\.revision\.de: .*no such revision.*'gone'"):
        pin_datasets(parted)


def test_commits_of_digits_alone_are_quoted_in_a_mapping(
    parted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digits = {"en": "1" * 40, "de": "12345e" + "0" * 34, "fr": "ab" * 20}
    monkeypatch.setattr(Hub, "commit", lambda self, repo: digits[repo[-2:]])
    for revision in ("null", "{en: null, de: null, fr: null}"):
        parted.write_text(PARTED.format(revision=revision))
        pin_datasets(parted)
        assert read_yaml(parted)["sums"]["revision"] == digits
        assert f'en: "{digits["en"]}", de' in parted.read_text()


@pytest.mark.parametrize("repo", ["owner/sums", "owner/sums_{part}"])
def test_parts_that_are_not_named_are_refused(hub: Hub, parted: Path, repo: str) -> None:
    text = PARTED.format(revision="{en: null}").replace("  parts: [en, de, fr]\n", "")
    parted.write_text(text.replace("owner/sums_{part}", repo))
    with pytest.raises(UserError, match=r"sums\.parts: required key is missing"):
        pin_datasets(parted)
    assert hub.requests == []
