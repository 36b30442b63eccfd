"""The leaderboard in a real browser: what it shows beside what pandas finds in the same rows."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from playwright.sync_api import Browser, Page

from benchmarks.site import synthetic_board, without_charts
from slm_benchmark.site import formats
from slm_benchmark.statistics.mover import Term, weighted_sum
from tests.support.axe import violations
from tests.support.sites import HOSTILE, Visit, build_synthetic_site, serving

MODELS = 60
SPEED = "generation_throughput_tokens_per_s"
NAMES = ["Qwen3-0.6B-Math", "Phi-3-mini-4k", "Gemma-2B-it", "Qwen2.5-0.5B", HOSTILE]
SIZES = {"0-0.5": (0, 0.5), "0.5-1": (0.5, 1), "1-3": (1, 3)}
REFERENCE = "synthetic-00006"


def varied_board() -> dict[str, Any]:
    """300 rows of a ranked protocol on two machines, and six of another protocol."""
    board = synthetic_board(MODELS)
    for number, name in enumerate(NAMES):
        board["models"][f"synthetic-{number:05d}"]["name"] = name
    board["models"][REFERENCE] |= {"reference": True, "parameters": 3_821_000_000}
    board["hardware"] = {"local": {"title": "This machine"}, "t4": {"title": "A <b>T4</b>"}}
    for place, row in enumerate(board["rows"]):
        row["hardware"] = "t4" if place % 3 == 0 else "local"
        row["fingerprint"] = ("b" if place % 3 == 0 else "a") * 64
        row["ranked"] = row["model"] != REFERENCE
        if place % 7 == 0:
            unknown = {"value": None, "ci95": None, "pi95": None, "n": 0, "reason": "no profile"}
            row["performance"] = dict.fromkeys(row["performance"], unknown)
            row["fingerprint"], row["measurement"] = None, None
        if place % 11 == 0:
            lacking = {"value": None, "ci95": None, "reason": f"no score for x; {HOSTILE}"}
            first = next(iter(row["categories"]))
            row["categories"][first] = row["categories"][first] | lacking
            row["overall"] = row["overall"] | lacking
            row["group"] = {"rank": None, "rows": 0, "reason": "not compared"}
    demo = [{**row, "protocol": "demo", "ranked": False} for row in board["rows"][:6]]
    board["rows"] += demo
    return board


@pytest.fixture(scope="module")
def rows() -> dict[str, Any]:
    return varied_board()


@pytest.fixture(scope="module")
def leaderboard(tmp_path_factory: pytest.TempPathFactory, rows: dict[str, Any]) -> Path:
    """The built site; charts are other tests' business and take long to draw."""
    with without_charts():
        return build_synthetic_site(tmp_path_factory.mktemp("varied"), rows)


@pytest.fixture(scope="module")
def frame(rows: dict[str, Any]) -> pd.DataFrame:
    """A line for each row, with what the filters ask for."""
    lines = []
    for row in rows["rows"]:
        card = rows["models"][row["model"]]
        quantities = {key: q["value"] for key, q in row["performance"].items()}
        lines.append(
            {
                "id": f"{row['model']}/{row['variant']}/{row['hardware']}",
                "name": card["name"],
                "billions": card["parameters"] / 1e9,
                "license": card["license"],
                "languages": card["languages"],
                "tags": card["tags"],
                "family": row["quantization"],
                "overall": row["overall"]["value"],
                **{key: row[key] for key in ("model", "variant", "hardware", "protocol")},
                **{f"task:{task}": s["value"] for task, s in row["scores"].items()},
                **{f"category:{c}": s["value"] for c, s in row["categories"].items()},
                **quantities,
                "size_bytes": row["size_bytes"],  # the weight files', not the profile's
            }
        )
    return pd.DataFrame(lines)


def of(frame: pd.DataFrame, hardware: str = "local", protocol: str = "full") -> pd.DataFrame:
    """The rows that the leaderboard shows for a protocol and a machine without a filter."""
    return frame[(frame.protocol == protocol) & (frame.hardware == hardware)]


def count(page: Page) -> str:
    return page.locator(".slm-filters output").inner_text()


def settle(page: Page, shown: int, total: int) -> None:
    """Wait until the count says so."""
    page.wait_for_function(
        "text => document.querySelector('.slm-filters output').textContent.startsWith(text)",
        arg=f"{shown} of {total} rows",
    )


