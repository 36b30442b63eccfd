"""The rooms of the package: which there are, in which order, and who may import whom."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from slm_benchmark.common.paths import ROOT

PACKAGE = ROOT / "src" / "slm_benchmark"

ROOMS = (
    "common",
    "catalog",
    "records",
    "statistics",
    "sandbox",
    "download",
    "engines",
    "quantize",
    "profiling",
    "judge",
    "tasks",
    "evaluation",
    "leaderboard",
    "publishing",
    "export",
    "site",
    "workflow",
)
"""Each room imports only those before it."""

FACES = ("__init__", "api", "cli")
"""Modules that may import all rooms."""

TEST_FOLDERS = ("benchmarks", "browser", "project", "starters", "support")
"""Folders of tests/ beside those of the rooms: of benchmarks/, of pages in a browser, of the
repository as a whole, and of the starter models; and what tests share."""


def modules() -> dict[str, Path]:
    """Dotted name below the package → file."""
    names = {}
    for file in PACKAGE.rglob("*.py"):
        parts = file.relative_to(PACKAGE).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" and parts[1:] else parts)] = file
    return names


def imported(file: Path, known: dict[str, Path]) -> Iterator[tuple[str, bool]]:
    """Modules of the package that a file imports, and whether it does so when it is loaded."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    later = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            if not name.startswith("slm_benchmark."):
                continue
            parts = name.split(".")[1:]
            while parts and ".".join(parts) not in known:
                parts.pop()
            if parts:
                yield ".".join(parts), id(node) not in later


def test_the_package_is_made_of_the_rooms_and_its_faces() -> None:
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir()} - {"__pycache__"}
    assert folders == set(ROOMS)
    assert {path.stem for path in PACKAGE.glob("*.py")} == set(FACES)


def test_each_room_imports_only_earlier_ones() -> None:
    known = modules()
    upward = [
        f"{name} imports {other}"
        for name, file in known.items()
        if (room := name.split(".")[0]) not in FACES
        for other, _ in imported(file, known)
        if (home := other.split(".")[0]) not in ROOMS or ROOMS.index(home) > ROOMS.index(room)
    ]
    assert not upward


def test_no_module_imports_itself_by_way_of_others() -> None:
    """Imports inside functions count too: a circle is a circle, whenever it closes."""
    known = modules()
    graph = {name: {other for other, _ in imported(file, known)} for name, file in known.items()}
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " → ".join([*way[way.index(name) :], name])
        if name not in done:
            for other in sorted(graph[name] - {name}):
                visit(other, (*way, name))
            done.add(name)

    for name in sorted(graph):
        visit(name, ())


def test_tests_lie_in_the_rooms_of_what_they_test() -> None:
    folders = {path.name for path in (ROOT / "tests").iterdir() if path.is_dir()}
    assert folders - {"__pycache__"} <= {*ROOMS, *TEST_FOLDERS}
    assert not list((ROOT / "tests").glob("test_*.py"))
