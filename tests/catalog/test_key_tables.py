"""The tables in config/README.md say what the schemas say."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from slm_benchmark.catalog.key_tables import END, FILES, START, Row, reference, rows, update_readme
from slm_benchmark.common.errors import UserError
from slm_benchmark.common.paths import CONFIG
from slm_benchmark.common.schemas import schema


def test_the_readme_is_up_to_date(tmp_path: Path) -> None:
    copy = Path(shutil.copy(CONFIG / "README.md", tmp_path))
    assert not update_readme(copy), "run: python -m slm_benchmark.catalog.key_tables"


def test_a_drifted_readme_is_mended(tmp_path: Path) -> None:
    shipped = (CONFIG / "README.md").read_text(encoding="utf-8")
    copy = tmp_path / "README.md"
    copy.write_text(shipped.replace("| `protocol` | yes |", "| `protocol` | no |"))
    assert update_readme(copy)
    assert copy.read_text(encoding="utf-8") == shipped
    assert not update_readme(copy)


@pytest.mark.parametrize("text", ["no markers", START, f"{END} {START}"])
def test_a_readme_without_markers_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "README.md"
    path.write_text(text)
    with pytest.raises(UserError, match="marker"):
        update_readme(path)
    assert path.read_text() == text


def named_keys(node: Any) -> set[str]:
    """Every key that a schema names anywhere, found without the code under test."""
    if isinstance(node, list):
        return set().union(*map(named_keys, node)) if node else set()
    if not isinstance(node, dict):
        return set()
    own = set(node["properties"]) if isinstance(node.get("properties"), dict) else set()
    return own.union(*(named_keys(child) for child in node.values()))


@pytest.mark.parametrize("name", FILES)
def test_every_key_has_a_row_and_a_description(name: str) -> None:
    found = rows(schema(name), name)
    assert {row.key.rsplit(".", 1)[-1] for row in found} == named_keys(schema(name))
    assert all(row.meaning and row.values for row in found)
    assert all(row.markdown() in reference() for row in found)


def test_a_key_without_a_description_is_refused() -> None:
    bad = {
        "properties": {
            "outer": {
                "type": "object",
                "description": "Described.",
                "properties": {"inner": {"type": "string"}},
            }
        }
    }
    with pytest.raises(UserError, match="no description") as caught:
        rows(bad, "bad.schema.yaml")
    assert (caught.value.file, caught.value.field) == ("bad.schema.yaml", "outer.inner")


def test_rows_say_what_a_key_may_hold() -> None:
    found = {(row.key, row.kind): row for row in rows(schema("model"), "model")}
    assert found["chat", ""].required == "no; `false`"
    assert found["parameters", ""] == Row(
        "parameters",
        "",
        "yes",
        "integer ≥ 1",
        "Number of parameters, counted once when embeddings are tied.",
    )
    assert found["source.sha256", "`type: package`"].values == "text like `^[0-9a-f]{64}$`"
    assert Row("a", "", "no", "`x|y`", "b").markdown() == r"| `a` | no | `x\|y` | b |"
