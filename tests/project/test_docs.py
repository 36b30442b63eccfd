"""The hand-written pages: what they name exists, their links lead somewhere, their lines fit."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from slm_benchmark.common.paths import ROOT

DOCS = ROOT / "docs"
PACKAGE = ROOT / "src" / "slm_benchmark"
PAGES = [
    *sorted(DOCS.rglob("*.md")),
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "config" / "README.md",
    ROOT / "benchmarks" / "README.md",
]
GROUPS = ("start", "how-to", "benchmarks", "methods", "reference", "project")
"""Folders of docs/, and sections of the site's navigation, in this order."""

GENERATED = ("index", "compare", "charts", "models", "methodology", "data")
"""Pages of the site that the workflow renders; they are in no checkout."""

WRITTEN = ("runs", "resources", "build", "logs")
"""Folders that the workflow writes."""

WIDTH = 120


def name_of(page: Path) -> str:
    """A page's path in the checkout."""
    return str(page.relative_to(ROOT))


every_page = pytest.mark.parametrize("page", PAGES, ids=name_of)
of_today = pytest.mark.parametrize(
    "page", [page for page in PAGES if page.stem != "changelog"], ids=name_of
)
"""The pages that speak of what there is now; the changelog also speaks of what there was."""


def prose(page: Path) -> Iterator[tuple[int, str]]:
    """The lines of a page, with their numbers, without code blocks and what a command fills in."""
    block = ""
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        if block:
            block = "" if line.strip().startswith(block) else block
        elif fence := re.match(r"\s*(`{3,}|~{3,})", line):
            block = fence[1]
        elif filled := re.match(r"<!-- (\w+):start -->", line):
            block = f"<!-- {filled[1]}:end -->"
        else:
            yield number, line


def spans(page: Path) -> Iterator[str]:
    """What stands between backticks, in one line or over two."""
    text = "\n".join(line for _, line in prose(page))
    yield from (re.sub(r"\s+", " ", span) for span in re.findall(r"`([^`]+)`", text))


def named_paths(page: Path) -> Iterator[str]:
    """Words in code that look like a path of the checkout, without placeholders."""
    folders = {path.name for base in (ROOT, PACKAGE) for path in base.iterdir() if path.is_dir()}
    for span in spans(page):
        for word in span.split():
            first, slash, _ = word.partition("/")
            of_a_folder = bool(slash) and first in folders - set(WRITTEN)
            if re.fullmatch(r"[\w./-]+", word) and (of_a_folder or re.search(r"\w\.py$", word)):
                yield word.partition("::")[0]


def exists(word: str, page: Path) -> bool:
    """Whether a path is there: from the root, in the package, or beside the page."""
    return any((base / word).exists() for base in (ROOT, PACKAGE, page.parent))


def module_exists(name: str) -> bool:
    """Whether a dotted name is a module, or something that its module names."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        path = (ROOT / "src" if parts[0] == "slm_benchmark" else ROOT).joinpath(*parts[:length])
        file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if file.is_file() or path.is_dir():
            return all(re.search(rf"\b{part}\b", file.read_text()) for part in parts[length:])
    return False


def anchors(page: Path) -> set[str]:
    """The addresses of a page's headings, as MkDocs makes them."""
    headings = (line.lstrip("# ") for _, line in prose(page) if line.startswith("#"))
    words = (re.sub(r"[^\w\s-]", "", heading).lower() for heading in headings)
    return {re.sub(r"[-\s]+", "-", heading.strip()) for heading in words}


@of_today
def test_paths_that_a_page_names_exist(page: Path) -> None:
    assert [word for word in named_paths(page) if not exists(word, page)] == []


@of_today
def test_modules_that_a_page_names_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    names = re.findall(r"\b(?:slm_benchmark|benchmarks)(?:\.[A-Za-z_]\w*)+", text)
    names = [name for name in names if not re.search(r"\.(md|py|json|yaml)$", name)]
    assert [name for name in names if not module_exists(name)] == []


@every_page
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    text = "\n".join(line for _, line in prose(page))
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        path, _, anchor = target.partition("#")
        goal = (page.parent / path).resolve() if path else page
        if goal.parent == ROOT and goal.suffix == ".md" and goal.stem in GENERATED:
            continue
        if not goal.exists() or (anchor and anchor not in anchors(goal)):
            broken.append(target)
    assert broken == []


@of_today
def test_lines_of_prose_fit(page: Path) -> None:
    if page.read_text(encoding="utf-8").startswith("<!-- Made by "):
        return  # a command writes it, from texts that have lines of their own
    long = [
        number
        for number, line in prose(page)
        if len(line) > WIDTH
        and not line.lstrip().startswith("|")
        and " " in re.sub(r"^\s*([-*]|\d+\.)?\s*", "", re.sub(r"`[^`]*`|\]\([^)]*\)", "", line))
    ]
    assert long == [], f"longer than {WIDTH} characters"


def test_each_page_is_in_the_section_of_its_folder() -> None:
    config = re.sub(r"!!\S+", "", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    (sections,) = (entry["Docs"] for entry in yaml.safe_load(config)["nav"] if "Docs" in entry)
    listed = {}
    for section in sections:
        ((title, entries),) = section.items()
        listed[title.lower().replace(" ", "-")] = {
            address for entry in entries for address in entry.values()
        }
    assert list(listed) == list(GROUPS)
    for group, addresses in listed.items():
        there = {f"docs/{path.relative_to(DOCS)}" for path in (DOCS / group).glob("*.md")}
        assert addresses == there
