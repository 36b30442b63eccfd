"""The generated pages: what the leaderboard holds, arranged for readers and rendered as Markdown.

Everything that came from a card or a record enters a page as escaped HTML, never as Markdown.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from slm_benchmark.config import VARIANTS
from slm_benchmark.errors import UserError
from slm_benchmark.site import formats
from slm_benchmark.site.charts import Bar, Figure, Interval, Point, bars, scatter

Record = Mapping[str, Any]

STATES = {"failed": "failed", "not_run": "not run", "not_applicable": "not applicable"}
"""Words for a score that is no number."""

_MODEL_ID = re.compile(r"[a-z0-9][a-z0-9._-]*")
_DEQUANTISED = re.compile(r"dequantised from ([\w.-]+)")
_HTML_IN_TITLE = str.maketrans({"<": "‹", ">": "›", "&": "+"})


@dataclass(frozen=True)
class Metric:
    """A column of performance."""

    key: str
    title: str
    unit: str
    higher_is_better: bool
    per_unit: float = 1.0
    leading: bool = False
    """Whether it is a column of the leaderboard; the pages of models have all."""
    same_machine: bool = True
    """Whether values compare only on one machine; the size of files does not depend on it."""

    def show(self, value: float) -> str:
        """``value`` in the column's unit."""
        return formats.significant(value / self.per_unit)

    @property
    def is_energy(self) -> bool:
        """Whether the label of the record's energy belongs beside the value."""
        return self.key.startswith(("energy", "power"))


METRICS = (
    Metric("generation_throughput_tokens_per_s", "Throughput", "tokens/s", True, leading=True),
    Metric("prompt_throughput_tokens_per_s", "Prompt throughput", "tokens/s", True, leading=True),
    Metric("batch_generation_throughput_tokens_per_s", "Batch throughput", "tokens/s", True),
    Metric("ttft_ms", "TTFT, engine", "ms", False, leading=True),
    Metric("client_ttft_ms", "TTFT, client", "ms", False, leading=True),
    Metric("inter_token_latency_ms", "Token latency, p50", "ms", False, leading=True),
    Metric("inter_token_latency_p90_ms", "Token latency, p90", "ms", False, leading=True),
    Metric("inter_token_latency_p99_ms", "Token latency, p99", "ms", False, leading=True),
    Metric("peak_memory_bytes", "Peak memory", "MB", False, 1e6, leading=True),
    Metric("device_peak_memory_bytes", "Peak memory, device", "MB", False, 1e6),
    Metric("allocator_peak_memory_bytes", "Peak memory, allocator", "MB", False, 1e6),
    Metric("load_time_s", "Load time", "s", False, leading=True),
    Metric("mbu", "MBU", "% of bandwidth", True, 0.01, leading=True),
    Metric("mfu", "MFU", "% of matrix rate", True, 0.01, leading=True),
    Metric("energy_mwh_per_token", "Energy", "mWh/token", False, leading=True),
    Metric("energy_net_mwh_per_token", "Energy, net", "mWh/token", False),
    Metric("power_w", "Power", "W", False),
    Metric("size_bytes", "Size", "MB", False, 1e6, same_machine=False),
)
"""Every metric of a performance record, in the order of columns."""


def render_pages(leaderboard: Record, file: Path) -> dict[str, str]:
    """All generated pages as {path: Markdown}.

    Args:
        leaderboard: A record of the schema ``leaderboard``.
        file: Where it was read, for error messages.

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
        svg=lambda figure: Markup(figure.svg),
    )
    environment.globals.update(
        board=leaderboard,
        metrics=METRICS,
        states=STATES,
        tasks={task["id"]: task for task in leaderboard["tasks"]},
    )

    def render(template: str, **values: Any) -> str:
        return environment.get_template(f"{template}.md.j2").render(values)

    sections = _sections(leaderboard, leaderboard["rows"], by_group=True)
    pages = {
        "index.md": render("index", sections=[_with_scatters(s, leaderboard) for s in sections]),
        "models.md": render("models", measured={row["model"] for row in leaderboard["rows"]}),
        "methodology.md": render(
            "methodology",
            sections=sections,
            measured=_measured_tasks(leaderboard["rows"]),
            metrics_missing=_never_measured(leaderboard["rows"]),
            hardware_measured=sorted({row["hardware"] for row in leaderboard["rows"]}),
            left_out=_left_out(leaderboard),
            any_demo=any(row["protocol"] == "demo" for row in leaderboard["rows"]),
        ),
        "data.md": render("data"),
    }
    for model_id, model in leaderboard["models"].items():
        rows = [row for row in leaderboard["rows"] if row["model"] == model_id]
        sections = _sections(leaderboard, rows, by_group=False)
        found = _DEQUANTISED.search(model["name"])
        pages[f"models/{model_id}.md"] = render(
            "model",
            model_id=model_id,
            model=model,
            front_matter_title=_yaml_string(_plain(model["name"])),
            dequantised_from=found and found[1],
            sections=[_with_bars(section) for section in sections],
        )
    return pages


def _plain(name: str) -> str:
    """A name without HTML's special and invisible characters, for the theme's unescaped title."""
    return "".join(c for c in name.translate(_HTML_IN_TITLE) if c.isprintable())


def _yaml_string(text: str) -> Markup:
    """``text`` as a quoted YAML scalar for a page's front matter."""
    return Markup(json.dumps(text, ensure_ascii=False))


