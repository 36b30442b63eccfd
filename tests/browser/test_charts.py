"""Charts: their numbers against the leaderboard, and what a reader can do with them."""

from __future__ import annotations

import copy
import dataclasses
import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jinja2
import pandas as pd
import pytest
import vl_convert
from playwright.sync_api import Browser, Page

import slm_benchmark.site
from slm_benchmark.common.files import read_json
from slm_benchmark.common.paths import ROOT
from slm_benchmark.leaderboard.board import COSTS
from slm_benchmark.records.types import Leaderboard
from slm_benchmark.site.charts import (
    Bar,
    Effect,
    Figure,
    Point,
    Scale,
    Spoke,
    bars,
    compare_bars_spec,
    impact,
    radar,
    radar_spec,
    scatter,
    scores,
    vega_bundle,
)
from slm_benchmark.site.figures import (
    Group,
    chart_groups,
    impact_figures,
    model_figures,
    size_figure,
)
from slm_benchmark.site.metrics import METRICS
from slm_benchmark.site.sections import Section, build_sections
from tests.support.axe import violations
from tests.support.sites import HOSTILE, VARIANTS, Visit

SVG = "{http://www.w3.org/2000/svg}"
METRIC = {metric.key: metric for metric in METRICS}
MEMORY = METRIC["peak_memory_bytes"]
SPEED = "generation_throughput_tokens_per_s"
SHARE = Scale("ARC", "acc_norm", "share", 1, True, 0.25)
LESS = Scale("BOLD", "rate", "share", 0, False, None)
POINTS = Scale("RATING", "judge", "points", 10, True, None)
REPORT = ROOT / "results" / "smollm2-135m-instruct" / "quantization.json"


def section_of(board: Leaderboard, protocol: str, model: str | None = None) -> Section:
    rows = [row for row in board["rows"] if model in (None, row["model"])]
    sections = build_sections(board, rows, by_group=model is None)
    return next(section for section in sections if section["id"] == protocol)


def figures_of(groups: Sequence[Group]) -> dict[str, Figure]:
    return {figure.id: figure for group in groups for figure in group.figures}


def data(figure: Figure, name: str) -> pd.DataFrame:
    """A dataset of a figure's specification."""
    return pd.DataFrame(json.loads(figure.spec)["datasets"][name])


def frame(board: Leaderboard, protocol: str) -> pd.DataFrame:
    """The rows of a protocol with what the scatters show, computed from the leaderboard."""
    records = []
    for row in board["rows"]:
        if row["protocol"] == protocol:
            record: dict[str, Any] = {
                "model": row["model"],
                "variant": row["variant"],
                "hardware": row["hardware"],
                "quantization": row["quantization"],
                "score": row["overall"]["value"],
                "size_bytes": row["size_bytes"],
            }
            record |= {f"front {cost}": row["pareto"][cost]["front"] for cost in COSTS}
            for cost in COSTS:
                if cost != "size_bytes":
                    record[cost] = row["performance"][cost]["value"]
            records.append(record)
    return pd.DataFrame(records)


def made_up(number: int, front: float = 0.2) -> list[Point]:
    """Points on a slope, a share of which is on the front."""
    return [
        Point(
            model=f"Model-{n // 5} {n % 7 + 0.5}B",
            variant=list(VARIANTS)[n % 5],
            family=list(VARIANTS.values())[n % 5],
            cost=1e8 * 1.2 ** (n * 25 / number),
            cost_ci95=(0.9e8 * 1.2 ** (n * 25 / number), 1.1e8 * 1.2 ** (n * 25 / number)),
            score=0.1 + 0.7 * n / number - 0.01 * (n % 9),
            score_ci95=(0.05 + 0.7 * n / number - 0.01 * (n % 9), 0.9),
            front=n % round(1 / front) == 0,
        )
        for n in range(number)
    ]


def bar(value: float, variant: str = "base", model: str = "M") -> Bar:
    family = VARIANTS.get(variant, "base")
    return Bar(model, variant, family, value, (value - 0.05, value + 0.07), 50)


# Score against cost


