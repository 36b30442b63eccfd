"""The types of configuration files say what their schemas say."""

from __future__ import annotations

from typing import Any

import pytest

from slm_benchmark.catalog import types
from slm_benchmark.common.schemas import schema
from tests.support.schema_types import differences

ENTRIES: dict[str, Any] = {
    "protocols": types.Protocol,
    "hardware": types.Hardware,
    "profiling": types.ProfilingPlan,
}
"""Schemas of files whose entries are alike."""

FILES: dict[str, Any] = {
    "equivalence_config": types.EquivalenceConfig,
    "fidelity_config": types.FidelityConfig,
    "noise_config": types.NoiseConfig,
    "checks": types.ChecksConfig,
    "sandbox": types.SandboxConfig,
    "standings": types.RankingConfig,
    "config": types.RunConfigFile,
    "model": types.Card,
}

SOURCES: dict[str, Any] = {"datasets": types.Dataset, "judges": types.Judge}
"""Schemas of files whose entries come in several forms."""


@pytest.mark.parametrize("name", ENTRIES)
def test_an_entry_has_the_type_of_its_schema(name: str) -> None:
    entry = schema(name)["additionalProperties"]
    assert list(differences(ENTRIES[name], entry, name, name)) == []


@pytest.mark.parametrize("name", FILES)
def test_a_file_has_the_type_of_its_schema(name: str) -> None:
    assert list(differences(FILES[name], schema(name), name, name)) == []


@pytest.mark.parametrize("name", SOURCES)
def test_each_form_has_the_type_of_its_schema(name: str) -> None:
    entry = schema(name)["additionalProperties"]
    assert list(differences(SOURCES[name], entry, name, name)) == []


def test_a_task_has_the_type_of_its_schema() -> None:
    """Beside its schema a task of custom/ has the digest of its code."""
    found = list(differences(types.Task, schema("tasks")["$defs"]["task"], "tasks", "tasks"))
    assert found == ["tasks.code_sha256: only in the type"]