def _check_references(leaderboard: Record, file: Path) -> None:
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
    known = {
        "model": set(leaderboard["models"]),
        "protocol": set(leaderboard["protocols"]),
        "hardware": set(leaderboard["hardware"]),
        "variant": set(VARIANTS),
    }
    tasks = {task["id"] for task in leaderboard["tasks"]}
    for index, row in enumerate(leaderboard["rows"]):
        named = [(key, row[key], known[key]) for key in known]
        named += [("scores", task, tasks) for task in row["scores"]]
        for key, value, listed in named:
            if value not in listed:
                raise UserError(
                    "refers to something that the file does not list",
                    file=file,
                    field=f"rows.{index}.{key}",
                    value=value,
                    fix="aggregate the records again",
                )


def _sections(
    leaderboard: Record, rows: Iterable[Record], *, by_group: bool
) -> list[dict[str, Any]]:
    """One section per protocol that has rows, ranked protocols first: rows never mix.

    Rows stand by name and variant; with ``by_group``, those of a ranked protocol by group, and
    within a group by falling overall score.
    """
    rows = list(rows)
    sections = []
    for key, protocol in leaderboard["protocols"].items():
        own = [row for row in rows if row["protocol"] == key]
        if not own:
            continue
        own.sort(key=lambda row: (row["model"], VARIANTS.index(row["variant"]), _machine(row)))
        if by_group and protocol["ranked"]:
            own.sort(key=_standing)
        shown = {task for row in own for task in row["scores"]}
        counts = [s["n"] for row in own for s in row["scores"].values() if s["state"] == "ok"]
        sections.append(
            {
                "id": key,
                "title": protocol["title"],
                "ranked": protocol["ranked"],
                "categories": list(protocol["counted"]),
                "left_out": protocol["left_out"],
                "documents": formats.documents([n for n in counts if n is not None]),
                "rows": [{**row, "machine": _machine(row)} for row in own],
                "machines": sorted({_machine(row) for row in own}),
                "tasks": [task for task in leaderboard["tasks"] if task["id"] in shown],
                "reasons": _never_measured(own),
                "flags": _flags(leaderboard, own),
                "profiles": _profiles(own),
                "commands": list(_commands(own)),
            }
        )
    return sorted(sections, key=lambda section: not section["ranked"])


def _standing(row: Record) -> tuple[bool, bool, int, float]:
    rank, overall = row["group"]["rank"], row["overall"]["value"]
    return not row["ranked"], rank is None, rank or 0, -(overall or 0.0)


def _machine(row: Record) -> str:
    """The machine of a row's speed, short: the hardware id and the head of its fingerprint."""
    fingerprint = row["fingerprint"]
    return f"{row['hardware']} {fingerprint[:6]}" if fingerprint else str(row["hardware"])


def _commands(rows: Iterable[Record]) -> Iterator[str]:
    """The commands that measure the records of some rows again."""
    for row in rows:
        profile = "demo" if row["protocol"] == "demo" else "local"
        folder = f"runs/{row['model']}/{row['variant']}/{row['hardware']}/{row['protocol']}"
        asked = [task for task, s in row["scores"].items() if s["state"] != "not_applicable"]
        for target in [*asked, "performance"]:
            yield f"snakemake --profile {profile} {folder}/{target}.json"


def _flags(leaderboard: Record, rows: Iterable[Record]) -> dict[str, list[Record]]:
    """Warnings, joined → models, machines and the variants to which exactly these belong."""
    found: dict[str, dict[tuple[str, str], list[str]]] = {}
    for row in rows:
        if row["measurement"] and row["measurement"]["warnings"]:
            warnings = "; ".join(row["measurement"]["warnings"])
            place = (leaderboard["models"][row["model"]]["name"], _machine(row))
            found.setdefault(warnings, {}).setdefault(place, []).append(row["variant"])
    return {
        warnings: [
            {"name": name, "machine": machine, "variants": variants}
            for (name, machine), variants in concerned.items()
        ]
        for warnings, concerned in found.items()
    }


