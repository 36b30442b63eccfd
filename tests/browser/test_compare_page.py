"""The page that compares rows side by side, in a real browser."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, Route, expect
from scipy.stats import binomtest

from slm_benchmark.common.paths import ROOT
from slm_benchmark.common.schemas import schema, write_record
from slm_benchmark.site import REPORT, build_site
from tests.support.axe import violations
from tests.support.sites import (
    HOSTILE,
    NAMES,
    Visit,
    serving,
    synthetic_leaderboard,
    write_leaderboard,
)

Row = dict[str, Any]

BASE = "alpha-135m/base/local"
GPTQ = "alpha-135m/gptq-4bit/local"
AWQ = "alpha-135m/awq-4bit/local"
BASE_T4 = "alpha-135m/base/t4"
EVIL = "evil-1b/base/local"
EVIL_GPTQ = "evil-1b/gptq-4bit/local"
ZETA = "zeta-3.8b/base/local"
FLOOR = "a difference of 1.0 points is within the numerical noise floor of 1.5"


def paired(task: str, difference: float, ci95: list[float], n: int, **more: Any) -> Row:
    """A task of the report whose difference has an interval."""
    return {
        "task": task,
        "title": task.upper(),
        "unit": "share",
        "n": n,
        "base": 0.4,
        "value": 0.4 + difference,
        "difference": difference,
        "ci95": ci95,
        "ci_method": "tango",
        "p": 0.04,
        "p_method": "mcnemar",
        "p_holm": 0.08,
        "right_to_wrong": 3,
        "wrong_to_right": 1,
        "discordance": 0.1,
        "smallest_detectable_loss": 0.06,
        "noise_floor": None,
        "below_noise_floor": None,
        "finding": "no_measurable_loss",
        "statement": f"a statement <b>about</b> {task}",
        "reason": None,
        "notes": [],
        "records": ["results/a.json", "results/b.json"],
        **more,
    }


PAIRS = {
    "arc_challenge": paired("arc_challenge", 0.06, [0.022, 0.098], 400),
    "hellaswag": paired("hellaswag", 0.021, [-0.004, 0.046], 400),
    "mmlu": paired(
        "mmlu",
        -0.01,
        [-0.019, -0.001],
        1400,
        noise_floor=0.015,
        below_noise_floor=True,
        finding="below_noise_floor",
        statement=FLOOR,
    ),
    "bold": paired("bold", 0.05, [0.01, 0.09], 60),
}


def report() -> Row:
    """The quantization report of a model: one variant beside its base, on one machine."""
    facts = {
        "engine": "transformers",
        "size_bytes": 90_000_000,
        "effective_bits_per_weight": 4.85,
        "sha256": "f" * 64,
    }
    pooled = dict.fromkeys(schema("quantization")["$defs"]["pooled"]["required"])
    pooled |= {"tasks": [], "left_out": [], "statement": "nothing is pooled"}
    unknown = {"value": None, "ci95": None, "reason": "not measured"}
    distances = ("kl_mean_nats", "kl_median_nats", "kl_p99_nats", "top_token_agreement")
    fidelity = {"tokens": None, "text": None, "metrics": dict.fromkeys(distances, unknown)}
    variant = {**facts, "tasks": [*PAIRS.values()], "pooled": pooled, "fidelity": fidelity}
    group = {
        "hardware": "local",
        "protocol": "demo",
        "base": {"variant": "base", **facts},
        "variants": [{"variant": "gptq-4bit", **variant}],
    }
    return {
        "schema_version": 1,
        "kind": "quantization",
        "model": "alpha-135m",
        "alpha": 0.05,
        "power": 0.8,
        "groups": [group],
    }


def leaderboard() -> Row:
    """The synthetic one with three categories, of which the awq variants have a score of two."""
    board = synthetic_leaderboard()
    for protocol in board["protocols"].values():
        protocol["counted"] = {"reasoning": ["arc_challenge"], "math": ["mmlu"], "safety": ["bold"]}
    for row in board["rows"]:
        overall = row["overall"]
        nothing = {"value": None, "ci95": None, "reason": "no score for bold"}
        math = overall if overall["value"] is None else {**overall, "value": overall["value"] / 2}
        safety = {**overall, **nothing} if row["variant"] == "awq-4bit" else overall
        row["categories"] = {"reasoning": overall, "math": math, "safety": safety}
    return board


@pytest.fixture(scope="module")
def rows() -> dict[str, Row]:
    """The rows of protocol demo, by what names them in an address."""
    found = leaderboard()["rows"]
    return {
        f"{row['model']}/{row['variant']}/{row['hardware']}": row
        for row in found
        if row["protocol"] == "demo"
    }


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site with one quantization report, below a folder as on a server."""
    folder = tmp_path_factory.mktemp("compare")
    path = write_leaderboard(folder, leaderboard())
    write_record(folder / "reports" / "alpha-135m" / REPORT, report(), "quantization")
    build_site(path, folder / "www" / "slm-benchmark", ROOT / "docs", folder / "reports")
    return folder / "www" / "slm-benchmark"


