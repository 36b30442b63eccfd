"""What the page of a model shows."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment
from markupsafe import Markup

from slm_benchmark.catalog.catalog import VARIANTS
from slm_benchmark.common.files import canonical_json, write_text
from slm_benchmark.common.parallel import parallel_map
from slm_benchmark.records.types import (
    Leaderboard,
    LeaderboardRow,
    QuantizationReport,
)
from slm_benchmark.site import formats
from slm_benchmark.site.cells import Cell, word
from slm_benchmark.site.charts import Figure, is_forkable
from slm_benchmark.site.figures import model_figures
from slm_benchmark.site.impact import FIDELITY, Impact, impacts, pooled_differences
from slm_benchmark.site.metrics import GLANCE
from slm_benchmark.site.performance import MachineTable, flags, machine_tables
from slm_benchmark.site.sections import Section, build_sections, label_of
from slm_benchmark.site.sources import (
    Sources,
    performance_command,
    record_key,
    sources_of,
    weights_command,
    weights_folder,
)

BASE = word("base", "the reference of the comparison")
NOT_COMPARED = word("not compared", "the report has no comparison on this machine")
"""What stands in place of a difference to the base."""

MARK = "<!-- measurements -->"
"""Where a page waits for what was measured. It is put in when MkDocs is done, whose parsers would
take longer over a page's hundreds of numbers than everything else does."""

_DEQUANTIZED = re.compile(r"dequanti[sz]ed from ([\w.-]+)")
_HTML_IN_TITLE = str.maketrans({"<": "‹", ">": "›", "&": "+"})
_BATCH = 8


class ModelSection(Section):
    """A section of one model, with all that its page shows.

    ``differences`` are those to the base, by hardware and variant; ``notes`` has a state or
    ``warning``, the note, and the scores that it concerns; ``flags`` are `performance.flags`.
    """

    figures: list[Figure]
    impacts: list[Impact]
    differences: dict[tuple[str, str], Cell]
    notes: list[tuple[str, str, list[str]]]
    flags: dict[str, dict[str, list[str]]]
    profiles: list[MachineTable]
    sources: Sources


@dataclass(frozen=True)
class Download:
    """The weight files of a variant, what makes them and what checks them."""

    variant: str
    size_bytes: int | None
    sha256: str | None
    folder: str
    make: str
    check: str | None


def frames(leaderboard: Leaderboard, environment: Environment) -> dict[str, str]:
    """The Markdown of each model's page without its measurements, as {path: text}."""
    template = environment.get_template("model.md.j2")
    return {
        f"models/{model_id}.md": template.render(
            model=model,
            front_matter_title=_yaml_string(_plain(model["name"])),
            dequantized_from=match and match[1],
            mark=Markup(MARK),
        )
        for model_id, model in leaderboard["models"].items()
        for match in (_DEQUANTIZED.search(model["name"]),)
    }


def write_measurements(
    folder: Path,
    leaderboard: Leaderboard,
    reports: Mapping[str, QuantizationReport],
    environment: Environment,
) -> None:
    """Write what was measured of each model as ``{model}.html``, in several processes.

    Args:
        folder: Where to write.
        leaderboard: A record of the schema ``leaderboard``.
        reports: Quantization reports of models, by id.
        environment: Of the templates.
    """
    template = environment.get_template("_model.html.j2")
    rows: dict[str, list[LeaderboardRow]] = {model: [] for model in leaderboard["models"]}
    for row in leaderboard["rows"]:
        rows[row["model"]].append(row)

    def write(model: str) -> None:
        values = model_values(model, rows[model], leaderboard, reports.get(model))
        write_text(folder / f"{model}.html", template.render(values))

    for _ in parallel_map(write, list(rows), _BATCH) if is_forkable() else map(write, rows):
        pass


def insert_measurements(folder: Path, pages: Path) -> None:
    """Put what `write_measurements` wrote into the built pages of ``pages``."""
    for measured in folder.glob("*.html"):
        page = pages / measured.name
        frame, text = (path.read_text(encoding="utf-8") for path in (page, measured))
        before, after = frame.split(MARK)
        page.write_text(f"{before}{text}{after}", encoding="utf-8")


def model_values(
    model_id: str,
    rows: Sequence[LeaderboardRow],
    leaderboard: Leaderboard,
    report: QuantizationReport | None,
) -> dict[str, object]:
    """The values of the template ``_model``.

    Args:
        model_id: The model.
        rows: Its rows.
        leaderboard: A record of the schema ``leaderboard``.
        report: Its quantization report, if there is one.
    """
    return {
        "model_id": model_id,
        "model": leaderboard["models"][model_id],
        "fidelity_metrics": FIDELITY,
        "glance": GLANCE,
        "record_key": record_key,
        "performance_command": performance_command,
        "sections": [
            _model_section(section, leaderboard, report)
            for section in build_sections(leaderboard, rows, by_group=False)
        ],
        "downloads": _downloads(model_id, rows),
    }