def _profiles(rows: Iterable[Record]) -> list[dict[str, Any]]:
    """For each machine, the rows that were measured there and their points, reference first."""
    machines: dict[str, list[Record]] = {}
    for row in rows:
        if row["measurement"]:
            machines.setdefault(_machine(row), []).append(row)
    profiles = []
    for machine, own in sorted(machines.items()):
        points = [{**point, "row": row} for row in own for point in _points(row)]
        grid = [point["metrics"] for row in own for point in row["measurement"]["grid"]]
        known = {name for found in grid for name, q in found.items() if q["value"] is not None}
        columns = [metric for metric in METRICS if metric.key in known]
        profiles.append({"machine": machine, "rows": own, "points": points, "columns": columns})
    return profiles


def _points(row: Record) -> list[Record]:
    """The points that a row was measured at: the reference, if there are others, then these."""
    grid: list[Record] = row["measurement"]["grid"]
    reference = row["measurement"]["reference"]
    if not grid or reference is None:
        return grid
    return [{**reference, "sequences": 1, "metrics": row["performance"]}, *grid]


def _with_scatters(section: dict[str, Any], leaderboard: Record) -> dict[str, Any]:
    """Add one scatter per machine, because speeds compare only there."""
    speed_key = "generation_throughput_tokens_per_s"
    figures: list[Figure] = []
    for machine in section["machines"]:
        points = []
        for row in section["rows"]:
            speed = row["performance"].get(speed_key)
            overall = row["overall"]
            if row["machine"] != machine or row["fingerprint"] is None or not speed:
                continue
            if speed["value"] is None or overall["value"] is None:
                continue
            points.append(
                Point(
                    model=leaderboard["models"][row["model"]]["name"],
                    variant=row["variant"],
                    family=row["quantization"],
                    speed=speed["value"],
                    speed_ci95=_interval(speed["ci95"]),
                    score=overall["value"],
                    score_ci95=_interval(overall["ci95"]),
                    on_front=row["pareto"][speed_key]["front"] is True,
                )
            )
        if points:
            caption = (
                f"Overall score against generation throughput on {machine}, "
                f"protocol {section['id']}; lines are 95 % intervals, and an outline marks the "
                "Pareto front: nobody is at least as good in both and beyond the interval in one"
            )
            figures.append(scatter(points, caption))
    return {**section, "figures": figures}


def _with_bars(section: dict[str, Any]) -> dict[str, Any]:
    """Add one bar chart per task and machine that has a score."""
    figures: list[Figure] = []
    for machine in section["machines"]:
        for task in section["tasks"]:
            chance = None
            drawn = []
            for row in section["rows"]:
                score = row["scores"][task["id"]]
                if row["machine"] != machine or score["state"] != "ok":
                    continue
                chance = score["chance"]
                drawn.append(
                    Bar(
                        variant=row["variant"],
                        family=row["quantization"],
                        value=score["value"],
                        ci95=_interval(score["ci95"]),
                        n=score["n"],
                    )
                )
            if drawn:
                where = f" on {machine}" if len(section["machines"]) > 1 else ""
                less = "" if task["higher_is_better"] else ", less is better"
                caption = f"{task['title']}{where}, {task['metric']}{less}"
                best = task["best"] if task["unit"] == "points" else None
                figures.append(bars(drawn, chance, caption, best))
    return {**section, "figures": figures}


def _interval(ci95: list[float] | None) -> Interval:
    return None if ci95 is None else (ci95[0], ci95[1])


def _left_out(leaderboard: Record) -> dict[str, str]:
    """Title of each task that no overall score counts, under some protocol with rows → why."""
    titles = {task["id"]: task["title"] for task in leaderboard["tasks"]}
    shown = {row["protocol"] for row in leaderboard["rows"]}
    return {
        titles[task]: why
        for key, protocol in leaderboard["protocols"].items()
        if key in shown
        for task, why in protocol["left_out"].items()
    }


def _measured_tasks(rows: Iterable[Record]) -> dict[str, list[str]]:
    """Task id → protocols under which some row has its score."""
    measured: dict[str, list[str]] = {}
    for row in rows:
        for task, score in row["scores"].items():
            protocols = measured.setdefault(task, [])
            if score["state"] == "ok" and row["protocol"] not in protocols:
                protocols.append(row["protocol"])
    return measured


def _never_measured(rows: Iterable[Record]) -> dict[str, list[str]]:
    """Title of each performance metric that no row has → the distinct reasons."""
    rows = list(rows)
    missing: dict[str, list[str]] = {}
    for metric in METRICS:
        quantities = [q for row in rows if (q := row["performance"].get(metric.key))]
        if quantities and all(quantity["value"] is None for quantity in quantities):
            missing[metric.title] = sorted({quantity["reason"] for quantity in quantities})
    return missing
