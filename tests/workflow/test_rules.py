"""The files of rules: they name files, constants and methods, and call nothing."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from slm_benchmark.common.errors import UserError
from slm_benchmark.common.paths import ROOT
from slm_benchmark.workflow.job import ByWildcards

FOLDER = ROOT / "workflow" / "rules"
RULES = sorted({*FOLDER.glob("*.smk")} - {FOLDER / "common.smk"})

SNAKEMAKE = {"directory"}
"""Words of Snakemake's own that take an argument."""


class Values:
    """Stands for the values of a run."""

    pattern = "a|b"

    def file(self, model: str, task: str) -> str:
        """A file of two wildcards."""
        return f"{model}/{task}"

    def files(self) -> list[str]:
        """Files that no wildcard decides."""
        return ["one", "two"]

    def refused(self, task: str) -> str:
        """No task is good enough."""
        raise UserError("not this one", value=task, fix="use another")


WILDCARDS = {"task": "arc", "model": "tiny", "variant": "base"}


def test_a_method_takes_the_wildcards_that_its_parameters_are_named_after() -> None:
    values = ByWildcards(Values())
    assert values.file(WILDCARDS) == "tiny/arc"
    assert values.files(WILDCARDS) == ["one", "two"]
    assert values.pattern == "a|b"


def test_bad_input_ends_with_one_line() -> None:
    with pytest.raises(SystemExit) as caught:
        ByWildcards(Values()).refused(WILDCARDS)
    assert str(caught.value) == "error: not this one (got 'arc'). Fix: use another"


def test_a_missing_method_is_an_error_where_it_is_named() -> None:
    with pytest.raises(AttributeError, match="nothing"):
        _ = ByWildcards(SimpleNamespace()).nothing


@pytest.mark.parametrize("file", RULES, ids=lambda path: path.name)
def test_rules_call_nothing(file: Path) -> None:
    text = re.sub(r"#.*|\".*?\"", "", file.read_text(encoding="utf-8"))
    assert set(re.findall(r"([A-Za-z_.]+)\(", text)) <= SNAKEMAKE