@pytest.mark.parametrize("cost", [cost for cost in COSTS if cost != "size_bytes"])
def test_a_scatter_has_the_rows_of_one_machine_and_their_front(
    board: Leaderboard, cost: str
) -> None:
    figures = figures_of(chart_groups(section_of(board, "full"), board))
    whole = frame(board, "full").dropna(subset=["score", cost])
    title = METRIC[cost].title.lower().replace(" ", "-")
    for hardware, machine in (("local", "local-aaaaaa"), ("t4", "t4-bbbbbb")):
        expected = whole[whole.hardware == hardware]
        figure = figures[f"full-{title}-on-{machine}"]
        shown = data(figure, "points")
        assert len(shown) == len(expected) > 1

        def keyed(rows: pd.DataFrame, cost: str, front: pd.Series[Any]) -> list[Any]:
            values = (rows["score"].round(4), rows[cost].map(lambda v: float(f"{v:.4g}")), front)
            return sorted(zip(*values, strict=True))

        per_unit = METRIC[cost].per_unit
        members = expected[f"front {cost}"] == True  # noqa: E712, the column has None
        assert keyed(shown, "cost", shown.front == "optimal") == keyed(
            expected.assign(**{cost: expected[cost] / per_unit}), cost, members
        )
        outlined = re.findall(r'<path [^>]*stroke="currentColor" stroke-width="1.5"', figure.svg)
        assert len(outlined) == members.sum()
        assert f"{len(expected)} points, {members.sum()} Pareto-optimal." in (figure.description)


def test_sizes_are_the_same_everywhere_so_a_variant_is_one_point(board: Leaderboard) -> None:
    figure = size_figure(section_of(board, "full"), board)
    assert figure is not None
    rows = frame(board, "full").dropna(subset=["score", "size_bytes"])
    assert rows.duplicated(["model", "variant"]).any()
    assert len(data(figure, "points")) == len(rows.drop_duplicates(["model", "variant"]))
    assert figure.id == "full-size"


def test_the_step_line_joins_the_best_values_of_the_front() -> None:
    figure = scatter(made_up(200), MEMORY, "Caption", "id")
    steps, points = data(figure, "front"), data(figure, "points")
    front = points[points.front == "optimal"]
    assert len(front) == 40
    assert steps.cost.is_monotonic_increasing
    assert steps.score.is_monotonic_increasing
    assert set(zip(steps.cost, steps.score, strict=True)) <= set(
        zip(front.cost, front.score, strict=True)
    )
    for cost, score in zip(steps.cost, steps.score, strict=True):
        assert front[front.cost <= cost].score.max() == score
    fast = scatter(made_up(200), METRIC[SPEED], "Caption", "id")
    assert data(fast, "front").score.is_monotonic_decreasing
    assert '"interpolate":"step-before"' in fast.spec
    assert '"interpolate":"step-after"' in figure.spec


def test_intervals_are_drawn_of_all_points_of_few_and_of_the_front_of_many() -> None:
    few, many = scatter(made_up(60), MEMORY, "C", "i"), scatter(made_up(200), MEMORY, "C", "i")
    assert data(few, "points").score_low.notna().all()
    with_interval = data(many, "points").dropna(subset=["score_low"])
    assert (with_interval.front == "optimal").all()
    assert len(with_interval) == 40
    assert "95 % intervals of Pareto-optimal rows" in many.caption
    assert len(data(many, "labels")) <= 12


def test_labels_stand_apart() -> None:
    figure = scatter(made_up(30, front=0.5), MEMORY, "C", "i")
    labels = data(figure, "labels")
    assert 3 < len(labels) <= 12
    assert (labels.front == "optimal").all()
    assert set(labels["align"]) <= {"left", "right"}


@pytest.mark.parametrize("front", [0.02, 0.34])
def test_a_board_of_500_rows_draws_a_small_scatter(front: float) -> None:
    figure = scatter(made_up(500, front), MEMORY, "C", "i")
    assert len(data(figure, "points")) == 500
    assert len(figure.svg.encode()) < 80_000
    assert len(figure.rows) == 500


@pytest.mark.parametrize("front", [0.002, 0.34])
def test_ten_thousand_rows_are_a_density_and_a_front(front: float) -> None:
    points = made_up(10_000, front)
    figure = scatter(points, MEMORY, "C", "i")
    shown, cells = data(figure, "points"), data(figure, "density")
    assert (shown.front == "optimal").all()
    assert len(shown) <= 300
    # Every row is drawn once.
    assert cells["rows"].sum() + len(shown) == 10_000
    assert f"of the other {cells['rows'].sum():,}" in figure.caption
    assert len(figure.svg.encode()) < 80_000
    assert len(figure.spec.encode()) < 80_000