def open_board(visit: Visit, site: Path, hash_: str = "") -> Page:
    """The leaderboard, ready, at an address."""
    page = visit.page
    page.goto(f"{(site / 'index.html').as_uri()}{hash_}")
    page.wait_for_selector(".slm-filters:not([hidden])")
    return page


def ids(page: Page) -> list[str]:
    """The rows on the page, in order."""
    found: list[str] = page.locator(".slm-board tbody tr").evaluate_all(
        "rows => rows.map(row => row.dataset.id)"
    )
    return found


def ids_of_all_pages(page: Page) -> list[str]:
    found = ids(page)
    while page.locator(".slm-pages:visible").count():
        further = page.get_by_role("button", name="Next")
        if further.is_disabled():
            break
        before = ids(page)[0]
        further.click()
        page.wait_for_function(
            "id => document.querySelector('.slm-board tbody tr').dataset.id !== id", arg=before
        )
        found += ids(page)
    return found


# What is shown


def test_the_usual_machine_comes_first_and_is_counted(
    browser: Browser, leaderboard: Path, frame: pd.DataFrame
) -> None:
    with Visit(browser) as visit:
        page = open_board(visit, leaderboard)
        total = len(of(frame))
        assert count(page) == f"{total} of {total} rows"
        assert sorted(ids_of_all_pages(page)) == sorted(of(frame).id)


@pytest.mark.parametrize(
    ("columns", "key"),
    [
        ("", "overall"),
        ("", "size_bytes"),
        ("", SPEED),
        ("", "peak_memory_bytes"),
        ("categories", "category:reasoning"),
        ("tasks", "task:hellaswag"),
        ("hardware", "ttft_ms"),
    ],
)
def test_any_column_sorts_both_ways_and_puts_missing_last(
    browser: Browser, leaderboard: Path, frame: pd.DataFrame, columns: str, key: str
) -> None:
    with Visit(browser) as visit:
        page = open_board(visit, leaderboard, f"#cols={columns}" if columns else "")
        standing = ids_of_all_pages(page)
        place = {id_: number for number, id_ in enumerate(standing)}
        values = of(frame).set_index("id")[key]
        seen = []
        for _ in range(2):
            page.locator(f"[data-sort='{key}']").click()
            page.wait_for_selector(f"th:not([aria-sort=none]) [data-sort='{key}']")
            head = page.locator(f"th:has([data-sort='{key}'])")
            descending = head.get_attribute("aria-sort") == "descending"
            seen.append(descending)
            found = ids_of_all_pages(page)
            known = values.dropna()
            wanted = sorted(known.index, key=lambda i: -known[i] if descending else known[i])
            assert found[: len(known)] == wanted
            # Those without a value keep their standing.
            missing = [i for i in standing if pd.isna(values[i])]
            assert found[len(known) :] == missing
        assert sorted(seen) == [False, True]
        page.locator(f"[data-sort='{key}']").click()
        page.wait_for_selector(f"th[aria-sort=none] [data-sort='{key}']")
        assert [place[i] for i in ids_of_all_pages(page)] == sorted(place.values())


def test_names_sort_as_people_read_them(
    browser: Browser, leaderboard: Path, frame: pd.DataFrame
) -> None:
    with Visit(browser) as visit:
        page = open_board(visit, leaderboard)
        page.locator("[data-sort=model]").click()
        page.wait_for_selector("th[aria-sort=ascending] [data-sort=model]")
        names = of(frame).set_index("id").name
        shown = [names[i] for i in ids_of_all_pages(page)]
        plain = [name for name in shown if name != HOSTILE]
        assert plain == sorted(plain, key=str.lower)


