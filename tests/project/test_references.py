"""The reference pages: current, complete, and with every address that other pages lead to."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path

import pytest

from slm_benchmark.catalog.key_tables import RECORDS
from slm_benchmark.cli import COMMANDS, RENAMED, Command, build_parser
from slm_benchmark.common.paths import ROOT, SCHEMAS
from slm_benchmark.site.terms import GLOSSARY, TERMS
from tools.make_references import KINDS, members

REFERENCE = ROOT / "docs" / "reference"
TEXTS = (
    ROOT / "README.md",
    *(ROOT / "docs").rglob("*.md"),
    *(ROOT / "src").rglob("*.py"),
    *(ROOT / "src").rglob("*.j2"),
)


def slugs(page: Path) -> set[str]:
    """The addresses of a page's headings, as MkDocs and GitHub make them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {
        re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings
    }


def arguments(command: Command) -> list[argparse.Action]:
    """The arguments and options of a command."""
    parser = argparse.ArgumentParser(add_help=False)
    command.add_arguments(parser)
    return parser._actions


@pytest.mark.parametrize("columns", ["40", "200"])
def test_generated_pages_are_current_whatever_the_terminal(columns: str) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "make_references.py", "--check"],
        capture_output=True,
        text=True,
        env={"COLUMNS": columns, "PATH": ""},
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_help_says_what_each_argument_is_and_its_default(command: Command) -> None:
    assert re.fullmatch(r"[A-Z].{10,59}", command.summary)
    assert len(command.description.splitlines()) > 2
    assert max(map(len, command.description.splitlines())) <= 80
    for action in arguments(command):
        assert action.help, action.dest
        assert action.nargs == 0 or action.metavar or action.dest in ("name", "url"), action.dest
        optional = not action.required if action.option_strings else action.nargs in ("*", "?")
        default = re.search(r" \(default: (.+)\)$", action.help)
        assert bool(default) == optional, action.dest
        if default and action.default is not None and action.nargs != 0:
            assert default[1] in (str(action.default), "all that may be used"), action.dest


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_a_command_s_help_has_all_of_it(
    command: Command, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    with pytest.raises(SystemExit, match="0"):
        build_parser().parse_args([command.name, "--help"])
    shown = capsys.readouterr().out
    assert command.description in shown
    for action in arguments(command):
        assert (action.help or "").replace("%%", "%") in shown
    for code, meaning in command.all_exit_codes.items():
        assert re.search(rf"^  {code} +{re.escape(meaning)}$", shown, re.MULTILINE)


def test_the_page_of_the_command_line_names_every_command_and_option() -> None:
    page = (REFERENCE / "cli.md").read_text(encoding="utf-8")
    for command in COMMANDS:
        _, _, section = page.partition(f"\n### {command.name}\n")
        section = re.split(r"\n##", section, maxsplit=1)[0]
        for action in arguments(command):
            name = action.option_strings[0] if action.option_strings else str(action.metavar)
            assert f"| `{name}" in section
    assert all(f"`{name}`" in page for name in RENAMED)


def test_every_schema_of_records_has_a_section() -> None:
    files = (SCHEMAS / "records").glob("*.schema.yaml")
    assert {file.name.removesuffix(".schema.yaml") for file in files} == RECORDS.keys()
    page = (REFERENCE / "records.md").read_text(encoding="utf-8")
    assert all(f"\n## {title}\n" in page for title in RECORDS.values())


def test_every_field_of_the_records_has_a_meaning() -> None:
    lines = (REFERENCE / "records.md").read_text(encoding="utf-8").splitlines()
    rows = [re.split(r" (?<!\\)\| ", line.strip("| ")) for line in lines if line.startswith("| `")]
    assert len(rows) > 500
    for row in rows:
        assert len(row) == 5, row
        assert row[2] in ("yes", "no"), row
        assert row[3] in ("yes", "no"), row
        assert len(row[4]) > 5, row


def test_links_inside_the_reference_pages_lead_somewhere() -> None:
    for page in (REFERENCE / f"{name}.md" for name in ("cli", "records", "glossary")):
        for target in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
            if target.startswith("https://"):
                continue
            name, _, anchor = target.partition("#")
            file = (page.parent / name).resolve() if name else page
            assert file.is_file(), target
            assert not anchor or anchor in slugs(file), f"{page.name}: {target}"


def test_the_glossary_is_in_order_and_explains_each_term() -> None:
    text = (REFERENCE / "glossary.md").read_text(encoding="utf-8")
    titles = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert titles == sorted(titles, key=str.lower)
    assert len(titles) >= 30
    for entry in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        title, _, body = entry.partition("\n")
        assert len(body.split()) > 8, title
        assert re.search(r"\]\((\.\./|records|integrity)", body), f"{title}: no page explains it"


def test_terms_that_pages_link_to_are_in_the_glossary() -> None:
    known = slugs(REFERENCE / "glossary.md")
    assert GLOSSARY == "docs/reference/glossary.html"
    assert {term.anchor for term in TERMS if term.anchor} <= known
    for file in TEXTS:
        text = file.read_text(encoding="utf-8")
        linked = set(re.findall(r"glossary(?:\.md|\.html| \}\})#([\w-]+)", text))
        assert linked <= known, file


@pytest.mark.parametrize(
    "term",
    [
        "batch invariance",
        "prefix sharing",
        "few-shot examples",
        "sampler",
        "ranking",
        "environment error",
        "token tree",
        "shared prefix",
        "stored generations",
        "top-1 token",
        "tied group",
        "significantly different",
    ],
)
def test_terms_of_the_field_are_there_for_a_search(term: str) -> None:
    titles = (REFERENCE / "glossary.md").read_text(encoding="utf-8").lower()
    assert f"\n## {term}\n" in titles
    pattern = re.compile(re.escape(term).replace(r"\ ", r"[\s-]+").replace(r"\-", "[ -]"), re.I)
    pages = [file for file in TEXTS if file.suffix == ".md" and file.name != "glossary.md"]
    code = [file for file in TEXTS if file.suffix == ".py"]
    for files in (pages, code):
        assert any(pattern.search(file.read_text(encoding="utf-8")) for file in files)


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_awkward_input_has_six_members(kind: str) -> None:
    names = [member.name for member in members() if member.kind == kind]
    assert len(set(names)) == len(names) >= 6