def test_a_cost_that_nobody_measured_is_a_sentence_with_its_reason(board: Leaderboard) -> None:
    changed = copy.deepcopy(board)
    for row in changed["rows"]:
        quantity = row["performance"]["energy_mwh_per_token"]
        quantity |= {"value": None, "ci95": None, "reason": "no <b>counter</b>"}
    groups = chart_groups(section_of(changed, "full"), changed)
    assert not any("energy" in id for id in figures_of(groups))
    assert "Energy on t4 bbbbbb: no chart, as no row has a value (no <b>counter</b>)." in (
        groups[0].notes
    )


def test_a_wide_span_has_a_logarithmic_axis() -> None:
    def kind(points: list[Point]) -> set[str]:
        return set(re.findall(r'"type":"(log|linear)"', scatter(points, MEMORY, "C", "i").spec))

    assert kind(made_up(50)) == {"log"}
    assert "linear" in kind(made_up(50)[:5])
    assert len(scatter(made_up(1, 1), MEMORY, "C", "i").rows) == 1


def test_values_that_hardly_differ_stay_within_the_axes() -> None:
    points = [
        dataclasses.replace(point, cost=90e6 + n, cost_ci95=None, score=0.0, score_ci95=None)
        for n, point in enumerate(made_up(4, 1))
    ]
    figure = scatter(points, MEMORY, "C", "i")
    ends = {p["name"]: p["value"] for p in json.loads(figure.spec)["params"]}
    for name, values in (("x_ends", [90.0] * 4), ("y_ends", [0.0] * 4)):
        assert ends[name][0] < min(values) <= max(values) < ends[name][1]
    ticks = re.findall(r">(\d[\d.]*)</text>", figure.svg)
    assert len(ticks) == len(set(ticks)) > 2


# The best of a task


def test_the_best_ten_are_sorted_and_counted(board: Leaderboard) -> None:
    figures = figures_of(chart_groups(section_of(board, "full"), board))
    rows = pd.DataFrame(
        {"value": row["scores"]["arc_challenge"]["value"], **row}
        for row in board["rows"]
        if row["protocol"] == "full" and row["scores"]["arc_challenge"]["state"] == "ok"
    )
    figure = figures["full-arc_challenge"]
    drawn = data(figure, "rows")
    expected = rows.sort_values("value", ascending=False).head(10)
    assert list(drawn.value) == pytest.approx([100 * v for v in expected.value], abs=1e-3)
    assert list(drawn.low) == pytest.approx([100 * (v - 0.1) for v in expected.value], abs=1e-3)
    assert list(drawn.high) == pytest.approx([100 * (v + 0.1) for v in expected.value], abs=1e-3)
    assert f"10 of {len(rows)} rows" in figure.caption
    assert set(data(figure, "marks").x) == {25.0}


def test_where_less_is_better_the_least_stands_first() -> None:
    figure = bars([bar(0.3), bar(0.1, "awq-4bit"), bar(0.2, "gptq-4bit")], LESS, LESS.heading, "i")
    assert list(data(figure, "rows").value) == [10.0, 20.0, 30.0]
    assert "lower is better: all 3 rows" in figure.caption
    assert data(figure, "marks").empty
    assert "dashes" not in figure.caption
    assert figure.description.startswith("Best: awq-4bit with 10.0")


def test_ties_with_the_last_one_shown_are_counted() -> None:
    values = [0.9] * 3 + [0.5] * 9 + [0.4]
    figure = bars([bar(v, model=f"M{n:02}") for n, v in enumerate(values)], SHARE, "Task", "i")
    assert "10 of 13 rows, and 2 more tie with the last" in figure.caption
    headings = list(data(figure, "headings").heading)
    assert headings == [f"M{n:02} · base" for n in range(10)]


def test_points_are_drawn_on_their_scale_and_told_as_they_are() -> None:
    figure = bars([bar(9.95)], POINTS, POINTS.heading, "i")
    (drawn,) = data(figure, "rows").to_dict("records")
    assert drawn["value"] == pytest.approx(99.5)
    assert drawn["text"].startswith("9.9 (9.9 to 10.0)") or drawn["text"].startswith("10.0 (")
    # The axis holds an interval that ends beyond the best score.
    ends = {p["name"]: p["value"] for p in json.loads(figure.spec)["params"]}["x_ends"]
    assert ends == [0.0, pytest.approx(100.2)]
    assert "points of 10" in figure.caption