def test_a_score_has_one_decimal_an_interval_and_its_documents(
    browser: Browser, leaderboard: Path, rows: dict[str, Any]
) -> None:
    with Visit(browser) as visit:
        page = open_board(visit, leaderboard, "#cols=tasks")
        page.wait_for_selector("[data-sort='task:hellaswag']")
        tasks = page.locator(".slm-board thead [data-sort^='task:']").evaluate_all(
            "heads => heads.map(head => head.dataset.sort.slice(5))"
        )
        by_id = {
            f"{r['model']}/{r['variant']}/{r['hardware']}": r
            for r in rows["rows"]
            if r["protocol"] == "full"
        }
        for line in page.locator(".slm-board tbody tr").all()[:20]:
            row = by_id[line.get_attribute("data-id") or ""]
            cells = line.locator("td").all_inner_texts()[-len(tasks) :]
            for task, text in zip(tasks, cells, strict=True):
                score = row["scores"][task]
                if score["state"] != "ok":
                    assert text == "not run"
                    continue
                low, high = (formats.scored(end, score["unit"]) for end in score["ci95"])
                shown = formats.scored(score["value"], score["unit"])
                wanted = f"{shown} {low} to {high} n = {score['n']:,}"
                assert " ".join(text.replace("*", " ").split()) == wanted


def test_a_state_tells_its_reason_by_key_and_by_pointing(
    browser: Browser, leaderboard: Path
) -> None:
    with Visit(browser) as visit:
        page = open_board(visit, leaderboard, "#cols=categories&sort=overall&page=9")
        button = page.locator(".slm-missing .slm-why[data-why^='no score for x']").first
        reason = button.get_attribute("title") or ""
        assert HOSTILE in reason
        button.focus()
        page.keyboard.press("Enter")
        assert page.locator(".slm-reason").inner_text().split() == reason.split()
        assert button.get_attribute("aria-expanded") == "true"
        page.keyboard.press("Enter")
        assert page.locator(".slm-reason").count() == 0


def test_presets_choose_columns(browser: Browser, leaderboard: Path, rows: dict[str, Any]) -> None:
    heads = "heads => heads.map(head => head.dataset.sort)"
    row = rows["rows"][0]
    with Visit(browser) as visit:
        page = open_board(visit, leaderboard)
        seen = {}
        for preset in ("", "categories", "tasks", "hardware"):
            page.select_option("[name=cols]", preset)
            page.wait_for_function(
                "preset => location.hash.includes(`cols=${preset}`) === Boolean(preset)", arg=preset
            )
            seen[preset] = page.locator(".slm-board [data-sort]").evaluate_all(heads)
        assert {f"category:{c}" for c in row["categories"]} <= set(seen["categories"])
        assert {f"task:{t}" for t in row["scores"]} <= set(seen["tasks"])
        assert {"mbu", "ttft_ms", SPEED, "load_time_s"} <= set(seen["hardware"])
        assert {"overall", "group", "size_bytes", SPEED} <= set(seen[""])


def test_speed_is_ranked_on_one_machine_at_a_time(
    browser: Browser, leaderboard: Path, frame: pd.DataFrame
) -> None:
    with Visit(browser) as visit:
        page = open_board(visit, leaderboard)
        page.select_option("[name=hw]", "t4 bbbbbb")
        settle(page, len(of(frame, "t4")), len(of(frame, "t4")))
        assert not page.locator(f"[data-sort='{SPEED}']").is_disabled()
        page.select_option("[name=hw]", "all")
        total = int((frame.protocol == "full").sum())
        settle(page, total, total)
        assert page.locator(f"[data-sort='{SPEED}']").is_disabled()
        assert not page.locator("[data-sort=overall]").is_disabled()
        page.goto(f"{page.url.split('#')[0]}#hw=all&sort=-{SPEED}")
        page.reload()
        page.wait_for_selector(".slm-filters:not([hidden])")
        assert page.locator(f"th:has([data-sort='{SPEED}'])").get_attribute("aria-sort") == "none"


# Filters

Check = Callable[[pd.DataFrame], "pd.Series[bool]"]


def inside(size: str) -> Check:
    low, high = SIZES[size]
    return lambda f: (f.billions > low) & (f.billions <= high)


