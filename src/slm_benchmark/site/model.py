"""What the page of a model shows."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from slm_benchmark.catalog.catalog import VARIANTS
from slm_benchmark.common.files import canonical_json, write_text
from slm_benchmark.common.parallel import parallel_map
from slm_benchmark.site.cells import plain_cell, quantity_cell, score_cell, source_line
from slm_benchmark.site.charts import is_forkable
from slm_benchmark.site.figures import model_figures
from slm_benchmark.site.impact import FIDELITY, impacts, pooled_differences
from slm_benchmark.site.metrics import GLANCE, METRICS
from slm_benchmark.site.sections import build_sections, flags, profiles
from slm_benchmark.site.sources import weights_command, weights_folder, with_sources

Record = Mapping[str, Any]

ENERGY = "energy_mwh_per_token"
"""A quantity that stands on every page: where a machine cannot measure it, it says so."""

MARK = "<!-- measurements -->"
"""Where a page waits for what was measured. It is put in when MkDocs is done, whose parsers would
take longer over a page's hundreds of numbers than everything else does."""

_DEQUANTISED = re.compile(r"dequantised from ([\w.-]+)")
_HTML_IN_TITLE = str.maketrans({"<": "‹", ">": "›", "&": "+"})
_BATCH = 8


def frames(leaderboard: Record, environment: Environment) -> dict[str, str]:
    """The Markdown of each model's page without its measurements, as {path: text}."""
    template = environment.get_template("model.md.j2")
    return {
        f"models/{model_id}.md": template.render(
            model=model,
            front_matter_title=_yaml_string(_plain(model["name"])),
            dequantised_from=found and found[1],
            mark=Markup(MARK),
        )
        for model_id, model in leaderboard["models"].items()
        for found in (_DEQUANTISED.search(model["name"]),)
    }


def write_measurements(
    folder: Path, leaderboard: Record, reports: Record, environment: Environment
) -> None:
    """Write what was measured of each model as ``{model}.html``, in several processes.

    Args:
        folder: Where to write.
        leaderboard: A record of the schema ``leaderboard``.
        reports: Quantization reports of models, by id.
        environment: Of the templates.
    """
    template = environment.get_template("_model.html.j2")
    own: dict[str, list[Record]] = {model: [] for model in leaderboard["models"]}
    for row in leaderboard["rows"]:
        own[row["model"]].append(row)

    def write(model: str) -> None:
        values = model_values(model, own[model], leaderboard, reports.get(model))
        write_text(folder / f"{model}.html", template.render(values))

    for _ in parallel_map(write, list(own), _BATCH) if is_forkable() else map(write, own):
        pass


def insert_measurements(folder: Path, pages: Path) -> None:
    """Put what `write_measurements` wrote into the built pages of ``pages``."""
    for measured in folder.glob("*.html"):
        page = pages / measured.name
        frame, text = (path.read_text(encoding="utf-8") for path in (page, measured))
        before, after = frame.split(MARK)
        page.write_text(f"{before}{text}{after}", encoding="utf-8")


def model_values(
    model_id: str, rows: Sequence[Record], leaderboard: Record, report: Record | None
) -> dict[str, Any]:
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
        "score_cell": score_cell,
        "quantity_cell": quantity_cell,
        "plain_cell": plain_cell,
        "source_line": source_line,
        "sections": [
            _for_readers(section, leaderboard, report)
            for section in build_sections(leaderboard, rows, by_group=False)
        ],
        "downloads": _downloads(model_id, rows),
    }


def index_values(leaderboard: Record) -> dict[str, Any]:
    """The values of the template ``models``: the best row of each model under ranked protocols."""
    measured: set[str] = set()
    best: dict[str, dict[str, Record]] = {
        key: {} for key, protocol in leaderboard["protocols"].items() if protocol["ranked"]
    }
    for row in leaderboard["rows"]:
        measured.add(row["model"])
        rows = best.get(row["protocol"])
        if rows is not None and row["overall"]["value"] is not None:
            known = rows.setdefault(row["model"], row)
            if _standing(row) < _standing(known):
                rows[row["model"]] = row
    return {"measured": measured, "best": {key: rows for key, rows in best.items() if rows}}