@pytest.fixture(scope="module")
def server(site: Path) -> Iterator[str]:
    """The address of the site on a server, in a folder of it."""
    with serving(site.parent) as address:
        yield f"{address}/slm-benchmark/"


class Comparison(Visit):
    """A visit of the page, from a folder or from a server of this machine."""

    def __init__(self, browser: Browser, root: Path | str, **options: Any) -> None:
        self.root = f"{root.as_uri()}/" if isinstance(root, Path) else root
        super().__init__(browser, **options)

    def _route(self, route: Route) -> None:
        if route.request.url.startswith(self.root):
            route.continue_()
        else:
            super()._route(route)

    def compare(self, *rows: str, protocol: str = "demo", more: str = "") -> Page:
        """Open the page with some rows, and wait until all of their values are there."""
        self.page.goto("about:blank")  # an address that differs after its # loads nothing
        chosen = f"&rows={','.join(rows)}" if rows else ""
        self.page.goto(f"{self.root}compare.html#protocol={protocol}{chosen}{more}")
        if rows:
            expect(self.page.locator("[data-quantity='task:mmlu']")).to_be_visible()
        return self.page


def chosen(page: Page) -> list[str]:
    """The columns of the table: variant and machine."""
    return page.locator(".slm-comparison thead th small:first-of-type").all_inner_texts()


def search_box(page: Page) -> Locator:
    return page.get_by_role("combobox", name="Add a model variant")


def options_of(page: Page) -> Locator:
    return page.get_by_role("listbox", name="Model variants").get_by_role("option")


def asked(page: Page) -> str:
    """What the address says."""
    return page.url.partition("#")[2]


def cell(page: Page, quantity: str, column: int) -> Locator:
    """The cell of a quantity; columns count from 0, the reference."""
    return page.locator(f"[data-quantity='{quantity}'] td").nth(column)


def numbers(text: str) -> list[float]:
    return [float(found.replace("−", "-")) for found in re.findall(r"[−+]?[\d.]+", text)]


def difference(page: Page, quantity: str, column: int = 1) -> tuple[list[float], str, str]:
    """What stands under a value: difference and limits, the verdict, and its basis."""
    below = cell(page, quantity, column).locator("p")
    return (
        numbers(below.locator("> span").inner_text()),
        below.locator("strong").inner_text(),
        below.locator("small").inner_text().partition(" · ")[0],
    )


def square_and_add(a: Row, b: Row, factor: float = 100) -> list[float]:
    """Difference of two independent scores and its limits, times ``factor``."""
    (x, (low, high)), (y, (lowest, highest)) = [(s["value"], s["ci95"]) for s in (a, b)]
    return [
        factor * (x - y),
        factor * (x - y - math.hypot(x - low, highest - y)),
        factor * (x - y + math.hypot(high - x, y - lowest)),
    ]


# Differences


def test_square_and_add_gives_newcombes_published_interval() -> None:
    first, second = (
        {"value": found / n, "ci95": [*binomtest(found, n).proportion_ci(method="wilson")]}
        for found, n in ((56, 70), (48, 80))  # table II of Newcombe 1998, method 10
    )
    expected = [0.2, 0.0524, 0.3339]
    assert square_and_add(first, second, factor=1) == pytest.approx(expected, abs=5e-5)


