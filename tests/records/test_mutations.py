"""A misspelt field of a record or of the catalogue is an error of mypy, wherever it is read."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys

import pytest

from slm_benchmark.common.paths import ROOT

MUTATIONS = [
    ("catalog/catalog.py", '"performance"'),
    ("records/hardware.py", '"logical_cores"'),
    ("evaluation/runner.py", '"splits"'),
    ("evaluation/rescoring.py", '"answers_sha256"'),
    ("evaluation/equivalence.py", '"decision_agreement"'),
    ("evaluation/fidelity.py", '"model_sha256"'),
    ("evaluation/noise_floor.py", '"flips_to_wrong"'),
    ("profiling/record.py", '"variants"'),
    ("publishing/publish.py", '"bounds"'),
    ("leaderboard/comparison.py", '"metric"'),
    ("export/every_eval_ever.py", '"harness_task"'),
    ("site/model.py", '"ranked"'),
]
"""File below src/slm_benchmark, and the field whose first reading is misspelt there."""


def misspelt(field: str) -> str:
    """A field without the second of its letters, in its quotes."""
    return field[:2] + field[3:]


@pytest.fixture(scope="module")
def errors(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The output of mypy about a copy of the sources with all mutations."""
    folder = tmp_path_factory.mktemp("mutated")
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__"))
    for name, field in MUTATIONS:
        file = folder / "src/slm_benchmark" / name
        text, count = re.subn(
            re.escape(f"[{field}]"), f"[{misspelt(field)}]", file.read_text(), count=1
        )
        assert count == 1, (name, field)
        file.write_text(text)
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml")]
    files = [f"src/slm_benchmark/{name}" for name, _ in MUTATIONS]
    run = subprocess.run(
        [*command, "--cache-dir", str(folder / "cache"), *files],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    return run.stdout


@pytest.mark.parametrize(("name", "field"), MUTATIONS)
def test_a_misspelt_field_is_an_error(errors: str, name: str, field: str) -> None:
    lines = [line for line in errors.splitlines() if f"slm_benchmark/{name}:" in line]
    assert any(f"has no key {misspelt(field)}" in line for line in lines), lines
