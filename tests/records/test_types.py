"""The types of records say what their schemas say, and a misspelt field is an error of mypy."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from slm_benchmark.common.schemas import schema
from slm_benchmark.records import types
from tests.support.schema_types import differences

KINDS: dict[str, Any] = {
    "cell": types.ScoreRecord,
    "answers": types.AnswersRecord,
    "performance": types.PerformanceRecord,
    "session": types.SessionRecord,
    "equivalence": types.EquivalenceRecord,
    "fidelity": types.FidelityRecord,
    "fidelity_reference": types.FidelityReference,
    "noise": types.NoiseRecord,
    "manifest": types.WeightsManifest,
    "dataset_manifest": types.DatasetManifest,
    "leaderboard": types.Leaderboard,
    "quantization": types.QuantizationReport,
    "summary": types.Summary,
    "index": types.ReleaseIndex,
    "release": types.ReleaseManifest,
}


def newest(name: str) -> dict[str, Any]:
    """The schema of the newest version of a kind: what it asks for in that version alone, too."""
    node = copy.deepcopy(schema(name))
    if then := node.get("then"):
        node["required"] += then.get("required", [])
        for key, more in then.get("properties", {}).items():
            node["properties"][key].setdefault("required", [])
            node["properties"][key]["required"] += more.get("required", [])
    if name == "performance":
        points = node["properties"]["grid"]["items"]["properties"]["metrics"]
        metrics = node["properties"]["metrics"]["properties"]
        points["properties"] = {key: {"required": ["pi95"]} for key in metrics}
        for quantity in metrics.values():
            quantity["required"] = ["pi95"]
    return node


@pytest.mark.parametrize("name", KINDS)
def test_a_type_says_what_its_schema_says(name: str) -> None:
    assert list(differences(KINDS[name], newest(name), name, name)) == []