FILTERS: dict[str, tuple[str, Check]] = {
    "one size": ("size=0-0.5", inside("0-0.5")),
    "two sizes": (
        "size=0.5-1,1-3",
        lambda f: inside("0.5-1")(f) | inside("1-3")(f),
    ),
    "a format": ("quant=gptq", lambda f: f.family == "gptq"),
    "two formats": ("quant=base,gguf", lambda f: f.family.isin(["base", "gguf"])),
    "a license": ("license=MIT", lambda f: f.license == "MIT"),
    "English": ("lang=en", lambda f: f.languages.map(lambda codes: "en" in codes)),
    "several languages": ("lang=multilingual", lambda f: f.languages.map(len) > 1),
    "one language": ("lang=zh", lambda f: f.languages.map(lambda codes: "zh" in codes)),
    "a tag": ("tag=code", lambda f: f.tags.map(lambda tags: "code" in tags)),
    "memory": ("gb=1.5", lambda f: f.peak_memory_bytes <= 1.5e9),
    "speed": ("tps=40", lambda f: f[SPEED] >= 40),
    "several": (
        "size=1-3&quant=gguf&tps=10&gb=3",
        lambda f: (
            inside("1-3")(f)
            & (f.family == "gguf")
            & (f[SPEED] >= 10)
            & (f.peak_memory_bytes <= 3e9)
        ),
    ),
}


@pytest.mark.parametrize("name", FILTERS)
def test_filters_leave_what_pandas_leaves(
    browser: Browser, leaderboard: Path, frame: pd.DataFrame, name: str
) -> None:
    hash_, check = FILTERS[name]
    rows = of(frame)
    wanted = rows[check(rows)]
    assert 0 < len(wanted) < len(rows), "the fixture must have rows on both sides"
    with Visit(browser) as visit:
        page = open_board(visit, leaderboard, f"#{hash_}")
        settle(page, len(wanted), len(rows))
        assert sorted(ids_of_all_pages(page)) == sorted(wanted.id)


def test_controls_chips_and_reset_move_together(
    browser: Browser, leaderboard: Path, frame: pd.DataFrame
) -> None:
    rows = of(frame)
    with Visit(browser) as visit:
        page = open_board(visit, leaderboard)
        page.check("[name=size][value='1-3']")
        page.check("[name=quant][value=awq]")
        page.select_option("[name=license]", "MIT")
        page.select_option("[name=lang]", "en")
        page.fill("[name=tps]", "5")
        page.fill("[name=gb]", "20")
        wanted = rows[
            inside("1-3")(rows)
            & (rows.family == "awq")
            & (rows.license == "MIT")
            & rows.languages.map(lambda codes: "en" in codes)
            & (rows[SPEED] >= 5)
            & (rows.peak_memory_bytes <= 20e9)
        ]
        page.wait_for_function("document.querySelectorAll('.slm-chip').length === 6")
        settle(page, len(wanted), len(rows))
        chips = page.locator(".slm-chip")
        assert [text.removesuffix(" ×") for text in chips.all_inner_texts()] == [
            "1–3 B",
            "AWQ",
            "license MIT",
            "English",
            "fits in 20 GB",
            "at least 5 tokens/s",
        ]
        page.get_by_role("button", name="Remove filter: AWQ").click()
        page.wait_for_function("document.querySelectorAll('.slm-chip').length === 5")
        assert not page.is_checked("[name=quant][value=awq]")
        page.get_by_role("button", name="Reset").click()
        settle(page, len(rows), len(rows))
        assert chips.count() == 0
        assert page.input_value("[name=tps]") == ""
        assert "#" not in page.url


def test_rows_that_were_not_measured_are_hidden_and_counted(
    browser: Browser, leaderboard: Path, frame: pd.DataFrame
) -> None:
    rows = of(frame)
    unknown = int(rows[SPEED].isna().sum())
    assert unknown > 1
    with Visit(browser) as visit:
        page = open_board(visit, leaderboard, "#tps=1")
        assert f"{unknown} whose speed was not measured are hidden" in count(page)


