"""What an architecture does not allow is known from the card on, and planned nowhere."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from slm_benchmark.catalog.architectures import CONVERTED, CONVERTER, unsupported
from slm_benchmark.catalog.catalog import load_catalogue
from slm_benchmark.catalog.run_config import RunConfig
from slm_benchmark.cli import main
from slm_benchmark.common.files import read_yaml
from slm_benchmark.common.paths import CONFIG, MODELS, ROOT
from slm_benchmark.quantize.converter import VERSION

OWN = "OwnForCausalLM"
REASON = f"llama.cpp's converter ({CONVERTER}) does not know {OWN}"


def own_card(folder: Path, **changes: Any) -> Path:
    """A card of an architecture that only its own code knows."""
    card = read_yaml(MODELS / "minicpm-2b-sft.yaml")
    path = folder / "own.yaml"
    changes = {"id": "own", "name": "Own", "architecture": OWN, "revision": "0" * 40, **changes}
    path.write_text(yaml.safe_dump({**card, **changes}), encoding="utf-8")
    return path


def test_every_shipped_card_has_an_architecture_for_all_of_its_variants() -> None:
    for model in load_catalogue().models.values():
        assert model.not_applicable == {}, model.file


def test_validate_says_which_variants_there_cannot_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    card = own_card(tmp_path, remote_code=None)
    text = yaml.safe_load(card.read_text())
    del text["remote_code"]
    card.write_text(yaml.safe_dump(text))
    assert main(["validate", str(card)]) == 0
    (warning,) = capsys.readouterr().err.splitlines()
    assert warning == (
        f"warning: {card}: quantizations: not_applicable: gguf-f16, gguf-q8_0, gguf-q4_k_m: "
        f"{REASON}. Fix: take them out of the list, or correct architecture"
    )


def test_they_are_planned_nowhere_and_the_rest_is() -> None:
    catalogue = load_catalogue()
    model = replace(
        catalogue.models["minicpm-2b-sft"],
        architecture=OWN,
        remote_code={"reason": "its own", "allowed_by": "a maintainer"},
    )
    catalogue = replace(catalogue, models={**catalogue.models, model.id: model})
    choices = {**read_yaml(CONFIG / "config.yaml"), "models": [model.id]}
    plan = RunConfig.from_config(choices, catalogue)
    variants = ["base", "gptq-4bit", "awq-4bit"]
    assert plan.model_variants() == [(model.id, variant) for variant in variants]
    assert {cell.variant for cell in plan.cells()} == set(variants)
    assert any(REASON in warning for warning in plan.warnings())


def test_formats_that_need_no_converter_are_not_refused() -> None:
    assert unsupported(OWN, "base") is None
    assert unsupported(OWN, "gptq-4bit") is None


def test_the_list_is_that_of_the_converter() -> None:
    assert CONVERTER == VERSION
    file = ROOT / "resources" / "tools" / "llama.cpp" / "conversion" / "__init__.py"
    if not file.exists():
        pytest.skip("the converter is not fetched yet")
    (names,) = (
        ast.literal_eval(node.value)
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, ast.AnnAssign)
        and isinstance(node.target, ast.Name)
        and node.target.id == "TEXT_MODEL_MAP"
        and node.value is not None
    )
    assert set(names) == CONVERTED