def test_scores_of_two_models_differ_by_square_and_add(
    browser: Browser, site: Path, rows: dict[str, Row]
) -> None:
    with Comparison(browser, site) as visit:
        page = visit.compare(BASE, EVIL, ZETA)
        for column, other in ((1, EVIL), (2, ZETA)):
            for task, less in (("arc_challenge", False), ("hellaswag", False), ("bold", True)):
                expected = square_and_add(*(rows[r]["scores"][task] for r in (other, BASE)))
                shown, verdict, basis = difference(page, f"task:{task}", column)
                assert shown == pytest.approx(expected, abs=0.06)
                within = expected[1] <= 0 <= expected[2]
                better = (expected[0] > 0) is not less
                words = "significantly better" if better else "significantly worse"
                assert verdict.removeprefix("▲ ").removeprefix("▼ ") == (
                    "not significantly different" if within else words
                )
                assert verdict.startswith("▲") is (not within and better)
                assert basis == "independent samples"
            expected = square_and_add(rows[other]["overall"], rows[BASE]["overall"])
            assert difference(page, "overall", column)[0] == pytest.approx(expected, abs=0.06)
        verdicts = page.locator("[data-quantity^='task:'] strong").all_inner_texts()
        assert {
            "not significantly different",
            "▲ significantly better",
            "▼ significantly worse",
        } <= {*verdicts}


def test_a_variant_and_its_base_differ_as_the_report_says(browser: Browser, site: Path) -> None:
    expected = {
        "arc_challenge": ([6.0, 2.2, 9.8], "▲ significantly better", "paired, n = 400 questions"),
        "hellaswag": ([2.1, -0.4, 4.6], "not significantly different", "paired, n = 400 questions"),
        "mmlu": ([-1.0, -1.9, -0.1], "within the noise floor", "paired, n = 1,400 questions"),
        "bold": ([5.0, 1.0, 9.0], "▼ significantly worse", "paired, n = 60 questions"),
    }
    with Comparison(browser, site) as visit:
        page = visit.compare(BASE, GPTQ)
        for task, found in expected.items():
            assert difference(page, f"task:{task}") == found
        note = re.search(r"note (\d+)", cell(page, "task:mmlu", 1).locator("p").inner_text())
        assert note
        assert (
            page.get_by_role("list", name="Notes").locator("li").nth(int(note[1]) - 1).inner_text()
            == FLOOR
        )
        # Seen from the variant: the same questions, the other sign.
        page = visit.compare(GPTQ, BASE, BASE_T4)
        assert difference(page, "task:arc_challenge")[0] == [-6.0, -9.8, -2.2]
        assert difference(page, "task:arc_challenge")[1] == "▼ significantly worse"
        # The base of another machine is not the one that the report paired.
        assert difference(page, "task:arc_challenge", 2)[2] == "independent samples"


def test_speeds_compare_as_ratios_on_one_machine_only(
    browser: Browser, site: Path, rows: dict[str, Row]
) -> None:
    key = "generation_throughput_tokens_per_s"
    with Comparison(browser, site) as visit:
        page = visit.compare(BASE, GPTQ, BASE_T4)
        speeds = [rows[r]["performance"][key] for r in (GPTQ, BASE)]
        logs: list[Row] = [
            {"value": math.log(s["value"]), "ci95": [math.log(x) for x in s["ci95"]]}
            for s in speeds
        ]
        expected = [math.exp(x) for x in square_and_add(logs[0], logs[1], factor=1)]
        shown, verdict, basis = difference(page, key)
        assert shown == pytest.approx(expected, rel=0.005)
        assert verdict == "▲ significantly better"
        assert basis == "ratio to the reference, same machine"
        assert difference(page, "ttft_ms")[1] == "▼ significantly worse"
        assert "not compared: different machines" in cell(page, key, 2).inner_text()
        assert cell(page, key, 2).locator("[data-verdict]").count() == 0
        energy = cell(page, "energy_mwh_per_token", 1)  # estimated for one, measured for the other
        assert "not compared: energy comes from a different source" in energy.inner_text()
        sizes = [rows[r]["size_bytes"] for r in (GPTQ, BASE)]
        shown, verdict, basis = difference(page, "size_bytes")
        assert shown == pytest.approx([sizes[0] / sizes[1]], rel=0.005)
        assert (verdict, basis) == ("", "ratio to the reference, no measurement error")