def test_an_empty_table_names_the_filter_to_relax(
    browser: Browser, leaderboard: Path, frame: pd.DataFrame
) -> None:
    rows = of(frame)
    fast = rows[(rows[SPEED] >= 20) & (rows.family == "gptq")]
    with Visit(browser) as visit:
        page = open_board(visit, leaderboard, "#tps=20&quant=gptq&gb=0.000001")
        told = page.locator(".slm-empty")
        assert told.is_visible()
        assert not page.locator(".slm-board").is_visible()
        text = told.inner_text()
        assert "Without fits in 0.000001 GB there would be" in text
        assert f"{len(fast)} rows" in text
        told.get_by_role("button").click()
        settle(page, len(fast), len(rows))
        assert not told.is_visible()


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("qwn3 math", "Qwen3-0.6B-Math"),
        ("phi3", "Phi-3-mini-4k"),
        ("gema", "Gemma-2B-it"),
        ("GEMMA it", "Gemma-2B-it"),
        ("qwen2.5", "Qwen2.5-0.5B"),
        ("مرحبا", HOSTILE),
    ],
)
def test_search_forgives_and_prefers_what_is_right(
    browser: Browser, leaderboard: Path, frame: pd.DataFrame, query: str, name: str
) -> None:
    rows = of(frame)
    with Visit(browser) as visit:
        page = open_board(visit, leaderboard)
        page.fill("[name=find]", query)
        settle(page, int((rows.name == name).sum()), len(rows))
        assert set(ids(page)) == set(rows[rows.name == name].id)
        page.fill("[name=find]", f"{query} q4_k_m")
        wanted = rows[(rows.name == name) & (rows.variant == "gguf-q4_k_m")]
        settle(page, len(wanted), len(rows))


# Weights


def test_weights_change_the_score_its_interval_and_the_order(
    browser: Browser, leaderboard: Path, rows: dict[str, Any]
) -> None:
    categories = list(rows["rows"][1]["categories"])
    weights = {categories[0]: 3.0, categories[1]: 0.0}
    found = {}
    for row in rows["rows"]:
        if row["protocol"] != "full" or row["hardware"] != "local":
            continue
        used = {c: weights.get(c, 1.0) for c in categories if weights.get(c, 1.0)}
        scores = [row["categories"][c] for c in used]
        if any(score["value"] is None for score in scores):
            continue
        terms = [Term.of(s["value"], s["ci95"][0], s["ci95"][1], 0.0) for s in scores]
        total = sum(used.values())
        found[f"{row['model']}/{row['variant']}/{row['hardware']}"] = weighted_sum(
            terms, [weight / total for weight in used.values()]
        )
    with Visit(browser) as visit:
        page = open_board(visit, leaderboard)
        page.get_by_text("Category weights").click()
        for category, weight in weights.items():
            page.fill(f"[name='w:{category}']", f"{weight:g}")
        address = f"w={categories[0]}:3,{categories[1]}:0"
        page.wait_for_function("part => location.hash.includes(part)", arg=address)
        page.locator("[data-sort=overall]").click()
        page.wait_for_selector("th[aria-sort=descending] [data-sort=overall]")
        assert ids(page) == sorted(found, key=lambda i: -found[i][0])[:100]
        at = page.locator(".slm-board thead th").evaluate_all(
            "heads => heads.findIndex(h => h.querySelector('[data-sort=overall]'))"
        )
        for line in page.locator(".slm-board tbody tr").all()[:25]:
            value, low, high = found[line.get_attribute("data-id") or ""]
            text = line.locator("th, td").nth(at).inner_text().replace("‡", " ").split()
            # Ends are kept with two decimals of a per cent.
            numbers = [float(part.replace("−", "-")) for part in text if part != "to"]
            assert numbers == pytest.approx([100 * value, 100 * low, 100 * high], abs=0.07)
        page.reload()
        page.wait_for_selector(".slm-filters:not([hidden])")
        assert page.input_value(f"[name='w:{categories[0]}']") == "3"
        assert "tied groups exist for equal category weights only" in (
            page.locator("td .slm-why[data-why*=groups]").first.get_attribute("title") or ""
        )


# Addresses


def test_an_address_shows_the_same_again_and_back_undoes(
    browser: Browser, leaderboard: Path, frame: pd.DataFrame
) -> None:
    total = len(of(frame))
    with Visit(browser) as visit:
        page = open_board(visit, leaderboard)
        page.check("[name=quant][value=gguf]")
        gguf = int((of(frame).family == "gguf").sum())
        settle(page, gguf, total)
        page.select_option("[name=cols]", "tasks")
        page.wait_for_selector("[data-sort='task:hellaswag']")
        page.locator("[data-sort='task:hellaswag']").click()
        page.wait_for_selector("th[aria-sort=descending] [data-sort='task:hellaswag']")
        page.fill("[name=find]", "synthetic")
        page.wait_for_function("location.hash.includes('find=synthetic')")
        kept, shown = page.url, ids(page)
        assert kept.split("#")[1] == "find=synthetic&quant=gguf&cols=tasks&sort=-task:hellaswag"
        page.reload()
        page.wait_for_selector(".slm-filters:not([hidden])")
        assert (page.url, ids(page)) == (kept, shown)
        assert page.input_value("[name=find]") == "synthetic"
        assert page.is_checked("[name=quant][value=gguf]")
        page.go_back()
        page.wait_for_selector("th[aria-sort=none] [data-sort='task:hellaswag']")
        page.go_back()
        page.wait_for_selector("[data-sort='size_bytes']")
        settle(page, gguf, total)
        page.go_back()
        settle(page, total, total)
        assert not page.is_checked("[name=quant][value=gguf]")
        page.go_forward()
        settle(page, gguf, total)


