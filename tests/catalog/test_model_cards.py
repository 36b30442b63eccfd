"""Model cards: what the registry accepts, what it refuses, and how it says so."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from slm_benchmark.catalog.model_cards import MAX_PARAMETERS, load_model, load_registry
from slm_benchmark.common.errors import UserError
from slm_benchmark.common.files import read_yaml
from slm_benchmark.common.schemas import read_config

CARD: dict[str, Any] = {
    "name": "Tiny",
    "id": "tiny",
    "hf_model_id": "someone/Tiny",
    "revision": "0" * 40,
    "parameters": 1_000_000,
    "architecture": "LlamaForCausalLM",
    "context_length": 2048,
    "languages": ["en"],
    "quantizations": ["gptq-4bit", "gguf-q8_0"],
    "tags": ["demo"],
    "license": "Apache-2.0",
    "gated": False,
    "reference": False,
    "source": {"type": "hub"},
}

PACKAGE: dict[str, Any] = {
    "type": "package",
    "package": "some-model",
    "version": "1.0",
    "sha256": "0" * 64,
    "file": "model.gguf",
    "format": "gguf",
}

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write CARD with some keys changed (... removes one) to a file of that name."""

    def _write(file: str = "tiny.yaml", **changes: Any) -> Path:
        card = {key: value for key, value in {**CARD, **changes}.items() if value is not ...}
        path = tmp_path / file
        path.write_text(yaml.safe_dump(card), encoding="utf-8")
        return path

    return _write


def refusal(read: Callable[[], object]) -> UserError:
    """The one error of ``read``: a single line that names a file and a fix."""
    with pytest.raises(UserError) as caught:
        read()
    assert caught.value.file
    assert caught.value.fix
    assert "\n" not in str(caught.value)
    return caught.value


def outcome(read: Callable[[], object]) -> object:
    """What ``read`` returns, or the one error that it may raise."""
    try:
        return read()
    except UserError as error:
        return error


def test_a_good_card_loads(write: Write) -> None:
    model = load_model(write())
    assert model.id == "tiny"
    assert model.variants == ["base", "gptq-4bit", "gguf-q8_0"]
    assert model.pinned
    assert model.runnable
    assert model.warnings == []


@pytest.mark.parametrize(
    ("changes", "field", "says"),
    [
        ({"paramters": 1}, "paramters", "did you mean 'parameters'?"),
        ({"license": ...}, "license", "required key is missing"),
        ({"parameters": "1.1B"}, "parameters", "got '1.1B'"),
        ({"parameters": 0}, "parameters", "got 0"),
        ({"gated": "no"}, "gated", "got 'no'"),
        ({"languages": "en"}, "languages", "got 'en'"),
        ({"languages": ["English"]}, "languages.0", "got 'English'"),
        ({"quantizations": ["gguf-q4_k"]}, "quantizations.0", "did you mean 'gguf-q4_k_m'?"),
        ({"tags": ["a", "a"]}, "tags", "non-unique"),
        ({"revision": "main"}, "revision", "got 'main'"),
        ({"hf_model_id": "Tiny"}, "hf_model_id", "got 'Tiny'"),
        ({"source": {"type": "hbu"}}, "source.type", "did you mean 'hub'?"),
        ({"source": {"type": "hub", "path": "x"}}, "source.path", "unknown key"),
        ({"source": {**PACKAGE, "sha": "0"}}, "source.sha", "did you mean 'sha256'?"),
        ({"source": {**PACKAGE, "sha256": "0"}}, "source.sha256", "got '0'"),
        ({"source": "hub"}, "source", "not of an allowed form"),
        ({"remote_code": {"reason": "x"}}, "remote_code.allowed_by", "required key is missing"),
        ({"id": "other"}, "id", "write id: tiny, or rename the file to other.yaml"),
        ({"id": "../tiny"}, "id", "got '../tiny'"),
        ({"parameters": MAX_PARAMETERS + 1}, "parameters", "set reference: true"),
        ({"source": PACKAGE}, "name", "dequantised from"),
    ],
)
def test_a_bad_card_is_refused(
    write: Write, changes: dict[str, Any], field: str, says: str
) -> None:
    error = refusal(lambda: load_model(write(**changes)))
    assert error.field == field
    assert "tiny.yaml" in str(error.file)
    assert says in str(error)