def index_values(leaderboard: Leaderboard) -> dict[str, object]:
    """The values of the template ``models``: the best row of each model under ranked protocols."""
    measured: set[str] = set()
    best: dict[str, dict[str, LeaderboardRow]] = {
        key: {} for key, protocol in leaderboard["protocols"].items() if protocol["ranked"]
    }
    for row in leaderboard["rows"]:
        measured.add(row["model"])
        rows = best.get(row["protocol"])
        if rows is not None and row["overall"]["value"] is not None:
            best_row = rows.setdefault(row["model"], row)
            if _sort_key(row) < _sort_key(best_row):
                rows[row["model"]] = row
    return {"measured": measured, "best": {key: rows for key, rows in best.items() if rows}}


def _sort_key(row: LeaderboardRow) -> tuple[float, float]:
    """The rank of a row's tied group, then the overall score, the highest first."""
    return row["group"]["rank"] or math.inf, -(row["overall"]["value"] or 0.0)


def _model_section(
    section: Section, leaderboard: Leaderboard, report: QuantizationReport | None
) -> ModelSection:
    """A section with all that the page of its model shows."""
    sources = sources_of(section)
    return {
        **section,
        "figures": model_figures(section, leaderboard),
        "impacts": impacts(report, section, sources, leaderboard),
        "differences": _differences(section, report),
        "notes": _notes(section),
        "flags": flags(section["rows"]),
        "profiles": machine_tables(section["rows"]),
        "sources": sources,
    }


def _differences(
    section: Section, report: QuantizationReport | None
) -> dict[tuple[str, str], Cell]:
    """(Hardware, variant) → the pooled difference of each row; empty without any comparison."""
    differences = pooled_differences(report, section["id"])
    if not differences:
        return {}
    return {
        key: differences.get(key) or (BASE if row["quantization"] == "base" else NOT_COMPARED)
        for row in section["rows"]
        for key in ((row["hardware"], row["variant"]),)
    }


def _notes(section: Section) -> list[tuple[str, str, list[str]]]:
    """State or ``warning``, note, and the cells that it concerns, for all notes on scores."""
    notes: dict[tuple[str, str], dict[str, list[str]]] = {}
    for task in section["tasks"]:
        for row in section["rows"]:
            score = row["scores"][task["id"]]
            texts = [(str(score["state"]), score["reason"])] if score["reason"] else []
            for state, text in [*texts, *(("warning", text) for text in score["warnings"])]:
                concerned = notes.setdefault((state, text), {})
                concerned.setdefault(task["title"], []).append(label_of(row, section))
    return [
        (state, text, formats.table_cells(concerned, len(section["rows"])))
        for (state, text), concerned in notes.items()
    ]


def _downloads(model: str, rows: Iterable[LeaderboardRow]) -> list[Download]:
    """The weight files of each variant that has a row, and what makes and checks them."""
    weights = {
        (row["variant"], row.get("weights_sha256")): row
        for row in sorted(rows, key=lambda row: VARIANTS.index(row["variant"]))
    }
    return [
        Download(
            variant=variant,
            size_bytes=row["size_bytes"],
            sha256=sha256,
            folder=weights_folder(model, variant),
            make=weights_command(model, variant),
            check=_check(model, row) if row["quantization"] == "gguf" and sha256 else None,
        )
        for (variant, sha256), row in weights.items()
    ]


def _check(model: str, row: LeaderboardRow) -> str | None:
    """A command for any shell that prints the digest of a GGUF variant's only file.

    It spells the list of files as `manifest` does, from which the digest of a variant is made.
    """
    if row["size_bytes"] is None:
        return None
    name = f"{model}-{row['variant'].removeprefix('gguf-')}.gguf"
    files = {name: {"size_bytes": row["size_bytes"], "sha256": "%s"}}
    file = f"{weights_folder(model, row['variant'])}/{name}"
    return f"printf '{canonical_json(files)}' $(sha256sum {file} | cut -c-64) | sha256sum"


def _plain(name: str) -> str:
    """A name without HTML's special and invisible characters, for the theme's unescaped title."""
    return "".join(c for c in name.translate(_HTML_IN_TITLE) if c.isprintable())


def _yaml_string(text: str) -> Markup:
    """``text`` as a quoted YAML scalar for a page's front matter."""
    return Markup(json.dumps(text, ensure_ascii=False))