def test_there_is_no_verdict_without_an_interval_or_on_other_tasks(
    browser: Browser, site: Path
) -> None:
    with Comparison(browser, site) as visit:
        page = visit.compare(BASE, AWQ, EVIL_GPTQ)
        expect(cell(page, "overall", 1)).to_contain_text("the scores cover different tasks")
        assert "failed" in cell(page, "task:hellaswag", 2).inner_text()
        assert HOSTILE in str(cell(page, "task:hellaswag", 2).text_content())
        assert "not run" in cell(page, "task:gsm8k", 0).inner_text()
        assert "no record yet" in cell(page, "task:gsm8k", 0).inner_text()
        page = visit.compare(EVIL_GPTQ, EVIL)
        assert "the reference has no value" in cell(page, "task:hellaswag", 1).inner_text()
        assert not re.search(r"NaN|undefined|null|Infinity", page.locator("article").inner_text())


def test_only_what_is_significant_can_be_shown_and_sections_close(
    browser: Browser, site: Path
) -> None:
    with Comparison(browser, site) as visit:
        page = visit.compare(BASE, GPTQ)
        steps = page.evaluate("history.length")
        page.get_by_label("Only rows with a significant difference").check()
        expect(page.locator("[data-quantity='task:hellaswag']")).to_have_count(0)
        expect(page.locator("[data-quantity='task:arc_challenge']")).to_be_visible()
        expect(page.locator("[data-quantity=size_bytes]")).to_be_visible()
        page.get_by_role("button", name="Performance").click()
        expect(page.locator("[data-quantity=ttft_ms]")).to_have_count(0)
        expect(page.get_by_role("button", name="Performance")).to_be_focused()
        only = "only=beyond-noise&closed=performance"
        assert asked(page) == f"protocol=demo&rows={BASE},{GPTQ}&{only}"
        assert page.evaluate("history.length") == steps
        page.reload()
        expect(page.locator("[data-quantity='task:arc_challenge']")).to_be_visible()
        expect(page.locator("[data-quantity=ttft_ms]")).to_have_count(0)
        expect(page.get_by_role("button", name="Performance")).to_have_attribute(
            "aria-expanded", "false"
        )


# Choosing


@pytest.mark.parametrize("place", ["folder", "server"])
def test_the_address_brings_a_comparison_again(
    browser: Browser, site: Path, server: str, place: str
) -> None:
    with Comparison(browser, site if place == "folder" else server) as visit:
        page = visit.compare()
        field = search_box(page)
        for typed in ("alpha base local", "zeta base"):
            field.fill(typed)
            options_of(page).first.click()
        both = ["base · local aaaaaa", "base · local aaaaaa"]
        expect(page.locator(".slm-comparison thead th small:first-of-type")).to_have_count(2)
        assert chosen(page) == both
        assert asked(page) == f"protocol=demo&rows={BASE},{ZETA}"
        page.reload()
        expect(page.locator("[data-quantity='task:mmlu']")).to_be_visible()
        assert chosen(page) == both
        page.get_by_role("button", name=re.compile("^Make reference: Zeta")).click()
        expect(page.locator(".slm-comparison thead th").nth(1)).to_contain_text("Zeta reference")
        assert asked(page) == f"protocol=demo&rows={ZETA},{BASE}"
        page.get_by_role("button", name=re.compile("^Remove Zeta")).click()
        expect(page.locator(".slm-comparison thead th small:first-of-type")).to_have_count(1)
        assert asked(page) == f"protocol=demo&rows={BASE}"
        expect(page.get_by_role("status")).to_contain_text("is removed")
        page.go_back()
        expect(page.locator(".slm-comparison thead th").nth(1)).to_contain_text("Zeta reference")
        expect(page.get_by_role("status")).to_be_empty()
        page.go_back()
        expect(page.locator(".slm-comparison thead th").nth(2)).to_contain_text("Zeta reference")
        page.go_forward()
        expect(page.locator(".slm-comparison thead th").nth(1)).to_contain_text("Zeta reference")
        link = page.locator(".slm-chosen a").first
        assert link.evaluate("a => a.href") == f"{visit.root}models/zeta-3.8b.html"
        page.select_option("select", "full")
        expect(page.locator("[data-part=protocol-label]")).to_contain_text("Full sets")
        assert asked(page) == f"rows={ZETA},{BASE}"


