"""The words of code and pages: the field's where it has one, and none that explain nothing."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from slm_benchmark.common.paths import ROOT

SOURCES = [
    *sorted((ROOT / "src").rglob("*.py")),
    *sorted((ROOT / "workflow" / "scripts").glob("*.py")),
]

NO_NAMES = frozenset(
    ("found", "kept", "own", "told", "place", "given", "asked", "tried", "wishes", "obstacle")
) | frozenset(("surroundings", "company", "chooser", "trunk", "standings", "harmless", "unclean"))
"""Words that say nothing of the value that they would name, or for which the field has another."""

NO_PHRASES = (
    "in any company",
    "told apart",
    "of the surroundings",
    "worked example",
    "kept answer",
    "likeliest token",
    "share of the way from chance",
    "what may be said",
    "could not be seen",
    "score of a guesser",
)
"""Phrases for which readers of lm-evaluation-harness, vLLM and llama.cpp have another."""

BRITISH = re.compile(
    r"\b(quanti|summari|tokeni|normali|serialis|randomi|synchroni|optimi|utili|standardi|organi"
    r"|recogni|initiali|generali|speciali|minimi|maximi|dequanti|virtuali)s(e|ed|es|ing|ation|er)\b"
    r"|\b(behaviour|colour|favour|neighbour|labour)s?\b",
    re.IGNORECASE,
)

DATA = re.compile(
    r"\b(dequantise|dequantised_from|dequantised from|virtualisation)\b|colour-contrast"
)
"""Values and keys of published records, and of other tools, which keep their spelling."""

DATA_FILES = ("tasks.yaml", "generate.py", "prompts.py")
"""Files whose texts models are asked, or records quote: they change no word."""

TERMS = (
    "batch invariance",
    "prefix sharing",
    "few-shot examples",
    "sampler",
    "ranking",
    "environment error",
)
"""Terms that a reader of the field searches for."""


def names(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Every name that a module gives to something, with its line; keys of records are not its."""
    keys = {
        id(field.target)
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and "TypedDict" in map(ast.unparse, node.bases)
        for field in node.body
        if isinstance(field, ast.AnnAssign)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and id(node) not in keys:
            yield node.id, node.lineno
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr, node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name, node.lineno
        elif isinstance(node, ast.alias) and node.asname:
            yield node.asname, node.lineno


def texts() -> list[Path]:
    """Files whose words a reader meets; the changelog tells of what things were called."""
    folders = ("src", "workflow", "docs", "config", "custom", "benchmarks", "tools", "tests")
    suffixes = {".py", ".md", ".yaml", ".smk", ".j2", ".js", ".css"}
    files = [p for folder in folders for p in (ROOT / folder).rglob("*") if p.suffix in suffixes]
    files = [*files, ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
    return [p for p in files if p.name not in ("changelog.md", Path(__file__).name, *DATA_FILES)]


@pytest.mark.parametrize("file", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_names_say_what_they_hold(file: Path) -> None:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    # Callers may name this parameter of the public client.
    public = {"place"} if file.name == "api.py" else set()
    banned = NO_NAMES - public
    wrong = [pair for pair in names(tree) if pair[0].lstrip("_").lower() in banned]
    assert wrong == []


def test_phrases_are_those_of_the_field() -> None:
    wrong = [
        f"{file.relative_to(ROOT)}: {phrase}"
        for file in texts()
        for phrase in NO_PHRASES
        if phrase in re.sub(r"\s+", " ", file.read_text(encoding="utf-8").lower())
    ]
    assert wrong == []


def test_spelling_is_american() -> None:
    wrong = [
        f"{file.relative_to(ROOT)}:{number}: {match[0]}"
        for file in texts()
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1)
        for match in BRITISH.finditer(DATA.sub("", line))
    ]
    assert wrong == []


@pytest.mark.parametrize("term", TERMS)
def test_terms_of_the_field_are_where_a_search_looks(term: str) -> None:
    pages = [*(ROOT / "docs").rglob("*.md"), ROOT / "README.md"]
    for files in (SOURCES, pages):
        texts = (re.sub(r"\s+", " ", file.read_text(encoding="utf-8").lower()) for file in files)
        assert any(term in text for text in texts)


def test_no_function_has_more_than_six_parameters_without_a_reason() -> None:
    """One that has says why in its docstring, in a line with the word "parameters"."""
    wrong = []
    for file in SOURCES:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            every = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            counted = [arg for arg in every if arg.arg not in ("self", "cls")]
            if len(counted) > 6 and "parameters" not in (ast.get_docstring(node) or "").lower():
                wrong.append(f"{file.relative_to(ROOT)}:{node.lineno} {node.name}")
    assert wrong == []
