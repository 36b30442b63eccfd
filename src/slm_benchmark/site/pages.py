"""The generated pages: what the leaderboard holds, arranged for readers and rendered as Markdown.

Everything that came from a card or a record enters a page as escaped HTML, never as Markdown.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Mapping
from pathlib import Path
from typing import Any

import jinja2

from slm_benchmark.catalog.catalog import VARIANTS
from slm_benchmark.common.errors import UserError
from slm_benchmark.leaderboard.board import score_scale
from slm_benchmark.records.types import Leaderboard, LeaderboardRow, QuantizationReport
from slm_benchmark.site import cells, formats
from slm_benchmark.site.charts import compare_bars_spec, radar_spec
from slm_benchmark.site.figures import chart_groups, size_figure
from slm_benchmark.site.metrics import GLANCE, METRICS
from slm_benchmark.site.model import frames, index_values, write_measurements
from slm_benchmark.site.rows import STATES, row_files
from slm_benchmark.site.sections import build_sections, never_measured
from slm_benchmark.site.terms import GLOSSARY, TERMS, column_help

STATIC_ROWS = 25
"""Rows of each protocol that the leaderboard shows without JavaScript."""

_MODEL_ID = re.compile(r"[a-z0-9][a-z0-9._-]*")


def render_pages(
    leaderboard: Leaderboard,
    reports: Mapping[str, QuantizationReport],
    file: Path,
    measured: Path,
) -> dict[str, str]:
    """All generated pages as {path: Markdown}, and their data for scripts.

    Args:
        leaderboard: A record of the schema ``leaderboard``.
        reports: Quantization reports of models, by id.
        file: Where it was read, for error messages.
        measured: Folder for what `insert_measurements` puts into the pages of models.

    Raises:
        UserError: when a row names a model, protocol, hardware or task that is not listed.
    """
    _check_references(leaderboard, file)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        percent=formats.percent,
        scaled=formats.scaled,
        scored=formats.scored,
        significant=formats.significant,
        megabytes=formats.megabytes,
        count=formats.count,
        giga=formats.giga,
        scale=score_scale,
        td=cells.render,
    )
    environment.globals.update(
        board=leaderboard,
        metrics=METRICS,
        states=STATES,
        cells=cells,
        column_help=column_help,
        column_terms=TERMS,
        glossary=GLOSSARY,
    )

    def render(template: str, **values: Any) -> str:
        return environment.get_template(f"{template}.md.j2").render(values)

    # First, while no chart is drawn: it works in forks, which could not draw any more.
    write_measurements(measured, leaderboard, reports, environment)
    sections = build_sections(leaderboard, leaderboard["rows"], by_group=True)
    pages = {
        "index.md": render(
            "index",
            sections=[{**s, "figure": size_figure(s, leaderboard)} for s in sections],
            static_rows=STATIC_ROWS,
            static_metrics=GLANCE,
        ),
        "compare.md": render(
            "compare", sections=sections, radar=radar_spec(), bars=compare_bars_spec()
        ),
        "models.md": render("models", **index_values(leaderboard)),
        "methodology.md": render(
            "methodology",
            sections=sections,
            measured=_measured_tasks(leaderboard["rows"]),
            metrics_missing=never_measured(leaderboard["rows"]),
            hardware_measured=sorted({row["hardware"] for row in leaderboard["rows"]}),
            left_out=_left_out(leaderboard),
            any_demo=any(row["protocol"] == "demo" for row in leaderboard["rows"]),
        ),
        "data.md": render("data"),
        "charts.md": render(
            "charts", sections=[{**s, "groups": chart_groups(s, leaderboard)} for s in sections]
        ),
    }
    for name, text in row_files(sections, leaderboard, reports).items():
        pages[f"assets/rows/{name}"] = text
    return pages | frames(leaderboard, environment)


def _check_references(leaderboard: Leaderboard, file: Path) -> None:
    """Refuse what would make a broken link or an undefined name on a page."""
    for model in leaderboard["models"]:
        if not _MODEL_ID.fullmatch(model):
            raise UserError(
                "not a model id, which is lowercase letters, digits, '.', '_' and '-'",
                file=file,
                field="models",
                value=model,
                fix="aggregate the records again",
            )
    tasks = {task["id"] for task in leaderboard["tasks"]}
    for index, row in enumerate(leaderboard["rows"]):
        named: list[tuple[str, str, Container[str]]] = [
            ("model", row["model"], leaderboard["models"]),
            ("protocol", row["protocol"], leaderboard["protocols"]),
            ("hardware", row["hardware"], leaderboard["hardware"]),
            ("variant", row["variant"], VARIANTS),
            *(("scores", task, tasks) for task in row["scores"]),
        ]
        for key, value, listed in named:
            if value not in listed:
                raise UserError(
                    "refers to something that the file does not list",
                    file=file,
                    field=f"rows.{index}.{key}",
                    value=value,
                    fix="aggregate the records again",
                )


def _left_out(leaderboard: Leaderboard) -> dict[str, str]:
    """Title of each task that no overall score counts, under some protocol with rows → why."""
    titles = {task["id"]: task["title"] for task in leaderboard["tasks"]}
    shown = {row["protocol"] for row in leaderboard["rows"]}
    return {
        titles[task]: why
        for key, protocol in leaderboard["protocols"].items()
        if key in shown
        for task, why in protocol["left_out"].items()
    }


def _measured_tasks(rows: Iterable[LeaderboardRow]) -> dict[str, list[str]]:
    """Task id → protocols under which some row has its score."""
    measured: dict[str, list[str]] = {}
    for row in rows:
        for task, score in row["scores"].items():
            protocols = measured.setdefault(task, [])
            if score["state"] == "ok" and row["protocol"] not in protocols:
                protocols.append(row["protocol"])
    return measured