def test_an_address_with_nonsense_shows_the_default(browser: Browser, leaderboard: Path) -> None:
    with Visit(browser) as visit:
        page = open_board(
            visit,
            leaderboard,
            "#protocol=x&hw=y&size=9&quant=q&gb=-1&tps=a&cols=z&sort=-n&page=-3&w=a",
        )
        assert count(page).split()[0] == count(page).split()[2]
        assert page.locator(".slm-chip").count() == 0


def test_another_protocol_is_another_table(
    browser: Browser, leaderboard: Path, frame: pd.DataFrame
) -> None:
    with Visit(browser) as visit:
        page = open_board(visit, leaderboard)
        page.select_option("[name=protocol]", "demo")
        settle(page, len(of(frame, protocol="demo")), len(of(frame, protocol="demo")))
        assert "Unranked demo" in page.locator(".slm-label:visible").inner_text()
        assert page.locator(".slm-label:visible").count() == 1


# Taking along


def test_the_csv_is_what_is_shown(browser: Browser, leaderboard: Path, frame: pd.DataFrame) -> None:
    rows = of(frame)
    wanted = rows[(rows.family == "gguf") & (rows[SPEED] >= 10)]
    with Visit(browser) as visit:
        page = open_board(visit, leaderboard, f"#quant=gguf&tps=10&sort=-{SPEED}")
        settle(page, len(wanted), len(rows))
        with page.expect_download() as download:
            page.get_by_role("button", name="Download these rows as CSV").click()
        assert download.value.suggested_filename == "slm-benchmark-full.csv"
        text = Path(download.value.path()).read_text(encoding="utf-8")
    table = pd.read_csv(io.StringIO(text))
    expected = wanted.sort_values(SPEED, ascending=False)
    assert table.model.tolist() == expected.model.tolist()
    assert table.variant.tolist() == expected.variant.tolist()
    assert table.name.tolist() == expected.name.tolist()
    for key, factor in (("overall", 100), (SPEED, 1), ("size_bytes", 1e-6)):
        assert table[key].tolist() == pytest.approx(
            (expected[key] * factor).tolist(), rel=1e-4, nan_ok=True
        )
    assert table[f"{SPEED}_low"].tolist() == pytest.approx(
        (expected[SPEED] * 0.95).tolist(), rel=1e-3
    )


def test_up_to_four_rows_go_to_the_comparison(browser: Browser, leaderboard: Path) -> None:
    with Visit(browser) as visit:
        page = open_board(visit, leaderboard)
        boxes = page.locator(".slm-pick")
        chosen = ids(page)[:4]
        for place in range(4):
            boxes.nth(place).check()
        assert boxes.nth(4).is_disabled()
        link = page.locator(".slm-compare")
        assert "4 rows" in link.inner_text()
        assert "at most 4" in link.inner_text()
        href = link.get_attribute("href") or ""
        assert href == f"compare.html#protocol=full&rows={','.join(chosen)}"
        boxes.nth(0).uncheck()
        assert not boxes.nth(4).is_disabled()


# Everywhere


