"""Known answerers on every benchmark: ``python -m benchmarks.answerers`` writes their scores.

The small datasets of the tests are served by a stand-in of the hub; the code that measures models
prepares, asks and scores them; the table goes into docs/benchmarks/scoring-checks.md. This takes
two minutes and the package index, and needs no model.
"""

from __future__ import annotations

import logging
import os
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from slm_benchmark.catalog.catalog import Catalogue, load_catalogue
from slm_benchmark.catalog.key_tables import fill_between
from slm_benchmark.catalog.types import Task
from slm_benchmark.common.paths import ROOT
from tests.support.hub import Hub, serve

if TYPE_CHECKING:
    from tests.support.answerers import Outcome

PAGE = ROOT / "docs" / "benchmarks" / "scoring-checks.md"
START, END = "<!-- answerers:start -->", "<!-- answerers:end -->"

HEAD = ("Benchmark", "Task", "Metric", "Documents", "Oracle", "Wrong twin", "Guesser", "Chance")


def table(catalogue: Catalogue, hub: Hub, work: Path) -> str:
    """The scores of the three answerers on every column, as a Markdown table.

    Args:
        catalogue: The catalogue of the checkout.
        hub: A running stand-in of the hub.
        work: A folder for datasets and downloads.
    """
    lines = [HEAD, ("---",) * len(HEAD), *_rows(catalogue, hub, work)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _rows(catalogue: Catalogue, hub: Hub, work: Path) -> Iterator[tuple[str, ...]]:
    from slm_benchmark.download.nltk_data import prepare_punkt
    from tests.support.answerers import Guesser, Oracle, WrongTwin, columns, measure, prepare

    prepare_punkt(work / "nltk")
    for task in columns(catalogue):
        entry = catalogue.tasks[task]
        name = entry["datasets"]["hub"]
        dataset = prepare(name, catalogue.datasets[name], hub, work / "datasets")
        answerers = [Oracle(), WrongTwin(), Guesser(seed=task)]
        outcomes = measure(task, catalogue, dataset, work / "nltk", answerers)
        yield row(task, entry, *outcomes)


def row(
    task: str, entry: Task, knowing: Outcome, erring: Outcome, guessing: Outcome
) -> tuple[str, ...]:
    """A column's line: what is told of it, and what the three answerers got."""
    from tests.support.answerers import is_guessed

    chance = f"{statistics.mean(guessing.odds):.3f}" if is_guessed(entry) else "–"
    return (
        entry["title"],
        f"`{task}`",
        f"`{entry['metric']}`",
        str(guessing.headline["n"]),
        *(f"{outcome.value:.3f}" for outcome in (knowing, erring, guessing)),
        chance,
    )


def main() -> None:
    """Measure, and put the table between the markers of the page."""
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder, serve(Path(folder)) as hub:
        work = Path(folder) / ".work"
        # The hub's library reads these when it is imported, which nothing here has done yet.
        os.environ.update(HF_ENDPOINT=hub.url, HF_HUB_DISABLE_XET="1", HF_HOME=str(work / "home"))
        filled = table(load_catalogue(), hub, work)
    print("updated" if fill_between(PAGE, START, END, filled) else "already up to date")


if __name__ == "__main__":
    main()
