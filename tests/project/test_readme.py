"""The README says what the published records say, and stays short."""

from __future__ import annotations

from slm_benchmark.common.paths import RESULTS, ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def cells(text: str) -> list[list[str]]:
    """The cells of every line of a Markdown table in ``text``."""
    lines = (line for line in text.splitlines() if line.startswith("|"))
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_demo_table_is_that_of_the_published_report() -> None:
    report = (RESULTS / "smollm2-135m-instruct" / "report.md").read_text(encoding="utf-8")
    scores, _, _ = report.partition("### Performance")
    published = cells(scores)
    assert len(published) == 2 + 6
    _, shown = README.split("<!-- demo:start -->\n")
    shown, _ = shown.split("<!-- demo:end -->")
    header = cells(shown)[0]
    assert len(header) == 5
    columns = [published[0].index(name) for name in header]
    assert cells(shown) == [[row[column] for column in columns] for row in published]


def test_the_readme_has_at_most_1200_words() -> None:
    assert len(README.split()) <= 1200


def test_the_two_lines_stand_in_the_readme() -> None:
    lines = README.splitlines()
    assert "    . ./activate && snakemake --profile demo" in lines
    assert "    . ./activate && pytest" in lines