@pytest.mark.parametrize("prefix", ["", "slm-benchmark/"])
def test_it_works_from_a_root_and_from_a_sub_path(
    browser: Browser, leaderboard: Path, tmp_path: Path, prefix: str
) -> None:
    (tmp_path / "slm-benchmark").symlink_to(leaderboard)
    with serving(tmp_path if prefix else leaderboard) as server:
        address = f"{server}/{prefix}"
        context = browser.new_context()
        outside: list[str] = []
        missing: list[str] = []
        context.on(
            "request",
            lambda r: None if r.url.startswith((address, "blob:")) else outside.append(r.url),
        )
        context.on("response", lambda r: missing.append(r.url) if r.status >= 400 else None)
        page = context.new_page()
        page.goto(f"{address}index.html#cols=tasks")
        page.wait_for_selector("[data-sort='task:hellaswag']")
        link = page.locator(".slm-board tbody th a").first
        name = link.inner_text()
        link.click()
        page.wait_for_selector("h1")
        assert name in page.locator("h1").inner_text()
        assert outside == []
        assert missing == []
        context.close()


def test_without_javascript_a_table_of_the_first_rows_is_there(
    browser: Browser, leaderboard: Path
) -> None:
    with Visit(browser, java_script_enabled=False) as visit:
        page = visit.open(leaderboard / "index.html")
        assert not page.locator(".slm-filters").is_visible()
        assert page.locator(".slm-static table:visible").count() == 2
        assert page.locator(".slm-static table:visible").first.locator("tbody tr").count() == 25
        assert page.get_by_text("the first 25 of 300 rows").is_visible()


def test_data_that_does_not_load_says_so(browser: Browser, leaderboard: Path) -> None:
    with serving(leaderboard) as address:
        page = browser.new_page()
        page.route("**/rows/*.js", lambda route: route.abort())
        page.goto(f"{address}/index.html")
        page.wait_for_selector(".slm-empty:not([hidden])")
        assert "could not be loaded" in page.locator(".slm-empty").inner_text()
        assert page.locator(".slm-static table:visible").count() == 2
        page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1300])
def test_nobody_is_shut_out(browser: Browser, leaderboard: Path, scheme: str, width: int) -> None:
    size: Any = {"width": width, "height": 844}
    with Visit(browser, color_scheme=scheme, viewport=size) as visit:
        page = open_board(visit, leaderboard, "#tps=4&cols=categories&w=reasoning:2")
        page.locator(".slm-why").first.click()
        page.evaluate("scrollTo(0, 0)")  # what lies below the theme's bar is no target
        assert violations(page) == []
        widths = "() => [document.documentElement.scrollWidth, document.body.scrollWidth]"
        assert page.evaluate(widths) == [width, width]


def test_names_are_text(browser: Browser, leaderboard: Path) -> None:
    with Visit(browser) as visit:
        page = open_board(visit, leaderboard, f"#find={'Evil'}")
        names = page.locator(".slm-board tbody th a").all_inner_texts()
        assert set(names) == {HOSTILE}
        assert page.locator(".slm-board script, .slm-chips script").count() == 0


def test_a_keyboard_is_enough(browser: Browser, leaderboard: Path) -> None:
    with Visit(browser) as visit:
        page = open_board(visit, leaderboard)
        page.locator("[data-sort=overall]").focus()
        page.keyboard.press("Enter")
        page.wait_for_selector("th[aria-sort=descending] [data-sort=overall]")
        assert page.evaluate("document.activeElement.dataset.sort") == "overall"
        page.locator("[name=quant][value=gptq]").focus()
        page.keyboard.press("Space")
        page.wait_for_selector(".slm-chip")
        page.locator(".slm-chip").focus()
        page.keyboard.press("Enter")
        page.wait_for_function("document.querySelectorAll('.slm-chip').length === 0")
        assert page.evaluate("document.activeElement.name") == "find"


def test_the_data_for_scripts_holds_what_the_board_holds(
    leaderboard: Path, rows: dict[str, Any]
) -> None:
    text = (leaderboard / "assets" / "rows" / "full.js").read_text(encoding="utf-8")
    found = re.fullmatch(r'slm\.receive\("full","rows",\'(.*)\'\);\n', text, re.DOTALL)
    assert found
    content = json.loads(found[1].replace("\\'", "'").replace("\\\\", "\\"))
    full = [row for row in rows["rows"] if row["protocol"] == "full"]
    overall = next(column for column in content["columns"] if column["key"] == "overall")
    assert sorted(v for v in overall["value"] if v is not None) == pytest.approx(
        sorted(100 * r["overall"]["value"] for r in full if r["overall"]["value"] is not None),
        abs=1e-4,
    )
