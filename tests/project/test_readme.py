"""The README says what the published records say."""

from __future__ import annotations

from slm_benchmark.common.paths import RESULTS, ROOT


def test_the_demo_table_is_that_of_the_published_report() -> None:
    report = (RESULTS / "smollm2-135m-instruct" / "report.md").read_text(encoding="utf-8")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    _, shown = readme.split("<!-- demo:start -->\n")
    shown, _ = shown.split("<!-- demo:end -->")
    scores, _, _ = report.partition("### Performance")
    rows = [line for line in scores.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + 6
    assert shown.splitlines() == rows