def test_four_are_the_most(browser: Browser, site: Path) -> None:
    with Comparison(browser, site) as visit:
        page = visit.compare(BASE, GPTQ, EVIL)
        field = search_box(page)
        field.fill("zeta base")
        field.press("Enter")
        expect(field).to_be_disabled()
        expect(page.locator("#slm-hint")).to_contain_text("Four rows are the maximum")
        expect(page.get_by_role("status")).to_contain_text("Four is the maximum")
        added = page.get_by_role("button", name=re.compile("^Make reference: Zeta"))
        expect(added).to_be_focused()
        assert len(chosen(page)) == 4
        page = visit.compare(BASE, GPTQ, EVIL, ZETA, BASE_T4)
        assert len(chosen(page)) == 4
        expect(page.get_by_role("alert")).to_contain_text(
            f"Up to four rows are compared; left out: {BASE_T4}."
        )
        page.get_by_role("button", name=re.compile("^Remove Zeta")).click()
        expect(field).to_be_enabled()


def test_unknown_rows_are_named_and_left_out(browser: Browser, site: Path) -> None:
    with Comparison(browser, site) as visit:
        unknown = "nobody/base/local,%3Cimg%20src=x%3E,alpha-135m"
        page = visit.compare(BASE, unknown, GPTQ)
        assert len(chosen(page)) == 2
        expect(page.get_by_role("alert")).to_have_text(
            "Not among the rows of protocol demo: nobody/base/local, <img src=x>, alpha-135m."
        )
        page = visit.compare(BASE, protocol="nothing")
        expect(page.get_by_role("alert")).to_contain_text("There is no protocol nothing")
        assert page.input_value("select") == "full"


def test_the_keyboard_is_enough(browser: Browser, site: Path) -> None:
    with Comparison(browser, site) as visit:
        page = visit.compare()
        field = search_box(page)
        field.focus()
        options = options_of(page)
        page.keyboard.press("ArrowDown")
        expect(field).to_have_attribute("aria-expanded", "true")
        page.keyboard.press("ArrowDown")
        active = str(field.get_attribute("aria-activedescendant"))
        expect(page.locator(f"#{active}")).to_have_attribute("aria-selected", "true")
        page.keyboard.press("ArrowUp")
        expect(options.last).to_have_attribute("aria-selected", "true")
        page.keyboard.press("Escape")
        expect(field).to_have_attribute("aria-expanded", "false")
        for typed in ("apha base local", "zeta awq", "zeta q8"):  # the first with a letter missing
            page.keyboard.type(typed)
            expect(options).to_have_count(1)
            page.keyboard.press("Enter")
            expect(field).to_be_focused()
            expect(field).to_have_value("")
        expect(page.get_by_role("status")).to_contain_text("is added")
        expect(page.locator("[data-quantity='task:mmlu']")).to_be_visible()
        assert chosen(page)[1:] == ["awq-4bit · local aaaaaa", "gguf-q8_0 · local aaaaaa"]
        page.keyboard.type("nothing like it")
        expect(page.get_by_role("status")).to_contain_text("matches “nothing like it”")
        page.keyboard.press("Escape")
        for _ in range(6):  # link, reference, remove of the first; then of the second
            page.keyboard.press("Tab")
        for variant in ("Zeta.*awq", "Zeta.*q8_0", "Alpha"):
            focused = page.locator(":focus")
            expect(focused).to_have_attribute("aria-label", re.compile(f"Remove {variant}"))
            page.keyboard.press("Enter")
        expect(field).to_be_focused()
        expect(page.locator("[data-part=result]")).to_be_hidden()


def test_hostile_names_are_text(browser: Browser, site: Path) -> None:
    with Comparison(browser, site) as visit:
        page = visit.compare(EVIL, EVIL_GPTQ)
        assert page.locator(".slm-chosen bdi").first.text_content() == HOSTILE
        assert page.locator(".slm-comparison thead bdi").first.text_content() == HOSTILE
        search_box(page).fill("evil q8")
        assert page.locator("[role=option] bdi").first.text_content() == HOSTILE
        assert (
            page.locator(
                ":is(.slm-chosen, .slm-comparison, #slm-options) :is(script, img, b, i)"
            ).count()
            == 0
        )