def test_a_long_name_keeps_its_variant() -> None:
    one, other = (bar(0.5, "gguf-q4_k_m", model=f"{n}{'long name ' * 8}") for n in "AB")
    headings = list(data(bars([one, other], SHARE, "Task", "i"), "headings").heading)
    assert all(len(h) <= 32 and h.endswith("… · gguf-q4_k_m") for h in headings)


# A model's page


def test_a_model_has_one_chart_of_scores_for_each_machine(board: Leaderboard) -> None:
    section = section_of(board, "full", "alpha-135m")
    figures = model_figures(section, board)
    assert [figure.id for figure in figures] == [
        "full-local-aaaaaa-scores",
        "full-t4-bbbbbb-scores",
    ]
    for figure, hardware in zip(figures, ("local", "t4"), strict=True):
        expected = {
            (task["title"], row["variant"]): 100 * (score["value"] or 0) / (task["best"] or 1)
            for row in section["rows"]
            for task in section["tasks"]
            if row["hardware"] == hardware and (score := row["scores"][task["id"]])["state"] == "ok"
        }
        drawn = data(figure, "rows")
        keys = [(h.split(",")[0], v) for h, v in zip(drawn.heading, drawn.label, strict=True)]
        assert dict(zip(keys, drawn.value, strict=True)) == pytest.approx(expected, abs=1e-3)
        assert len(figure.rows) == len(expected) > 20
        # No wider than a phone.
        assert int(re.findall(r' width="(\d+)"', figure.svg)[0]) <= 358


def test_a_task_without_a_score_is_no_part_of_the_chart(board: Leaderboard) -> None:
    (figure,) = model_figures(section_of(board, "full", "evil-1b"), board)
    assert "GSM8K" not in figure.svg
    assert "ARC_CHALLENGE" in figure.svg


# Radar


def with_categories(board: Leaderboard) -> Leaderboard:
    """The leaderboard with four categories, of which one row lacks one."""
    changed = copy.deepcopy(board)
    names = ["reasoning", "math", "code", "safety"]
    for protocol in changed["protocols"].values():
        protocol["counted"] = {name: ["arc_challenge"] for name in names}
    for n, row in enumerate(changed["rows"]):
        for k, name in enumerate(names):
            value = -0.02 if k == 3 else 0.9 - n / 100 - k / 10
            row["categories"][name] = {
                **row["overall"],
                "value": value,
                "ci95": [value - 0.1, value + 0.1],
            }
    changed["rows"][0]["categories"]["math"] |= {"value": None, "ci95": None}
    return changed


def test_a_radar_has_the_best_row_of_each_model_first(board: Leaderboard) -> None:
    changed = with_categories(board)
    figure = figures_of(chart_groups(section_of(changed, "full"), changed))["full-radar"]
    spec = json.loads(figure.spec)
    drawn = pd.DataFrame(spec["data"]["values"])
    names = list(dict.fromkeys(drawn.series))
    assert len(names) == 5
    rows = [row for row in changed["rows"] if row["protocol"] == "full"]
    models = {row["model"] for row in rows if row["overall"]["value"] is not None}
    first = [name.rsplit(" · ", 1)[0] for name in names[: len(models)]]
    assert len(set(first)) == len(models) == 3
    # Polar coordinates: the angle by axis, the radius by share, nothing below the centre.
    radius = (drawn.x**2 + drawn.y**2) ** 0.5
    whole = {p["name"]: p["value"] for p in spec["params"]}["whole"]
    assert whole in (0.2, 0.4, 0.6, 0.8, 1)
    assert whole >= drawn.share.max() > whole - 0.2
    assert list(radius) == pytest.approx(list(drawn.share.clip(0, 1) / whole), abs=2e-4)
    assert f"the outer ring a normalized score of {whole:.0%}" in figure.caption
    assert drawn[drawn["axis"] == "Safety"].x.abs().max() == 0
    right = drawn[drawn["axis"] == "Math"]
    assert (right.x > 0).all()
    assert right.y.abs().max() < 1e-3
    assert "below it" in figure.caption
    assert '"linear-closed"' in figure.spec
    for text, share in zip(drawn.text, drawn.share, strict=True):
        assert text.startswith(f"{100 * share:.1f}".replace("-", "−"))