def _standing(row: Record) -> tuple[float, float]:
    """Sorts rows by group, and by falling overall score where groups are equal or lacking."""
    return row["group"]["rank"] or math.inf, -row["overall"]["value"]


def _for_readers(
    section: dict[str, Any], leaderboard: Record, report: Record | None
) -> dict[str, Any]:
    """A section with figures, sources, the report's comparison and the reasons of what lacks."""
    differences = pooled_differences(report, section["id"])
    for row in section["rows"]:
        row["label"] = _label(row, section["machines"])
        row["difference"] = differences.get((row["hardware"], row["variant"]))
    section = with_sources(section)
    measured = profiles(section["rows"])
    for profile in measured:
        profile["rows"] = [row for row in section["rows"] if row["machine"] == profile["machine"]]
        profile["metrics"] = [
            metric
            for metric in METRICS
            if metric.key == ENERGY
            or any(row["performance"][metric.key]["value"] is not None for row in profile["rows"])
        ]
        profile["reasons"] = _unmeasured(profile["rows"])
    return {
        **section,
        "figures": model_figures(section, leaderboard),
        "impacts": impacts(report, section, leaderboard),
        "differences": differences,
        "remarks": _remarks(section),
        "flags": flags(section["rows"]),
        "profiles": measured,
    }


def _label(row: Record, machines: Sequence[str]) -> str:
    """What a row is called: its variant, and its machine where there are several."""
    return f"{row['variant']} on {row['machine']}" if len(machines) > 1 else str(row["variant"])


def _remarks(section: Record) -> list[tuple[str, str, list[str]]]:
    """Mark or state, remark, and the cells that it concerns, for all remarks on scores."""
    found: dict[tuple[str, str], dict[str, list[str]]] = {}
    for task in section["tasks"]:
        for row in section["rows"]:
            score = row["scores"][task["id"]]
            texts = [(score["state"], score["reason"])] if score["reason"] else []
            for state, text in [*texts, *(("warning", text) for text in score["warnings"])]:
                concerned = found.setdefault((state, text), {})
                concerned.setdefault(task["title"], []).append(row["label"])
    return [
        (state, text, _cells(concerned, len(section["rows"])))
        for (state, text), concerned in found.items()
    ]


def _unmeasured(rows: Sequence[Record]) -> dict[str, list[str]]:
    """Reason → the quantities of some rows that have no value for it."""
    found: dict[str, dict[str, list[str]]] = {}
    for metric in METRICS:
        for row in rows:
            quantity = row["performance"][metric.key]
            if quantity["value"] is None:
                concerned = found.setdefault(quantity["reason"], {})
                concerned.setdefault(metric.title, []).append(row["variant"])
    return {reason: _cells(concerned, len(rows)) for reason, concerned in found.items()}


def _cells(concerned: Mapping[str, Sequence[str]], columns: int) -> list[str]:
    """Cells of a table in words, those of equal columns together."""
    alike: dict[tuple[str, ...], list[str]] = {}
    for title, labels in concerned.items():
        alike.setdefault(tuple(labels), []).append(title)
    return [
        ", ".join(titles) + ("" if len(labels) == columns else f" ({', '.join(labels)})")
        for labels, titles in alike.items()
    ]


def _downloads(model: str, rows: Iterable[Record]) -> list[dict[str, Any]]:
    """The weight files of each variant that has a row, and what makes and checks them."""
    found = {
        (row["variant"], row.get("weights_sha256")): row
        for row in sorted(rows, key=lambda row: VARIANTS.index(row["variant"]))
    }
    return [
        {
            "variant": variant,
            "size_bytes": row["size_bytes"],
            "sha256": sha256,
            "folder": weights_folder(model, variant),
            "make": weights_command(model, variant),
            "check": _check(model, row) if row["quantization"] == "gguf" and sha256 else None,
        }
        for (variant, sha256), row in found.items()
    ]


def _check(model: str, row: Record) -> str | None:
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
