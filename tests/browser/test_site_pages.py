"""The site, built from a synthetic leaderboard, looked at as files and in a real browser."""

from __future__ import annotations

import html
import json
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from slm_benchmark.common.errors import UserError
from slm_benchmark.common.files import read_yaml
from slm_benchmark.common.paths import ROOT
from slm_benchmark.leaderboard.board import metric_names
from slm_benchmark.site import build_site, formats
from slm_benchmark.site.metrics import METRICS
from slm_benchmark.site.redirects import REDIRECTS
from tests.support.sites import DISTURBED, HOSTILE, NAMES, TASKS, Visit, write_leaderboard


class Reader(HTMLParser):
    """Collects what a browser would load, link to and run."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.scripts: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        links = tag == "a" or ("rel", "canonical") in attrs
        for name, value in attrs:
            if name in {"src", "href", "srcset", "poster", "data", "xlink:href"} and value:
                (self.links if links else self.loads).append(value)
            assert not name.startswith("on"), f"an inline handler: {name}={value}"

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1] == "script":
            self.scripts.append(data)


def read_page(path: Path) -> Reader:
    reader = Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    return reader


def html_pages(site: Path) -> list[Path]:
    return sorted(site.rglob("*.html"))


# Files


def test_every_expected_page_exists(site: Path) -> None:
    expected = {"index.html", "compare.html", "charts.html", "models.html", "methodology.html"}
    expected |= {"data.html", "404.html"}
    expected |= {f"models/{model}.html" for model in NAMES}
    docs = [page.relative_to(ROOT) for page in (ROOT / "docs").rglob("*.md")]
    expected |= {page.with_suffix(".html").as_posix() for page in docs}
    expected |= {f"{old}.html" for old in read_yaml(ROOT / "docs" / REDIRECTS)}
    assert {page.relative_to(site).as_posix() for page in html_pages(site)} == expected


def test_every_quantity_of_a_record_is_a_column() -> None:
    assert sorted(metric.key for metric in METRICS) == sorted(metric_names())
    assert len({metric.title for metric in METRICS}) == len(METRICS)


def table(page: str, caption: str) -> list[list[tuple[str, str]]]:
    """The rows of the first table of that name: each cell as (its HTML, its text)."""
    found = re.search(rf'aria-label="Table: {caption}".*?</table>', page, re.DOTALL)
    assert found, caption
    cell = re.compile(r"<t[dh]\b[^>]*>.*?</t[dh]>", re.DOTALL)
    rows = [cell.findall(row) for row in found[0].split("<tr")[1:]]
    return [[(c, " ".join(re.sub(r"<[^>]*>", " ", c).split())) for c in row] for row in rows]


def test_the_methodology_states_the_rules_of_the_groups(site: Path) -> None:
    page = (site / "methodology.html").read_text("utf-8")
    assert "<strong>FLORES</strong>: it has no level of &lt;i&gt;chance&lt;/i&gt;" in page
    assert re.search(r"needs\s+50 % of its tasks, the overall\s+score 90 % of", page)
    assert re.search(r"leader is at most\s+5 %", page)
    assert 'id="groups-in-place-of-ranks"' in page


def test_levels_of_chance_are_numbers_or_words(site: Path) -> None:
    listed = {
        row[0][1]: row[5][1] for row in table((site / "methodology.html").read_text(), "tasks")
    }
    assert listed.pop("Column") == "Chance level"
    none = dict.fromkeys(("FLORES", "BOLD", "RATING"), "none")
    quarter = dict.fromkeys(("ARC_CHALLENGE", "HELLASWAG", "GSM8K"), "25.0")
    assert listed == {**none, **quarter, "MMLU": "by question"}


def test_no_cell_is_blank_or_reads_nan(site: Path) -> None:
    for page in html_pages(site):
        cells = re.findall(r"<t[dh]\b[^>]*>(.*?)</t[dh]>", page.read_text("utf-8"), re.DOTALL)
        texts = [re.sub(r"<[^>]*>", "", cell).strip() for cell in cells]
        assert "" not in texts, page
        words = {word for text in texts for word in re.findall(r"\w+", text)}
        # Prose may speak of such words: the page on data says what is not used.
        if page.name != "data.html" and "docs" not in page.parts:
            assert not words & {"NaN", "nan", "inf", "None", "null", "undefined"}, page


def test_hostile_metadata_is_text_everywhere(site: Path) -> None:
    for page in html_pages(site):
        text = page.read_text(encoding="utf-8")
        reader = read_page(page)
        assert "<script>alert" not in text, page
        assert not any("alert(" in script for script in reader.scripts), page
        assert "x" not in reader.loads, page
    evil = (site / "models" / "evil-1b.html").read_text(encoding="utf-8")
    heading = re.search(r"<h1[^>]*>(.*?)</h1>", evil, re.DOTALL)
    assert heading
    assert html.unescape(re.sub("</?bdi>", "", heading[1])) == HOSTILE
    search = json.loads((site / "search" / "search_index.json").read_text(encoding="utf-8"))
    assert not any("<script" in d["text"] + d["title"] for d in search["docs"])


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    for page in html_pages(site):
        reader = read_page(page)
        outside = [url for url in reader.loads if re.match(r"(?:[a-z]+:)?//", url)]
        assert outside == [], page
        for url in {u for u in reader.loads + reader.links if not re.match(r"[a-z]+:|#|/", u)}:
            path = (page.parent / url.split("#")[0].split("?")[0]).resolve()
            assert page.name == "404.html" or path.exists(), f"{page}: broken link {url}"
    for style in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*['\"]?(https?:)?//", style.read_text()), style


def test_the_methodology_lists_every_task_with_its_state(site: Path) -> None:
    page = (site / "methodology.html").read_text(encoding="utf-8")
    for task in TASKS:
        measured = task != "gsm8k"
        line = re.search(rf"<tr><th scope=\"row\">{task.upper()}</th>.*?</tr>", page, re.DOTALL)
        assert line
        assert ("not measured yet" in line[0]) is not measured
    assert "Of the 7 columns of the catalogue, 6 have" in re.sub(r"\s+", " ", page)
    assert "<strong>Peak memory, device</strong>: measured before this quantity" in page
    assert "the machine has no GPU" in page


def test_the_data_is_offered_as_it_is(site: Path, board: dict[str, Any]) -> None:
    api = site / "api" / "v1"
    assert json.loads((api / "leaderboard.json").read_text()) == board
    assert (api / "leaderboard.csv").is_file()
    assert "CC BY 4.0" in (site / "data.html").read_text()


def test_an_empty_leaderboard_builds_and_says_so(tmp_path: Path, board: dict[str, Any]) -> None:
    empty = {**board, "edition": "published", "rows": [], "models": {}}
    build_site(write_leaderboard(tmp_path, empty), tmp_path / "site", ROOT / "docs")
    index = (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    assert "no record has been published" in index
    assert "<table" not in index


def test_a_wrong_leaderboard_is_refused_and_the_old_site_stays(
    tmp_path: Path, board: dict[str, Any]
) -> None:
    target = tmp_path / "site"
    target.mkdir()
    (target / "index.html").write_text("old")
    wrong = {**board, "rows": [{**board["rows"][0], "model": "nobody"}]}
    with pytest.raises(UserError, match=r"leaderboard\.json: rows\.0\.model: .*'nobody'"):
        build_site(write_leaderboard(tmp_path, wrong), target, ROOT / "docs")
    escaping = {**board, "models": {"../../x": board["models"]["evil-1b"]}, "rows": []}
    with pytest.raises(UserError, match=r"'\.\./\.\./x'"):
        build_site(write_leaderboard(tmp_path, escaping), target, ROOT / "docs")
    (tmp_path / "leaderboard.csv").unlink()
    with pytest.raises(UserError, match=r"leaderboard\.csv: there is no such file"):
        build_site(tmp_path / "leaderboard.json", target, ROOT / "docs")
    assert [path.name for path in target.iterdir()] == ["index.html"]
    assert (target / "index.html").read_text() == "old"


def test_a_broken_link_in_a_page_is_an_error(tmp_path: Path, board: dict[str, Any]) -> None:
    docs = tmp_path / "docs"
    for page in (ROOT / "docs").rglob("*.md"):
        copy = tmp_path / page.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text("# Page\n\n[broken](nowhere.md)\n")
    empty = {**board, "rows": [], "models": {}}
    with pytest.raises(UserError, match=r"nowhere\.md"):
        build_site(write_leaderboard(tmp_path, empty), tmp_path / "site", docs)
    assert not (tmp_path / "site").exists()


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "0"),
        (0.01234, "0.0123"),
        (9.996, "10.00"),
        (12.34, "12.3"),
        (123.4, "123"),
        (1234.5, "1,230"),
        (-4.5, "−4.50"),
    ],
)
def test_significant_digits(value: float, shown: str) -> None:
    assert formats.significant(value) == shown


# A real browser


def open_board(visit: Visit, site: Path, hash_: str) -> Page:
    """The leaderboard with the rows of all machines, ready."""
    visit.page.goto(f"{(site / 'index.html').as_uri()}#hw=all&{hash_}")
    visit.page.wait_for_selector(".slm-filters:not([hidden])")
    visit.page.wait_for_selector(".slm-board tbody tr")
    return visit.page


def shown(page: Page, key: str) -> dict[str, str]:
    """Row → the text of its cell in a column of the leaderboard, then the reasons behind it."""
    found: dict[str, str] = page.evaluate(
        """key => {
            const heads = [...document.querySelectorAll(".slm-board thead th")];
            const at = heads.findIndex(h => h.querySelector("button").dataset.sort === key);
            const cell = row => {
                const why = [...row.cells[at].querySelectorAll("[data-why]")];
                const texts = [row.cells[at].innerText, ...why.map(w => `{${w.dataset.why}}`)];
                return texts.join(" ").trim().split(/\\s+/).join(" ");
            };
            const rows = [...document.querySelectorAll(".slm-board tbody tr")];
            return Object.fromEntries(rows.map(row => [row.dataset.id, cell(row)]));
        }""",
        key,
    )
    return found


def by_id(board: dict[str, Any], protocol: str) -> dict[str, dict[str, Any]]:
    return {
        f"{row['model']}/{row['variant']}/{row['hardware']}": row
        for row in board["rows"]
        if row["protocol"] == protocol
    }


@pytest.mark.parametrize("protocol", ["demo", "full"])
def test_every_row_and_score_is_on_the_leaderboard(
    browser: Browser, site: Path, board: dict[str, Any], protocol: str
) -> None:
    """Also what is no score: each state is a word with the reason that the board gives."""
    words = {"failed": "failed", "not_run": "not run", "not_applicable": "not applicable"}
    rows = by_id(board, protocol)
    states = Counter[str]()
    with Visit(browser) as visit:
        page = open_board(visit, site, f"protocol={protocol}&cols=tasks")
        page.wait_for_selector("[data-sort='task:hellaswag']")
        for task in TASKS:
            cells = shown(page, f"task:{task}")
            assert cells.keys() == rows.keys()
            for id_, text in cells.items():
                score = rows[id_]["scores"][task]
                states[score["state"]] += 1
                if score["state"] != "ok":
                    reason = " ".join(score["reason"].split())
                    assert text == f"{words[score['state']]} {{{reason}}}"
                    continue
                value, low, high = (
                    formats.scored(number, score["unit"])
                    for number in (score["value"], *score["ci95"])
                )
                assert re.match(rf"{value} ?\*? ?{low} to {high} ", text), text
                assert f"n = {score['n']:,}" in text
                assert all(f"{{{warning}}}" in text for warning in score["warnings"])
                assert ("*" in text) is bool(score["warnings"])
                if score["parts"]:
                    assert f"{{{', '.join(score['parts'])}}}" in text
    assert states.keys() == {"ok", *words}


def test_groups_and_aggregates_stand_beside_the_scores(
    browser: Browser, site: Path, board: dict[str, Any]
) -> None:
    rows = by_id(board, "full")
    with Visit(browser) as visit:
        page = open_board(visit, site, "protocol=full&cols=categories")
        for key in ("overall", "category:reasoning"):
            for id_, text in shown(page, key).items():
                overall = rows[id_]["overall"]
                if overall["value"] is None:
                    assert text == f"none {{{overall['reason']}}}"
                    continue
                assert text.split()[0].rstrip("‡") == formats.percent(overall["value"])
                assert ("{incomplete, without mmlu}" in text) is ("mmlu" in overall["missing"])
        groups = shown(page, "group")
    ranks = [int(text.split()[0]) for text in groups.values() if text[0].isdigit()]
    ranked = [row for row in rows.values() if row["group"]["rank"] and row["ranked"]]
    # Ranked rows by group; references come last.
    assert ranks[: len(ranked)] == sorted(row["group"]["rank"] for row in ranked)
    assert any("{not compared: Evil" in text for text in groups.values())


def test_a_flagged_measurement_is_marked_on_every_value(
    browser: Browser, site: Path, board: dict[str, Any]
) -> None:
    rows = by_id(board, "full")
    with Visit(browser) as visit:
        page = open_board(visit, site, "protocol=full&cols=hardware")
        page.wait_for_selector("[data-sort='mfu']")
        for key in ("generation_throughput_tokens_per_s", "ttft_ms", "peak_memory_bytes", "mfu"):
            for id_, text in shown(page, key).items():
                row = rows[id_]
                if row["performance"][key]["value"] is None:
                    assert text == "not measured {the profiler failed: <i>x</i>}"
                    continue
                disturbed = row["variant"] == "base"
                assert (f"{{{DISTURBED}}}" in text) is disturbed
                assert ("†" in text) is disturbed
        # The bytes of a file are what they are.
        assert not any("†" in text for text in shown(page, "size_bytes").values())
        energy = shown(page, "energy_mwh_per_token")
    words = {rows[id_]["variant"]: text for id_, text in energy.items()}
    assert "{energy measured: a measured source}" in words["gptq-4bit"]
    assert "energy estimated: a estimated source" in words["base"]
    assert words["gguf-f16"] == "unavailable {this machine has no energy counter}"


def test_heads_say_the_scale_and_which_end_is_better(browser: Browser, site: Path) -> None:
    with Visit(browser) as visit:
        page = open_board(visit, site, "protocol=full&cols=tasks")
        page.wait_for_selector("[data-sort='task:bold']")
        heads = {
            task: " ".join(page.locator(f"[data-sort='task:{task}']").inner_text().split())
            for task in ("arc_challenge", "rating", "bold")
        }
        assert heads == {
            "arc_challenge": "ARC_CHALLENGE acc_norm, %",
            "rating": "RATING acc_norm, points of 10",
            "bold": "BOLD acc_norm, %, lower is better",
        }
        for task, first in (("bold", "ascending"), ("rating", "descending")):
            page.locator(f"[data-sort='task:{task}']").click()
            page.wait_for_selector(f"th[aria-sort={first}] [data-sort='task:{task}']")


def test_protocols_are_labelled_and_apart(browser: Browser, site: Path) -> None:
    for protocol, label in (
        ("demo", "Unranked demo: 50 questions per task."),
        ("full", "Protocol full: 1,172 questions per task."),
    ):
        with Visit(browser) as visit:
            page = open_board(visit, site, f"protocol={protocol}")
            assert page.locator(".slm-label:visible").count() == 1
            assert label in page.locator(".slm-label:visible").inner_text()


def test_every_page_opens_without_errors_or_requests(browser: Browser, site: Path) -> None:
    for path in html_pages(site):
        if path.name == "404.html":  # only a server shows it, at any depth: its links are absolute
            continue
        with Visit(browser) as visit:
            page = visit.open(path)
            assert page.locator("h1").first.is_visible()


def test_search_works_from_a_folder(browser: Browser, site: Path) -> None:
    with Visit(browser) as visit:
        page = visit.open(site / "index.html")
        page.click("input[name=query]")
        page.type("input[name=query]", "methodology")  # keys, which the theme listens to
        page.wait_for_selector(".md-search-result__item a[href*='methodology.html']")


@pytest.mark.parametrize(
    "name",
    ["index", "compare", "charts", "models/evil-1b", "methodology", "models", "data", "docs/faq"],
)
def test_a_phone_shows_no_page_wider_than_itself(browser: Browser, site: Path, name: str) -> None:
    with Visit(browser, viewport={"width": 390, "height": 844}) as visit:
        page = visit.open(site / f"{name}.html")
        page.wait_for_load_state("load")
        widths = "() => [document.documentElement.scrollWidth, document.body.scrollWidth]"
        assert page.evaluate(widths) == [390, 390]
        wide = page.locator(".slm-scroll:visible").first
        if name == "index":
            assert wide.evaluate("e => e.scrollWidth > e.clientWidth")