def test_a_radar_needs_three_axes(board: Leaderboard) -> None:
    groups = chart_groups(section_of(board, "full"), board)
    assert "full-radar" not in figures_of(groups)
    assert "no row with an overall score has a score in 3 categories" in groups[1].notes[0]


def test_a_radar_leaves_out_a_row_that_lacks_an_axis(board: Leaderboard) -> None:
    changed = with_categories(board)
    section = section_of(changed, "demo", "alpha-135m")
    figures = {figure.id: figure for figure in model_figures(section, changed)}
    drawn = pd.DataFrame(json.loads(figures["demo-local-aaaaaa-radar"].spec)["data"]["values"])
    lacking = changed["rows"][0]["variant"]
    assert set(drawn["axis"]) == {"Reasoning", "Math", "Code", "Safety"} or lacking in set(
        drawn.series
    )


# Differences to the base


def test_differences_are_those_of_the_report(board: Leaderboard) -> None:
    report = read_json(REPORT)
    (group,) = [g for g in report["groups"] if g["protocol"] == "demo-paired"]
    (figure,) = impact_figures(report, "demo-paired", group["hardware"], board)
    drawn = data(figure, "rows")
    expected = {}
    for variant in group["variants"]:
        expected["All tasks together", variant["variant"]] = variant["pooled"]
        for task in variant["tasks"]:
            expected[task["title"], variant["variant"]] = task
    compared = {key: found for key, found in expected.items() if found["difference"] is not None}
    assert len(drawn) == len(figure.rows) == len(compared) > 10
    for row in drawn.to_dict("records"):
        found = compared[row["heading"], row["label"]]
        assert row["value"] == pytest.approx(100 * found["difference"], abs=1e-3)
        assert row["low"] == pytest.approx(100 * found["ci95"][0], abs=1e-3)
    floors = [f for f in compared.values() if f["noise_floor"] is not None]
    shown = drawn.floor.notna().sum() if "floor" in drawn else 0
    assert shown == len(floors)
    assert ("the band" in figure.caption) is bool(floors)
    assert data(figure, "headings").heading[0] == "All tasks together"


def test_no_report_is_no_figure(board: Leaderboard) -> None:
    assert impact_figures(None, "full", "local", board) == []
    assert impact_figures(read_json(REPORT), "full", "nowhere", board) == []


# Every kind, in a page of its own


def gallery() -> list[Figure]:
    """Every kind of chart, with hostile names."""
    hostile = [
        Point(HOSTILE, p.variant, p.family, p.cost, None, p.score, None, p.front)
        for p in made_up(3, 1)
    ]
    variants = list(VARIANTS)
    spokes = [
        Spoke(f"{HOSTILE} {n}", "gguf", axis, 0.1 * n - 0.05, f"{10 * n} % (1 to 90)")
        for n in range(5)
        for axis in ("Knowledge", "Reasoning", "Code", "Multilingual", "Safety")
    ]
    effects = [
        Effect(v, VARIANTS[v], task, -n, (-n - 2.0, -n + 2.0), 1.0, "percentage points")
        for task in ("All tasks together", "<b>ARC</b>")
        for n, v in enumerate(variants[1:])
    ]
    found = [bar(0.2 + n / 20, v, HOSTILE) for n, v in enumerate(variants)]
    other = [bar(0.3 + n / 20, v, "Other") for n, v in enumerate(variants)]
    return [
        scatter(hostile + made_up(40), MEMORY, "Score against memory", "few"),
        scatter(made_up(500), MEMORY, "Score against memory", "many"),
        bars(found + other, SHARE, SHARE.heading, "best"),
        scores([(SHARE, found), (LESS, found)], "Scores", "scores"),
        radar(spokes, "Categories", "radar"),
        impact(effects, "Differences", "impact"),
    ]


KINDS = ("few", "many", "best", "scores", "radar", "impact")

PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Charts</title>
<meta name="viewport" content="width=device-width">
<link rel="stylesheet" href="assets/site.css"><link rel="stylesheet" href="assets/charts.css">
<style>
body {{ --md-default-bg-color: #fff; --md-typeset-a-color: #00695c; color: #222; }}
body {{ background: var(--md-default-bg-color); font-family: sans-serif; margin: 16px; }}
body[data-md-color-scheme=slate] {{ --md-default-bg-color: #1e2129; color: #ddd; }}
a {{ color: var(--md-typeset-a-color); }}
</style>
<body data-md-color-scheme="default"><main class="md-typeset"><h1>Charts</h1>
<div class="slm-charts">{figures}</div></main>
<script src="assets/shared.js"></script>
<script src="assets/charts.js"></script>"""


@pytest.fixture(scope="module")
def page_of_all(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with every kind of chart, as the site's pages hold them."""
    folder = tmp_path_factory.mktemp("gallery")
    package = Path(slm_benchmark.site.__file__).parent
    shutil.copytree(package / "assets", folder / "assets")
    (folder / "assets" / "vega.js").write_text(vega_bundle(), encoding="utf-8")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(package / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    macros = environment.get_template("_chart.html.j2").module
    drawn = "".join(str(macros.figure(figure)) for figure in gallery())  # type: ignore[attr-defined]
    path = folder / "all.html"
    path.write_text(PAGE.format(figures=drawn), encoding="utf-8")
    return path


SCHEME = "scheme => document.body.dataset.mdColorScheme = scheme"


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_a_name_a_description_and_a_table(
    browser: Browser, page_of_all: Path, kind: str
) -> None:
    with Visit(browser, java_script_enabled=False) as visit:
        page = visit.open(page_of_all)
        figure = page.locator(f"figure#{kind}")
        svg = figure.locator(".slm-drawing > svg")
        assert svg.is_visible()
        assert svg.get_attribute("role") == "img"
        assert svg.get_attribute("aria-label")
        says = page.locator(f"#{svg.get_attribute('aria-describedby')}")
        assert re.search(r"\d", says.inner_text())
        assert not figure.locator(".slm-tools").is_visible()
        assert not figure.locator("table").is_visible()
        figure.locator("summary").click()
        assert figure.locator("table").is_visible()
        rows = figure.locator("tbody tr").count()
        assert 0 < rows <= 100
        cells = figure.locator("tbody :is(td, th)").all_inner_texts()
        assert all(cell.strip() for cell in cells)
        assert not {"NaN", "None", "null", "undefined"} & set(" ".join(cells).split())
        if kind == "many":
            assert rows == 100
            assert figure.locator("a[href='api/v1/leaderboard.csv']").count() == 1


@pytest.mark.parametrize("kind", KINDS)
def test_the_dark_scheme_recolors_every_kind(
    browser: Browser, page_of_all: Path, kind: str
) -> None:
    colors = f"""() => {{
        const svg = document.querySelector("#{kind} .slm-drawing svg");
        const marks = [...svg.querySelectorAll(":is(path, line, text)")];
        return marks.map(mark => getComputedStyle(mark)).map(style => [style.fill, style.stroke]);
    }}"""
    with Visit(browser) as visit:
        page = visit.open(page_of_all)
        light = page.evaluate(colors)
        page.evaluate(SCHEME, "slate")
        dark = page.evaluate(colors)
        assert len(light) == len(dark) > 20
        assert all(before != after for before, after in zip(light, dark, strict=True))
        # Drawn again, it follows too.
        page.locator(f"#{kind} .slm-drawing").focus()
        page.wait_for_selector(f"#{kind}[data-live] svg")
        live = page.locator(f"#{kind} .slm-drawing svg")
        assert live.get_attribute("role") == "img"
        assert live.get_attribute("aria-describedby") == f"{kind}-says"
        text = page.locator(f"#{kind} .slm-drawing text").first
        in_dark = text.evaluate("e => getComputedStyle(e).fill")
        page.evaluate(SCHEME, "default")
        assert text.evaluate("e => getComputedStyle(e).fill") != in_dark


def saved(page: Page, kind: str, what: str, folder: Path) -> Path:
    """A download of a figure, which leaves nothing behind."""
    page.evaluate("""() => {
        window.open_urls = new Set();
        const [create, revoke] = [URL.createObjectURL, URL.revokeObjectURL];
        URL.createObjectURL = blob => { const url = create(blob); open_urls.add(url); return url; };
        URL.revokeObjectURL = url => { open_urls.delete(url); revoke(url); };
    }""")
    with page.expect_download() as download:
        page.locator(f"#{kind} [data-download={what}]").click()
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    page.wait_for_function("open_urls.size === 0")
    assert page.locator("script[src$='vega.js']").count() == 0
    return path


@pytest.mark.parametrize("scheme", ["default", "slate"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_downloaded_svg_has_literal_colors(
    browser: Browser, page_of_all: Path, tmp_path: Path, kind: str, scheme: str
) -> None:
    with Visit(browser) as visit:
        page = visit.open(page_of_all)
        page.evaluate(SCHEME, scheme)
        path = saved(page, kind, "svg", tmp_path)
    assert path.name == f"{kind}.svg"
    text = path.read_text(encoding="utf-8")
    assert "var(" not in text
    assert "currentColor" not in text
    root = ElementTree.fromstring(text)
    background = root.find(f"{SVG}rect")
    assert background is not None
    assert background.get("fill") == ("#ffffff" if scheme == "default" else "#1e2129")
    colors = {e.get(name) for e in root.iter() for name in ("fill", "stroke")} - {None, "none"}
    assert all(re.fullmatch("#[0-9a-f]{6}|transparent", str(color)) for color in colors), colors
    assert root.findtext(f"{SVG}desc")


@pytest.mark.parametrize("kind", KINDS)
def test_a_downloaded_png_shows_the_chart(
    browser: Browser, page_of_all: Path, tmp_path: Path, kind: str
) -> None:
    with Visit(browser) as visit:
        page = visit.open(page_of_all)
        path = saved(page, kind, "png", tmp_path)
        size = page.locator(f"#{kind} .slm-drawing svg").evaluate(
            "svg => [svg.viewBox.baseVal.width, svg.viewBox.baseVal.height]"
        )
        data_url = page.evaluate(
            """async bytes => {
                const image = await createImageBitmap(new Blob([new Uint8Array(bytes)]));
                const canvas = new OffscreenCanvas(image.width, image.height);
                const pen = canvas.getContext("2d");
                pen.drawImage(image, 0, 0);
                const pixels = new Uint32Array(
                    pen.getImageData(0, 0, image.width, image.height).data.buffer);
                return {size: [image.width, image.height], colors: new Set(pixels).size};
            }""",
            list(path.read_bytes()),
        )
    assert path.name == f"{kind}.png"
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert data_url["size"] == [2 * side for side in size]
    assert data_url["colors"] > 20


@pytest.mark.parametrize("kind", KINDS)
def test_a_downloaded_specification_draws_elsewhere(
    browser: Browser, page_of_all: Path, tmp_path: Path, kind: str
) -> None:
    with Visit(browser) as visit:
        path = saved(visit.open(page_of_all), kind, "json", tmp_path)
    assert path.name == f"{kind}.vl.json"
    text = path.read_text(encoding="utf-8")
    assert "var(" not in text
    assert '"currentColor"' not in text
    spec = json.loads(text)
    assert spec["background"] == "#ffffff"
    svg = vl_convert.vegalite_to_svg(spec)
    ElementTree.fromstring(svg)
    assert svg.count("<path") + svg.count("<line") > 20


@pytest.mark.parametrize("scheme", ["default", "slate"])
def test_the_charts_have_no_barriers(browser: Browser, page_of_all: Path, scheme: str) -> None:
    with Visit(browser, viewport={"width": 390, "height": 844}) as visit:
        page = visit.open(page_of_all)
        page.evaluate(SCHEME, scheme)
        page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        page.locator("#radar .slm-drawing").focus()
        page.wait_for_selector("#radar[data-live] svg")
        assert "\n".join(violations(page)) == ""


def test_on_a_phone_every_chart_is_readable_without_scrolling(
    browser: Browser, page_of_all: Path
) -> None:
    with Visit(browser, viewport={"width": 390, "height": 844}) as visit:
        page = visit.open(page_of_all)
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        for kind in KINDS:
            drawing = page.locator(f"#{kind} .slm-drawing")
            assert drawing.evaluate("e => e.scrollWidth <= e.clientWidth"), kind
            heights = page.locator(f"#{kind} .slm-drawing text").evaluate_all(
                "texts => texts.map(text => text.getBoundingClientRect().height)"
            )
            assert min(heights) > 8, kind


def test_hostile_names_stay_text(browser: Browser, page_of_all: Path) -> None:
    with Visit(browser) as visit:
        page = visit.open(page_of_all)
        assert page.locator("main script").count() == 0
        texts = page.locator("#best .slm-drawing text").all_text_contents()
        assert any("<script>" in text for text in texts) or any("Evil" in text for text in texts)
        # Nothing invisible reverses what follows it, and names keep their direction to themselves.
        assert not any("\u202e" in text for text in texts)
        assert all(t.count("\u2068") == t.count("\u2069") for t in texts)
        page.locator("#best summary").click()
        shown = page.locator("#best tbody th bdi").first.inner_text()
        assert "<script>alert('x')</script>" in " ".join(
            page.locator("#best tbody th").all_inner_texts()
        ), shown
        for kind in KINDS:
            page.locator(f"#{kind} .slm-drawing").focus()
            page.wait_for_selector(f"#{kind}[data-live] svg")


def test_pointing_at_a_mark_tells_its_numbers(browser: Browser, page_of_all: Path) -> None:
    with Visit(browser) as visit:
        page = visit.open(page_of_all)
        assert page.locator("script[src$='vega.js']").count() == 0
        page.locator("#impact .slm-drawing").hover()
        page.wait_for_selector("#impact[data-live] svg")
        page.locator("#impact .mark-symbol.role-mark path").first.hover(force=True)
        tooltip = page.wait_for_selector("#vg-tooltip-element.visible")
        assert tooltip
        assert "All tasks together" in tooltip.inner_text()


# What the page that compares fills in


def test_the_specifications_to_be_filled_draw_what_they_are_given() -> None:
    axes = ("A", "B", "C")
    spoke = [
        {"series": s, "axis": a, "angle": 2.0944 * k, "share": 0.5, "x": 0.1, "y": 0.2, "text": "t"}
        for s in ("one", "two")
        for k, a in enumerate(axes)
    ]
    values = [
        {"task": t, "series": s, "value": 50, "low": 40, "high": 60, "text": "50"}
        for t in axes
        for s in ("one", "two", "three", "four")
    ]
    for text, given in ((radar_spec(), spoke), (compare_bars_spec(), values)):
        spec = json.loads(text)
        assert spec["data"] == {"values": []}
        svg = vl_convert.vegalite_to_svg({**spec, "data": {"values": given}})
        for name in {value["series"] for value in given}:
            assert f">{name}<" in svg
        for n in range(1, len({value["series"] for value in given}) + 1):
            assert f"var(--slm-series-{n})" in svg


@pytest.mark.parametrize("scheme", ["default", "slate"])
def test_the_colors_stand_out_from_the_page(
    browser: Browser, page_of_all: Path, scheme: str
) -> None:
    names = [f"series-{n}" for n in range(1, 7)] + ["base", "gptq", "awq", "gguf"]
    with Visit(browser) as visit:
        page = visit.open(page_of_all)
        page.evaluate(SCHEME, scheme)
        style = "n => getComputedStyle(document.body).getPropertyValue(n).trim()"
        background = luminance(page.evaluate(style, "--md-default-bg-color"))
        for name in names:
            light = luminance(page.evaluate(style, f"--slm-{name}"))
            high, low = max(light, background), min(light, background)
            assert (high + 0.05) / (low + 0.05) >= 3, name


def luminance(color: str) -> float:
    """Relative luminance of WCAG 2."""
    text = color.lstrip("#")
    text = "".join(2 * c for c in text) if len(text) == 3 else text
    parts = [int(text[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


# The built page


def test_the_page_of_charts_follows_the_toggle_and_holds_every_protocol(
    browser: Browser, site: Path, board: Leaderboard
) -> None:
    with Visit(browser, color_scheme="light") as visit:
        page = visit.open(site / "charts.html")
        figures = page.locator("figure.slm-chart")
        expected = sum(
            len(figures_of(chart_groups(section_of(board, protocol), board)))
            for protocol in ("full", "demo")
        )
        assert figures.count() == expected > 10
        ids = page.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
        assert len(ids) == len(set(ids))
        color = "e => getComputedStyle(e).fill"
        text = figures.first.locator("svg text").first
        light = text.evaluate(color)
        page.click("label[title='Switch to the dark scheme']")
        page.wait_for_selector("body[data-md-color-scheme=slate]")
        assert text.evaluate(color) != light
        assert violations(page, within=".md-content") == []