# Surroundings


def test_without_javascript_the_page_says_where_the_numbers_are(
    browser: Browser, site: Path
) -> None:
    with Comparison(browser, site, java_script_enabled=False) as visit:
        page = visit.page
        page.goto(f"{visit.root}compare.html")
        assert page.get_by_text("needs JavaScript").is_visible()
        assert page.locator(".slm-label a[href='models.html']").is_visible()
        assert page.locator(".slm-label a[href='api/v1/leaderboard.csv']").is_visible()
        assert not page.locator(".slm-comparing").is_visible()


def test_four_columns_fit_a_phone(browser: Browser, site: Path) -> None:
    with Comparison(browser, site, viewport={"width": 390, "height": 844}) as visit:
        page = visit.compare(BASE, GPTQ, EVIL, ZETA)
        page.wait_for_selector("[data-part=bars] svg")
        widths = "() => [document.documentElement.scrollWidth, document.body.scrollWidth]"
        assert page.evaluate(widths) == [390, 390]
        frame = page.get_by_role("region", name="Table: comparison")
        head = page.locator("[data-quantity='task:mmlu'] th")
        frame.focus()
        before = head.bounding_box()
        frame.evaluate("e => e.scrollBy(e.scrollWidth, 0)")
        assert frame.evaluate("e => e.scrollLeft") > 0
        assert head.bounding_box() == before, "the first column stays in place"
        last = cell(page, "task:mmlu", 3).bounding_box()
        assert last
        assert last["x"] + last["width"] <= 390
        field = page.get_by_role("button", name=re.compile("^Remove Zeta")).bounding_box()
        assert field
        assert field["height"] >= 24


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_no_barrier_is_found(browser: Browser, server: str, scheme: Any, width: int) -> None:
    size = {"width": width, "height": 900}
    with Comparison(browser, server, color_scheme=scheme, viewport=size) as visit:
        page = visit.compare()
        assert violations(page) == []
        page = visit.compare(BASE, GPTQ, EVIL_GPTQ, more=",nobody/base/local")
        page.wait_for_selector("[data-part=bars] svg")
        search_box(page).fill("zeta")
        expect(options_of(page).first).to_be_visible()
        assert violations(page) == []


def test_charts_show_the_chosen_rows_and_follow_the_scheme(browser: Browser, site: Path) -> None:
    colors = """() => {
        const style = e => getComputedStyle(e);
        const all = [...document.querySelectorAll("[data-part=bars] svg *")];
        const used = name => all.find(e =>
            [e.getAttribute("fill"), e.getAttribute("stroke")].some(c => c?.includes(name)));
        return [style(document.querySelector("[data-part=radar] svg text")).fill,
                style(used("--slm-series-1")).fill, style(used("--slm-series-2")).fill,
                style(document.querySelector(".slm-swatch")).borderTopColor];
    }"""
    with Comparison(browser, site, color_scheme="light") as visit:
        page = visit.compare(BASE, EVIL)
        page.wait_for_selector("[data-part=bars] svg")
        page.wait_for_selector("[data-part=radar] svg")
        for figure in ("radar", "bars"):
            drawing = page.locator(f"[data-part={figure}] [role=img]")
            assert NAMES["alpha-135m"] in str(drawing.get_attribute("aria-label"))
            assert page.locator(f"[data-part={figure}] script").count() == 0
        light = page.evaluate(colors)
        assert light[1] == light[3] != light[2]
        page.click("label[title='Switch to the dark scheme']")
        page.wait_for_selector("body[data-md-color-scheme=slate]")
        dark = page.evaluate(colors)
        assert all(before != after for before, after in zip(light, dark, strict=True))
        page = visit.compare(BASE, AWQ)
        expect(page.locator("[data-part=radar]")).to_contain_text(
            "A radar chart needs 3 categories in which every row has a score. Without Safety"
        )
        expect(page.locator("[data-part=radar] [role=img]")).to_be_hidden()