@pytest.mark.parametrize(
    ("parameters", "reference"),
    [(MAX_PARAMETERS, False), (MAX_PARAMETERS + 1, True), (3_821_079_552, True)],
)
def test_the_limit_is_inclusive_and_a_reference_may_pass_it(
    write: Write, parameters: int, reference: bool
) -> None:
    model = load_model(write(parameters=parameters, reference=reference))
    assert (model.parameters, model.reference) == (parameters, reference)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name: [unclosed", "line 1"),
        ("a: 1\nb:\n\t- c", "line 3"),
        ("name: a\nname: b", "'name' is given twice"),
        ("source:\n  type: hub\n  type: local", "'type' is given twice"),
        ("1: a", "the key 1 is not text"),
        ("? [a, b]\n: c", "is not text"),
        ("chance: .nan", "not plain data"),
        ("date: 2026-13-45", "not plain data"),
        ("date: 2026-11-23", "not plain data"),
        ("a: &a [*a]", "malformed YAML"),
        ("a: !!python/object:os.system {}", "malformed YAML"),
        ("a: \x00", "malformed YAML"),
        ("", "got None"),
        ("just text", "got 'just text'"),
    ],
)
def test_a_malformed_file_is_refused(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "tiny.yaml"
    path.write_text(text, encoding="utf-8")
    assert says in str(refusal(lambda: load_model(path)))


def test_bytes_that_are_not_utf_8_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "tiny.yaml"
    path.write_bytes(b"name: caf\xe9")
    assert "not UTF-8" in str(refusal(lambda: load_model(path)))


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    assert "no such file" in str(refusal(lambda: load_model(tmp_path / "tiny.yaml")))


@settings(deadline=None)
@given(text=st.one_of(st.text(), st.text(alphabet="ab: \n-[]{}'\"&*!?|>#%@0.e~,")))
def test_no_text_breaks_the_reader(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    for read in (read_yaml, load_model, functools.partial(read_config, name="tasks")):
        result = outcome(functools.partial(read, path))
        if isinstance(result, UserError):
            assert result.fix
            assert "any.yaml" in str(result.file)
            assert "\n" not in str(result)


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@settings(deadline=None)
@given(key=st.sampled_from([*CARD, "unknown"]), value=PLAIN)
def test_no_value_breaks_the_validator(
    tmp_path_factory: pytest.TempPathFactory, key: str, value: Any
) -> None:
    path = tmp_path_factory.getbasetemp() / "tiny.yaml"
    path.write_text(yaml.safe_dump({**CARD, key: value}), encoding="utf-8")
    result = outcome(lambda: load_model(path))
    if isinstance(result, UserError):
        assert result.field
        assert "\n" not in str(result)
    else:
        assert getattr(result, key) == value


def test_the_same_id_in_two_files_is_refused(write: Write, tmp_path: Path) -> None:
    write("tiny.yaml")
    write("tiny.yml", name="Other")
    error = refusal(lambda: load_registry(tmp_path))
    assert error.field == "id"
    assert "tiny.yaml has it too" in str(error)
    assert "tiny.yml" in str(error.file)


def test_the_same_name_on_two_cards_is_refused(write: Write, tmp_path: Path) -> None:
    write("tiny.yaml")
    write("tiny-2.yaml", id="tiny-2")
    error = refusal(lambda: load_registry(tmp_path))
    assert error.field == "name"
    assert "duplicate name" in str(error)


def test_the_registry_is_in_alphabetical_order(write: Write, tmp_path: Path) -> None:
    for name in ("zebra", "ant", "tiny-10", "tiny-2"):
        write(f"{name}.yaml", id=name, name=name)
    assert list(load_registry(tmp_path)) == ["ant", "tiny-10", "tiny-2", "zebra"]


READERS_ONLY: dict[str, Any] = {
    "name": "Another name",
    "tags": ["other"],
    "description": "A sentence.",
    "license": "MIT",
    "languages": ["de"],
    "parameters": 2,
    "quantizations": [],
}
MEASURED: dict[str, Any] = {
    "revision": "1" * 40,
    "hf_model_id": "someone/Other",
    "chat": True,
    "source": {"type": "local", "path": "here", "format": "transformers"},
    "remote_code": {"reason": "own layers", "allowed_by": "a maintainer"},
}


@pytest.mark.parametrize("key", READERS_ONLY)
def test_what_readers_see_is_not_measured(write: Write, key: str) -> None:
    before = load_model(write()).measured
    assert load_model(write(**{key: READERS_ONLY[key]})).measured == before


@pytest.mark.parametrize("key", MEASURED)
def test_what_decides_the_bytes_is_measured(write: Write, key: str) -> None:
    before = load_model(write()).measured
    assert load_model(write(**{key: MEASURED[key]})).measured != before


def test_an_unpinned_card_is_accepted_with_a_warning(write: Write) -> None:
    model = load_model(write(revision=None))
    assert not model.pinned
    assert len(model.warnings) == 1
    assert "cannot be published" in model.warnings[0]
    assert "slm-benchmark pin" in model.warnings[0]


def test_remote_code_waits_for_a_maintainer(write: Write) -> None:
    waiting = load_model(write(remote_code={"reason": "own layers", "allowed_by": None}))
    assert not waiting.runnable
    assert not waiting.trust_remote_code
    assert "own layers" in waiting.warnings[0]
    allowed = load_model(write(remote_code={"reason": "own layers", "allowed_by": "me"}))
    assert allowed.runnable
    assert allowed.trust_remote_code
    assert load_model(write()).trust_remote_code is False


def test_the_shipped_cards_are_those_that_are_promised() -> None:
    models = load_registry()
    assert {model.hf_model_id for model in models.values()} == {
        "Qwen/Qwen2-0.5B-Instruct",
        "Qwen/Qwen2.5-1.5B-Instruct",
        "microsoft/Phi-3-mini-4k-instruct",
        "TinyLlama/TinyLlama-1.1B-Chat-v1.0",
        "google/gemma-2b-it",
        "stabilityai/stablelm-zephyr-3b",
        "openbmb/MiniCPM-2B-sft-bf16",
        "HuggingFaceTB/SmolLM-360M-Instruct",
        "HuggingFaceTB/SmolLM2-135M-Instruct",
    }
    assert [model.id for model in models.values() if model.reference] == ["phi-3-mini-4k-instruct"]
    assert [model.id for model in models.values() if model.gated] == ["gemma-2b-it"]
    assert [model.id for model in models.values() if not model.runnable] == ["minicpm-2b-sft"]
    assert "dequantised from Q4_1" in models["smollm2-135m-instruct"].name
